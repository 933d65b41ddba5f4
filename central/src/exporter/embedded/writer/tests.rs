//! The writing thread's work, step by step and without the thread: full disks, locks, limits, damaged files.

use mirador_service::metrics::Registry;

use super::*;
use crate::clock::unix_nano;
use crate::series::{LabelSet, Series};

struct Setup {
    folder: tempfile::TempDir,
    writer: Writer,
    registry: Registry,
}

fn setup(max_bytes: u64, retention: Duration) -> Setup {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.sqlite");
    let connection = Connection::open(&path).unwrap();
    super::super::schema::prepare(&connection).unwrap();
    let registry = Registry::new();
    let bounds = Bounds { path, retention, max_bytes, sweep: Duration::from_secs(10) };
    let writer = Writer::new(connection, bounds, Meters::register(&registry)).unwrap();
    Setup { folder, writer, registry }
}

fn day() -> Duration {
    Duration::from_secs(24 * 3600)
}

/// A record of `bytes`, `age` old.
fn log(id: u64, bytes: usize, age: Duration) -> LogRow {
    let mut name = [0; 16];
    name[..8].copy_from_slice(&id.to_be_bytes());
    LogRow {
        id: name,
        time_nanos: unix_nano() as i64 - age.as_nanos() as i64,
        service: "cart".into(),
        severity: 9,
        severity_text: String::new(),
        body: "x".repeat(bytes),
        trace_id: Vec::new(),
        span_id: Vec::new(),
        event_name: String::new(),
        attributes: "{}".to_owned(),
        resource: "{}".into(),
        scope: "".into(),
    }
}

fn samples(name: &str, age: Duration) -> Data {
    let time = (unix_nano() / 1_000_000) as i64 - age.as_millis() as i64;
    let labels = Arc::new(LabelSet::from_sorted([("__name__", name)]));
    Data::Samples(Arc::new(SeriesBatch { series: vec![Series::sample(labels, time, 1.0)] }))
}

impl Setup {
    fn write_all(&mut self, data: Vec<Data>) -> Vec<Result<(), ExportError>> {
        let (group, answers): (Vec<_>, Vec<_>) = data
            .into_iter()
            .map(|data| {
                let (answer, answered) = oneshot::channel();
                (Write { data, answer }, answered)
            })
            .unzip();
        self.writer.commit(group);
        answers.into_iter().map(|answer| answer.blocking_recv().unwrap()).collect()
    }

    fn write(&mut self, data: Data) -> Result<(), ExportError> {
        self.write_all(vec![data]).pop().unwrap()
    }

    /// Steps until nothing is left to do.
    fn sweep(&mut self) {
        for _ in 0..10_000 {
            self.writer.enforce();
            if !self.writer.sweep.due(Instant::now()).is_zero() {
                return;
            }
        }
        panic!("the sweep never ends");
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("store.sqlite")
    }

    fn bytes(&self) -> u64 {
        std::fs::metadata(self.path()).unwrap().len()
    }

    fn count(&self, table: &str) -> i64 {
        self.writer.connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    }

    fn expired(&self, reason: &str) -> u64 {
        let line = format!("mirador_embedded_expired_rows_total{{reason=\"{reason}\"}} ");
        self.registry
            .encode()
            .lines()
            .find_map(|found| found.strip_prefix(&line))
            .map_or(0, |count| count.parse().unwrap())
    }
}

#[test]
fn rows_that_are_too_old_go_and_the_others_stay() {
    let mut setup = setup(1 << 30, Duration::from_secs(3600));
    let ages = [30, 59 * 60, 61 * 60, 7200].map(Duration::from_secs);
    setup.write(Data::Logs(ages.iter().enumerate().map(|(id, &age)| log(id as u64, 10, age)).collect())).unwrap();
    setup.write(samples("old", Duration::from_secs(7200))).unwrap();
    setup.write(samples("new", Duration::ZERO)).unwrap();
    setup.sweep();
    assert_eq!((setup.count("logs"), setup.count("samples"), setup.count("series")), (2, 1, 1));
    assert_eq!((setup.expired("age"), setup.expired("size")), (3, 0));
    // The id of the series that went may be given again: nothing may be written under it.
    setup.write(samples("old", Duration::ZERO)).unwrap();
    assert_eq!((setup.count("samples"), setup.count("series")), (2, 2));
}

#[test]
fn more_rows_than_one_step_deletes_are_all_gone_when_the_steps_end() {
    let mut setup = setup(1 << 30, Duration::from_secs(3600));
    let rows = (0..50_000).map(|id| log(id, 1, day())).chain([log(60_000, 1, Duration::ZERO)]).collect();
    setup.write(Data::Logs(rows)).unwrap();
    setup.writer.enforce();
    assert!((1..50_001).contains(&setup.count("logs")), "one step is bounded");
    setup.sweep();
    assert_eq!(setup.count("logs"), 1);
}

#[test]
fn a_file_that_is_too_large_loses_its_oldest_rows_and_shrinks_on_disk() {
    let limit = 4 << 20;
    let mut setup = setup(limit, day());
    for chunk in 0..8_u64 {
        let rows =
            (0..47).map(|row| log(chunk * 47 + row, 10_000, Duration::from_secs(3600 - chunk * 47 - row))).collect();
        setup.write(Data::Logs(rows)).unwrap();
    }
    setup.writer.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    assert!(setup.bytes() > limit);
    setup.sweep();
    assert!(setup.bytes() <= limit, "{} bytes", setup.bytes());
    let left = setup.count("logs");
    assert!((100..376).contains(&left), "no more than needed is deleted: {left} rows are left");
    assert_eq!(setup.expired("size"), 376 - left as u64);
    let newest: i64 = setup
        .writer
        .connection
        .query_row("SELECT max(substr(id, 8, 1) = x'77') FROM logs", [], |row| row.get(0))
        .unwrap();
    assert_eq!(newest, 1, "record 375 is the newest");
}

