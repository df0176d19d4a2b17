//! The request method, as far as it changes what we do; its bytes travel on as they came.

#![forbid(unsafe_code)]

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Method {
    Connect,
    Delete,
    Get,
    Head,
    Options,
    Patch,
    Post,
    Put,
    Trace,
    /// Any other token. Forwarded, never repeated.
    #[default]
    Other,
}

impl Method {
    /// As it stands in a request line. Another token than these cannot be told; it is never sent
    /// under this name.
    pub fn name(self) -> &'static str {
        let name = self.name_and_blank();
        &name[..name.len() - 1]
    }

    /// As a request line begins.
    #[inline]
    pub fn name_and_blank(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT ",
            Self::Delete => "DELETE ",
            Self::Get => "GET ",
            Self::Head => "HEAD ",
            Self::Options => "OPTIONS ",
            Self::Patch => "PATCH ",
            Self::Post | Self::Other => "POST ",
            Self::Put => "PUT ",
            Self::Trace => "TRACE ",
        }
    }

    /// Methods are case-sensitive (RFC 9110 §9.1): `get` is another method than `GET`.
    #[inline]
    pub fn from_bytes(name: &[u8]) -> Self {
        match name {
            b"CONNECT" => Self::Connect,
            b"DELETE" => Self::Delete,
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"OPTIONS" => Self::Options,
            b"PATCH" => Self::Patch,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"TRACE" => Self::Trace,
            _ => Self::Other,
        }
    }

    /// May a request be sent a second time when its fate is unknown? RFC 9110 §9.2.2.
    #[inline]
    pub fn is_idempotent(self) -> bool {
        match self {
            Self::Delete | Self::Get | Self::Head | Self::Options | Self::Put | Self::Trace => true,
            Self::Connect | Self::Patch | Self::Post | Self::Other => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_methods_by_their_exact_bytes() {
        for (name, method, is_idempotent) in [
            ("get", Method::Other, false),
            ("PURGE", Method::Other, false),
            ("POST", Method::Post, false),
            ("PATCH", Method::Patch, false),
            ("CONNECT", Method::Connect, false),
            ("GET", Method::Get, true),
            ("HEAD", Method::Head, true),
            ("OPTIONS", Method::Options, true),
            ("TRACE", Method::Trace, true),
            ("PUT", Method::Put, true),
            ("DELETE", Method::Delete, true),
        ] {
            assert_eq!(Method::from_bytes(name.as_bytes()), method, "{name}");
            assert_eq!(method.is_idempotent(), is_idempotent, "{name}");
            let sent_as = if method == Method::Other { "POST" } else { name };
            assert_eq!(method.name(), sent_as);
        }
    }
}
