//! Configuration end to end: text in, value or problems out.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::backoff::RetryConfig;
use crate::duration::GoDuration;

/// A process, as tests know one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Process {
    /// Where data comes in.
    receiver: Receiver,
    /// Trying again.
    retry_on_failure: RetryConfig,
    /// Words added to everything.
    labels: BTreeMap<String, String>,
    /// Where data goes, by name.
    exporters: BTreeMap<String, Exporter>,
    /// Bounds of the histogram.
    buckets: Vec<GoDuration>,
    /// Parts of the identity.
    dimensions: Vec<Dimension>,
    /// How a line looks.
    format: Format,
    /// Anything that a plug takes.
    extra: Option<serde_json::Value>,
}

/// Where data comes in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Receiver {
    /// What is listened to.
    protocols: Protocols,
}

/// What is listened to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Protocols {
    /// OTLP/gRPC | port 4317.
    grpc: Option<Grpc>,
}

/// OTLP/gRPC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Grpc {
    /// Address and port.
    endpoint: String,
    /// Largest message.
    max_recv_msg_size_mib: u16,
    /// Share of the budget.
    share: f64,
    /// Whether it is encrypted.
    tls: bool,
    /// Time for a request.
    #[serde(with = "crate::duration")]
    #[schemars(with = "GoDuration")]
    timeout: Duration,
    /// Time without a request.
    #[serde(with = "crate::duration::option")]
    #[schemars(with = "Option<GoDuration>")]
    idle: Option<Duration>,
}

impl Default for Grpc {
    fn default() -> Self {
        Self {
            endpoint: "0.0.0.0:4317".to_owned(),
            max_recv_msg_size_mib: 64,
            share: 0.5,
            tls: false,
            timeout: Duration::from_secs(5),
            idle: None,
        }
    }
}

/// Where data goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Exporter {
    /// Address.
    endpoint: String,
    /// Whether it is used.
    #[serde(default)]
    enabled: bool,
}

/// Part of the identity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Dimension {
    /// Attribute.
    name: String,
    /// Value where it is absent.
    default: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

fn environment(name: &str) -> Option<String> {
    let value = match name {
        "HOST" => "10.1.2.3",
        "PORT" => "4317",
        "SHARE" => "0.25",
        "TRUE" => "true",
        "EMPTY" => "",
        "WAIT" => "1m30s",
        "STRUCTURE" => "a: b\nc: [1, 2]",
        "DOLLARS" => "${env:HOST} $$ ${",
        "WORD" => "many",
        _ => return None,
    };
    Some(value.to_owned())
}

fn read(text: &str) -> Result<Process, String> {
    parse(text, &environment).map_err(|error| error.to_string())
}

fn grpc(text: &str) -> Grpc {
    let process = read(&format!("receiver:\n  protocols:\n    grpc:\n      {text}\n")).unwrap();
    process.receiver.protocols.grpc.unwrap()
}

#[test]
fn an_empty_document_is_the_default() {
    for text in ["", "\n", "# only a comment\n", "---\n", "{}", "~"] {
        assert_eq!(read(text), Ok(Process::default()), "{text:?}");
    }
}

#[test]
fn a_full_document_is_read() {
    let text = "
receiver:
  protocols:
    grpc: {endpoint: 127.0.0.1:0, max_recv_msg_size_mib: 0x10, share: 1, tls: true, timeout: 1h2m3.5s, idle: 10s}
retry_on_failure: {initial_interval: 250ms}
labels: {version: 1.10, zeros: 007, yes: no, none: 'null', 5: five}
exporters: {one: {endpoint: a}, two: {endpoint: b, enabled: true}}
buckets: [2ms, 1s]
dimensions: [{name: http.method, default: GET}, {name: x}]
format: json
extra: {any: [1, 2.5, true, null, text], depth: {more: -1}}
";
    let process = read(text).unwrap();
    let grpc = process.receiver.protocols.grpc.unwrap();
    assert_eq!(
        (grpc.endpoint.as_str(), grpc.max_recv_msg_size_mib, grpc.share, grpc.tls),
        ("127.0.0.1:0", 16, 1.0, true)
    );
    assert_eq!((grpc.timeout, grpc.idle), (Duration::from_millis(3_723_500), Some(Duration::from_secs(10))));
    assert_eq!(process.retry_on_failure.initial_interval, Duration::from_millis(250));
    let labels: Vec<_> = process.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(labels, [("5", "five"), ("none", "null"), ("version", "1.10"), ("yes", "no"), ("zeros", "007")]);
    assert!(process.exporters["two"].enabled && !process.exporters["one"].enabled);
    assert_eq!(process.dimensions[0].default.as_deref(), Some("GET"));
    assert_eq!(process.format, Format::Json);
    let extra = serde_json::json!({"any": [1, 2.5, true, null, "text"], "depth": {"more": -1}});
    assert_eq!(process.extra, Some(extra));
}

