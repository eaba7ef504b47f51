//! The one cryptography provider of the mesh: aws-lc, built once and passed everywhere by name.

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{CipherSuite, SignatureScheme};
use rustls_pki_types::UnixTime;
use std::{
    fmt::Debug,
    sync::{Arc, LazyLock},
};

/// Where the wall clock comes from; tests turn it.
pub type Clock = Arc<dyn rustls::time_provider::TimeProvider>;

/// The machine's wall clock.
pub fn system_clock() -> Clock {
    Arc::new(rustls::time_provider::DefaultTimeProvider)
}

/// A clock that stands where it was put.
#[derive(Debug)]
pub struct FixedClock(pub std::sync::atomic::AtomicU64);
impl FixedClock {
    /// `seconds` since the epoch.
    pub fn at(seconds: u64) -> Arc<Self> {
        Arc::new(Self(seconds.into()))
    }
    pub fn set(&self, seconds: u64) {
        self.0.store(seconds, std::sync::atomic::Ordering::SeqCst);
    }
}
impl rustls::time_provider::TimeProvider for FixedClock {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = self.0.load(std::sync::atomic::Ordering::SeqCst);
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
    }
}

/// Signatures a peer may make with its leaf key. RSA leaves are refused: their handshakes cost ten times as much and nobody in the
/// mesh issues them. Roots and issuers that a user brings may be RSA of 2048 bits and more.
pub(crate) const LEAF_SCHEMES: &[SignatureScheme] =
    &[SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ECDSA_NISTP384_SHA384, SignatureScheme::ED25519];

/// aws-lc with AES-128-GCM first (rustls' own order begins with AES-256, which costs 10 % more and buys nothing here), then
/// AES-256-GCM and ChaCha20, TLS 1.3 only; X25519MLKEM768 first, X25519 for peers that lack it.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut p = aws_lc_rs::default_provider();
        let order = [
            CipherSuite::TLS13_AES_128_GCM_SHA256,
            CipherSuite::TLS13_AES_256_GCM_SHA384,
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        ];
        let rank = |s: CipherSuite| order.iter().position(|o| *o == s);
        p.cipher_suites.retain(|s| rank(s.suite()).is_some());
        p.cipher_suites.sort_by_key(|s| rank(s.suite()));
        p.kx_groups = vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519];
        Arc::new(p)
    });
    PROVIDER.clone()
}

/// Makes aws-lc the process default, which kube's client asks for, and pays the first random number (some milliseconds) outside of
/// any handshake. First thing in every `main`; harmless when repeated.
pub fn install() {
    let p = provider();
    let mut seed = [0u8; 32];
    // a generator that fails here fails again, with its error, in the first handshake
    let _ = p.secure_random.fill(&mut seed);
    // an error means that somebody installed one before: ours is passed by name everywhere, so nothing depends on it
    let _ = CryptoProvider::install_default((*p).clone());
}

/// The time of a clock; a clock that cannot tell is treated as the epoch, at which no certificate is valid.
pub fn now(clock: &Clock) -> UnixTime {
    clock.current_time().unwrap_or(UnixTime::since_unix_epoch(std::time::Duration::ZERO))
}
