//! The limits of the file: rows that are too old, and the oldest rows when the file is too large.
//!
//! Works in steps of bounded cost, so that writers never wait long behind one; while a step says that there is
//! more to do, the next one follows after the next group of writes.
//!
//! Invariant: what is still in use decides whether rows are deleted, not the size on disk, which follows later.

use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use super::super::Meters;
use super::Bounds;

/// Rows that one step deletes from a table at most.
const ROWS: usize = 20_000;
/// Rows that one step deletes when times do not tell how many would be enough.
const FEW_ROWS: usize = 500;
/// Pages that one step gives back to the file system at most.
const PAGES: i64 = 4_000;

/// When and what to delete.
pub(super) struct Sweep {
    bounds: Bounds,
    page_bytes: i64,
    last: Instant,
    has_more: bool,
}

/// What a step has done.
pub(super) struct Swept {
    /// Ids of series may be given to others now.
    pub(super) series_gone: bool,
}

/// Pages of the file.
struct Pages {
    all: i64,
    free: i64,
}

impl Sweep {
    /// Tells the database where the file ends at the latest.
    pub(super) fn new(connection: &Connection, bounds: Bounds) -> rusqlite::Result<Self> {
        let page_bytes = number(connection, "PRAGMA page_size")?.max(512);
        let sweep = Self { bounds, page_bytes, last: Instant::now(), has_more: false };
        sweep.limit_pages(connection, 0)?;
        Ok(sweep)
    }

    /// How long until the next step.
    pub(super) fn due(&self, now: Instant) -> Duration {
        if self.has_more {
            return Duration::ZERO;
        }
        self.bounds.sweep.saturating_sub(now.duration_since(self.last))
    }

    /// Makes the next step due at once.
    pub(super) fn hurry(&mut self) {
        self.has_more = true;
    }

    /// One step. After an error the next one comes at its usual time.
    pub(super) fn step(&mut self, connection: &mut Connection, meters: &Meters) -> rusqlite::Result<Swept> {
        (self.last, self.has_more) = (Instant::now(), false);
        // Deleting may need a page or two before it frees any.
        self.limit_pages(connection, 1_000)?;
        let swept = self.delete(connection, meters);
        self.limit_pages(connection, 0)?;
        self.shrink(connection)?;
        meters.size(self.size());
        swept
    }

    fn delete(&mut self, connection: &mut Connection, meters: &Meters) -> rusqlite::Result<Swept> {
        let now = crate::clock::unix_nano() as i64;
        let oldest = now.saturating_sub(i64::try_from(self.bounds.retention.as_nanos()).unwrap_or(i64::MAX));
        let aged = delete_before(connection, oldest, ROWS)?;
        meters.expired("age", aged.rows());
        let mut samples = aged.samples;
        self.has_more = aged.is_cut_short();
        if self.is_too_large(connection)? {
            let squeezed = delete_oldest(connection, now)?;
            meters.expired("size", squeezed.rows());
            samples += squeezed.samples;
            self.has_more |= squeezed.rows() > 0 && self.is_too_large(connection)?;
        }
        let series_gone = samples > 0 && !self.has_more && {
            let orphans =
                "DELETE FROM series WHERE NOT EXISTS (SELECT 1 FROM samples WHERE samples.series = series.id)";
            connection.execute(orphans, [])? > 0
        };
        Ok(Swept { series_gone })
    }

