//! Seeds of passes.

/// A seed for the draws of one forward pass.
pub(crate) fn pass_seed(seed: u64, pass: u64) -> u64 {
    // SplitMix64's finaliser: neighboring passes get unrelated seeds.
    let mut z = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(pass);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