#[test]
fn a_section_with_nothing_after_its_key_is_open_and_null_is_off() {
    let open = read("receiver:\n  protocols:\n    grpc:\n").unwrap();
    assert_eq!(open.receiver.protocols.grpc, Some(Grpc::default()));
    for off in ["null", "~"] {
        assert_eq!(read(&format!("receiver: {{protocols: {{grpc: {off}}}}}")), Ok(Process::default()));
    }
    assert_eq!(read("receiver:\nretry_on_failure:\n"), Ok(Process::default()));
}

#[test]
fn every_unknown_key_is_reported_with_path_line_and_the_nearest_known_key() {
    let text = "\
reciever:
  protocols: {}
receiver:
  protocols:
    grpc:
      endpint: x
      maxRecvMsgSizeMib: 5
      quite_something_else: 1
dimensions:
  - name: a
  - nmae: b
exporters:
  any_name_is_right:
    endpoint: x
    enable: true
retry_on_failure: {max_elapsed: 5s}
";
    assert_eq!(read(text).unwrap_err(), "\
line 1: reciever: unknown key; did you mean \"receiver\"?
line 6: receiver.protocols.grpc.endpint: unknown key; did you mean \"endpoint\"?
line 7: receiver.protocols.grpc.maxRecvMsgSizeMib: unknown key; did you mean \"max_recv_msg_size_mib\"?
line 8: receiver.protocols.grpc.quite_something_else: unknown key; expected one of endpoint, idle, max_recv_msg_size_mib, share, timeout, tls
line 11: dimensions[1].nmae: unknown key; did you mean \"name\"?
line 11: dimensions[1].name: is required and not there
line 15: exporters.any_name_is_right.enable: unknown key; did you mean \"enabled\"?
line 16: retry_on_failure.max_elapsed: unknown key; did you mean \"max_elapsed_time\"?");
}

