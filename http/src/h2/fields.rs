//! From decoded fields to a [`Head`], by the rules of RFC 9113, 8.2 and 8.3: what breaks one makes the message malformed.
//!
//! The authority is normalised and `host` merged into it, as in HTTP/1 heads; fields that belong to one connection are refused, so a head never has them.

use super::HeadError;
use crate::head::{Head, Known, Pseudo, pool};
use crate::hpack::{Class, Field};
use crate::syntax;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Request,
    Response,
    Trailers,
}

/// Collects the fields of one block.
pub(super) struct Builder {
    pub head: Box<Head>,
    section: Section,
    /// Decoded size (RFC 9113, 6.5.2), and its limit.
    size: usize,
    limit: usize,
    /// A regular field has come.
    regular: bool,
    host: bool,
    pub content_length: Option<u64>,
    error: Option<HeadError>,
}

/// What became of the block.
pub(super) enum Built {
    Head(Box<Head>),
    TooLarge,
    Malformed(HeadError),
}

/// What the connection allows in requests.
#[derive(Clone, Copy)]
pub(super) struct Allowed {
    pub extended_connect: bool,
    pub missing_authority: bool,
}

impl Builder {
    pub fn new(section: Section, limit: u32) -> Self {
        Builder {
            head: pool::take(),
            section,
            size: 0,
            limit: limit as usize,
            regular: false,
            host: false,
            content_length: None,
            error: None,
        }
    }
    #[inline]
    pub fn add(&mut self, f: Field<'_>) {
        self.size += f.name.len() + f.value.len() + 32;
        // the tables have to follow to the end of the block, but nothing is kept any more
        if self.size > self.limit || self.error.is_some() {
            return;
        }
        if let Err(e) = self.take(f) {
            self.error = Some(e);
        }
    }
    #[inline]
    fn take(&mut self, f: Field<'_>) -> Result<(), HeadError> {
        let Class::Regular(known) = f.class else { return self.pseudo(f) };
        self.regular = true;
        if !f.value_ok {
            return Err(HeadError::Value);
        }
        if known != Known::Other && !self.special(known, f.value)? {
            return Ok(());
        }
        self.head.add_tagged(known, f.name, f.value, f.tag);
        Ok(())
    }
    /// Judges a field that has a meaning for framing or the connection; false when it is left out of the head.
    fn special(&mut self, known: Known, value: &[u8]) -> Result<bool, HeadError> {
        use Known::*;
        match known {
            // RFC 9113, 8.2.2
            Connection | KeepAlive | ProxyConnection | TransferEncoding | Upgrade => Err(HeadError::ConnectionField),
            // means nothing without `upgrade: h2c`
            Http2Settings => Ok(false),
            // RFC 9110, 6.5.1
            ContentLength | Host | Te if self.section == Section::Trailers => Err(HeadError::Trailer),
            Te if !value.eq_ignore_ascii_case(b"trailers") => Err(HeadError::Te),
            ContentLength => {
                let length = syntax::decimal(value).filter(|_| self.content_length.is_none());
                self.content_length = Some(length.ok_or(HeadError::ContentLength)?);
                Ok(true)
            }
            Host if self.section == Section::Request => {
                if std::mem::replace(&mut self.host, true) {
                    return Err(HeadError::HostDiffers);
                }
                Ok(true)
            }
            _ => Ok(true),
        }
    }
    fn pseudo(&mut self, f: Field<'_>) -> Result<(), HeadError> {
        let pseudo = match (self.section, f.class) {
            (_, Class::BadName) => return Err(HeadError::Name),
            (Section::Request, Class::Method) => Pseudo::Method,
            (Section::Request, Class::Scheme) => Pseudo::Scheme,
            (Section::Request, Class::Authority) => Pseudo::Authority,
            (Section::Request, Class::Path) => Pseudo::Path,
            (Section::Request, Class::Protocol) => Pseudo::Protocol,
            (Section::Response, Class::Status) => {
                if self.regular {
                    return Err(HeadError::PseudoOrder);
                }
                if self.head.status != 0 {
                    return Err(HeadError::PseudoDuplicate);
                }
                self.head.status = status(f.value).ok_or(HeadError::Status)?;
                return Ok(());
            }
            _ => return Err(HeadError::PseudoUnknown),
        };
        if self.regular {
            return Err(HeadError::PseudoOrder);
        }
        if self.head.pseudo(pseudo).is_some() {
            return Err(HeadError::PseudoDuplicate);
        }
        match pseudo {
            Pseudo::Method if !syntax::is_token(f.value) => Err(HeadError::Method),
            Pseudo::Scheme if !is_scheme(f.value) => Err(HeadError::Scheme),
            Pseudo::Path if !syntax::is_target(f.value) => Err(HeadError::Path),
            Pseudo::Protocol if !syntax::is_token(f.value) => Err(HeadError::PseudoUnknown),
            Pseudo::Authority => {
                let normal = syntax::authority(f.value).map_err(|_| HeadError::Authority)?;
                self.head.set_pseudo(pseudo, &normal);
                Ok(())
            }
            _ => {
                self.head.set_pseudo(pseudo, f.value);
                Ok(())
            }
        }
    }
    /// The block is complete.
    pub fn finish(mut self, allowed: Allowed) -> Built {
        if self.size > self.limit {
            pool::give(self.head);
            return Built::TooLarge;
        }
        let error = match (self.error, self.section) {
            (Some(e), _) => Some(e),
            (None, Section::Request) => self.request(allowed).err(),
            (None, Section::Response) => (self.head.status == 0).then_some(HeadError::PseudoMissing),
            (None, Section::Trailers) => None,
        };
        match error {
            None => Built::Head(self.head),
            Some(e) => {
                pool::give(self.head);
                Built::Malformed(e)
            }
        }
    }
    /// RFC 9113, 8.3.1 and 8.5; RFC 8441, 4.
    fn request(&mut self, allowed: Allowed) -> Result<(), HeadError> {
        if self.host {
            self.merge_host()?;
        }
        let head = &*self.head;
        let has = |p| head.pseudo(p).is_some();
        if !has(Pseudo::Method) {
            return Err(HeadError::PseudoMissing);
        }
        let connect = head.method() == b"CONNECT";
        let protocol = has(Pseudo::Protocol);
        if protocol && !(connect && allowed.extended_connect) {
            return Err(HeadError::PseudoUnknown);
        }
        if connect && !protocol {
            // the authority is the target
            return match (has(Pseudo::Scheme) || has(Pseudo::Path), has(Pseudo::Authority)) {
                (true, _) => Err(HeadError::PseudoUnknown),
                (false, false) => Err(HeadError::Authority),
                (false, true) => Ok(()),
            };
        }
        if !has(Pseudo::Scheme) || !has(Pseudo::Path) {
            return Err(HeadError::PseudoMissing);
        }
        if head.path() == b"*" && head.method() != b"OPTIONS" {
            return Err(HeadError::Path);
        }
        if !has(Pseudo::Authority) && !allowed.missing_authority {
            return Err(HeadError::Authority);
        }
        Ok(())
    }
    /// `host` takes the place of a missing `:authority`; one that says something else is refused, because another hop might believe it.
    fn merge_host(&mut self) -> Result<(), HeadError> {
        let normal = {
            let host = self.head.known(Known::Host).unwrap_or_default();
            let normal = syntax::authority(host).map_err(|_| HeadError::Authority)?;
            match self.head.pseudo(Pseudo::Authority) {
                Some(authority) if *authority == *normal => None,
                Some(_) => return Err(HeadError::HostDiffers),
                None => Some(normal.into_owned()),
            }
        };
        if let Some(authority) = normal {
            self.head.set_pseudo(Pseudo::Authority, &authority);
        }
        self.head.remove_if(|known, _, _| known == Known::Host);
        Ok(())
    }
}

/// Three digits (RFC 9113, 8.3.2). 101 does not exist here (8.6).
fn status(value: &[u8]) -> Option<u16> {
    let [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] = value else { return None };
    let status = u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0');
    (status != 101).then_some(status)
}

/// RFC 3986, 3.1.
fn is_scheme(value: &[u8]) -> bool {
    value.first().is_some_and(u8::is_ascii_alphabetic)
        && value.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_and_schemes() {
        assert_eq!([status(b"200"), status(b"599"), status(b"999")], [Some(200), Some(599), Some(999)]);
        for bad in ["", "20", "2000", "099", "2x0", "+20", "101", " 200"] {
            assert_eq!(status(bad.as_bytes()), None, "{bad:?}");
        }
        assert!(
            is_scheme(b"https") && is_scheme(b"a+b-c.1") && !is_scheme(b"1a") && !is_scheme(b"") && !is_scheme(b"a:")
        );
    }
}
