//! The simulated shop as a sender, and what comes of it on the terminal.

use std::cell::Cell;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::Result;
use mirador_support::shop::{self, Sent};

use super::config::{Ports, Stores};
use super::{table, view};

/// When the payment service falters (its series are scored by then), and for how long.
const FAULT: (Duration, Duration) = (Duration::from_secs(100), Duration::from_secs(60));

/// Sends and shows until it is dropped.
pub(super) async fn run(ports: &Ports, stores: &Stores, visits: u32) -> Result<()> {
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
        ended = show(ports, stores, &sent) => ended,
    }
}

async fn show(ports: &Ports, stores: &Stores, sent: &Cell<Sent>) -> Result<()> {
    let screen = std::io::stdout().is_terminal();
    let pause = if screen { Duration::from_secs(2) } else { Duration::from_secs(10) };
    let started = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(pause).await;
        let (sent, seconds) = (sent.get(), started.elapsed().as_secs());
        let mut text = format!(
            "the shop since {seconds} s: {} visits, {} spans acknowledged, {} requests failed; {}\n",
            sent.visits,
            sent.spans,
            sent.failed_requests,
            fault(seconds)
        );
        let view = view::of(ports, stores).await;
        text += &table::render(&view.red, &view.edges, &view.anomalies);
        if let Stores::Embedded(_) = stores {
            let page = format!("http://127.0.0.1:{}/", ports.console);
            text.extend(["\nlive page: ", &page]);
        }
        text += "\nCtrl-C stops it.\n";
        let clear = if screen { "\x1b[H\x1b[2J" } else { "" };
        let mut out = std::io::stdout();
        out.write_all(format!("{clear}{text}").as_bytes())?;
        out.flush()?;
    }
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
    fn the_fault_is_announced_lasts_and_ends() {
        assert_eq!(super::fault(10), "payment falters in 90 s");
        assert_eq!(super::fault(100), "payment falters for 60 s more");
        assert_eq!(super::fault(160), "payment has recovered");
    }
}
