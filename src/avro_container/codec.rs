//! What packs the blocks of a container, and how each is unpacked within a bound.
//!
//! Source: the Avro specification 1.12, "Required Codecs" and "Optional Codecs".

use std::io::Read;

use bytes::Bytes;
use flate2::Crc;
use flate2::read::DeflateDecoder;
use liblzma::stream::Stream;

/// Of a block that is a bomb, whichever way it is packed.
pub(super) const TOO_MUCH: &str = "it holds more bytes than are read";

/// Behind the bytes of snappy stands the CRC32 of what they unpack to, big-endian.
const CHECKSUM_BYTES: usize = 4;

/// What a frame of zstandard may want to look back on, as a power of two: 128 MiB, which its highest level asks for
/// where it isn't told how long the data is. The decoder reserves so much, and touches what the block holds of it.
const ZSTANDARD_WINDOW_LOG_MAX: u32 = 27;

/// What the decoder of xz may take: its highest preset, 9, wants 65 MiB. A header of a few bytes could ask for 4 GiB.
const XZ_MEMORY_BYTES_MAX: u64 = 80 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    Null,
    Deflate,
    Snappy,
    Zstandard,
    Bzip2,
    Xz,
}

impl Codec {
    /// By the name that stands in a header.
    pub(super) fn named(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"null" | b"" => Self::Null,
            b"deflate" => Self::Deflate,
            b"snappy" => Self::Snappy,
            b"zstandard" => Self::Zstandard,
            b"bzip2" => Self::Bzip2,
            b"xz" => Self::Xz,
            _ => return None,
        })
    }

    /// At most `bytes_max` bytes; without a codec a view of the same ones. CPU work.
    ///
    /// # Errors
    /// Words that say what is wrong with the block.
    pub(super) fn unpacked(self, packed: &Bytes, bytes_max: usize) -> Result<Bytes, &'static str> {
        let mut rest: &[u8] = packed;
        let unpacked = match self {
            Self::Null if packed.len() > bytes_max => return Err(TOO_MUCH),
            Self::Null => return Ok(packed.clone()),
            Self::Snappy => return snappy(packed, bytes_max),
            Self::Deflate => {
                let inflated = read(DeflateDecoder::new(rest), packed.len(), bytes_max);
                // What follows its end was never looked at.
                rest = &[];
                inflated.map_err(|wrong| wrong.unwrap_or("its bytes can't be inflated"))?
            }
            Self::Zstandard => {
                let wrong = "its bytes can't be decompressed as zstandard";
                let mut decoder = zstd::stream::read::Decoder::with_buffer(&mut rest).map_err(|_| wrong)?;
                decoder.window_log_max(ZSTANDARD_WINDOW_LOG_MAX).map_err(|_| wrong)?;
                read(decoder, packed.len(), bytes_max).map_err(|known| known.unwrap_or(wrong))?
            }
            // One stream each: every further one costs a table of megabytes, and takes 14 bytes.
            Self::Bzip2 => {
                let decoder = bzip2::bufread::BzDecoder::new(&mut rest);
                let read = read(decoder, packed.len(), bytes_max);
                read.map_err(|known| known.unwrap_or("its bytes can't be decompressed as bzip2"))?
            }
            Self::Xz => {
                let wrong = "its bytes can't be decompressed as xz";
                let stream = Stream::new_stream_decoder(XZ_MEMORY_BYTES_MAX, 0).map_err(|_| wrong)?;
                let decoder = liblzma::bufread::XzDecoder::new_stream(&mut rest, stream);
                read(decoder, packed.len(), bytes_max).map_err(|known| known.unwrap_or(wrong))?
            }
        };
        if !rest.is_empty() {
            return Err("bytes follow the end of what is compressed");
        }
        Ok(unpacked)
    }
}

/// All that a decoder gives.
///
/// # Errors
/// What is known of the mistake: that it is too much, or nothing.
fn read(decoder: impl Read, packed: usize, bytes_max: usize) -> Result<Bytes, Option<&'static str>> {
    let mut unpacked = Vec::with_capacity(packed.saturating_mul(4).min(bytes_max));
    decoder.take(bytes_max as u64 + 1).read_to_end(&mut unpacked).map_err(|_| None)?;
    if unpacked.len() > bytes_max {
        return Err(Some(TOO_MUCH));
    }
    Ok(unpacked.into())
}

fn snappy(packed: &[u8], bytes_max: usize) -> Result<Bytes, &'static str> {
    let wrong = "its bytes can't be decompressed as snappy";
    let (packed, checksum) = packed.split_last_chunk::<CHECKSUM_BYTES>().ok_or("it is too short for its checksum")?;
    // It says at its front how long it is; nothing is set aside before that is looked at.
    if snap::raw::decompress_len(packed).map_err(|_| wrong)? > bytes_max {
        return Err(TOO_MUCH);
    }
    let unpacked = snap::raw::Decoder::new().decompress_vec(packed).map_err(|_| wrong)?;
    let mut crc = Crc::new();
    crc.update(&unpacked);
    if crc.sum() != u32::from_be_bytes(*checksum) {
        return Err("its bytes don't match their checksum");
    }
    Ok(unpacked.into())
}
