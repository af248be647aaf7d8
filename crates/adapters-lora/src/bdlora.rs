//! BD-LoRA: LoRA with a block-diagonal A or B.

use std::borrow::Cow;

use adapters_core::target::Target;
use adapters_core::{
    AdapterHub, BaseField, Build, Call, Causality, Codec, ConfigError, Effect, Error, Host, LinearState, LinearWeight,
    Method, NamedParams, NotMergeable, ParamId, Peft, SiteAdapter, SiteInfo, SiteLayer, Source, StoredConfig,
};
use adapters_nn::draw;
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::lora_config::LoraConfig;
use crate::low_rank::{Factored, apply_factors};
use crate::peft;
use crate::site_builder::{SiteBuilder, linear};

/// LoRA whose A, or B, is zero outside `nblocks` blocks on its diagonal, so that a layer that is cut over several devices needs no
/// exchange for it.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `nblocks` | 1 | blocks; divides the rank and the features of the layer | >= 1 |
/// | `target_modules_bd_a` | `[]` | modules whose A is block-diagonal, by a part of their name | |
/// | `target_modules_bd_b` | `[]` | modules whose B is | |
/// | `match_strict` | true | every module is one of them; plain LoRA for the others without it | |
/// | `lora` | rank 8 | everything else | |
///
/// Paper: *Block-Diagonal LoRA for Eliminating Communication Overhead in Tensor Parallel LoRA Serving*, Wang et al., 2025,
/// <https://arxiv.org/abs/2510.23346>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bdlora {
    /// Blocks.
    pub nblocks: usize,
    /// Modules whose A is block-diagonal.
    pub target_modules_bd_a: Option<Vec<String>>,
    /// Modules whose B is block-diagonal.
    pub target_modules_bd_b: Option<Vec<String>>,
    /// Whether every module is one of them.
    pub match_strict: bool,
    /// Everything else.
    #[serde(flatten)]
    pub lora: LoraConfig,
}

impl Default for Bdlora {
    fn default() -> Self {
        Self {
            nblocks: 1,
            target_modules_bd_a: None,
            target_modules_bd_b: None,
            match_strict: true,
            lora: LoraConfig::default(),
        }
    }
}

/// The field of peft's LoRA object.
const FIELD: &str = "use_bdlora";

impl Method for Bdlora {
    const NAME: &'static str = "bdlora";
    const DESCRIPTION: &'static str = "LoRA with a block-diagonal A or B.";

    fn check(&self) -> Result<(), ConfigError> {
        ConfigError::size("nblocks", self.nblocks)?;
        self.lora.check_for_variant()
    }

    fn target(&self) -> Target {
        self.lora.target.to_target()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let mut builder = SiteBuilder::new(Self::NAME, &self.lora.target, self.lora.seed, site, build);
        let (d_in, d_out) = builder.dims()?;
        let (rank, scale) = self.lora.rank_and_scale(&site.path)?;
        let name = site.path.rsplit('.').next().unwrap_or_default();
        let named = |names: &Option<Vec<String>>| names.iter().flatten().any(|text| name.contains(text.as_str()));
        let cut = match (named(&self.target_modules_bd_a), named(&self.target_modules_bd_b)) {
            (true, true) => return Err(builder.refuse("target_modules_bd_a and target_modules_bd_b both name it")),
            (true, false) => Cut::A,
            (false, true) => Cut::B,
            (false, false) if self.match_strict => {
                return Err(builder.refuse("neither target_modules_bd_a nor target_modules_bd_b names it"));
            }
            (false, false) => Cut::None,
        };
        let n = self.nblocks;
        let divides = |features: usize| rank.is_multiple_of(n) && features.is_multiple_of(n);
        let (inputs, ranks) = match cut {
            Cut::A if divides(d_in) => (d_in / n, rank),
            Cut::B if divides(d_out) => (d_in, rank / n),
            Cut::None => (d_in, rank),
            _ => {
                let reason = format!("nblocks is {n}, which does not divide the rank {rank} and {d_in} or {d_out}");
                return Err(builder.refuse(reason));
            }
        };
        let a = draw::linear(&mut builder.rng, [rank, inputs], inputs);
        Ok(linear(BlockDiagonal {
            a: builder.param(a, self.lora.dtype),
            b: builder.param(draw::constant([d_out, ranks], 0.0), self.lora.dtype),
            cut,
            blocks: n,
            scale,
            dropout: self.lora.dropout,
        }))
    }
}

