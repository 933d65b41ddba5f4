//! What holds for any bytes that come in place of a delta; shared with the fuzz target `delta`.

use mirador_proto::red::ExportRedRequest;
use mirador_sketch::{Point, decode};
use prost::Message as _;

/// Bytes on the heap that a histogram may take for each byte of the message that makes it.
const GROWTH: usize = 32;

/// Decodes; what is refused says why, and what is taken is consistent and no larger than it may be.
pub(crate) fn delta(data: &[u8]) {
    let Ok(request) = ExportRedRequest::decode(data) else { return };
    let series = match decode(&request) {
        Err(error) => return assert!(!error.to_string().is_empty(), "a refusal says why"),
        Ok(series) => series,
    };
    let bounds = series.bounds_nanos().to_vec();
    assert!(bounds.is_sorted_by(|one, next| one < next), "bounds ascend strictly");
    assert_eq!(series.len(), request.series.len(), "no series is lost");
    let (mut forward, mut backward, mut heap) = (Point::default(), Point::default(), 0);
    let all: Vec<_> = series.collect();
    for (key, point) in &all {
        assert!(key.labels().all(|(name, _)| !name.is_empty()), "labels have names");
        assert!(key.dimensions.iter().all(|(_, value)| !value.is_empty()), "an empty value is no label");
        assert!(key.dimensions.is_sorted(), "dimensions are in order");
        let sum = point.buckets.iter().fold(0, |sum: u64, count| sum.saturating_add(*count));
        assert_eq!((sum, point.hdr.count()), (point.calls, point.calls), "buckets and histogram add up to the calls");
        assert_eq!(point.buckets.len(), bounds.len() + 1, "one bucket more than bounds");
        assert!(point.calls > 0 && point.min_nanos <= point.max_nanos, "a series has counted something");
        heap += point.hdr.heap_bytes();
        forward.merge(point);
    }
    all.iter().rev().for_each(|(_, point)| backward.merge(point));
    assert_eq!(forward, backward, "the order of merging does not matter");
    assert!(heap <= 64 * all.len() + GROWTH * data.len(), "{heap} bytes of histograms of {} bytes", data.len());
}
