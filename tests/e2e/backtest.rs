//! `mirador-central backtest` as people and scripts call it: pipes, folders, faults, exit codes.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result};
use mirador_support::anomaly::{Ordinary, table};
use mirador_support::node::binary;
use serde_json::Value;

fn backtest(words: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary("mirador-central")?);
    command.arg("backtest").args(words).stdin(Stdio::null());
    Ok(command)
}

/// Runs with a text on stdin.
fn fed(words: &[&str], text: &str) -> Result<Output> {
    let mut child = backtest(words)?.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().context("stdin is piped")?;
    let text = text.to_owned();
    let feeder = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = child.wait_with_output()?;
    feeder.join().expect("the feeder does not panic")?;
    Ok(output)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a temporary folder has a name in UTF-8")
}

#[test]
fn stdin_is_scored_to_stdout_and_the_summary_goes_to_stderr() -> Result<()> {
    let series = table(&Ordinary::StepOnce.points(2, 300, 1));
    let output = fed(&["--input", "-"], &series)?;
    let (rows, errors) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{errors}");
    assert_eq!(rows.lines().count(), series.lines().count());
    assert!(rows.lines().any(|row| row.contains(",1,value too high: ")), "the step is flagged with its reason");
    assert!(errors.starts_with("1 series, 576 points in 1 files, 2.0 series-days\n"), "{errors}");
    Ok(())
}

#[test]
fn bad_rows_are_named_and_the_exit_code_says_so() -> Result<()> {
    let output = fed(&["--input", "-", "--json"], "time,v\n2014-04-01,1\n2014-04-02,x\n")?;
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.starts_with("stdin:3: `x` is not a number\n"), "{errors}");
    let summary: Value = serde_json::from_str(errors.lines().last().context("a summary")?)?;
    assert_eq!((&summary["rows"], &summary["bad_rows"]), (&Value::from(2), &Value::from(1)));
    Ok(())
}

#[test]
fn a_folder_becomes_a_folder_with_files_and_pictures_and_no_leftovers() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (input, out) = (folder.path().join("in"), folder.path().join("out"));
    std::fs::create_dir_all(input.join("a"))?;
    for (index, kind) in Ordinary::ALL.into_iter().enumerate() {
        let series = table(&kind.points(1, 300, index as u64));
        std::fs::write(input.join("a").join(format!("{}.csv", kind.as_str())), series)?;
    }
    let words = ["--input", path(&input), "--out", path(&out), "--plot", "--json", "--threshold", "0.9"];
    let output = backtest(&words)?.output()?;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let summary: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!((&summary["series"], &summary["threshold"]), (&Value::from(5), &Value::from(0.9)));
    let mut names: Vec<_> = std::fs::read_dir(out.join("a"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    names.sort();
    assert_eq!(names.len(), 10, "{names:?}");
    assert!(names.contains(&"low-count.svg".to_owned()) && names.iter().all(|name| !name.starts_with('.')));
    Ok(())
}

#[test]
fn what_cannot_be_read_or_is_not_understood_ends_with_two() -> Result<()> {
    for words in [
        &["--input", "no-such-file.csv"][..],
        &["--input", "-"],
        &["--input", "-", "--plot"],
        &["--input", "-", "--preset", "loud"],
        &["--input", "-", "--threshold", "7"],
    ] {
        let output = backtest(words)?.output()?;
        assert_eq!(output.status.code(), Some(2), "{words:?}: {}", text(&output.stderr));
        assert!(!output.stderr.is_empty());
    }
    Ok(())
}

#[test]
fn a_reader_that_has_enough_ends_the_run_quietly() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let input = folder.path().join("long.csv");
    // More than a pipe and a buffer hold.
    std::fs::write(&input, table(&Ordinary::Integer.points(20, 60, 1)))?;
    let mut child = backtest(&["--input", path(&input)])?.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut first = String::new();
    BufReader::new(child.stdout.take().context("stdout is piped")?).read_line(&mut first)?;
    assert_eq!(first, "timestamp,value,anomaly_score,is_anomaly,reason\n");
    let mut errors = String::new();
    child.stderr.take().context("stderr is piped")?.read_to_string(&mut errors)?;
    assert_eq!((child.wait()?.code(), errors.as_str()), (Some(0), ""));
    Ok(())
}
