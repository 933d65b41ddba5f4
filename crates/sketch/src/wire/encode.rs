//! Windows to messages.
//!
//! Each message lists the texts it needs once. A message is closed when its estimated size passes
//! the target; one series is never divided, so a message exceeds the target by at most one series.

use std::collections::{BTreeMap, HashMap};

use mirador_proto::red::{ExportRedRequest, RedExemplar, RedSeries};
use prost::Message;

use crate::table::{OVERFLOW, Series};
use crate::text::Text;
use crate::{Exemplar, Window};

/// Encoded size above which a message takes no further series.
pub const MESSAGE_TARGET_BYTES: usize = 1 << 20;

/// The messages of each owner, by ascending owner.
pub(crate) fn split(window: &Window, mut owner_of: impl FnMut(&str) -> usize) -> Vec<(usize, ExportRedRequest)> {
    let mut owners: HashMap<Text, usize> = HashMap::new();
    let mut building: BTreeMap<usize, Building> = BTreeMap::new();
    for (at, series) in window.table.iter() {
        let service = window.table.identity(at).service;
        let owner = *owners.entry(service).or_insert_with(|| owner_of(window.table.texts.get(service)));
        building.entry(owner).or_insert_with(|| Building::new(window)).push(window, at, series);
    }
    building.into_iter().flat_map(|(owner, building)| building.finish().map(move |message| (owner, message))).collect()
}

/// The messages of one owner while they are made.
struct Building {
    done: Vec<ExportRedRequest>,
    open: ExportRedRequest,
    /// Index into `open.strings` by text.
    strings: HashMap<Text, u32>,
    bytes: usize,
}

impl Building {
    fn new(window: &Window) -> Self {
        let open = header(window);
        Self { done: Vec::new(), bytes: open.encoded_len(), open, strings: HashMap::new() }
    }

    fn push(&mut self, window: &Window, at: u32, series: &Series) {
        if self.bytes >= MESSAGE_TARGET_BYTES {
            let Self { done, open, .. } = std::mem::replace(self, Self::new(window));
            self.done = done;
            self.done.push(open);
        }
        let series = self.series(window, at, series);
        // The tag and a length of up to 3 bytes come on top.
        self.bytes += series.encoded_len() + 4;
        self.open.series.push(series);
    }

    fn finish(mut self) -> impl Iterator<Item = ExportRedRequest> {
        self.done.push(self.open);
        self.done.into_iter()
    }

    fn series(&mut self, window: &Window, at: u32, series: &Series) -> RedSeries {
        let table = &window.table;
        let identity = table.identity(at);
        let values = table.values(at).iter();
        let mut before = 0;
        let (deltas, counts) = series
            .hdr
            .entries()
            .into_iter()
            .map(|(index, count)| {
                let delta = u32::from(index) - before;
                before = u32::from(index);
                (delta, count)
            })
            .unzip();
        RedSeries {
            service: self.string(window, identity.service),
            span_name: self.string(window, identity.name),
            kind: u32::from(identity.kind),
            status: u32::from(identity.status),
            dimension_values: if at == OVERFLOW {
                Vec::new()
            } else {
                values.map(|value| self.string(window, *value)).collect()
            },
            overflow: at == OVERFLOW,
            calls: series.calls,
            sum_nanos: series.sum_nanos as u64,
            sum_nanos_high: (series.sum_nanos >> 64) as u64,
            min_nanos: series.min_nanos,
            max_nanos: series.max_nanos,
            bucket_counts: table.buckets(at).to_vec(),
            hdr_index_deltas: deltas,
            hdr_counts: counts,
            exemplars: series.reservoir.chosen().as_slice().iter().map(exemplar).collect(),
        }
    }

    /// The index of a text, listed if it is new; 0 for the empty and the absent one.
    fn string(&mut self, window: &Window, id: Text) -> u32 {
        if id == Text::ABSENT || id == Text::EMPTY {
            return 0;
        }
        let next = self.open.strings.len() as u32;
        let index = *self.strings.entry(id).or_insert(next);
        if index == next {
            let text = window.table.texts.get(id).to_owned();
            self.bytes += text.len() + 4;
            self.open.strings.push(text);
        }
        index
    }
}

fn header(window: &Window) -> ExportRedRequest {
    ExportRedRequest {
        start_unix_nano: window.start_unix_nano(),
        end_unix_nano: window.end_unix_nano(),
        bounds_nanos: window.bounds_nanos().to_vec(),
        strings: vec![String::new()],
        dimension_names: window.names.iter().map(ToString::to_string).collect(),
        excluded_dimensions: window.excluded.iter().map(|label| label.name().to_owned()).collect(),
        ..ExportRedRequest::default()
    }
}

fn exemplar(one: &Exemplar) -> RedExemplar {
    RedExemplar {
        trace_id: one.trace_id.to_vec(),
        span_id: one.span_id.to_vec(),
        value_nanos: one.value_nanos,
        time_unix_nano: one.time_unix_nano,
    }
}
