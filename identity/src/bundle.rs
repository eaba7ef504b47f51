//! The trust bundle: the roots that the mesh believes in, with a version that only grows.
//!
//! While a root rotates, the bundle holds the old and the new one. On disk it is PEM with two lines before the certificates
//! (`trust-domain`, `version`), which every PEM reader skips.

use rustls_pki_types::{CertificateDer, TrustAnchor, pem::PemObject};
use std::{fmt::Write as _, path::Path};

/// The most roots a bundle may hold. A rotation needs two; more happens only when somebody brings their own.
pub const MAX_ROOTS: usize = 16;
/// The largest bundle file that is read.
pub const MAX_BYTES: u64 = 256 << 10;

#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("bundle has no certificate")]
    Empty,
    #[error("bundle has {0} roots; {MAX_ROOTS} are allowed")]
    TooMany(usize),
    #[error("root {index} of the bundle is not a usable CA certificate: {reason}")]
    Root { index: usize, reason: Box<str> },
    #[error("bundle is not PEM: {0}")]
    Pem(Box<str>),
    #[error("bundle names no trust domain (a line \"trust-domain: <name>\") and none is configured")]
    NoTrustDomain,
    #[error("bundle is of trust domain {got:?}, expected {expected:?} (trustDomain, --trust-domain)")]
    WrongTrustDomain { expected: Box<str>, got: Box<str> },
    #[error("bundle {path}: {source}")]
    Io { path: Box<str>, source: std::io::Error },
}

/// Roots of one trust domain.
#[derive(Clone, Debug)]
pub struct Bundle {
    trust_domain: Box<str>,
    version: u64,
    /// Key identifier of the issuer that signs new leaves. A proxy whose leaf is signed by another one renews soon, which is what
    /// lets a root rotation finish without waiting for old leaves to expire. Empty: unknown.
    issuer: Box<[u8]>,
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
}

impl PartialEq for Bundle {
    fn eq(&self, o: &Self) -> bool {
        (&self.trust_domain, self.version, &self.issuer, &self.roots)
            == (&o.trust_domain, o.version, &o.issuer, &o.roots)
    }
}
impl Eq for Bundle {}

impl Bundle {
    /// `version` 0 is a bundle of unknown age, replaced by any other.
    pub fn new(
        trust_domain: &str,
        version: u64,
        issuer: &[u8],
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, BundleError> {
        if roots.is_empty() {
            return Err(BundleError::Empty);
        }
        if roots.len() > MAX_ROOTS {
            return Err(BundleError::TooMany(roots.len()));
        }
        let anchor = |(index, c): (usize, &CertificateDer<'static>)| {
            webpki::anchor_from_trusted_cert(c)
                .map(|a| a.to_owned())
                .map_err(|e| BundleError::Root { index, reason: e.to_string().into() })
        };
        let anchors = roots.iter().enumerate().map(anchor).collect::<Result<_, _>>()?;
        Ok(Self { trust_domain: trust_domain.into(), version, issuer: issuer.into(), roots, anchors })
    }
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }
    pub fn version(&self) -> u64 {
        self.version
    }
    pub fn issuer(&self) -> &[u8] {
        &self.issuer
    }
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }
    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    /// The file form.
    pub fn to_pem(&self) -> String {
        let mut s = format!("trust-domain: {}\nversion: {}\n", self.trust_domain, self.version);
        if !self.issuer.is_empty() {
            s.push_str("issuer: ");
            for b in &self.issuer {
                let _ = write!(s, "{b:02x}");
            }
            s.push('\n');
        }
        for root in &self.roots {
            s.push_str(&crate::request::pem("CERTIFICATE", root));
        }
        s
    }

    /// Reads the file form, or plain PEM when the trust domain is given.
    pub fn from_pem(text: &str, trust_domain: Option<&str>) -> Result<Self, BundleError> {
        let line = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": ").map(str::trim));
        let named = line("trust-domain");
        let domain = match (named, trust_domain) {
            (Some(got), Some(expected)) if got != expected => {
                return Err(BundleError::WrongTrustDomain { expected: expected.into(), got: got.into() });
            }
            (Some(d), _) | (None, Some(d)) => d,
            (None, None) => return Err(BundleError::NoTrustDomain),
        };
        let version = match line("version") {
            Some(v) => v.parse().map_err(|_| BundleError::Pem(format!("version {v:?} is not a number").into()))?,
            None => 0,
        };
        let issuer: Option<Vec<u8>> = line("issuer").map_or(Some(Vec::new()), |hex| {
            let pair = |at: usize| hex.get(at..at + 2).and_then(|p| u8::from_str_radix(p, 16).ok());
            (0..hex.len()).step_by(2).map(pair).collect()
        });
        let issuer = issuer.ok_or_else(|| BundleError::Pem("issuer is not hexadecimal".into()))?;
        let roots = CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| BundleError::Pem(e.to_string().into()))?;
        Self::new(domain, version, &issuer, roots)
    }

    /// Reads a bundle file. Blocks; at most [`MAX_BYTES`] are read.
    pub fn read(path: &Path, trust_domain: Option<&str>) -> Result<Self, BundleError> {
        use std::io::Read;
        let io = |source| BundleError::Io { path: path.display().to_string().into(), source };
        let mut text = String::new();
        std::fs::File::open(path).map_err(io)?.take(MAX_BYTES).read_to_string(&mut text).map_err(io)?;
        Self::from_pem(&text, trust_domain)
    }

    /// Writes the file as a whole or not at all. Blocks.
    pub fn write(&self, path: &Path) -> Result<(), BundleError> {
        let io = |source| BundleError::Io { path: path.display().to_string().into(), source };
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{}.tmp", std::process::id()));
        let temporary = path.with_file_name(name);
        std::fs::write(&temporary, self.to_pem()).map_err(io)?;
        std::fs::rename(&temporary, path).map_err(io)
    }
}
