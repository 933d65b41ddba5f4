//! Pictures: what is kept of many points, what stands on the axes, and that the file is well-formed and small.

use super::*;

const MINUTE: u64 = 60_000_000_000;
const START: u64 = 1_704_067_200_000_000_000;

fn judged(value: f64, score: f64) -> Judged {
    Judged { seen: Some(value), score: Some(score), threshold: 0.78, is_anomaly: score >= 0.78, ..Judged::default() }
}

fn noise(index: u64) -> f64 {
    (index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64 / 1e4
}

fn plot(points: u64) -> Plot {
    let mut plot = Plot::new("a <b> & \"c\"");
    for index in 0..points {
        let score = if index % 97 == 3 { 0.9 } else { 0.5 + (index % 10) as f64 / 100.0 };
        plot.push(START + index * MINUTE, &judged(noise(index), score), Some((10.0, 1500.0)));
    }
    plot
}

#[test]
fn a_picture_is_small_and_well_formed_however_long_the_series_is() {
    for points in [1, 2, 50, 200_000] {
        let svg = plot(points).render();
        assert!(svg.len() < 200 << 10, "{points} points take {} bytes", svg.len());
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"));
        assert!(svg.contains("a &lt;b&gt; &amp; &quot;c&quot;"));
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        assert!(svg.contains("prefers-color-scheme:dark"));
    }
    assert!(Plot::new("nothing").render().ends_with("</svg>\n"));
}

#[test]
fn no_extreme_is_lost_by_folding() {
    let mut fold = Fold::default();
    let points = 300_000;
    for index in 0..points {
        let value = if index == 123_456 { 1e6 } else { noise(index) };
        let (score, is_flagged) = if index == 200_001 { (0.95, true) } else { (0.5, index % 1000 == 0) };
        let point = Point { value, score: Some(score), threshold: 0.78, band: None, is_flagged };
        fold.push(START + index * MINUTE, &point);
    }
    let slices: Vec<_> = fold.slices().collect();
    assert!((720..=1_440).contains(&slices.len()), "{}", slices.len());
    let high = slices.iter().map(|slice| slice.high).fold(f64::MIN, f64::max);
    let low = slices.iter().map(|slice| slice.low).fold(f64::MAX, f64::min);
    let wanted = (0..points).map(noise).fold(f64::MAX, f64::min);
    assert_eq!((high.to_bits(), low.to_bits()), (1e6_f64.to_bits(), wanted.to_bits()));
    let worst = slices.iter().filter_map(|slice| slice.flagged).max_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
    assert_eq!(worst.1, 200_001 * MINUTE);
}

#[test]
fn marks_of_time_step_as_clocks_and_calendars_do() {
    let near = |span: u64| {
        let marks = axis::times(START, START + span);
        assert!((2..=13).contains(&marks.len()), "{span}: {}", marks.len());
        marks.into_iter().take(2).map(|mark| mark.near).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(near(8 * 1_000_000_000), "00:00:00 00:00:01");
    assert_eq!(near(60 * MINUTE), "00:00 00:10");
    assert_eq!(near(24 * 60 * MINUTE), "00:00 03:00");
    assert_eq!(near(7 * 24 * 60 * MINUTE), "Jan 01 Jan 02");
    assert_eq!(near(60 * 24 * 60 * MINUTE), "Jan 01 Jan 08");
    assert_eq!(near(400 * 24 * 60 * MINUTE), "Jan Mar");
    assert_eq!(near(4000 * 24 * 60 * MINUTE), "Jan Jan");
    let far: Vec<_> = axis::times(START, START + 24 * 60 * MINUTE).into_iter().map(|mark| mark.far).collect();
    assert_eq!((far[0].as_str(), far[1].as_str(), far[8].as_str()), ("Jan 01, 2024", "", "Jan 02, 2024"));
}

#[test]
fn marks_of_values_are_round_numbers() {
    let texts = |low: f64, high: f64| {
        axis::values(low, high, 5.0).into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(texts(0.0, 100.0), "0 20 40 60 80 100");
    assert_eq!(texts(-0.1, 0.33), "-0.1 0 0.1 0.2 0.3");
    assert_eq!(texts(0.0, 2.6e7), "0 10M 20M");
    assert_eq!(texts(5.0, 5.0), "");
}
