//! Whole runs: rows in and out, folders, faults of the input, and what the engine says of series that are known.

use std::fmt::Write as _;
use std::fs;

use mirador_support::anomaly::{Fault, Ordinary, table};

use super::*;
use crate::isolationforest::detector::{Detector, EpisodeKind, Preset, Shape};

fn options(input: &Path, out: Option<PathBuf>) -> Options {
    Options {
        input: input.to_owned(),
        out,
        plot: false,
        format: Format::Auto,
        kind: Kind::Auto,
        settings: Settings::preset(Preset::Balanced),
        seed: 1,
        time_column: None,
        columns: Vec::new(),
        top: 3,
    }
}

/// Runs and returns the outcome, the rows of the shared stream and what was said.
fn run_with(options: &Options) -> (anyhow::Result<Report>, String, String) {
    let (mut rows, mut errors) = (Vec::new(), Vec::new());
    let mut screen = Screen::new(&mut errors, false);
    let outcome = run(options, &mut rows, &mut screen);
    (outcome, String::from_utf8(rows).unwrap(), String::from_utf8(errors).unwrap())
}

/// Runs over one file of this name; paths in what was said begin with the name.
pub(super) fn run_text(name: &str, text: &str) -> (anyhow::Result<Report>, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    let (outcome, rows, errors) = run_with(&options(&path, None));
    (outcome, rows, errors.replace(&format!("{}/", folder.path().display()), ""))
}

pub(super) fn scored(name: &str, text: &str) -> Report {
    run_text(name, text).0.unwrap()
}

#[test]
fn every_row_comes_out_once_with_its_own_texts() {
    let mut text = String::from("timestamp,value\r\n");
    for index in 0..300 {
        write!(text, "2014-04-01 {:02}:{:02}:00.000,{}.50\r\n", index / 60, index % 60, index % 7).unwrap();
    }
    let (outcome, rows, errors) = run_text("a.csv", &text);
    let report = outcome.unwrap();
    assert_eq!((report.series, report.rows, report.bad_rows, errors.as_str()), (1, 300, 0, ""));
    assert_eq!(report.warming + report.scored, 300);
    let rows: Vec<_> = rows.lines().collect();
    assert_eq!((rows.len(), rows[0]), (301, "timestamp,value,anomaly_score,is_anomaly,reason"));
    for (given, row) in text.lines().skip(1).zip(&rows[1..]) {
        assert!(row.starts_with(&format!("{given},")), "{row}");
        let score: f64 = row.split(',').nth(2).unwrap().parse().unwrap();
        assert!((0.0..=1.0).contains(&score), "{row}");
    }
    assert!(rows[1].ends_with(",0.000000,0,warming up") && rows[300].ends_with(",0,"));
}

#[test]
fn bad_rows_are_named_kept_and_do_not_change_what_follows() {
    let good: Vec<String> = (0..200).map(|index| format!("{},{}", 1_396_310_400 + index * 60, index % 5)).collect();
    let mut bad = good.clone();
    bad.insert(100, "yesterday,1".to_owned());
    bad.insert(50, "1396313400,twelve".to_owned());
    bad.insert(10, "1396311000".to_owned());
    let (outcome, rows, errors) = run_text("bad.csv", &bad.join("\n"));
    assert_eq!(outcome.unwrap().bad_rows, 3);
    assert_eq!(
        errors,
        "bad.csv:11: there is no column `column2`: the row has 1 fields\n\
         bad.csv:52: `twelve` is not a number\nbad.csv:103: `yesterday` is not a time\n"
    );
    assert_eq!(rows.lines().count(), 204, "a header and every row");
    let kept: Vec<_> = rows.lines().filter(|row| !row.contains("bad row")).collect();
    let (_, clean, _) = run_text("bad.csv", &good.join("\n"));
    assert_eq!(kept, clean.lines().collect::<Vec<_>>());
}

#[test]
fn complaints_are_bounded_and_the_rest_is_counted() {
    let text = "time,v\n2014-04-01,1\n".to_owned() + &"x,1\n".repeat(50);
    let (outcome, _, errors) = run_text("many.csv", &text);
    assert_eq!(outcome.unwrap().bad_rows, 50);
    assert_eq!(errors.lines().count(), 21);
    assert!(errors.ends_with("and 30 more\n"), "{errors}");
}

#[test]
fn a_folder_is_mirrored_and_a_second_run_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in");
    fs::create_dir_all(input.join("deep")).unwrap();
    fs::write(input.join("deep/one.csv"), table(&Ordinary::NoisyPeriodic.points(1, 300, 1))).unwrap();
    fs::write(input.join("two.csv"), "time,a,b c\n2014-04-01,1,2\n2014-04-02,3,\n").unwrap();
    fs::write(input.join("labels.json"), "{\"deep/one.csv\": []}").unwrap();
    fs::write(input.join("broken.csv"), "no times here\n").unwrap();
    let mut wanted = options(&input, Some(folder.path().join("out")));
    wanted.plot = true;
    let (outcome, rows, errors) = run_with(&wanted);
    let report = outcome.unwrap();
    assert_eq!((report.series, report.files, report.skipped_files, report.unreadable_files), (3, 2, 1, 1));
    assert!(rows.is_empty() && errors.contains("broken.csv: "), "{errors}");
    let files = |out: &str| {
        let found = source::find(&folder.path().join(out), Format::Csv, None).unwrap();
        let read = |found: source::Found| match found {
            source::Found::File(path, relative) => (relative, fs::read(path).unwrap()),
            source::Found::Stdin => unreachable!("a folder was asked for"),
        };
        found.into_iter().map(read).collect::<Vec<_>>()
    };
    let first = files("out");
    let names: Vec<_> = first.iter().map(|(name, _)| name.to_str().unwrap()).collect();
    assert_eq!(names[..2], ["deep/one.csv", "two/a.csv"]);
    assert!(names[2].starts_with("two/b_c-") && names.len() == 3, "{names:?}");
    assert!(folder.path().join("out/deep/one.svg").exists());
    wanted.out = Some(folder.path().join("again"));
    run_with(&wanted).0.unwrap();
    assert_eq!(first, files("again"));
}

