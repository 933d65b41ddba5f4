//! A request's body as VictoriaTraces reads it: the encodings it knows and its limit of size.
//!
//! Source: the project's `ReadUncompressedData` (lib/protoparser/protoparserutil): gzip and zlib as
//! streams, zstd and snappy blocks at once; anything else is refused.

use std::io::Read;

use bytes::Bytes;

/// The decompressed body, or the text of the refusal.
pub(super) fn decompress(body: Bytes, encoding: &str, limit: usize) -> Result<Bytes, String> {
    if body.len() > limit {
        return Err(too_big(limit));
    }
    match encoding {
        "" | "none" | "identity" => Ok(body),
        "gzip" => capped(flate2::read::MultiGzDecoder::new(&body[..]), limit),
        "deflate" => capped(flate2::read::ZlibDecoder::new(&body[..]), limit),
        "zstd" => capped(zstd::stream::read::Decoder::new(&body[..]).map_err(bad)?, limit),
        "snappy" => {
            if snap::raw::decompress_len(&body).map_err(bad)? > limit {
                return Err(too_big(limit));
            }
            Ok(snap::raw::Decoder::new().decompress_vec(&body).map_err(bad)?.into())
        }
        other => Err(format!("unsupported contentType: {other}")),
    }
}

fn capped(reader: impl Read, limit: usize) -> Result<Bytes, String> {
    let mut out = Vec::new();
    reader.take(limit as u64 + 1).read_to_end(&mut out).map_err(bad)?;
    if out.len() > limit { Err(too_big(limit)) } else { Ok(out.into()) }
}

fn too_big(limit: usize) -> String {
    format!("too big data size exceeding -opentelemetry.traces.maxRequestSize={limit} bytes")
}

fn bad(error: impl std::fmt::Display) -> String {
    format!("cannot decompress data: {error}")
}
