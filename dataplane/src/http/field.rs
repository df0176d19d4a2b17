//! Which header field is this? Only fields that something here or in `dapr` looks at have a name of
//! their own.
//!
//! A name is told apart by its length and first letter, so an ordinary line costs one comparison
//! and never a hash.

#![forbid(unsafe_code)]

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Field {
    Accept,
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
    /// Fields that concern one connection and have no other meaning to us: `keep-alive`,
    /// `proxy-connection`, `te`, `trailer`, `http2-settings`, `proxy-authorization`,
    /// `proxy-authenticate`.
    HopByHop,
    Host,
    Other,
    RingcarError,
    RingcarTrustDomain,
    Traceparent,
    Tracestate,
    TransferEncoding,
    Upgrade,
    UserAgent,
}

impl Field {
    /// The field that `name`, a token, is the name of.
    pub fn from_name(name: &[u8]) -> Self {
        let Some(first) = name.first() else { return Self::Other };
        match (name.len(), first | LOWER) {
            (2, b't') if is(name, b"te") => Self::HopByHop,
            (4, b'd') if is(name, b"date") => Self::Date,
            (4, b'h') if is(name, b"host") => Self::Host,
            (6, b'a') if is(name, b"accept") => Self::Accept,
            (6, b'e') if is(name, b"expect") => Self::Expect,
            (7, b'b') if is(name, b"baggage") => Self::Baggage,
            (7, b't') if is(name, b"trailer") => Self::HopByHop,
            (7, b'u') if is(name, b"upgrade") => Self::Upgrade,
            (9, b'f') if is(name, b"forwarded") => Self::Forwarded,
            (10, b'c') if is(name, b"connection") => Self::Connection,
            (10, b'k') if is(name, b"keep-alive") => Self::HopByHop,
            (10, b't') if is(name, b"tracestate") => Self::Tracestate,
            (10, b'u') if is(name, b"user-agent") => Self::UserAgent,
            (11, b'd') if is(name, b"dapr-app-id") => Self::DaprAppId,
            (11, b't') if is(name, b"traceparent") => Self::Traceparent,
            (12, b'c') if is(name, b"content-type") => Self::ContentType,
            (13, b'a') if is(name, b"authorization") => Self::Authorization,
            (13, b'r') if is(name, b"ringcar-error") => Self::RingcarError,
            (14, b'c') if is(name, b"content-length") => Self::ContentLength,
            (14, b'd') if is(name, b"dapr-api-token") => Self::DaprApiToken,
            (14, b'h') if is(name, b"http2-settings") => Self::HopByHop,
            (15, b'x') if is(name, b"x-forwarded-for") => Self::Forwarded,
            (16, b'x') if is(name, b"x-forwarded-host") => Self::Forwarded,
            (16, b'p') if is(name, b"proxy-connection") => Self::HopByHop,
            (17, b't') if is(name, b"transfer-encoding") => Self::TransferEncoding,
            (18, b'd') if is(name, b"dapr-callee-app-id") => Self::DaprCalleeAppId,
            (18, b'd') if is(name, b"dapr-caller-app-id") => Self::DaprCallerAppId,
            (18, b'd') if is(name, b"destination-app-id") => Self::DestinationAppId,
            (18, b'p') if is(name, b"proxy-authenticate") => Self::HopByHop,
            (19, b'd') if is(name, b"dapr-force-shutdown") => Self::DaprForceShutdown,
            (19, b'p') if is(name, b"proxy-authorization") => Self::HopByHop,
            (20, b'r') if is(name, b"ringcar-trust-domain") => Self::RingcarTrustDomain,
            (21, b'd') if is(name, b"dapr-caller-namespace") => Self::DaprCallerNamespace,
            _ => Self::from_affix(name),
        }
    }

    /// The suffix decides first: `grpc-trace-bin` is binary metadata.
    fn from_affix(name: &[u8]) -> Self {
        if matches!(name, [_, .., b'-', b'b' | b'B', b'i' | b'I', b'n' | b'N']) {
            Self::BinarySuffixed
        } else if has_prefix(name, b"grpc-") {
            Self::GrpcPrefixed
        } else {
            Self::Other
        }
    }

    #[inline]
    const fn bit(self) -> u64 {
        1 << self as u8
    }
}

/// Is this text of printable characters `known`, whatever the case? `known` consists of small
/// letters, digits and dashes: no other printable characters become these with LOWER.
///
/// Its length is in its type, so this becomes a few comparisons of whole words, the last of which
/// overlaps the one before it.
#[inline(always)]
fn is<const LENGTH: usize>(name: &[u8], known: &[u8; LENGTH]) -> bool {
    let Ok(name) = <&[u8; LENGTH]>::try_from(name) else { return false };
    let mut difference = 0;
    if let (Some(last), Some(known_last)) = (name.last_chunk(), known.last_chunk()) {
        let words = name.as_chunks().0.iter().zip(known.as_chunks().0).take(LENGTH.div_ceil(8) - 1);
        for (word, known) in words.chain([(last, known_last)]) {
            let word = u64::from_ne_bytes(*word) | u64::from_ne_bytes([LOWER; 8]);
            difference |= word ^ u64::from_ne_bytes(*known);
        }
    } else {
        for (byte, known) in name.iter().zip(known) {
            difference |= u64::from((byte | LOWER) ^ known);
        }
    }
    difference == 0
}

/// Does `name` begin with `prefix`, whatever the case?
pub(super) fn has_prefix(name: &[u8], prefix: &[u8]) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// The bit that a small letter has and its capital has not; digits and dashes have it too.
const LOWER: u8 = 0x20;

const _: () = assert!((Field::UserAgent as u8) < 64, "a FieldSet has one bit per field");

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

    #[inline]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[inline]
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
            ("Accept", Field::Accept),
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
            ("traceparent", Field::Traceparent),
            ("TraceState", Field::Tracestate),
            ("User-Agent", Field::UserAgent),
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
            ("Ringcar-Trust-Domain", Field::RingcarTrustDomain),
            ("destination-bin-bi", Field::Other),
            ("dapr-metadata--bin", Field::BinarySuffixed),
            ("dapr-sampled-bin", Field::BinarySuffixed),
            ("x-bin", Field::BinarySuffixed),
            ("grpc-trace-bin", Field::BinarySuffixed),
            ("grpc-timeout", Field::GrpcPrefixed),
            ("Grpc-", Field::GrpcPrefixed),
        ] {
            assert_eq!(Field::from_name(name.as_bytes()), field, "{name}");
        }
    }

    #[test]
    fn every_token_of_one_byte_more_or_another_byte_is_another_name() {
        let token = |byte: &u8| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(byte);
        for known in ["te", "host", "http2-settings", "keep-alive", "transfer-encoding"] {
            let field = Field::from_name(known.as_bytes());
            for at in 0..known.len() {
                for byte in (0..=255u8).filter(token) {
                    let mut name = known.as_bytes().to_vec();
                    name[at] = byte;
                    let is_same = name.eq_ignore_ascii_case(known.as_bytes());
                    assert_eq!(Field::from_name(&name) == field, is_same, "{known} {at} {byte}");
                }
            }
        }
    }

    #[test]
    fn a_set_holds_what_was_put_in_and_nothing_else() {
        let set = FieldSet::of(&[Field::Host, Field::Upgrade]);
        assert!(set.contains(Field::Host) && set.contains(Field::Upgrade));
        assert!(!set.contains(Field::Authorization) && !set.contains(Field::TransferEncoding));
    }
}