#[test]
fn the_form_of_the_benchmark_goes_out_as_it_came_in() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("data");
    for family in ["artificial", "real"] {
        fs::create_dir_all(input.join(family)).unwrap();
        fs::write(input.join(family).join("s.csv"), table(&Ordinary::StepOnce.points(1, 300, 2))).unwrap();
    }
    run_with(&options(&input, Some(folder.path().join("out")))).0.unwrap();
    for name in ["artificial/s.csv", "real/s.csv"] {
        let given = fs::read_to_string(input.join(name)).unwrap();
        let scores = fs::read_to_string(folder.path().join("out").join(name)).unwrap();
        assert_eq!(given.lines().count(), scores.lines().count());
        let columns: Vec<_> = scores.lines().next().unwrap().split(',').collect();
        let at = columns.iter().position(|column| *column == "anomaly_score").unwrap();
        for (given, row) in given.lines().zip(scores.lines()).skip(1) {
            let fields: Vec<_> = row.split(',').collect();
            assert_eq!(given.split(',').collect::<Vec<_>>(), fields[..2]);
            assert!(fields[at].parse::<f64>().is_ok_and(|score| (0.0..=1.0).contains(&score)), "{row}");
        }
    }
}

#[test]
fn what_is_ahead_changes_no_row() {
    let mut points = Ordinary::NoisyPeriodic.points(2, 300, 5);
    let (_, before, _) = run_text("a.csv", &table(&points));
    for (_, value) in &mut points[400..] {
        *value *= 10.0;
    }
    let (_, after, _) = run_text("a.csv", &table(&points));
    assert!(before.lines().take(401).eq(after.lines().take(401)));
    assert!(before.lines().skip(401).ne(after.lines().skip(401)));
}

#[test]
fn several_series_on_one_stream_are_told_apart() {
    let (_, rows, _) = run_text("a.csv", "time,x,y\n2014-04-01,1,2\n");
    assert_eq!(
        rows,
        "series,timestamp,value,anomaly_score,is_anomaly,reason\n\
         a.csv:x,2014-04-01,1,0.000000,0,warming up\na.csv:y,2014-04-01,2,0.000000,0,warming up\n"
    );
}

#[test]
fn the_input_is_never_written_over() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.csv"), "time,v\n2014-04-01,1\n").unwrap();
    for input in [folder.path().join("a.csv"), folder.path().to_owned()] {
        let error = run_with(&options(&input, Some(folder.path().to_owned()))).0.unwrap_err();
        assert!(format!("{error:#}").contains("--out"), "{error:#}");
    }
    assert_eq!(fs::read_to_string(folder.path().join("a.csv")).unwrap(), "time,v\n2014-04-01,1\n");
}

/// Episodes that were opened and the indices of flagged points.
fn judged(points: &[(u64, f64)], seed: u64) -> (usize, Vec<usize>) {
    let settings = Settings::preset(Preset::Balanced);
    let mut detector = Detector::new(&settings, Shape::Level, seed);
    let (mut episodes, mut flagged) = (0, Vec::new());
    for (index, (time, value)) in points.iter().enumerate() {
        let verdict = detector.observe(&settings, None, *time, *value);
        episodes += usize::from(verdict.episode.is_some_and(|change| change.kind == EpisodeKind::Opened));
        if verdict.is_anomaly {
            flagged.push(index);
        }
    }
    (episodes, flagged)
}

#[test]
fn an_ordinary_week_has_one_episode_at_most() {
    for kind in Ordinary::ALL {
        for (interval, seed) in [(60, 1), (60, 2), (300, 3), (300, 4), (300, 5)] {
            let (episodes, flagged) = judged(&kind.points(7, interval, seed), seed);
            let name = kind.as_str();
            assert!(episodes <= 1, "{name} every {interval} s, seed {seed}: {episodes} episodes, flagged {flagged:?}");
        }
    }
}

#[test]
fn faults_in_an_ordinary_week_are_found() {
    for fault in Fault::ALL {
        for seed in 1..4_u64 {
            let mut points = Ordinary::NoisyPeriodic.points(7, 60, seed);
            // The sixth day, in the morning.
            let changed = fault.inject(&mut points, (5 * 24 + 8 + seed as usize) * 60);
            let (_, flagged) = judged(&points, seed);
            let soon = changed.start..changed.end.min(changed.start + 5);
            assert!(flagged.iter().any(|index| soon.contains(index)), "{}, seed {seed}: {flagged:?}", fault.as_str());
        }
    }
}
