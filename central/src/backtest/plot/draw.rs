//! The picture as SVG: two panels over one time axis.
//!
//! Colours follow the viewer's scheme, light or dark, by a style of the file's own. Coordinates are tenths of a pixel.

use std::fmt::Write as _;

use super::Plot;
use super::axis;
use super::fold::Slice;

/// Writes to a string, which cannot fail.
macro_rules! put {
    ($to:expr, $($text:tt)*) => { $to.write_fmt(format_args!($($text)*)).expect("a string takes everything") };
}

/// The same with the end of a line.
macro_rules! putln {
    ($to:expr, $($text:tt)*) => {{ put!($to, $($text)*); $to.push('\n'); }};
}

const WIDTH: f64 = 1000.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
/// Top and bottom of the panel of values and of that of scores.
const VALUES: (f64, f64) = (56.0, 276.0);
const SCORES: (f64, f64) = (300.0, 392.0);
const HEIGHT: f64 = 452.0;
/// Scores below this are all equally ordinary.
const LEAST_SCORE: f64 = 0.3;

const STYLE: &str = "\
.bg{fill:#fff}.t{fill:#1f2328}.m{fill:#59636e}.g{stroke:#d1d9e0;stroke-width:.6;fill:none}\
.v{stroke:#0969da;fill:none;stroke-width:1.1;stroke-linejoin:round}.b{fill:#0969da;fill-opacity:.13}\
.s{stroke:#59636e;fill:none;stroke-width:1}.h{stroke:#cf222e;fill:none;stroke-width:1;stroke-dasharray:5 3}\
.f{stroke:#cf222e;stroke-width:4.4;stroke-linecap:round}.e{fill:#cf222e;fill-opacity:.15}.w{fill:#59636e;fill-opacity:.1}\
@media(prefers-color-scheme:dark){.bg{fill:#0d1117}.t{fill:#e6edf3}.m{fill:#9198a1}.g{stroke:#30363d}\
.v{stroke:#4493f8}.b{fill:#4493f8;fill-opacity:.2}.s{stroke:#9198a1}.h{stroke:#f85149}.f{stroke:#f85149}\
.e{fill:#f85149;fill-opacity:.22}.w{fill:#9198a1;fill-opacity:.14}}";

/// Where things are on the page.
struct Frame {
    span: f64,
    low: f64,
    high: f64,
}

impl Frame {
    fn of(plot: &Plot) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for slice in plot.fold.slices() {
            low = low.min(slice.low);
            high = high.max(slice.high);
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        // The range is shown where it is near; a far bound would flatten what it is the bound of.
        let reach = (high - low) * 0.3;
        let (least, most) = (low - reach, high + reach);
        for (from, to) in plot.fold.slices().filter_map(|slice| slice.band) {
            low = low.min(from.max(least));
            high = high.max(to.min(most));
        }
        let margin = match high - low {
            span if span > 0.0 => span * 0.06,
            _ if low == 0.0 => 1.0,
            _ => low.abs() * 0.1,
        };
        Self { span: (plot.fold.end as f64).max(1.0), low: low - margin, high: high + margin }
    }

    fn x(&self, offset: u64) -> f64 {
        LEFT + offset as f64 / self.span * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        let share = ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        VALUES.1 - share * (VALUES.1 - VALUES.0)
    }
}

fn score_y(score: f64) -> f64 {
    let share = ((score - LEAST_SCORE) / (1.0 - LEAST_SCORE)).clamp(0.0, 1.0);
    SCORES.1 - share * (SCORES.1 - SCORES.0)
}

/// Draws everything, back to front.
pub(super) fn picture(plot: &Plot) -> String {
    let frame = Frame::of(plot);
    let mut svg = String::with_capacity(64 * 1024);
    let title = escaped(&shortened(&plot.title));
    put!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"system-ui,sans-serif\" \
         font-size=\"11\" role=\"img\"><title>{title}</title><style>{STYLE}</style>\
         <rect class=\"bg\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\n"
    );
    grounds(&mut svg, plot, &frame);
    axes(&mut svg, plot, &frame);
    path(&mut svg, "b", &band(plot, &frame));
    path(&mut svg, "v", &line(plot, &frame));
    path(&mut svg, "s", &scores(plot, &frame));
    path(&mut svg, "h", &threshold(plot, &frame));
    flags(&mut svg, plot, &frame);
    legend(&mut svg, plot, &title);
    svg.push_str("</svg>\n");
    svg
}

