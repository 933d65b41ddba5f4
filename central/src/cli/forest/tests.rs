//! The command as people run it, and the formats that it reads.

use std::io::Cursor;

use clap::Parser as _;
use proptest::prelude::*;
use zip::ZipWriter;

use super::measure::measure;
use super::npy::Array;
use super::*;

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

/// What one run said: stdout, stderr, bad rows.
fn run_on(bytes: &[u8], words: &str) -> Result<(String, String, usize)> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let input = file.path().display().to_string();
    let line = ["forest", "--input", &input].into_iter().chain(words.split_whitespace());
    let options = Line::try_parse_from(line)?.options;
    let (mut out, mut log) = (Vec::new(), Vec::new());
    let bad = score(&options, &mut out, &mut log)?;
    Ok((String::from_utf8(out).unwrap(), String::from_utf8(log).unwrap(), bad))
}

fn error_on(bytes: &[u8], words: &str) -> String {
    format!("{:#}", run_on(bytes, words).unwrap_err())
}

/// An array as `NumPy` writes it.
fn npy(kind: &str, shape: &str, columns_first: bool, data: &[u8]) -> Vec<u8> {
    let order = if columns_first { "True" } else { "False" };
    let header = format!("{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn npz(arrays: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in arrays {
        let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        writer.start_file(format!("{name}.npy"), options).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn doubles(values: &[f64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A small table in which the last row stands apart.
const TABLE: &str = "a,b\n1,2\n1.1,2.1\n0.9,1.9\n1,2.2\n1.2,2\n9,-7\n";

#[test]
fn rows_of_a_csv_get_scores_in_order_and_the_odd_one_gets_the_highest() {
    let (out, log, bad) = run_on(TABLE.as_bytes(), "").unwrap();
    let rows: Vec<(&str, f64)> = out
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(','))
        .map(|(row, score)| (row, score.parse().unwrap()))
        .collect();
    assert!(out.starts_with("row,score\n1,") && log.is_empty() && bad == 0, "{out}{log}");
    assert_eq!(rows.iter().map(|row| row.0).collect::<String>(), "123456");
    assert!(rows[..5].iter().all(|row| row.1 < rows[5].1), "{out}");
}

#[test]
fn bad_rows_are_named_with_line_and_reason_and_the_rest_goes_on() {
    let text = "a;b;y\n1;2;0\n1;x;0\n\n3;4\n5;6;maybe\n\"7\";NaN;1\n;inf;0\n";
    let (out, log, bad) = run_on(text.as_bytes(), "--out /dev/null").unwrap();
    assert_eq!(bad, 3);
    assert_eq!(
        log,
        "line 3: b is \"x\", which is no number; the row is left out\n\
         line 5: it has 2 fields, not 3; the row is left out\n\
         line 6: the label \"maybe\" is neither 1 (anomaly) nor 0; the row is left out\n"
    );
    assert!(out.starts_with("3 rows, 2 features, 1 anomalies; combined, 100 trees of 3 rows, seed 0\nAUC "), "{out}");
}

#[test]
fn scores_keep_the_numbers_of_their_rows_when_bad_ones_are_left_out() {
    let (out, _, _) = run_on(b"a\n1\nbad\n3\n", "--mode classic").unwrap();
    let numbers: Vec<_> = out.lines().skip(1).filter_map(|line| line.split(',').next()).collect();
    assert_eq!(numbers, ["1", "3"]);
}

#[test]
fn a_table_without_a_header_and_columns_that_are_no_features_are_read() {
    let (out, _, _) = run_on(b"1\t2\n1\t3\n", "").unwrap();
    assert_eq!(out.lines().count(), 3);
    let text = "time,v,Label\nmonday,1,normal\ntuesday,1,no\nfriday,50,anomaly\n";
    let (out, _, bad) = run_on(text.as_bytes(), "--ignore time --mode range-aware --trees 10").unwrap();
    assert!(bad == 0 && out.contains("3 rows, 1 features, 1 anomalies") && out.contains("AUC 1.00000"), "{out}");
}

#[test]
fn what_cannot_be_scored_at_all_says_why() {
    assert!(error_on(b"", "").ends_with("it is empty"));
    assert!(error_on(b"when,v\nmonday,1\n", "").ends_with("if column when is no feature: --ignore when"));
    assert!(error_on(TABLE.as_bytes(), "--label c").ends_with("--label c: the columns are a, b"));
    assert!(error_on(TABLE.as_bytes(), "--ignore a --ignore b").contains("no column that is a feature"));
    assert!(error_on(TABLE.as_bytes(), "--trees 0").contains("trees is 0, it must be 1 to 10000"));
    assert!(error_on(TABLE.as_bytes(), "--depth 17").contains("`auto` or 1 to 16"));
    assert!(error_on(b"PK\x03\x04 but no archive", "").contains("it is no .npz"));
    let binary = error_on(b"\x7fELF\x02\x01\x00\x1b[2J,b\nx,y\n", "");
    assert!(binary.contains("\\u{7f}ELF") && !binary.chars().any(char::is_control), "{binary}");
    let gone = Line::try_parse_from(["forest", "--input", "no/such/file"]).unwrap().options;
    assert!(format!("{:#}", score(&gone, &mut Vec::new(), &mut Vec::new()).unwrap_err()).contains("no/such/file"));
}

#[test]
fn an_npz_with_labels_is_measured() {
    let values: Vec<f64> = (0..60).map(|index| if index >= 58 { 40.0 } else { f64::from(index % 7) }).collect();
    let labels: Vec<u8> = (0..30).map(|index| u8::from(index == 29)).collect();
    let bytes =
        npz(&[("X", npy("<f8", "(30, 2)", false, &doubles(&values))), ("y", npy("|u1", "(30,)", false, &labels))]);
    let (out, _, bad) = run_on(&bytes, "").unwrap();
    assert!(bad == 0 && out.contains("30 rows, 2 features, 1 anomalies"), "{out}");
    assert!(out.ends_with("AUC 1.00000\naverage precision 1.00000\n"), "{out}");
}

#[test]
fn arrays_that_do_not_fit_are_refused_and_bad_labels_named() {
    let rows = npy("<f8", "(2, 1)", false, &doubles(&[1.0, 2.0]));
    let labels = |text: &[u8]| npy("|i1", &format!("({},)", text.len()), false, text);
    let of = |labels| npz(&[("X", rows.clone()), ("y", labels)]);
    assert!(error_on(&of(labels(&[1])), "").contains("2 rows and 1 labels"));
    assert!(error_on(&of(labels(&[1, 0])), "--label z").contains("the arrays are X, y"));
    let (_, log, bad) = run_on(&of(labels(&[1, 3])), "").unwrap();
    assert_eq!((bad, log.as_str()), (1, "row 2: the label 3 is neither 1 (anomaly) nor 0; the row is left out\n"));
    assert!(
        error_on(&npz(&[("a", rows.clone()), ("b", rows.clone())]), "").contains("no array X; its arrays are a, b")
    );
}

#[test]
fn arrays_of_every_type_and_order_are_the_same_numbers() {
    let array = |values: &[f64]| Array { values: values.to_vec(), rows: 2, width: 2, is_table: true };
    let read = |kind: &str, columns_first, data: &[u8]| npy::read(&npy(kind, "(2, 2)", columns_first, data)).unwrap();
    assert_eq!(read("<f8", false, &doubles(&[1.0, 2.0, 3.0, -4.5])), array(&[1.0, 2.0, 3.0, -4.5]));
    assert_eq!(read("<f8", true, &doubles(&[1.0, 3.0, 2.0, 4.0])), array(&[1.0, 2.0, 3.0, 4.0]));
    assert_eq!(read("|b1", false, &[0, 1, 1, 0]), array(&[0.0, 1.0, 1.0, 0.0]));
    assert_eq!(read("|i1", false, &[0, 255, 127, 128]), array(&[0.0, -1.0, 127.0, -128.0]));
    assert_eq!(read(">i2", false, &[0, 1, 255, 255, 1, 0, 128, 0]), array(&[1.0, -1.0, 256.0, -32768.0]));
    assert_eq!(read("<u2", false, &[1, 0, 255, 255, 0, 1, 0, 128]), array(&[1.0, 65535.0, 256.0, 32768.0]));
    let floats: Vec<u8> = [1.5_f32, -2.0, 0.0, 1e9].iter().flat_map(|value| value.to_be_bytes()).collect();
    assert_eq!(read(">f4", false, &floats), array(&[1.5, -2.0, 0.0, 1e9]));
    let halves: Vec<u8> = [0x3c00_u16, 0xc000, 0x0001, 0x7bff].iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(read("<f2", false, &halves), array(&[1.0, -2.0, 2.0_f64.powi(-24), 65504.0]));
    let wide: Vec<u8> = [-1_i64, 7, 0, 1 << 40].iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(read("<i8", false, &wide), array(&[-1.0, 7.0, 0.0, 1_099_511_627_776.0]));
}

#[test]
fn arrays_that_are_no_tables_are_refused_with_a_reason() {
    let error = |bytes: &[u8]| npy::read(bytes).unwrap_err().to_string();
    assert!(error(&npy("<f8", "(2, 2)", false, &[0; 31])).contains("31 bytes of data"));
    assert!(error(&npy("<c16", "(1,)", false, &[0; 16])).contains("its type is <c16"));
    assert!(error(&npy("|O", "(1,)", false, &[0; 8])).contains("its type is |O"));
    assert!(error(&npy("<f8", "(1, 1, 1)", false, &[0; 8])).contains("3 dimensions"));
    assert!(error(&npy("<f8", "(9223372036854775807, 9)", false, &[])).contains("too large"));
    assert!(error(b"\x93NUMPY\x01\x00\xff\xff{").contains("ends in its header"));
}

#[test]
fn the_figures_are_those_of_scikit_learn() {
    // roc_auc_score and average_precision_score of scikit-learn 1.9.1 on the same numbers.
    let scores = [0.1, 0.4, 0.35, 0.8, 0.4, 0.9, 0.4, 0.2];
    let labels = [false, false, true, true, true, false, false, true];
    let measured = measure(&scores, &labels).unwrap();
    assert!((measured.auc - 0.4375).abs() < 1e-12, "{measured:?}");
    assert!((measured.average_precision - 0.492_857_142_857_142_9).abs() < 1e-12, "{measured:?}");
    assert_eq!(measure(&[0.1, 0.2], &[true, true]), None);
}

proptest! {
    #[test]
    fn property_no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), archive: bool) {
        let columns = table::Columns { label: None, ignore: &[] };
        let array = [npy::MAGIC, &bytes[..]].concat();
        drop(npy::read(&array));
        drop(text::read(&bytes, &columns));
        drop(npz::read(&if archive { npz(&[("X", bytes)]) } else { bytes }, &columns));
    }
}
