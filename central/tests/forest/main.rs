//! `mirador-central forest` beside scikit-learn's `IsolationForest`, which really runs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here, with the line")]
#![expect(clippy::print_stdout, reason = "the figures are wanted: run with --nocapture")]

use std::path::{Path, PathBuf};
use std::process::Command;

use mirador_support::backends::install;

/// The seeds of both; figures are means over them.
const SEEDS: [u64; 5] = [0, 1, 2, 3, 4];
/// How far the classic mode's AUC may be from scikit-learn's.
const PARITY: f64 = 0.015;
/// What the best mode must be better on average.
const GAIN: f64 = 0.002;
/// scikit-learn's figures on sets that are not in the repository.
const ADBENCH: &str = include_str!("adbench.tsv");

/// A line of figures: the name of a set and scikit-learn's AUC.
fn figure(line: &str) -> (&str, f64) {
    let fields: Vec<_> = line.split('\t').collect();
    (fields[0], fields[4].parse().expect("the last figure is the AUC"))
}

fn script(words: &[&std::ffi::OsStr]) -> String {
    let python = install::ensure("scikitlearn").unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/backends/scikitlearn/forest.py");
    let output = Command::new(python).arg(script).args(words).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What the program prints.
fn forest(table: &Path, mode: &str, seed: u64, words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_mirador-central"))
        .args(["forest", "--mode", mode, "--seed", &seed.to_string(), "--input"])
        .arg(table)
        .args(words)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Mean AUC over the seeds.
fn auc(table: &Path, mode: &str) -> f64 {
    let of = |seed| {
        let text = forest(table, mode, seed, &[]);
        let auc = text.lines().find_map(|line| line.strip_prefix("AUC ")).map(str::parse);
        auc.and_then(Result::ok).unwrap_or_else(|| panic!("no AUC in {text}"))
    };
    SEEDS.iter().map(|seed| -> f64 { of(*seed) }).sum::<f64>() / SEEDS.len() as f64
}

/// Holds the classic mode to scikit-learn on every set, and the default mode to better than it on average.
fn hold<'a>(sets: impl Iterator<Item = (&'a str, PathBuf, f64)>) {
    let (mut theirs_in_all, mut ours_in_all, mut count) = (0.0, 0.0, 0.0);
    for (name, table, theirs) in sets {
        let (classic, combined) = (auc(&table, "classic"), auc(&table, "combined"));
        println!("{name}: scikit-learn {theirs:.4}, classic {classic:.4}, combined {combined:.4}");
        assert!((classic - theirs).abs() <= PARITY, "{name}: {classic} and scikit-learn {theirs}");
        theirs_in_all += theirs;
        ours_in_all += combined;
        count += 1.0;
    }
    let (theirs, ours) = (theirs_in_all / count, ours_in_all / count);
    println!("mean of {count} sets: scikit-learn {theirs:.4}, combined {ours:.4}");
    assert!(ours >= theirs + GAIN, "combined {ours} and scikit-learn {theirs}");
}

#[test]
fn classic_scores_are_those_of_scikit_learn_and_the_default_mode_is_better() {
    let folder = tempfile::tempdir().unwrap();
    script(&[folder.path().as_ref()]);
    let mut tables: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    tables.sort();
    let words: Vec<&std::ffi::OsStr> =
        std::iter::once("--figures".as_ref()).chain(tables.iter().map(|table| table.as_os_str())).collect();
    let figures = script(&words);
    assert_eq!(figures.lines().count(), 7, "{figures}");
    hold(figures.lines().map(figure).zip(&tables).map(|((name, theirs), table)| (name, table.clone(), theirs)));
    // ADBench's sets are not in the repository: whoever has them names their folder.
    if let Some(data) = std::env::var_os("MIRADOR_DATA") {
        let folder = PathBuf::from(data).join("classic");
        let sets = ADBENCH.lines().filter(|line| !line.starts_with('#')).map(figure);
        hold(sets.map(|(name, theirs)| (name, folder.join(format!("{name}.npz")), theirs)));
    }
}

#[test]
fn the_mean_score_of_each_row_is_that_of_scikit_learn() {
    let folder = tempfile::tempdir().unwrap();
    script(&[folder.path().as_ref()]);
    let (table, theirs, ours) =
        (folder.path().join("lognormal.npz"), folder.path().join("theirs"), folder.path().join("ours"));
    script(&["--scores".as_ref(), table.as_os_str(), theirs.as_os_str()]);
    let read = |path: &Path| -> Vec<f64> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().filter_map(|line| line.rsplit(',').next().and_then(|score| score.parse().ok())).collect()
    };
    let theirs = read(&theirs);
    let mut mean = vec![0.0; theirs.len()];
    for seed in SEEDS {
        forest(&table, "classic", seed, &["--out", ours.to_str().unwrap()]);
        for (sum, score) in mean.iter_mut().zip(read(&ours)) {
            *sum += score / SEEDS.len() as f64;
        }
    }
    let differences = theirs.iter().zip(&mean).map(|(theirs, ours)| (theirs - ours).abs());
    // The standard error of a row's mean over 500 trees is about .004 on either side.
    let most = differences.clone().fold(0.0, f64::max);
    let average = differences.sum::<f64>() / mean.len() as f64;
    assert!(average < 0.008 && most < 0.04, "average {average}, most {most}");
}

#[test]
fn the_exit_status_tells_whether_every_row_has_a_score() {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("table.csv");
    let status = |text: &str, words: &[&str]| {
        std::fs::write(&table, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mirador-central"));
        command.arg("forest").args(words).arg("--input").arg(&table).output().unwrap().status.code()
    };
    assert_eq!(status("a\n1\n2\n", &[]), Some(0));
    assert_eq!(status("a\n1\nx\n", &[]), Some(1));
    assert_eq!(status("a\nx\n", &[]), Some(2));
    assert_eq!(status("a\n1\n", &["--mode", "none"]), Some(2));
}

#[test]
fn standard_input_is_read_and_cut_off_by_a_closed_output_without_a_panic() {
    let script =
        format!("printf 'a\\n1\\n2\\n3\\n' | '{}' forest --input - | head -n 1", env!("CARGO_BIN_EXE_mirador-central"));
    let output = Command::new("sh").arg("-c").arg(script).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "row,score\n");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
}
