//! The facts of a certificate that webpki does not tell: its names with nothing left out, its validity, key and issuer.
//!
//! webpki's list of URI names drops what is not UTF-8, so "exactly one" cannot be asked of it. This reader walks the few fields
//! that the mesh needs, in place, and refuses anything it does not understand on the way.

use rustls_pki_types::UnixTime;
use std::time::Duration;

/// The certificate is not DER of the shape RFC 5280 section 4.1 gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("certificate is not valid DER")]
pub struct BadDer;

/// The kind of the subject's public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    P256,
    P384,
    Ed25519,
    /// RSA, DSA, other curves: not accepted in a leaf.
    Other,
}

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts<'a> {
    pub serial: &'a [u8],
    pub not_before: UnixTime,
    pub not_after: UnixTime,
    pub key: KeyKind,
    /// Every URI of the subject alternative name, as it stands.
    pub uris: Vec<&'a [u8]>,
    /// Extended key usages: (serverAuth, clientAuth); `None` when the extension is missing.
    pub usages: Option<(bool, bool)>,
    /// `basicConstraints` says CA.
    pub ca: bool,
    pub subject_key: Option<&'a [u8]>,
    /// Key identifier of the issuer: tells which issuer signed, across rotations.
    pub authority_key: Option<&'a [u8]>,
}

const SEQUENCE: u8 = 0x30;
const OID: u8 = 0x06;
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const EC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// A cursor over DER.
struct Reader<'a>(&'a [u8]);
impl<'a> Reader<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }
    /// The next element: tag and contents.
    fn any(&mut self) -> Result<(u8, &'a [u8]), BadDer> {
        let [tag, first, rest @ ..] = self.0 else { return Err(BadDer) };
        let (len, rest) = match *first {
            n @ 0..=0x7f => (n as usize, rest),
            // two length bytes cover the 64 KiB that a handshake message may have
            n @ 0x81..=0x82 => {
                let n = (n & 0x7f) as usize;
                let len = rest.get(..n).ok_or(BadDer)?.iter().fold(0, |a, b| a << 8 | *b as usize);
                (len, &rest[n..])
            }
            _ => return Err(BadDer),
        };
        let body = rest.get(..len).ok_or(BadDer)?;
        self.0 = &rest[len..];
        Ok((*tag, body))
    }
    fn expect(&mut self, tag: u8) -> Result<&'a [u8], BadDer> {
        match self.any()? {
            (t, body) if t == tag => Ok(body),
            _ => Err(BadDer),
        }
    }
    fn optional(&mut self, tag: u8) -> Result<Option<&'a [u8]>, BadDer> {
        if self.peek() == Some(tag) { self.expect(tag).map(Some) } else { Ok(None) }
    }
}