#[test]
fn every_wrong_value_is_reported_with_key_value_and_what_would_be_right() {
    let text = "\
receiver:
  protocols:
    grpc:
      endpoint: [a]
      max_recv_msg_size_mib: 65536
      share: half
      tls: yes
      timeout: 5
      idle: 5d
labels: [a]
buckets: [1s, soon]
format: jsno
retry_on_failure: {multiplier: }
exporters: {one: {enabled: true}}
";
    assert_eq!(read(text).unwrap_err(), "\
line 4: receiver.protocols.grpc.endpoint: a list: expected a text
line 5: receiver.protocols.grpc.max_recv_msg_size_mib: 65536: expected a whole number from 0 to 65535
line 6: receiver.protocols.grpc.share: \"half\": expected a number
line 7: receiver.protocols.grpc.tls: \"yes\": expected true or false
line 8: receiver.protocols.grpc.timeout: duration \"5\" has a number without a unit; expected a unit of ns, us, ms, s, m, h
line 9: receiver.protocols.grpc.idle: duration \"5d\" has the unknown unit \"d\"; expected ns, us, ms, s, m, h
line 10: labels: a list: expected a section of keys and values
line 11: buckets[1]: \"soon\" is not a duration; expected one like \"1m30s\" or \"250ms\"
line 12: format: \"jsno\": did you mean \"json\"? expected one of text, json
line 13: retry_on_failure.multiplier: nothing: expected a number
line 14: exporters.one.endpoint: is required and not there");
}

#[test]
fn unknown_keys_wrong_values_and_unset_variables_are_reported_together() {
    let text = "lables: {}\nformat: ${env:NOT_SET}\nbuckets: 5s\n";
    assert_eq!(
        read(text).unwrap_err(),
        "\
line 1: lables: unknown key; did you mean \"labels\"?
line 2: format: environment variable NOT_SET is not set; set it, or give a default: ${env:NOT_SET:-value}
line 3: buckets: \"5s\": expected a list"
    );
}

#[test]
fn text_that_is_no_yaml_is_refused_with_its_line() {
    for (text, line) in [("a: [1", 1), ("a: 1\n  b: 2\n", 2), ("labels:\n  a: 1\n  a: 2\n", 3), ("labels: *none\n", 1)]
    {
        let error = parse::<Process>(text, &environment).unwrap_err();
        assert_eq!(error.problems.len(), 1, "{error}");
        assert!(error.problems[0].message.starts_with("is not valid YAML: "), "{error}");
        assert!(error.problems[0].line.is_some_and(|found| found.abs_diff(line) <= 1), "{text:?}: {error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
    let twice = read("labels:\n  a: 1\n  a: 2\n").unwrap_err();
    assert!(twice.starts_with("line 3: ") && twice.contains("duplicate") && twice.contains('a'), "{twice}");
}

#[test]
fn a_document_that_is_no_section_or_more_than_one_is_refused() {
    assert_eq!(read("- a\n").unwrap_err(), "line 1: a list: expected a section of keys and values");
    let error = read("receiver: [{}]\nretry_on_failure: 5s\n").unwrap_err();
    assert_eq!(
        error,
        "\
line 1: receiver: a list: expected a section of keys and values
line 2: retry_on_failure: \"5s\": expected a section of keys and values"
    );
    assert!(read("5").unwrap_err().contains("expected a section"));
    assert!(read("labels: {}\n---\nlabels: {}\n").unwrap_err().contains("not valid YAML"));
}

#[test]
fn anchors_and_merge_keys_are_allowed() {
    let text = "\
exporters:
  one: &base {endpoint: x, enabled: true}
  two: *base
  three:
    <<: *base
    endpoint: y
";
    let process = read(text).unwrap();
    assert_eq!(process.exporters["two"], process.exporters["one"]);
    assert_eq!(process.exporters["three"], Exporter { endpoint: "y".to_owned(), enabled: true });
    let labels = read("labels: {a: &text 1.10, b: *text, c: &word \"x y\", d: *word}").unwrap().labels;
    assert_eq!(labels["a"], "1.10");
    assert_eq!(labels["b"], "1.10");
    assert_eq!(labels["d"], "x y");
}

#[test]
fn documents_that_are_too_large_too_deep_or_grow_are_refused() {
    assert!(read(&"#".repeat(MAX_BYTES + 1)).unwrap_err().contains("larger than 1048576 bytes"));
    let deep = format!("extra: {}{}", "[".repeat(5_000), "]".repeat(5_000));
    assert!(read(&deep).unwrap_err().contains("not valid YAML"));
    let nested: String = (0..200).fold("extra:".to_owned(), |text, depth| text + "\n" + &" ".repeat(depth + 1) + "k:");
    assert!(read(&nested).unwrap_err().contains("not valid YAML"));
    let mut bomb = "extra:\n  a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let before = format!("*a{}, ", level - 1).repeat(10);
        bomb += &["  a", &level.to_string(), ": &a", &level.to_string(), " [", before.trim_end_matches(", "), "]\n"]
            .concat();
    }
    assert!(read(&bomb).unwrap_err().contains("not valid YAML"));
}

#[test]
fn the_environment_is_put_into_values_of_any_type() {
    assert_eq!(grpc("endpoint: ${env:HOST}:${PORT}").endpoint, "10.1.2.3:4317");
    assert_eq!(grpc("endpoint: ${env:PORT}").endpoint, "4317");
    assert_eq!(grpc("max_recv_msg_size_mib: ${env:PORT}").max_recv_msg_size_mib, 4317);
    assert_eq!(grpc("max_recv_msg_size_mib: \"${PORT}\"").max_recv_msg_size_mib, 4317);
    assert!((grpc("share: ${env:SHARE}").share - 0.25).abs() < f64::EPSILON);
    assert!(grpc("tls: ${env:TRUE}").tls);
    assert_eq!(grpc("timeout: ${env:WAIT}").timeout, Duration::from_secs(90));
    assert_eq!(grpc("idle: ${env:WAIT}").idle, Some(Duration::from_secs(90)));
    assert_eq!(grpc("idle: ${env:EMPTY}").idle, None);
    assert_eq!(grpc("endpoint: ${env:EMPTY}").endpoint, "");
    let extra = read("extra: ['${PORT}', '${SHARE}', '${TRUE}', '${EMPTY}', '${HOST}']").unwrap().extra;
    assert_eq!(extra, Some(serde_json::json!([4317, 0.25, true, null, "10.1.2.3"])));
}

#[test]
fn defaults_dollar_signs_and_nesting() {
    assert_eq!(grpc("endpoint: ${env:NOPE:-localhost}").endpoint, "localhost");
    assert_eq!(grpc("endpoint: ${NOPE:-}").endpoint, "");
    assert_eq!(grpc("endpoint: ${env:EMPTY:-unused}").endpoint, "");
    assert_eq!(grpc("endpoint: '${env:NOPE:-a:-b}'").endpoint, "a:-b");
    assert_eq!(grpc("endpoint: ${env:NOPE:-${env:ALSO_NOT:-${HOST}}}:1").endpoint, "10.1.2.3:1");
    assert_eq!(grpc("endpoint: $${env:HOST}").endpoint, "${env:HOST}");
    assert_eq!(grpc("endpoint: a$$b$c$").endpoint, "a$b$c$");
    assert_eq!(grpc("endpoint: $$$${HOST}").endpoint, "$${HOST}");
    assert_eq!(grpc("endpoint: $$${HOST}").endpoint, "$10.1.2.3");
    assert_eq!(grpc("max_recv_msg_size_mib: ${NOPE:-7}").max_recv_msg_size_mib, 7);
}

#[test]
fn references_that_are_wrong_are_named() {
    let message = |value: &str| {
        let error = parse::<Process>(&format!("labels: {{a: '{value}'}}"), &environment).unwrap_err();
        assert_eq!((error.problems.len(), error.problems[0].key.as_str()), (1, "labels.a"));
        error.problems[0].message.clone()
    };
    assert!(message("${env:}").starts_with("${env:}: \"\" is no variable"));
    assert!(message("${file:/etc/passwd}").contains("\"file:/etc/passwd\" is no variable's name"));
    assert!(message("${1A}").contains("no variable's name"));
    assert!(message("${env:HOST").contains("without \"}\""));
    assert!(message("${env:A:-${env:B}}").starts_with("environment variable B is not set"));
    let nested = format!("{}x{}", "${N:-".repeat(20), "}".repeat(20));
    assert!(message(&nested).contains("references inside each other"));
}

#[test]
fn a_wrong_value_from_the_environment_names_its_variable() {
    let text = "receiver: {protocols: {grpc: {max_recv_msg_size_mib: '${env:WORD}'}}}";
    assert_eq!(
        read(text).unwrap_err(),
        "line 1: receiver.protocols.grpc.max_recv_msg_size_mib: \"many\" (from ${env:WORD}): expected a whole number from 0 to 65535"
    );
}

#[test]
fn the_content_of_a_variable_is_never_structure_nor_a_reference() {
    assert_eq!(grpc("endpoint: ${env:STRUCTURE}").endpoint, "a: b\nc: [1, 2]");
    assert_eq!(grpc("endpoint: ${env:DOLLARS}").endpoint, "${env:HOST} $$ ${");
    let error = read("labels: ${env:STRUCTURE}").unwrap_err();
    assert!(error.contains("expected a section"), "{error}");
    assert!(!error.contains('\n'), "{error}");
}

proptest! {
    #[test]
    fn whatever_a_variable_holds_it_arrives_unchanged_in_a_text(content in any::<String>()) {
        let env = |_: &str| Some(content.clone());
        let process: Process = parse("labels: {a: '${env:X}', b: \"-${X}-\"}\nformat: json\n", &env).unwrap();
        prop_assert_eq!(&process.labels["a"], &content);
        prop_assert_eq!(&process.labels["b"], &format!("-{content}-"));
        prop_assert_eq!(process.labels.len(), 2);
        prop_assert_eq!(process.format, Format::Json);
    }

    #[test]
    fn numbers_of_the_environment_are_numbers(number: u16, share in -1e9_f64..1e9) {
        let env = |name: &str| Some(if name == "N" { number.to_string() } else { share.to_string() });
        let process: Process =
            parse("receiver: {protocols: {grpc: {max_recv_msg_size_mib: '${N}', share: '${S}'}}}", &env).unwrap();
        let grpc = process.receiver.protocols.grpc.unwrap();
        prop_assert_eq!((grpc.max_recv_msg_size_mib, grpc.share), (number, share));
    }

    #[test]
    fn any_text_is_read_or_refused_without_a_panic(text in any::<String>()) {
        if let Err(error) = read(&text) {
            prop_assert!(!error.is_empty());
        }
    }

    #[test]
    fn texts_made_of_yaml_are_read_or_refused_without_a_panic(text in "[-:\\[\\]{}&*!|>'\"$ab0.\\n ,#?~<]{0,60}") {
        if let Err(error) = read(&text) {
            prop_assert!(!error.is_empty());
        }
    }

    #[test]
    fn what_is_rendered_reads_back_to_the_same_value(
        labels in prop::collection::btree_map("[a-z]{1,8}", "[ -~]{0,20}|\\PC{0,10}", 0..6),
        endpoint in "[ -~]{0,20}",
        nanos in 0..u64::from(u32::MAX),
        open: bool,
    ) {
        let grpc = Grpc { endpoint, timeout: Duration::from_nanos(nanos), ..Grpc::default() };
        let receiver = Receiver { protocols: Protocols { grpc: open.then_some(grpc) } };
        let process = Process { receiver, labels, ..Process::default() };
        prop_assert_eq!(parse::<Process>(&render(&process), &|_| None), Ok(process));
    }
}

#[test]
fn line_ends_of_any_system_and_a_byte_order_mark_are_read() {
    let process = read("\u{feff}format: json\r\nlabels:\r\n  a: b\r\n").unwrap();
    assert_eq!((process.format, process.labels["a"].as_str()), (Format::Json, "b"));
    let block = read("labels:\n  a: |\n    one ${PORT}\n    two\n  b: >-\n    x\n    y\n").unwrap();
    assert_eq!((block.labels["a"].as_str(), block.labels["b"].as_str()), ("one 4317\ntwo\n", "x y"));
}

#[test]
fn documents_as_deep_as_allowed_need_little_stack() {
    let nested: String = (0..20).fold("extra:".to_owned(), |text, depth| text + "\n" + &" ".repeat(depth + 1) + "k:");
    let reading = std::thread::Builder::new().stack_size(1 << 20).spawn(move || read(&nested).is_ok());
    assert!(reading.unwrap().join().unwrap());
}

#[test]
fn files_are_named_in_their_problems() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.yaml");
    let missing = load::<Process>(&file).unwrap_err().to_string();
    assert!(missing.starts_with(&format!("{}: cannot be read: ", file.display())), "{missing}");
    std::fs::write(&file, "labels: {}\nfromat: json\n").unwrap();
    let error = load::<Process>(&file).unwrap_err().to_string();
    assert_eq!(error, format!("{}:2: fromat: unknown key; did you mean \"format\"?", file.display()));
    std::fs::write(&file, b"labels: {a: \xff}\n").unwrap();
    assert!(load::<Process>(&file).unwrap_err().to_string().contains("is not UTF-8 at byte 12"));
    std::fs::write(&file, "format: ${env:MIRADOR_TEST_NOT_SET:-json}\n").unwrap();
    assert_eq!(load::<Process>(&file).unwrap().format, Format::Json);
}

#[test]
fn the_document_lists_every_key_with_type_default_and_meaning() {
    let page = document::<Process>("Process");
    assert_eq!(page, document::<Process>("Process"));
    assert_eq!(page, include_str!("tests/document.md"));
}
