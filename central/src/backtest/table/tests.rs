//! Layouts that are told from first lines, and rows that cannot be read.

use super::*;

fn layout(text: &str) -> Layout {
    try_layout(text, None, &[]).unwrap()
}

fn try_layout(text: &str, time: Option<&str>, columns: &[&str]) -> anyhow::Result<Layout> {
    let mut source = Source::of("a.csv", text);
    let mut lines = Lines { delimiter: None, number: 0, buffer: Vec::new() };
    let mut head = Vec::new();
    let mut record = Record { number: 0, fields: Vec::new(), fault: None };
    while lines.next(&mut source, &mut record)? {
        head.push(std::mem::replace(&mut record, Record { number: 0, fields: Vec::new(), fault: None }));
    }
    let columns: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
    Layout::of(&head, time, &columns)
}

fn names(layout: &Layout) -> Vec<&str> {
    layout.values.iter().map(|(_, name)| name.as_str()).collect()
}

#[test]
fn the_benchmarks_form_is_known() {
    let found = layout("timestamp,value\n2014-04-01 00:00:00,20.0\n");
    assert_eq!(found, Layout { header: true, time: 0, values: vec![(1, "value".to_owned())] });
}

#[test]
fn a_table_without_a_header_has_numbered_columns() {
    let found = layout("1396310400,1,2\n1396310460,3,4\n");
    assert!(!found.header && found.time == 0);
    assert_eq!(names(&found), ["column2", "column3"]);
}

#[test]
fn a_column_of_times_is_found_by_name_then_by_content() {
    assert_eq!(layout("cpu,Time\n1,1396310400\n2,1396310460\n").time, 1);
    assert_eq!(layout("cpu,when\n1,2014-04-01T00:00:00Z\n").time, 1);
    assert_eq!(layout("when,cpu\n1396310400,1\n").time, 0);
}

#[test]
fn columns_of_text_are_passed_over_and_empty_ones_are_not() {
    let found = layout("time;host;cpu;later\n2014-04-01;a;NaN;\n2014-04-02;b;0.5;\n");
    assert_eq!(names(&found), ["cpu", "later"]);
}

#[test]
fn columns_are_chosen_by_name() {
    let text = "a,b,c\n1,1396310400,3\n";
    let found = try_layout(text, Some("b"), &["c"]).unwrap();
    assert_eq!((found.time, names(&found)), (1, vec!["c"]));
    let error = try_layout(text, Some("x"), &[]).unwrap_err().to_string();
    assert!(error.contains("no column `x`") && error.contains("a, b, c"), "{error}");
}

#[test]
fn a_table_without_times_or_numbers_is_refused_with_its_columns() {
    let error = try_layout("a,b\nx,y\n", None, &[]).unwrap_err().to_string();
    assert!(error.contains("no column holds times") && error.contains("--time-column"), "{error}");
    let error = try_layout("time,b\n2014-04-01,y\n", None, &[]).unwrap_err().to_string();
    assert!(error.contains("no column holds numbers"), "{error}");
}

#[test]
fn a_file_of_which_no_line_can_be_read_says_so_with_the_reason() {
    let error = try_layout("\"never closed\n\"nor here\n", None, &[]).unwrap_err().to_string();
    assert!(error.starts_with("none of its first lines can be read (") && error.contains("quote"), "{error}");
}

#[test]
fn a_field_is_a_number_nothing_or_no_number() {
    assert_eq!(number(" 1.5e3 "), Some(Reading::Value(1500.0)));
    for nothing in ["", " ", "NaN", "null", "-", "inf", "-Infinity"] {
        assert_eq!(number(nothing), Some(Reading::Missing), "{nothing}");
    }
    for wrong in ["1,5", "12ms", "yes"] {
        assert_eq!(number(wrong), None, "{wrong}");
    }
}
