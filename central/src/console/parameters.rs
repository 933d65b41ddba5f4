//! The parameters of one question.
//!
//! Never: passes over a parameter that the question does not have, or one that is given twice. Every refusal names the
//! parameter, its value and what would be right.

use std::collections::BTreeMap;

use axum::extract::Query;
use axum::http::Uri;
use mirador_service::config::nearest;

use super::api::{Problem, wrong};
use super::query;

/// Rows of one answer at most.
pub(super) const MAX_LIMIT: usize = 1000;

const DEFAULT_SINCE_MS: i64 = 15 * 60 * 1000;
/// How much of a name or a value is said back.
const SHOWN: usize = 80;

/// Parameters by name.
#[derive(Debug, Default)]
pub(super) struct Parameters(BTreeMap<String, String>);

impl Parameters {
    /// Reads the parameters of `uri`, which may be those that are `known` only.
    pub(super) fn of(uri: &Uri, known: &[&str]) -> Result<Self, Problem> {
        let parameters = Self::any(uri)?;
        let strange = parameters.0.keys().find(|name| !known.contains(&name.as_str()));
        strange.map_or(Ok(()), |name| Err(unknown(uri.path(), name, known)))?;
        Ok(parameters)
    }

    /// Reads parameters of any name.
    pub(super) fn any(uri: &Uri) -> Result<Self, Problem> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| wrong(format!("the parameters cannot be read: {}", error.body_text())))?;
        let mut found = BTreeMap::new();
        for (name, value) in pairs {
            if found.contains_key(&name) {
                return Err(wrong(format!("{} is given twice: once is right", short(&name))));
            }
            found.insert(name, value);
        }
        Ok(Self(found))
    }

    /// The value as text.
    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// The value as `read` takes it; `right` says what it takes.
    pub(super) fn read<T>(
        &mut self,
        name: &str,
        right: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        read(&text).map(Some).ok_or_else(|| wrong(format!("{name}={}: {right} is right", short(&text))))
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, name: &str) -> Result<Option<bool>, Problem> {
        self.read(name, "true or false", |text| text.parse().ok())
    }

    /// The beginning of the range in milliseconds since the epoch: `since`, a Go duration back from now.
    pub(super) fn since_ms(&mut self) -> Result<i64, Problem> {
        let back = match self.text("since") {
            None => DEFAULT_SINCE_MS,
            Some(text) => mirador_service::duration::parse(&text)
                .map(|duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
                .map_err(|error| wrong(format!("since={}: {error}", short(&text))))?,
        };
        Ok(query::now_ms().saturating_sub(back))
    }

    /// Rows of the answer: `limit`, or `default`.
    pub(super) fn limit(&mut self, default: usize) -> Result<usize, Problem> {
        let right = format!("a whole number from 1 to {MAX_LIMIT}");
        let limit =
            self.read("limit", &right, |text| text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit)))?;
        Ok(limit.unwrap_or(default))
    }

    /// `trace_id`, 16 bytes in hexadecimal digits.
    pub(super) fn trace_id(&mut self) -> Result<Option<Vec<u8>>, Problem> {
        self.text("trace_id").map(|text| trace_id(&text)).transpose()
    }

    /// What nobody has asked for yet.
    pub(super) fn rest(self) -> BTreeMap<String, String> {
        self.0
    }
}

/// The bytes of a trace id.
pub(super) fn trace_id(text: &str) -> Result<Vec<u8>, Problem> {
    let wrong = || wrong(format!("trace_id={}: 32 hexadecimal digits are right", short(text)));
    let is_hex = text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    let digits = if is_hex { text } else { return Err(wrong()) };
    (0..16).map(|byte| u8::from_str_radix(&digits[2 * byte..2 * byte + 2], 16).map_err(|_| wrong())).collect()
}

fn unknown(path: &str, name: &str, known: &[&str]) -> Problem {
    let name = short(name);
    if known.is_empty() {
        return wrong(format!("{name} is no parameter of {path}, which has none"));
    }
    let list = known.join(", ");
    wrong(match nearest(&name, known) {
        Some(near) => format!("{name} is no parameter of {path}; did you mean {near}? It has {list}"),
        None => format!("{name} is no parameter of {path}; it has {list}"),
    })
}

/// The beginning of what was sent, without what would disturb a line.
fn short(text: &str) -> String {
    let head: String = text.chars().filter(|letter| !letter.is_control()).take(SHOWN).collect();
    if head.len() < text.len() { head + "…" } else { head }
}
