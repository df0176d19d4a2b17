//! Which header field is this? Only fields that something here or in `dapr` looks at have a name of their own.
//!
//! A name is told apart by its length first, so an ordinary line costs one or two comparisons and never a hash.

#![forbid(unsafe_code)]

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Field {
    Authorization,
    Baggage,
    /// `*-bin`, gRPC's binary metadata.
    BinarySuffixed,
    Connection,
    ContentLength,
    ContentType,
    DaprApiToken,
    DaprAppId,
    DaprCalleeAppId,
    DaprCallerAppId,
    DaprCallerNamespace,
    DaprForceShutdown,
    Date,
    DestinationAppId,
    Expect,
    Forwarded,
    /// `grpc-*`, which apps see as `dapr-grpc-*`.
    GrpcPrefixed,
    /// Fields that concern one connection and have no other meaning to us: `keep-alive`, `proxy-connection`, `te`,
    /// `trailer`, `http2-settings`, `proxy-authorization`, `proxy-authenticate`.
    HopByHop,
    Host,
    Other,
    RingcarError,
    TransferEncoding,
    Upgrade,
}

impl Field {
    pub fn from_name(name: &[u8]) -> Self {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match name.len() {
            2 if is("te") => Self::HopByHop,
            4 if is("host") => Self::Host,
            4 if is("date") => Self::Date,
            6 if is("expect") => Self::Expect,
            7 if is("upgrade") => Self::Upgrade,
            7 if is("baggage") => Self::Baggage,
            7 if is("trailer") => Self::HopByHop,
            9 if is("forwarded") => Self::Forwarded,
            10 if is("connection") => Self::Connection,
            10 if is("keep-alive") => Self::HopByHop,
            11 if is("dapr-app-id") => Self::DaprAppId,
            12 if is("content-type") => Self::ContentType,
            13 if is("authorization") => Self::Authorization,
            13 if is("ringcar-error") => Self::RingcarError,
            14 if is("content-length") => Self::ContentLength,
            14 if is("dapr-api-token") => Self::DaprApiToken,
            14 if is("http2-settings") => Self::HopByHop,
            15 if is("x-forwarded-for") => Self::Forwarded,
            16 if is("x-forwarded-host") => Self::Forwarded,
            16 if is("proxy-connection") => Self::HopByHop,
            17 if is("transfer-encoding") => Self::TransferEncoding,
            18 if is("dapr-caller-app-id") => Self::DaprCallerAppId,
            18 if is("dapr-callee-app-id") => Self::DaprCalleeAppId,
            18 if is("destination-app-id") => Self::DestinationAppId,
            18 if is("proxy-authenticate") => Self::HopByHop,
            19 if is("dapr-force-shutdown") => Self::DaprForceShutdown,
            19 if is("proxy-authorization") => Self::HopByHop,
            21 if is("dapr-caller-namespace") => Self::DaprCallerNamespace,
            length if length > SUFFIX.len() => Self::from_affix(name),
            _ => Self::Other,
        }
    }

    /// The suffix decides first: `grpc-trace-bin` is binary metadata.
    fn from_affix(name: &[u8]) -> Self {
        let (_, suffix) = name.split_at(name.len() - SUFFIX.len());
        if suffix.eq_ignore_ascii_case(SUFFIX) {
            Self::BinarySuffixed
        } else if has_prefix(name, PREFIX) {
            Self::GrpcPrefixed
        } else {
            Self::Other
        }
    }

    const fn bit(self) -> u64 {
        1 << self as u8
    }
}

/// Does `name` begin with `prefix`, whatever the case?
pub(super) fn has_prefix(name: &[u8], prefix: &[u8]) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

const PREFIX: &[u8] = b"grpc-";
const SUFFIX: &[u8] = b"-bin";
const _: () = assert!((Field::Upgrade as u8) < 64, "a FieldSet has one bit per field");

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FieldSet(u64);

impl FieldSet {
    pub const fn of(fields: &[Field]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < fields.len() {
            bits |= fields[index].bit();
            index += 1;
        }
        Self(bits)
    }

    /// This set and these fields.
    pub const fn with(self, fields: &[Field]) -> Self {
        Self(self.0 | Self::of(fields).0)
    }

    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub const fn contains(self, field: Field) -> bool {
        self.0 & field.bit() != 0
    }

    pub(super) fn insert(&mut self, field: Field) {
        self.0 |= field.bit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_any_case_and_only_whole() {
        for (name, field) in [
            ("", Field::Other),
            ("hos", Field::Other),
            ("hostt", Field::Other),
            ("content_length", Field::Other),
            ("transfer_encoding", Field::Other),
            ("-bin", Field::Other),
            ("xbin", Field::Other),
            ("grp-status", Field::Other),
            ("x-grpc-status", Field::Other),
            ("x-request-id", Field::Other),
            ("te", Field::HopByHop),
            ("Host", Field::Host),
            ("DATE", Field::Date),
            ("Expect", Field::Expect),
            ("upgrade", Field::Upgrade),
            ("baggage", Field::Baggage),
            ("Trailer", Field::HopByHop),
            ("Forwarded", Field::Forwarded),
            ("X-Forwarded-For", Field::Forwarded),
            ("X-Forwarded-Host", Field::Forwarded),
            ("X-Forwarded-Proto", Field::Other),
            ("connection", Field::Connection),
            ("Keep-Alive", Field::HopByHop),
            ("dapr-app-id", Field::DaprAppId),
            ("Content-Type", Field::ContentType),
            ("AUTHORIZATION", Field::Authorization),
            ("ringcar-error", Field::RingcarError),
            ("Content-Length", Field::ContentLength),
            ("dapr-api-token", Field::DaprApiToken),
            ("HTTP2-Settings", Field::HopByHop),
            ("Proxy-Connection", Field::HopByHop),
            ("transfer-ENCODING", Field::TransferEncoding),
            ("dapr-caller-app-id", Field::DaprCallerAppId),
            ("dapr-callee-app-id", Field::DaprCalleeAppId),
            ("destination-app-id", Field::DestinationAppId),
            ("proxy-authenticate", Field::HopByHop),
            ("proxy-authorization", Field::HopByHop),
            ("dapr-force-shutdown", Field::DaprForceShutdown),
            ("Dapr-Caller-Namespace", Field::DaprCallerNamespace),
            ("x-bin", Field::BinarySuffixed),
            ("grpc-trace-bin", Field::BinarySuffixed),
            ("grpc-timeout", Field::GrpcPrefixed),
            ("Grpc-", Field::GrpcPrefixed),
        ] {
            assert_eq!(Field::from_name(name.as_bytes()), field, "{name}");
        }
    }

    #[test]
    fn a_set_holds_what_was_put_in_and_nothing_else() {
        let set = FieldSet::of(&[Field::Host, Field::Upgrade]);
        assert!(set.contains(Field::Host) && set.contains(Field::Upgrade));
        assert!(!set.contains(Field::Authorization) && !set.contains(Field::TransferEncoding));
    }
}