/// Reads a certificate. The signature is not looked at.
pub fn facts(der: &[u8]) -> Result<Facts<'_>, BadDer> {
    let mut outer = Reader(der);
    let mut cert = Reader(outer.expect(SEQUENCE)?);
    if !outer.is_empty() {
        return Err(BadDer);
    }
    let mut tbs = Reader(cert.expect(SEQUENCE)?);
    tbs.optional(0xa0)?; // version
    let serial = tbs.expect(0x02)?;
    tbs.expect(SEQUENCE)?; // signature algorithm
    tbs.expect(SEQUENCE)?; // issuer
    let mut validity = Reader(tbs.expect(SEQUENCE)?);
    let (not_before, not_after) = (time(&mut validity)?, time(&mut validity)?);
    tbs.expect(SEQUENCE)?; // subject
    let mut spki = Reader(tbs.expect(SEQUENCE)?);
    let key = key_kind(&mut Reader(spki.expect(SEQUENCE)?))?;
    tbs.optional(0x81)?; // issuerUniqueID
    tbs.optional(0x82)?; // subjectUniqueID
    let mut facts = Facts {
        serial,
        not_before,
        not_after,
        key,
        uris: Vec::new(),
        usages: None,
        ca: false,
        subject_key: None,
        authority_key: None,
    };
    if let Some(list) = tbs.optional(0xa3)? {
        let mut list = Reader(Reader(list).expect(SEQUENCE)?);
        while !list.is_empty() {
            let mut extension = Reader(list.expect(SEQUENCE)?);
            let oid = extension.expect(OID)?;
            extension.optional(0x01)?; // critical
            let mut value = Reader(extension.expect(0x04)?);
            // 2.5.29.x
            let [0x55, 0x1d, id] = oid else { continue };
            match id {
                14 => facts.subject_key = Some(value.expect(0x04)?),
                17 => {
                    let mut names = Reader(value.expect(SEQUENCE)?);
                    while !names.is_empty() {
                        if let (0x86, uri) = names.any()? {
                            facts.uris.push(uri);
                        }
                    }
                }
                19 => facts.ca = Reader(value.expect(SEQUENCE)?).optional(0x01)?.is_some_and(|b| b != [0]),
                35 => facts.authority_key = Reader(value.expect(SEQUENCE)?).optional(0x80)?,
                37 => {
                    let (mut server, mut client) = (false, false);
                    let mut purposes = Reader(value.expect(SEQUENCE)?);
                    while !purposes.is_empty() {
                        // 1.3.6.1.5.5.7.3.x
                        match purposes.expect(OID)? {
                            [0x2b, 6, 1, 5, 5, 7, 3, 1] => server = true,
                            [0x2b, 6, 1, 5, 5, 7, 3, 2] => client = true,
                            _ => {}
                        }
                    }
                    facts.usages = Some((server, client));
                }
                _ => {}
            }
        }
    }
    Ok(facts)
}

/// The parts of a certificate signing request (PKCS#10, RFC 2986) that count: the public key, and the proof that the sender holds its
/// private half. Names, attributes and extensions are passed over unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    pub key: KeyKind,
    /// SubjectPublicKeyInfo, DER.
    pub spki: &'a [u8],
    /// The key itself, as the BIT STRING holds it.
    pub public_key: &'a [u8],
    /// What is signed.
    pub signed: &'a [u8],
    pub signature: &'a [u8],
    /// OID of the signature algorithm.
    pub algorithm: &'a [u8],
}

/// Reads a signing request. The signature is not verified here.
pub fn request(der: &[u8]) -> Result<Request<'_>, BadDer> {
    let mut outer = Reader(der);
    let mut whole = Reader(outer.expect(SEQUENCE)?);
    if !outer.is_empty() {
        return Err(BadDer);
    }
    let before = whole.0;
    let mut info = Reader(whole.expect(SEQUENCE)?);
    let signed = &before[..before.len() - whole.0.len()];
    info.expect(0x02)?; // version
    info.expect(SEQUENCE)?; // subject
    let before = info.0;
    let mut spki = Reader(info.expect(SEQUENCE)?);
    let spki_der = &before[..before.len() - info.0.len()];
    let key = key_kind(&mut Reader(spki.expect(SEQUENCE)?))?;
    let public_key = bits(spki.expect(0x03)?)?;
    let algorithm = Reader(whole.expect(SEQUENCE)?).expect(OID)?;
    let signature = bits(whole.expect(0x03)?)?;
    if !whole.is_empty() || !spki.is_empty() {
        return Err(BadDer);
    }
    Ok(Request { key, spki: spki_der, public_key, signed, signature, algorithm })
}

/// The parts of a certificate that its issuer's signature is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signed<'a> {
    /// What is signed.
    pub part: &'a [u8],
    /// Contents of the algorithm identifier.
    pub algorithm: &'a [u8],
    pub signature: &'a [u8],
}

/// Takes a certificate apart. Nothing is verified here.
pub fn signed(der: &[u8]) -> Result<Signed<'_>, BadDer> {
    let mut whole = Reader(Reader(der).expect(SEQUENCE)?);
    let before = whole.0;
    whole.expect(SEQUENCE)?;
    let part = &before[..before.len() - whole.0.len()];
    Ok(Signed { part, algorithm: whole.expect(SEQUENCE)?, signature: bits(whole.expect(0x03)?)? })
}