    /// Gives pages back while the file is larger than its limit or mostly empty.
    fn shrink(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let pages = pages(connection)?;
        let is_large = pages.all.saturating_mul(self.page_bytes) as u64 > self.bounds.max_bytes;
        if pages.free > 0 && (is_large || pages.free > pages.all / 2) {
            let mut vacuum = connection.prepare(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
            // Every page is a row of its own.
            let mut freed = vacuum.query([])?;
            while freed.next()?.is_some() {}
            drop(freed);
            self.has_more |= pages.free > PAGES && number(connection, "PRAGMA page_count")? < pages.all;
        }
        connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
    }

    fn is_too_large(&self, connection: &Connection) -> rusqlite::Result<bool> {
        let pages = pages(connection)?;
        Ok((pages.all - pages.free).saturating_mul(self.page_bytes) as u64 > self.bounds.max_bytes)
    }

    /// A quarter above the limit the database refuses to grow.
    fn limit_pages(&self, connection: &Connection, more: i64) -> rusqlite::Result<()> {
        let limit = self.bounds.max_bytes / self.page_bytes as u64;
        let pages = i64::try_from(limit + limit / 4).unwrap_or(i64::MAX / 2) + more;
        connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
    }

    /// Bytes on disk.
    fn size(&self) -> u64 {
        let mut log = self.bounds.path.clone().into_os_string();
        log.push("-wal");
        let bytes = |path: &std::ffi::OsStr| std::fs::metadata(path).map_or(0, |file| file.len());
        bytes(self.bounds.path.as_os_str()) + bytes(&log)
    }
}

fn number(connection: &Connection, question: &str) -> rusqlite::Result<i64> {
    connection.query_row(question, [], |row| row.get(0))
}

fn pages(connection: &Connection) -> rusqlite::Result<Pages> {
    Ok(Pages { all: number(connection, "PRAGMA page_count")?, free: number(connection, "PRAGMA freelist_count")? })
}

/// Rows that were deleted, by table.
struct Deleted {
    spans: usize,
    logs: usize,
    samples: usize,
}

impl Deleted {
    fn rows(&self) -> usize {
        self.spans + self.logs + self.samples
    }

    fn is_cut_short(&self) -> bool {
        [self.spans, self.logs, self.samples].contains(&ROWS)
    }
}

/// A tenth of the time that is kept, so that all signals go back equally far.
fn delete_oldest(connection: &mut Connection, now: i64) -> rusqlite::Result<Deleted> {
    let (oldest, newest): (Option<i64>, Option<i64>) = connection.query_row(
        "SELECT min(oldest), max(newest) FROM ( \
         SELECT (SELECT min(start_nanos) FROM spans) AS oldest, (SELECT max(start_nanos) FROM spans) AS newest UNION ALL \
         SELECT (SELECT min(time_nanos) FROM logs), (SELECT max(time_nanos) FROM logs) UNION ALL \
         SELECT (SELECT min(timestamp_ms) FROM samples) * 1000000, (SELECT max(timestamp_ms) FROM samples) * 1000000)",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let start = oldest.unwrap_or(now);
    let kept = newest.unwrap_or(now).min(now).saturating_sub(start).max(0);
    let deleted = delete_before(connection, start.saturating_add(kept / 10), ROWS)?;
    if deleted.rows() > 0 {
        return Ok(deleted);
    }
    // All that is left happened at once, or lies in the future because a clock is wrong: only the order counts.
    delete_before(connection, i64::MAX, FEW_ROWS)
}

fn delete_before(connection: &mut Connection, nanos: i64, rows: usize) -> rusqlite::Result<Deleted> {
    let transaction = connection.transaction()?;
    let limit = rows as i64;
    let spans = transaction.execute(
        "DELETE FROM spans WHERE (trace_id, span_id, kind) IN \
         (SELECT trace_id, span_id, kind FROM spans WHERE start_nanos < ?1 ORDER BY start_nanos LIMIT ?2)",
        params![nanos, limit],
    )?;
    let logs = transaction.execute(
        "DELETE FROM logs WHERE id IN (SELECT id FROM logs WHERE time_nanos < ?1 ORDER BY time_nanos LIMIT ?2)",
        params![nanos, limit],
    )?;
    let samples = transaction.execute(
        "DELETE FROM samples WHERE (series, timestamp_ms) IN \
         (SELECT series, timestamp_ms FROM samples WHERE timestamp_ms < ?1 ORDER BY timestamp_ms LIMIT ?2)",
        params![nanos / 1_000_000, limit],
    )?;
    transaction.commit()?;
    Ok(Deleted { spans, logs, samples })
}
