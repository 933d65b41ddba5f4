//! Both forms of an export, whole, broken and foreign.

use super::super::tests::{run_text, scored};
use super::*;

const ANSWER: &str = r#"{"status":"success","data":{"resultType":"matrix","result":[
  {"metric":{"__name__":"up","job":"a"},"values":[[1396310400,"1"],[1396310460.5,"NaN"],[1396310520,"x"]]},
  {"metric":{},"values":[[1396310400,"2"]]}]}}"#;

#[test]
fn an_answer_of_a_range_query_is_read_series_by_series() {
    let (outcome, rows, errors) = run_text("answer.json", ANSWER);
    let report = outcome.unwrap();
    assert_eq!((report.series, report.rows, report.missing, report.bad_rows), (2, 4, 1, 1));
    assert!(rows.starts_with("series,timestamp,value,"), "{rows}");
    assert!(rows.contains(",1396310460.5,NaN,0.000000,0,no value\n"), "{rows}");
    assert!(rows.contains(",1396310520,x,0.000000,0,bad row: the value is no number\n"), "{rows}");
    assert!(errors.contains(r#"answer.json:up{job="a"}[3]: the value is no number"#), "{errors}");
}

#[test]
fn a_bare_array_of_series_and_series_one_after_the_other_are_read() {
    let one = r#"{"metric":{"__name__":"a"},"values":[[1396310400,"1"]]}"#;
    assert_eq!(scored("b.json", &format!("[{one},\n{one}]")).rows, 2);
    let pretty = one.replace("{\"metric\"", "{\n \"metric\"");
    assert_eq!(scored("c.json", &format!("{pretty}\n{pretty}")).rows, 2);
}

#[test]
fn the_lines_of_an_export_are_read_and_a_broken_one_costs_itself() {
    let text = concat!(
        r#"{"metric":{"__name__":"a"},"values":[1,null],"timestamps":[1396310400000,1396310460000]}"#,
        "\n{\"metric\":{broken\n\n",
        r#"{"metric":{"__name__":"a"},"values":[3,"Infinity",5],"timestamps":[1396310520000,1396310580000]}"#,
        "\n",
    );
    let (outcome, rows, errors) = run_text("lines.jsonl", text);
    let report = outcome.unwrap();
    assert_eq!((report.series, report.rows, report.missing, report.bad_rows), (1, 4, 2, 2), "one series in two lines");
    assert!(
        errors.contains("lines.jsonl:2: no series") && errors.contains("lines.jsonl:4: 3 values but 2"),
        "{errors}"
    );
    assert_eq!(rows.lines().count(), 5);
}

#[test]
fn series_of_a_range_query_on_lines_are_read() {
    let line = r#"{"metric":{"__name__":"a"},"values":[[1396310400,"1"],[1396310460]]}"#;
    let (outcome, rows, errors) = run_text("r.jsonl", line);
    assert_eq!(outcome.unwrap().bad_rows, 1);
    assert!(rows.contains("r.jsonl:a,1396310400,1,") && errors == "r.jsonl:1: the value is no number\n", "{errors}");
}

#[test]
fn what_is_no_export_says_so() {
    for (text, reason) in [
        ("{\"a\": [1, 2, {\"b\": null}]}", "holds no series"),
        (r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#, "it says: \"parse error\""),
        ("{\"data\":", "EOF"),
        (r#"{"data":{"result":[{"values":[[1,"2"]]}]}}"#, "before the metric"),
    ] {
        let error = run_text("x.json", text).0.unwrap_err();
        assert!(error.is::<NoExport>() && format!("{error:#}").contains(reason), "{error:#}");
    }
    let half = &ANSWER[..ANSWER.len() - 40];
    let error = run_text("x.json", half).0.unwrap_err();
    assert!(format!("{error:#}").contains("breaks off"), "{error:#}");
}

#[test]
fn metrics_are_named_as_in_a_query() {
    let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    assert_eq!(promql(&labels(&[("__name__", "up")])), "up");
    assert_eq!(promql(&labels(&[("job", "x\"y"), ("__name__", "up")])), r#"up{job="x\"y"}"#);
    assert_eq!(promql(&labels(&[])), "{}");
}
