//! The byte and JSON forms of layouts and bundles.
//!
//! ```text
//! offset 0      4            6                  10        10 + length
//!        magic  version u16  payload length u32 payload   CRC-32 of everything before it
//! ```
//! Integers are little-endian; the payload is postcard. The bytes are canonical: a value has one byte form, and no
//! other bytes are accepted for it. The CRC finds accidents; who must be kept from writing is a matter of transport.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

const HEADER: usize = 10;
const CHECKSUM: usize = 4;

/// One kind of file.
pub(crate) struct Form {
    /// The first four bytes.
    pub(crate) magic: [u8; 4],
    /// What is in it, for messages and the JSON form.
    pub(crate) name: &'static str,
    /// The version that is written, and the only one that is read.
    pub(crate) version: u16,
}

/// What the JSON form looks like around its content.
#[derive(Serialize, Deserialize)]
struct Envelope<T, N = String> {
    format: N,
    version: u16,
    content: T,
}

impl Form {
    pub(crate) fn write_bytes<T: Serialize>(&self, value: &T) -> Vec<u8> {
        let payload = postcard::to_allocvec(value).expect("plain data always serialises");
        let length = u32::try_from(payload.len()).expect("the limits keep a payload below 4 GiB");
        let mut bytes = Vec::with_capacity(HEADER + payload.len() + CHECKSUM);
        bytes.extend(self.magic);
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        bytes.extend(payload);
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    /// Reads a value: frame, checksum, decoding into unchecked `P`arts, the value's own checks, canonical form.
    pub(crate) fn read_bytes<P, T>(&self, bytes: &[u8]) -> Result<T>
    where
        P: DeserializeOwned,
        T: TryFrom<P, Error = Error> + Serialize,
    {
        let payload = self.payload(bytes)?;
        let mut decoder = postcard::Deserializer::from_bytes(payload);
        let decoded = P::deserialize(&mut decoder);
        let rest = decoder.finalize().map_or(0, <[u8]>::len);
        let position = HEADER + payload.len() - rest;
        let parts = decoded
            .map_err(|e| self.fault(format!("cannot decode the value before byte {position}: {e}")))?;
        if rest > 0 {
            return Err(self.fault(format!("{rest} bytes from byte {position} on belong to nothing")));
        }
        let value = T::try_from(parts).map_err(|e| self.fault(e))?;
        let canonical = self.write_bytes(&value);
        if canonical != bytes {
            let at =
                (HEADER..).zip(canonical[HEADER..].iter().zip(&bytes[HEADER..])).find(|(_, (a, b))| a != b);
            let at = at.map_or(canonical.len().min(bytes.len()), |(at, _)| at);
            return Err(self.fault(format!("not in canonical form at byte {at}")));
        }
        Ok(value)
    }

    pub(crate) fn write_json<T: Serialize>(&self, value: &T) -> String {
        let envelope = Envelope { format: self.name, version: self.version, content: value };
        let mut text = serde_json::to_string_pretty(&envelope).expect("plain data always serialises");
        text.push('\n');
        text
    }

    pub(crate) fn read_json<P, T>(&self, text: &str) -> Result<T>
    where
        P: DeserializeOwned,
        T: TryFrom<P, Error = Error>,
    {
        // The frame first: the content of another version may look different.
        let frame: Envelope<serde::de::IgnoredAny> = serde_json::from_str(text).map_err(|e| self.fault(e))?;
        if frame.format != self.name {
            return Err(self.fault(format!("its format is {:?}", frame.format)));
        }
        self.check_version(frame.version)?;
        let envelope: Envelope<P> = serde_json::from_str(text).map_err(|e| self.fault(e))?;
        T::try_from(envelope.content).map_err(|e| self.fault(e))
    }

    /// The payload of a file whose frame and checksum are right.
    fn payload<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8]> {
        let truncated = |needed: u64| {
            self.fault(format!("truncated: it ends at byte {}, before byte {needed}", bytes.len()))
        };
        let (header, rest) =
            bytes.split_at_checked(HEADER).ok_or_else(|| truncated((HEADER + CHECKSUM) as u64))?;
        if header[..4] != self.magic {
            return Err(self.fault(format!(
                "bytes 0 to 3 are {:?}; expected {:?}",
                header[..4].escape_ascii().to_string(),
                self.magic.escape_ascii().to_string()
            )));
        }
        self.check_version(u16::from_le_bytes([header[4], header[5]]))?;
        let length = u32::from_le_bytes([header[6], header[7], header[8], header[9]]) as usize;
        // In 64 bits, so that a hostile length cannot wrap around.
        let end = (HEADER + CHECKSUM) as u64 + length as u64;
        if (bytes.len() as u64) < end {
            return Err(truncated(end));
        }
        if bytes.len() as u64 > end {
            return Err(self.fault(format!("{} trailing bytes from byte {end} on", bytes.len() as u64 - end)));
        }
        let (payload, checksum) = rest.split_at(length);
        let computed = crc32fast::hash(&bytes[..HEADER + length]).to_le_bytes();
        if computed != checksum {
            return Err(self.fault(format!(
                "damaged: the checksum at byte {} is {checksum:02x?}, computed {computed:02x?}",
                HEADER + length
            )));
        }
        Ok(payload)
    }

    fn check_version(&self, version: u16) -> Result<()> {
        if version == self.version {
            return Ok(());
        }
        let relation = if version > self.version { "newer than this library" } else { "unknown" };
        Err(self
            .fault(format!("version {version} is {relation}, which understands version {}", self.version)))
    }

    fn fault(&self, fault: impl core::fmt::Display) -> Error {
        Error::new(ErrorKind::Reload, format!("not a valid {}: {fault}", self.name))
    }
}
