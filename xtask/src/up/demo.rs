//! The simulated shop as a sender, and what comes of it on the terminal.

use std::cell::Cell;
use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use mirador_support::shop::{self, Sent};

use super::config::{self, Ports, Stores};
use super::table::{PLENTY, Room};
use super::{table, view};

/// When the payment service falters (its series are scored by then), and for how long.
const FAULT: (Duration, Duration) = (Duration::from_secs(100), Duration::from_secs(60));

/// After so long without an acknowledgement the shop's requests are being refused.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends and shows until it is dropped; the logs are in `state`.
pub(super) async fn run(ports: &Ports, stores: &Stores, state: &Path, visits: u32) -> Result<()> {
    let options = shop::Options {
        endpoint: format!("http://127.0.0.1:{}", ports.http),
        visits_per_second: visits,
        seed: 1,
        fault: Some(FAULT),
        run_for: None,
    };
    let sent = Cell::new(Sent::default());
    let shop = shop::run(options, |now| sent.set(now));
    tokio::select! {
        ended = shop => ended.map(drop),
        ended = show(ports, stores, state, &sent) => ended,
    }
}

async fn show(ports: &Ports, stores: &Stores, state: &Path, sent: &Cell<Sent>) -> Result<()> {
    let screen = std::io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|name| name != "dumb");
    let pause = if screen { Duration::from_secs(2) } else { Duration::from_secs(10) };
    let started = tokio::time::Instant::now();
    let mut last = (0, started);
    loop {
        tokio::time::sleep(pause).await;
        let (sent, seconds) = (sent.get(), started.elapsed().as_secs());
        if sent.spans != last.0 {
            last = (sent.spans, tokio::time::Instant::now());
        }
        let news = if last.1.elapsed() < PATIENCE { fault(seconds) } else { refused(state) };
        let head = format!(
            "shop since {seconds} s: {} visits, {} spans acknowledged, {} requests failed\n{}\n",
            sent.visits, sent.spans, sent.failed_requests, news
        );
        let view = view::of(ports, stores).await;
        let room = if screen { room() } else { PLENTY };
        let tables = table::render(&view.red, &view.edges, &view.anomalies, room);
        let text = format!("{head}{tables}\n{}\n", config::reminder(ports, stores));
        super::say(&if screen { painted(&text, room.width) } else { text })?;
    }
}

/// What the terminal has room for; the usual 80 by 24 when it does not say.
fn room() -> Room {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    let size = size.map(|size| (usize::from(size.ws_col), usize::from(size.ws_row)));
    let (width, height) = size.filter(|(width, height)| *width > 0 && *height > 0).unwrap_or((80, 24));
    // Two lines above, three and the cursor below, two over each table.
    Room { width, rows: (height.saturating_sub(12) / 3).clamp(1, PLENTY.rows) }
}

/// `text` over what the screen shows: line by line, so that nothing flickers.
fn painted(text: &str, width: usize) -> String {
    let lines = text.lines().map(|line| table::cut(line.trim_end(), width) + "\x1b[K\n");
    ["\x1b[H".to_owned()].into_iter().chain(lines).chain(["\x1b[J".to_owned()]).collect()
}

fn refused(state: &Path) -> String {
    format!("nothing is acknowledged any more: the logs in {} say why", state.display())
}

fn fault(seconds: u64) -> String {
    let (from, until) = (FAULT.0.as_secs(), (FAULT.0 + FAULT.1).as_secs());
    match seconds {
        before if before < from => format!("payment falters in {} s", from - before),
        during if during < until => format!("payment falters for {} s more", until - during),
        _ => "payment has recovered".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_painted_line_ends_within_the_screen_and_clears_what_was_there() {
        let text = super::painted("one\ntwo and more\n", 6);
        assert_eq!(text, "\x1b[Hone\x1b[K\ntwo a…\x1b[K\n\x1b[J");
    }

    #[test]
    fn the_fault_is_announced_lasts_and_ends() {
        assert_eq!(super::fault(10), "payment falters in 90 s");
        assert_eq!(super::fault(100), "payment falters for 60 s more");
        assert_eq!(super::fault(160), "payment has recovered");
    }
}
