//! The names that both processes use. Each is checked when it is made, so that later code need not.

use compact_str::CompactString;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};
use std::fmt;

/// Longest app id or namespace, in bytes. DNS names end at 253; a longer id could never be resolved
/// by Dapr's other name resolvers.
pub const ID_BYTES_MAX: usize = 253;

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum IdError {
    /// daprd's own words for a missing `--app-id`.
    #[error("parameter app-id cannot be empty")]
    Empty,
    /// daprd (standalone) separates id and namespace by a dot.
    #[error("parameter app-id cannot contain dots")]
    Dots,
    #[error("app id is {0} bytes long; at most {ID_BYTES_MAX} are allowed")]
    TooLong(usize),
    #[error(
        "app id contains the character {0:?}; use printable characters without '/', '\"', or spaces"
    )]
    Character(char),
}

fn check(text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > ID_BYTES_MAX {
        return Err(IdError::TooLong(text.len()));
    }
    if text.contains('.') {
        return Err(IdError::Dots);
    }
    match text
        .chars()
        .find(|c| c.is_control() || c.is_whitespace() || matches!(c, '/' | '"' | '\\'))
    {
        Some(c) => Err(IdError::Character(c)),
        None => Ok(()),
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Up to 24 bytes lie in place: no allocation of their own, and no other cache line to look
        /// them up.
        #[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name(CompactString);

        impl $name {
            /// # Errors
            /// Says which rule the text breaks; see [`IdError`].
            pub fn new(text: &str) -> Result<Self, IdError> {
                check(text).map(|()| Self(CompactString::new(text)))
            }

            #[inline]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            pub fn as_bytes(&self) -> &[u8] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.into()
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("an id or a namespace")
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        $name::new(text).map_err(E::custom)
                    }
                }
                from.deserialize_str(Text)
            }
        }
    };
}

text_id!(
    /// A Dapr app id: not empty, no dots, nothing that would need escaping in a header line.
    AppId
);
text_id!(
    /// A Dapr namespace; `default` where the environment names none.
    Namespace
);

impl Default for Namespace {
    /// What daprd uses when `NAMESPACE` is unset.
    fn default() -> Self {
        Self(CompactString::const_new("default"))
    }
}

/// One running sidecar; unique on a machine for as long as it runs.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct InstanceId(pub CompactString);

/// A listening socket, named by control.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct ListenerId(pub u32);

/// A control group, as Linux names it; no two of one boot have the same, one after the other
/// included.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct CgroupId(pub u64);

/// Which state this is. Control counts up by one with each change.
#[derive(
    Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize,
)]
pub struct Version(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_daprd_refuses() {
        for (text, want) in [
            ("", Err(IdError::Empty)),
            ("a.b", Err(IdError::Dots)),
            ("a b", Err(IdError::Character(' '))),
            ("a/b", Err(IdError::Character('/'))),
            ("a\r\nx: y", Err(IdError::Character('\r'))),
            ("orders", Ok(())),
            ("Order_Processing-2", Ok(())),
        ] {
            assert_eq!(AppId::new(text).map(|_| ()), want, "{text:?}");
        }
        assert_eq!(AppId::new(&"a".repeat(254)), Err(IdError::TooLong(254)));
    }
}
