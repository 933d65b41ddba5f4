//! gRPC's length-prefixed message around bytes that are already protobuf.
//!
//! Never: copies the message. The prefix and the message go to the socket as two slices of one
//! HTTP/2 frame (gRPC over HTTP/2, "Length-Prefixed-Message").

use std::io::{Cursor, Write as _};

use bytes::buf::Chain;
use bytes::{Buf, Bytes};
use flate2::Compression as Level;
use flate2::write::GzEncoder;

use super::config::Compression;

/// The compressed flag and the length.
const PREFIX: usize = 5;

/// zstd's level that costs least without giving the ratio away.
const ZSTD_LEVEL: i32 = 1;

/// The body of a request: two slices that go out as one frame.
pub(super) type Data = Chain<Cursor<[u8; PREFIX]>, Bytes>;

/// A message as it goes to an owner, compressed once for all attempts.
#[derive(Debug, Clone)]
pub(super) struct Message {
    prefix: [u8; PREFIX],
    body: Bytes,
}

impl Message {
    /// Frames the body, compressing it when the destination asks for it.
    pub(super) fn new(body: Bytes, compression: Compression) -> Self {
        let (flag, body) = match compress(&body, compression) {
            Some(compressed) => (1, Bytes::from(compressed)),
            None => (u8::from(false), body),
        };
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let mut prefix = [0; PREFIX];
        prefix[0] = flag;
        prefix[1..].copy_from_slice(&length.to_be_bytes());
        Self { prefix, body }
    }

    /// The request body of one attempt: one frame, the prefix and the message.
    pub(super) fn to_data(&self) -> Data {
        Cursor::new(self.prefix).chain(self.body.clone())
    }

    /// Whether `grpc-encoding` must be sent.
    pub(super) fn is_compressed(&self) -> bool {
        self.prefix[0] == 1
    }
}

/// `None` leaves the body as it is: no compression is wanted, or it failed (it has no reason to).
fn compress(body: &[u8], compression: Compression) -> Option<Vec<u8>> {
    match compression {
        Compression::None => None,
        Compression::Gzip => {
            let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4 + 64), Level::fast());
            encoder.write_all(body).ok()?;
            encoder.finish().ok()
        }
        Compression::Zstd => zstd::bulk::compress(body, ZSTD_LEVEL).ok(),
    }
}

/// The message of a unary answer; `None` when the frame is cut off or compressed (it was not asked for).
pub(super) fn unwrap_answer(body: &[u8]) -> Option<&[u8]> {
    let (prefix, rest) = body.split_at_checked(PREFIX)?;
    if prefix[0] != 0 {
        return None;
    }
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    rest.get(..length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(message: &Message) -> Vec<u8> {
        let mut data = message.to_data();
        data.copy_to_bytes(data.remaining()).to_vec()
    }

    #[test]
    fn an_uncompressed_message_is_the_very_buffer_that_came_in() {
        let body = Bytes::from(vec![7; 1000]);
        let message = Message::new(body.clone(), Compression::None);
        assert_eq!(message.body.as_ptr(), body.as_ptr());
        assert!(!message.is_compressed());
        let wire = wire(&message);
        assert_eq!(&wire[..5], [0, 0, 0, 3, 232]);
        assert_eq!(unwrap_answer(&wire), Some(&body[..]));
    }

    #[test]
    fn compressed_messages_decompress_to_the_body() {
        let body = Bytes::from(b"span span span ".repeat(100));
        for compression in [Compression::Gzip, Compression::Zstd] {
            let message = Message::new(body.clone(), compression);
            assert!(message.is_compressed());
            assert!(message.body.len() < body.len());
            let plain = match compression {
                Compression::Gzip => {
                    let mut plain = Vec::new();
                    std::io::copy(&mut flate2::read::GzDecoder::new(&message.body[..]), &mut plain).unwrap();
                    plain
                }
                _ => zstd::bulk::decompress(&message.body, 1 << 20).unwrap(),
            };
            assert_eq!(plain, body);
        }
    }

    #[test]
    fn a_cut_off_or_compressed_answer_is_no_message() {
        assert_eq!(unwrap_answer(&[0, 0, 0, 0, 0]), Some(&[][..]));
        assert_eq!(unwrap_answer(&[0, 0, 0]), None);
        assert_eq!(unwrap_answer(&[0, 0, 0, 0, 2, 1]), None);
        assert_eq!(unwrap_answer(&[1, 0, 0, 0, 0]), None);
    }
}