#[test]
fn rows_from_the_future_give_way_too() {
    let mut setup = setup(1 << 20, day());
    let rows = (0..88).map(|id| LogRow { time_nanos: i64::MAX - 1, ..log(id, 10_000, Duration::ZERO) }).collect();
    setup.write(Data::Logs(rows)).unwrap();
    setup.sweep();
    assert!(setup.expired("size") > 0 && setup.bytes() <= 1 << 20);
}

#[test]
fn a_flood_is_refused_for_now_and_taken_again_when_there_is_room() {
    let mut setup = setup(1 << 20, day());
    let mut refused = None;
    for id in 0..400 {
        if let Err(error) = setup.write(Data::Logs(vec![log(id, 10_000, Duration::from_secs(400 - id))])) {
            refused = Some(error);
            break;
        }
    }
    let Some(ExportError::Retry { reason, .. }) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("max_size_mib"), "{reason}");
    assert!(setup.writer.sweep.due(Instant::now()).is_zero(), "room is made at once");
    setup.sweep();
    setup.write(Data::Logs(vec![log(1000, 10_000, Duration::ZERO)])).unwrap();
    assert!(setup.bytes() <= 5 << 18, "{}", setup.bytes());
}

#[test]
fn a_full_disk_is_answered_at_once_for_the_whole_group_and_passes() {
    let mut setup = setup(1 << 30, day());
    let pages: i64 = setup.writer.connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    let limit = |setup: &Setup, pages: i64| {
        setup.writer.connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).unwrap();
    };
    limit(&setup, pages + 1);
    let group = || (0..3).map(|id| Data::Logs(vec![log(id, 50_000, Duration::ZERO)])).collect();
    for answer in setup.write_all(group()) {
        assert!(matches!(answer, Err(ExportError::Retry { after: Some(_), .. })), "{answer:?}");
    }
    assert_eq!(setup.count("logs"), 0);
    limit(&setup, pages + 1000);
    assert!(setup.write_all(group()).iter().all(Result::is_ok));
    assert_eq!(setup.count("logs"), 3);
}

#[test]
fn a_lock_that_another_process_holds_passes_and_says_so_meanwhile() {
    let mut setup = setup(1 << 30, day());
    setup.writer.connection.busy_timeout(Duration::from_millis(1)).unwrap();
    let other = Connection::open(setup.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = setup.write(Data::Logs(vec![log(1, 1, Duration::ZERO)])).unwrap_err();
    let ExportError::Retry { reason, .. } = error else { panic!("{error:?}") };
    assert!(reason.contains("another process"), "{reason}");
    setup.writer.enforce();
    other.execute_batch("ROLLBACK").unwrap();
    setup.write(Data::Logs(vec![log(1, 1, Duration::ZERO)])).unwrap();
}

#[test]
fn a_file_that_may_not_be_written_needs_an_operator_and_then_works() {
    let mut setup = setup(1 << 30, day());
    // Permissions do not bind the superuser, under whom tests may run.
    setup.writer.connection.execute_batch("PRAGMA query_only = ON").unwrap();
    let error = setup.write(Data::Logs(vec![log(1, 1, Duration::ZERO)])).unwrap_err();
    let ExportError::Fatal { reason } = error else { panic!("{error:?}") };
    assert!(reason.contains("write access"), "{reason}");
    setup.writer.connection.execute_batch("PRAGMA query_only = OFF").unwrap();
    setup.write(Data::Logs(vec![log(1, 1, Duration::ZERO)])).unwrap();
}

#[test]
fn one_bad_write_of_a_group_fails_alone() {
    let mut setup = setup(1 << 30, day());
    setup
        .writer
        .connection
        .execute_batch(
            "CREATE TRIGGER poison BEFORE INSERT ON logs WHEN NEW.body = 'bad' BEGIN SELECT raise(ABORT, 'bad'); END",
        )
        .unwrap();
    let of = |id: u64, body: &str| Data::Logs(vec![LogRow { body: body.to_owned(), ..log(id, 0, Duration::ZERO) }]);
    let answers = setup.write_all(vec![of(1, "good"), of(2, "bad"), of(3, "good")]);
    assert!(answers[0].is_ok() && answers[2].is_ok(), "{answers:?}");
    assert!(matches!(answers[1], Err(ExportError::Drop { .. })), "{answers:?}");
    assert_eq!(setup.count("logs"), 2);
}

#[test]
fn a_damaged_file_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.sqlite");
    std::fs::write(&path, "this is no database ".repeat(500)).unwrap();
    let config = super::super::Config { path, ..super::super::Config::default() };
    let error =
        super::super::Embedded::open(&config, &Registry::new(), || ()).err().map(|error| format!("{error:#}")).unwrap();
    assert!(error.contains("exporters.embedded.path") && error.contains("move it away"), "{error}");
}

#[test]
fn a_file_that_is_damaged_while_it_is_used_needs_an_operator() {
    let mut setup = setup(1 << 30, day());
    setup.write(Data::Logs((0..200).map(|id| log(id, 1000, Duration::ZERO)).collect())).unwrap();
    setup.writer.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let length = setup.bytes() as usize;
    std::fs::write(setup.path(), vec![0x5a; length]).unwrap();
    setup.writer.connection.execute_batch("PRAGMA shrink_memory").unwrap();
    let error = setup.write(Data::Logs((300..600).map(|id| log(id, 1000, Duration::ZERO)).collect())).unwrap_err();
    let ExportError::Fatal { reason } = error else { panic!("{error:?}") };
    assert!(reason.contains("move it away"), "{reason}");
}
