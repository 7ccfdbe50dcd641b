//! Names of things, one type each, so that a zone is never passed where an account is meant.

use core::fmt;
use core::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::Error;

/// Longest name in bytes (a DNS label; zone names may be a whole domain name).
const MAX_NAME: usize = 253;

fn check(what: &str, name: &str) -> Result<(), Error> {
    let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() {
        return Err(Error::input(format!("a {what} has an empty name; give it one, for example \"a1\"")));
    }
    if name.len() > MAX_NAME {
        return Err(Error::input(format!(
            "{what} name of {} bytes; at most {MAX_NAME} are allowed",
            name.len()
        )));
    }
    if let Some(bad) = name.chars().find(|c| !u8::try_from(*c).is_ok_and(valid)) {
        return Err(Error::input(format!(
            "{what} name {name:?} contains {bad:?}; use lower-case letters, digits, '-', '_' and '.'"
        )));
    }
    Ok(())
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident = $what:literal;)*) => {$(
        $(#[$doc])*
        ///
        /// Lower-case ASCII letters, digits, `-`, `_` and `.`; cheap to clone; ordered by bytes.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(name: &str) -> Result<Self, Error> {
                check($what, name)?;
                Ok(Self(name.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

names! {
    /// A customer.
    AccountId = "account";
    /// A customer's site or domain.
    ZoneId = "zone";
    /// The egress addresses that a zone may leave from.
    PoolId = "pool";
    /// The right to use a prefix.
    HoldingId = "holding";
    /// A customer's server, as named in the fleet file.
    OriginId = "origin";
    /// A data center, by its short code (for example `fra`).
    DataCenterId = "data center";
    /// A machine; unique in the whole fleet.
    MachineId = "machine";
    /// A router that steers returning packets.
    RouterId = "router";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_bad_ones_name_the_character() {
        let id: MachineId = "fra-m01".parse().unwrap();
        assert_eq!(id.to_string(), "fra-m01");
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"fra-m01\"");
        assert!("".parse::<ZoneId>().unwrap_err().message().contains("empty"));
        let e = "Fra".parse::<DataCenterId>().unwrap_err();
        assert!(e.message().contains("data center name \"Fra\" contains 'F'"), "{e}");
        assert!(serde_json::from_str::<PoolId>("\"a b\"").unwrap_err().to_string().contains("' '"));
    }
}
