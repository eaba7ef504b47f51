//! Small things that several modules need.

use std::collections::HashMap;

/// Maps whose keys an operator or this process chose; seeded all the same, so that nobody can aim at them.
pub(crate) type FastMap<K, V> = HashMap<K, V, ahash::RandomState>;

/// Stretches one random number, given as an argument, into as many as a decision needs (SplitMix64).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draw(pub u64);
impl Draw {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }
    /// Uniform in `0..n` up to 2^-32 (multiply and shift instead of a division).
    pub fn below(&mut self, n: usize) -> usize {
        (((self.next() >> 32) * n as u64) >> 32) as usize
    }
}

/// A bijection of 64 bits in which every input bit moves half of the output bits.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
