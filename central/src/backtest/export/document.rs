//! The answer of a range query, scored while it is parsed, so that no more than one sample is held.
//!
//! The labels of a series have to come before its values, as Prometheus and VictoriaMetrics write them.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::super::Run;
use super::super::series::{Row, Series};
use super::super::source::Source;
use super::super::table::shortened;
use super::{NoExport, promql};

pub(super) fn read(run: &mut Run<'_, '_>, source: &mut Source) -> anyhow::Result<()> {
    let reader = std::mem::replace(&mut source.reader, Box::new(std::io::empty()));
    run.rows.begin(true)?;
    let mut state = State { run, source, failed: None, refused: None, series: 0 };
    let mut parser = serde_json::Deserializer::from_reader(reader);
    let mut outcome = Document(&mut state).deserialize(&mut parser);
    // Series that are printed for people follow each other without an array around them.
    while outcome.is_ok() && parser.end().is_err() {
        outcome = Document(&mut state).deserialize(&mut parser);
    }
    let State { failed, refused, series, .. } = state;
    if let Some(failed) = failed {
        return Err(failed);
    }
    let reason = match (outcome, refused, series) {
        (_, Some(refused), 0) => format!("it says: {refused}"),
        (Err(error), _, 0) => error.to_string(),
        (Err(error), ..) => anyhow::bail!("{} breaks off: {error}", source.label),
        (Ok(()), None, 0) => "it holds no series of a range query".to_owned(),
        (Ok(()), ..) => return Ok(()),
    };
    Err(NoExport { file: source.label.clone(), reason }.into())
}

/// What parsing leads to.
struct State<'s, 'a, 'b> {
    run: &'s mut Run<'a, 'b>,
    source: &'s Source,
    /// The output failed: the cause, because the parser's error keeps a text only.
    failed: Option<anyhow::Error>,
    /// What the answer says about why it has no data.
    refused: Option<String>,
    series: u64,
}

impl State<'_, '_, '_> {
    fn keep<T, E: serde::de::Error>(&mut self, outcome: anyhow::Result<T>) -> Result<T, E> {
        outcome.map_err(|error| {
            let text = E::custom(&error);
            self.failed = Some(error);
            text
        })
    }
}

/// An answer, the data in it, an array of series, or one series.
struct Document<'d, 's, 'a, 'b>(&'d mut State<'s, 'a, 'b>);

impl<'de> DeserializeSeed<'de> for Document<'_, '_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Document<'_, '_, '_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the answer of /api/v1/query_range or its series")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        while sequence.next_element_seed(Document(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut series: Option<(Series, String)> = None;
        while let Some(key) = map.next_key::<String>()? {
            match (key.as_str(), &mut series) {
                ("data" | "result", None) => map.next_value_seed(Document(self.0))?,
                ("metric", None) => {
                    let metric = promql(&map.next_value::<BTreeMap<String, String>>()?);
                    let opened = self.0.run.open(self.0.source, Some(&metric), &metric);
                    series = Some((self.0.keep(opened)?, metric));
                    self.0.series += 1;
                }
                ("values", Some((series, metric))) => {
                    map.next_value_seed(Samples { state: self.0, series, metric })?;
                }
                ("value", Some((series, metric))) => {
                    let pair = map.next_value::<Value>()?;
                    let pushed = push(self.0, series, metric, 1, &pair);
                    self.0.keep(pushed)?;
                }
                ("values", None) => return Err(A::Error::custom("values come before the metric that they belong to")),
                ("histograms", Some((_, metric))) => {
                    map.next_value::<IgnoredAny>()?;
                    let place = format!("{}:{metric}", self.0.source.label);
                    self.0.run.bad(&place, "native histograms are not read: query a quantile of them");
                }
                ("error", None) => self.0.refused = Some(map.next_value::<Value>()?.to_string()),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        if let Some((series, _)) = series {
            let finished = self.0.run.finish(series);
            self.0.keep(finished)?;
        }
        Ok(())
    }

    // What else an answer can hold is no series.
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// The samples of a series: pairs of a time in seconds and a value in a string.
struct Samples<'d, 's, 'a, 'b> {
    state: &'d mut State<'s, 'a, 'b>,
    series: &'d mut Series,
    metric: &'d str,
}

impl<'de> DeserializeSeed<'de> for Samples<'_, '_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Samples<'_, '_, '_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("pairs of a time and a value")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        let mut number = 0;
        while let Some(pair) = sequence.next_element::<Value>()? {
            number += 1;
            let pushed = push(self.state, self.series, self.metric, number, &pair);
            self.state.keep(pushed)?;
        }
        Ok(())
    }
}

fn push(
    state: &mut State<'_, '_, '_>,
    series: &mut Series,
    metric: &str,
    number: u64,
    pair: &Value,
) -> anyhow::Result<()> {
    let (stamp, value, read) = super::pair(pair);
    if let Err(reason) = read {
        let place = format!("{}:{metric}[{number}]", state.source.label);
        state.run.bad(&place, &format!("{reason}: {}", shortened(&pair.to_string())));
    }
    series.push(state.run.options, &mut state.run.rows, Row { stamp: &stamp, value: &value, read })
}