/// A BIT STRING of whole bytes.
fn bits(body: &[u8]) -> Result<&[u8], BadDer> {
    match body {
        [0, rest @ ..] => Ok(rest),
        _ => Err(BadDer),
    }
}

fn key_kind(algorithm: &mut Reader<'_>) -> Result<KeyKind, BadDer> {
    Ok(match algorithm.expect(OID)? {
        EC_KEY => match algorithm.optional(OID)? {
            Some(P256) => KeyKind::P256,
            Some(P384) => KeyKind::P384,
            _ => KeyKind::Other,
        },
        ED25519 => KeyKind::Ed25519,
        _ => KeyKind::Other,
    })
}

/// RFC 5280 section 4.1.2.5: UTCTime until 2049, GeneralizedTime from 2050, both in seconds and with `Z`.
fn time(r: &mut Reader<'_>) -> Result<UnixTime, BadDer> {
    let (tag, text) = r.any()?;
    let digits = |range: std::ops::Range<usize>| -> Result<i64, BadDer> {
        let part = text.get(range).ok_or(BadDer)?;
        part.iter().try_fold(0, |a, b| if b.is_ascii_digit() { Ok(a * 10 + (b - b'0') as i64) } else { Err(BadDer) })
    };
    let (year, at) = match (tag, text.len()) {
        (0x17, 13) => (digits(0..2)? + if digits(0..2)? < 50 { 2000 } else { 1900 }, 2),
        (0x18, 15) => (digits(0..4)?, 4),
        _ => return Err(BadDer),
    };
    if text.last() != Some(&b'Z') {
        return Err(BadDer);
    }
    let part = |n: usize| digits(at + 2 * n..at + 2 * n + 2);
    let (month, day, hour, minute, second) = (part(0)?, part(1)?, part(2)?, part(3)?, part(4)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return Err(BadDer);
    }
    // days since the epoch of a civil date: years begin in March, so that the leap day is the last one
    let y = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = 365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + day_of_year - 719_468;
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second;
    Ok(UnixTime::since_unix_epoch(Duration::from_secs(seconds.try_into().unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn utc(s: &str, tag: u8) -> u64 {
        let mut v = vec![tag, s.len() as u8];
        v.extend(s.bytes());
        time(&mut Reader(&v)).unwrap().as_secs()
    }

    #[test]
    fn times() {
        assert_eq!(utc("700101000000Z", 0x17), 0);
        assert_eq!(utc("20000229235959Z", 0x18), 951_868_799);
        assert_eq!(utc("491231235959Z", 0x17), 2_524_607_999);
        assert_eq!(utc("20500101000000Z", 0x18), 2_524_608_000);
        for bad in ["7001010000Z", "700101000000X", "701301000000Z", "7001010000a0Z"] {
            let mut v = vec![0x17, bad.len() as u8];
            v.extend(bad.bytes());
            assert_eq!(time(&mut Reader(&v)), Err(BadDer), "{bad}");
        }
    }

    #[test]
    fn facts_of_a_leaf() {
        let mesh = crate::testing::TestMesh::new("mesh.test");
        let (chain, _) = mesh.leaf("shop", "cart");
        let f = facts(&chain[0]).unwrap();
        assert_eq!(f.uris, [b"spiffe://mesh.test/ns/shop/sa/cart"]);
        assert_eq!(f.key, KeyKind::P256);
        assert_eq!(f.usages, Some((true, true)));
        assert!(!f.ca);
        assert!(f.not_after > f.not_before);
        let issuer = facts(&chain[1]).unwrap();
        assert!(issuer.ca);
        assert_eq!(f.authority_key, issuer.subject_key);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = facts(&bytes);
        }
        #[test]
        fn no_damage_panics(at in 0usize..600, to in any::<u8>()) {
            let mesh = crate::testing::TestMesh::new("mesh.test");
            let (chain, _) = mesh.leaf("shop", "cart");
            let mut der = chain[0].to_vec();
            let at = at % der.len();
            der[at] = to;
            let _ = facts(&der);
            let _ = facts(&der[..at]);
        }
    }
}