fn path(svg: &mut String, class: &str, data: &str) {
    if !data.is_empty() {
        putln!(svg, "<path class=\"{class}\" d=\"{data}\"/>");
    }
}

/// Warm-up and episodes, behind everything.
fn grounds(svg: &mut String, plot: &Plot, frame: &Frame) {
    let start = plot.fold.start.unwrap_or(0);
    let mut ground = |class: &str, from: f64, to: f64| {
        let (top, height) = (VALUES.0, SCORES.1 - VALUES.0);
        putln!(
            svg,
            "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{top}\" width=\"{:.1}\" height=\"{height}\"/>",
            to - from
        );
    };
    let warm = plot.first_scored.map_or(frame.span as u64, |first| first.saturating_sub(start));
    ground("w", LEFT, frame.x(warm));
    let mut joined: Vec<(f64, f64)> = Vec::new();
    for (opened, end) in &plot.episodes {
        // An episode of one point is as wide as the eye needs it.
        let (from, to) = (frame.x(opened.saturating_sub(start)) - 1.0, frame.x(end.saturating_sub(start)) + 1.0);
        match joined.last_mut() {
            Some((_, last)) if from <= *last => *last = to.max(*last),
            _ => joined.push((from, to)),
        }
    }
    for (from, to) in joined {
        ground("e", from, to);
    }
}

fn axes(svg: &mut String, plot: &Plot, frame: &Frame) {
    let right = WIDTH - RIGHT;
    let mut grid = String::new();
    let mut level = |y: f64, label: &str| {
        put!(grid, "M{LEFT} {y:.1}H{right}");
        putln!(svg, "<text class=\"m\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>", LEFT - 6.0, y + 3.8);
    };
    for (value, label) in axis::values(frame.low, frame.high, 5.0) {
        level(frame.y(value), &label);
    }
    for (score, label) in [(0.4, "0.4"), (0.6, "0.6"), (0.8, "0.8"), (1.0, "1")] {
        level(score_y(score), label);
    }
    let start = plot.fold.start.unwrap_or(0);
    for mark in axis::times(start, start + plot.fold.end) {
        let x = frame.x(mark.at - start);
        put!(grid, "M{x:.1} {}V{}M{x:.1} {}V{}", VALUES.0, VALUES.1, SCORES.0, SCORES.1 + 4.0);
        for (text, y) in [(mark.near, SCORES.1 + 17.0), (mark.far, SCORES.1 + 31.0)] {
            if !text.is_empty() {
                // A label at the edge stays on the page.
                let anchor = if x > right - 20.0 { "end" } else { "middle" };
                putln!(svg, "<text class=\"m\" x=\"{x:.1}\" y=\"{y}\" text-anchor=\"{anchor}\">{text}</text>");
            }
        }
    }
    path(svg, "g", &grid);
}

/// Slices in stretches without a gap.
fn stretches(plot: &Plot) -> Vec<Vec<&Slice>> {
    let slices: Vec<_> = plot.fold.slices().collect();
    let mut steps: Vec<u64> = slices.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    steps.sort_unstable();
    let usual = steps.get(steps.len() / 2).copied().unwrap_or(0);
    let mut stretches: Vec<Vec<&Slice>> = Vec::new();
    for slice in slices {
        match stretches.last_mut() {
            Some(stretch) if stretch.last().is_some_and(|last| slice.at - last.at <= 4 * usual) => stretch.push(slice),
            _ => stretches.push(vec![slice]),
        }
    }
    stretches
}

fn line(plot: &Plot, frame: &Frame) -> String {
    let mut data = String::new();
    for stretch in stretches(plot) {
        for (index, slice) in stretch.iter().enumerate() {
            let x = frame.x(slice.at);
            let letter = if index == 0 { 'M' } else { 'L' };
            put!(data, "{letter}{x:.1} {:.1}", frame.y(slice.first));
            let (low, high) = (slice.first.min(slice.last), slice.first.max(slice.last));
            for (is_beyond, value) in [(slice.low < low, slice.low), (slice.high > high, slice.high)] {
                if is_beyond {
                    put!(data, "V{:.1}", frame.y(value));
                }
            }
            if slice.last.to_bits() != slice.first.to_bits() || slice.low < low || slice.high > high {
                put!(data, "V{:.1}", frame.y(slice.last));
            }
        }
        if stretch.len() == 1 {
            // A lonely point is drawn as a short dash.
            data.push_str("h1");
        }
    }
    data
}

