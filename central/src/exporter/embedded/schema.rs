//! Tables of the embedded store.
//!
//! Every primary key names its row by content or by the ids that the sender gave it, so that writing a
//! row again changes nothing.

use rusqlite::Connection;

/// Version of the tables, kept in `PRAGMA user_version`.
const VERSION: i64 = 1;

const TABLES: &str = "
CREATE TABLE spans (
    trace_id BLOB NOT NULL, span_id BLOB NOT NULL, parent_span_id BLOB NOT NULL,
    service TEXT NOT NULL, name TEXT NOT NULL, kind INTEGER NOT NULL, status INTEGER NOT NULL,
    start_nanos INTEGER NOT NULL, duration_nanos INTEGER NOT NULL, status_message TEXT NOT NULL,
    attributes TEXT NOT NULL, resource TEXT NOT NULL, events TEXT NOT NULL, links TEXT NOT NULL,
    scope TEXT NOT NULL,
    PRIMARY KEY (trace_id, span_id, kind)
) WITHOUT ROWID;
CREATE INDEX spans_by_time ON spans (start_nanos);
CREATE INDEX spans_by_service ON spans (service, start_nanos);

CREATE TABLE series (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, labels TEXT NOT NULL,
    UNIQUE (name, labels)
);
CREATE TABLE samples (
    series INTEGER NOT NULL, timestamp_ms INTEGER NOT NULL, value REAL, exemplars TEXT,
    PRIMARY KEY (series, timestamp_ms)
) WITHOUT ROWID;
CREATE INDEX samples_by_time ON samples (timestamp_ms);

CREATE TABLE logs (
    id BLOB PRIMARY KEY, time_nanos INTEGER NOT NULL, service TEXT NOT NULL,
    severity INTEGER NOT NULL, severity_text TEXT NOT NULL, body TEXT NOT NULL,
    trace_id BLOB NOT NULL, span_id BLOB NOT NULL, event_name TEXT NOT NULL,
    attributes TEXT NOT NULL, resource TEXT NOT NULL, scope TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX logs_by_time ON logs (time_nanos);
CREATE INDEX logs_by_service ON logs (service, time_nanos);
CREATE INDEX logs_by_trace ON logs (trace_id) WHERE length(trace_id) > 0;
";

/// Makes a fresh file ready, accepts one of this version and refuses any other.
///
/// # Errors
/// The text names the version that was found and what to do.
pub(super) fn prepare(connection: &Connection) -> anyhow::Result<()> {
    // Write-ahead logging lets the console read while the writer commits. `NORMAL` keeps every committed
    // transaction through the death of the process; only a power cut may lose the last ones.
    let mode: String = connection
        .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))
        .map_err(|error| super::writer::explain(&error))?;
    anyhow::ensure!(
        mode == "wal",
        "write-ahead logging is not possible there (journal mode {mode}); name a path on a local disk"
    );
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    match found {
        VERSION => Ok(()),
        0 => {
            let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
            anyhow::ensure!(
                tables == 0,
                "the file is an SQLite database of something else; name a file that does not exist yet"
            );
            // Freed pages go back to the file system, so that the size limit holds on disk. Has to stand
            // before the first table.
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
            connection.execute_batch("VACUUM")?;
            connection.execute_batch(&format!("BEGIN; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;"))?;
            Ok(())
        }
        other => anyhow::bail!(
            "the file has table version {other}, this program writes version {VERSION}; move the file away or name another"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page that documents the tables for whoever opens the file.
    const PAGE: &str = include_str!("../../../../docs/embedded.md");

    #[test]
    fn every_table_and_column_is_documented_and_no_other() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(TABLES).unwrap();
        let mut names = connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").unwrap();
        let tables: Vec<String> = names.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        assert_eq!(tables.len(), 4);
        for table in tables {
            let (_, section) = PAGE.split_once(&format!("\n`{table}`, by ")).unwrap_or_else(|| panic!("no {table}"));
            let rows = section.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
            let documented: Vec<&str> = rows
                .take_while(|line| line.starts_with('|'))
                .flat_map(|line| line.split('|').nth(1).unwrap_or_default().split(", "))
                .map(|name| name.trim().trim_matches('`'))
                .collect();
            let mut columns = connection.prepare(&format!("SELECT name FROM pragma_table_info('{table}')")).unwrap();
            let mut columns: Vec<String> =
                columns.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
            let mut documented: Vec<String> = documented.into_iter().map(str::to_owned).collect();
            columns.sort();
            documented.sort();
            assert_eq!(documented, columns, "{table}");
        }
        assert!(PAGE.contains(&format!("`PRAGMA user_version` is {VERSION}.")));
    }
}
