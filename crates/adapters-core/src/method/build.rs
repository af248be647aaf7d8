//! What a method may use to build a layer.

use adapters_sites::Site;
use burn::tensor::Device;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::host::Host;

/// What a method may use to build a layer.
pub struct Build<'a> {
    /// Seed of the initialization.
    pub seed: u64,
    /// Where the parameters live.
    pub device: &'a Device,
    /// The model.
    pub host: &'a dyn Host,
}

impl Build<'_> {
    /// A generator for what the layers share.
    pub fn shared_rng(&self, seed: Option<u64>) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(seed.unwrap_or(self.seed));
        rng.set_stream(u64::MAX);
        rng
    }

    /// A generator for the layer at `site`: its own stream of the seed, whatever order layers are built in.
    pub fn rng(&self, seed: Option<u64>, site: Site) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(seed.unwrap_or(self.seed));
        let layer = site.layer.map_or(0, |l| l as u64 + 1);
        let expert = site.expert.map_or(0, |expert| expert as u64 + 1);
        rng.set_stream(expert << 40 | layer << 16 | (site.stack as u64) << 8 | site.role as u64);
        rng
    }
}