fn band(plot: &Plot, frame: &Frame) -> String {
    let mut data = String::new();
    for stretch in stretches(plot) {
        let bands: Vec<_> = stretch.iter().filter_map(|slice| Some((frame.x(slice.at), slice.band?))).collect();
        let upper = bands.iter().map(|(x, (_, high))| (*x, *high));
        let lower = bands.iter().rev().map(|(x, (low, _))| (*x, *low));
        for (index, (x, value)) in upper.chain(lower).enumerate() {
            let letter = if index == 0 { 'M' } else { 'L' };
            put!(data, "{letter}{x:.1} {:.1}", frame.y(value));
        }
        if !bands.is_empty() {
            data.push('Z');
        }
    }
    data
}

fn scores(plot: &Plot, frame: &Frame) -> String {
    let mut data = String::new();
    for stretch in stretches(plot) {
        let scored = stretch.iter().filter_map(|slice| Some((frame.x(slice.at), slice.score?)));
        for (index, (x, score)) in scored.enumerate() {
            let letter = if index == 0 { 'M' } else { 'L' };
            put!(data, "{letter}{x:.1} {:.1}", score_y(score));
        }
    }
    data
}

/// Steps where the threshold changes by what can be seen.
fn threshold(plot: &Plot, frame: &Frame) -> String {
    let mut data = String::new();
    let mut before = f64::NAN;
    for slice in plot.fold.slices().filter(|slice| slice.score.is_some()) {
        let (x, y) = (frame.x(slice.at), score_y(slice.threshold));
        if before.is_nan() {
            put!(data, "M{x:.1} {y:.1}");
            before = y;
        } else if (y - before).abs() >= 0.5 {
            put!(data, "H{x:.1}V{y:.1}");
            before = y;
        }
    }
    if !data.is_empty() {
        put!(data, "H{}", WIDTH - RIGHT);
    }
    data
}

/// A dot per flagged point in both panels: a line without length and with round ends.
fn flags(svg: &mut String, plot: &Plot, frame: &Frame) {
    let mut data = String::new();
    for (score, at, value) in plot.fold.slices().filter_map(|slice| slice.flagged) {
        let x = frame.x(at);
        for y in [frame.y(value), score_y(score)] {
            put!(data, "M{x:.1} {y:.1}h0");
        }
    }
    path(svg, "f", &data);
}

fn legend(svg: &mut String, plot: &Plot, title: &str) {
    let start = plot.fold.start.unwrap_or(0);
    let range = format!(
        "{} to {} UTC, {} points, {} flagged, {} episodes",
        axis::instant(start),
        axis::instant(start + plot.fold.end),
        plot.rows,
        plot.alarms,
        plot.episodes.len()
    );
    putln!(
        svg,
        "<text class=\"t\" x=\"{LEFT}\" y=\"20\" font-size=\"14\" font-weight=\"600\">{title}</text>\
         <text class=\"m\" x=\"{LEFT}\" y=\"38\">{range}</text>"
    );
    let mut x = LEFT;
    let entries = [
        ("v", "value", 52.0, "M0 440h14"),
        ("b", "expected range", 104.0, "M0 435h14v10h-14z"),
        ("s", "score", 54.0, "M0 440h14"),
        ("h", "threshold", 74.0, "M0 440h14"),
        ("f", "flagged", 62.0, "M7 440h0"),
        ("e", "episode", 0.0, "M0 435h14v10h-14z"),
    ];
    for (class, text, width, data) in entries {
        putln!(
            svg,
            "<path class=\"{class}\" transform=\"translate({x})\" d=\"{data}\"/>\
             <text class=\"m\" x=\"{}\" y=\"444\">{text}</text>",
            x + 19.0
        );
        x += width + 19.0 - 6.0;
    }
    for (label, (top, bottom)) in [("value", VALUES), ("score", SCORES)] {
        let middle = f64::midpoint(top, bottom);
        putln!(
            svg,
            "<text class=\"m\" transform=\"translate(13 {middle}) rotate(-90)\" text-anchor=\"middle\">{label}</text>"
        );
    }
}

/// As much of a title as the page is wide.
fn shortened(title: &str) -> String {
    const MOST: usize = 110;
    if title.chars().count() <= MOST {
        return title.to_owned();
    }
    title.chars().take(MOST).chain(['…']).collect()
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            // Control characters are not allowed in XML.
            letter if letter.is_control() => safe.push(' '),
            letter => safe.push(letter),
        }
    }
    safe
}