impl Codec<AdapterHub> for Bdlora {}

impl Codec<Peft> for Bdlora {
    fn base_fields() -> &'static [BaseField] {
        BaseField::ALL
    }

    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        let read = peft::read_section(stored, FIELD)?;
        Some(read.map(|(lora, own)| Self { lora, ..own }))
    }

    fn names() -> &'static peft::Names {
        peft::LORA
    }

    fn write(&self, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, ConfigError> {
        let mut fields = peft::write_lora(&self.lora, false, sites, host)?;
        let own = json!({
            "nblocks": self.nblocks,
            "target_modules_bd_a": self.target_modules_bd_a,
            "target_modules_bd_b": self.target_modules_bd_b,
            "match_strict": self.match_strict,
        });
        fields.insert(FIELD.to_owned(), own);
        Ok(fields)
    }

    fn key(&self, site: &SiteInfo, _adapter: &str, param: &str) -> String {
        peft::lora_key(site, param)
    }
}

/// Which matrix is block-diagonal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// A.
    A,
    /// B.
    B,
    /// Neither.
    None,
}

/// The update of one layer. A block-diagonal matrix is stored as its blocks, one below the other.
#[derive(Module, Debug)]
pub(crate) struct BlockDiagonal {
    /// `[r, d_in]`, or `[r, d_in / blocks]`.
    pub(crate) a: Param<Tensor<2>>,
    /// `[d_out, r]`, or `[d_out, r / blocks]`.
    pub(crate) b: Param<Tensor<2>>,
    /// Which is which.
    #[module(skip)]
    pub(crate) cut: Cut,
    /// Blocks.
    pub(crate) blocks: usize,
    /// `s`.
    pub(crate) scale: f64,
    /// Dropout probability on the input.
    pub(crate) dropout: f64,
}

/// Blocks `[n rows, columns]` on the diagonal of a matrix `[n rows, n columns]`.
fn on_diagonal(blocks: Tensor<2>, n: usize) -> Tensor<2> {
    let [rows, cols] = blocks.dims();
    let eye = Tensor::<2>::eye(n, &blocks.device()).reshape([n, 1, n, 1]);
    (blocks.reshape([n, rows / n, 1, cols]) * eye).reshape([rows, n * cols])
}

impl Factored for BlockDiagonal {
    type Shared = ();

    fn factors(&self, _shared: &()) -> (Tensor<2>, Tensor<2>) {
        let (a, b) = (self.a.val(), self.b.val());
        match self.cut {
            Cut::A => (b, on_diagonal(a, self.blocks)),
            Cut::B => (on_diagonal(b, self.blocks), a),
            Cut::None => (b, a),
        }
    }

    fn scale(&self) -> Option<f64> {
        Some(self.scale)
    }
}

impl SiteAdapter<LinearState> for BlockDiagonal {
    fn apply(&self, state: LinearState, call: &Call<'_>) -> LinearState {
        apply_factors(self, state, call, self.dropout, None)
    }

    fn effect(&self) -> Effect {
        let [_, width] = self.a.dims();
        let width = if self.cut == Cut::A { width * self.blocks } else { width };
        Effect::Adds(Source::Previous { width: Some(width) })
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, shared: &()) -> Result<LinearWeight, NotMergeable> {
        Ok(base.plus(self.update(shared)?))
    }
}

impl NamedParams for BlockDiagonal {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        vec![("lora_A".into(), self.a.id), ("lora_B".into(), self.b.id)]
    }
}
