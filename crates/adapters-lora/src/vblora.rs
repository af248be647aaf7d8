//! VB-LoRA: low-rank matrices put together from a bank of vectors all layers share.

use adapters_core::target::Target;
use adapters_core::{
    BaseField, Build, Call, Capabilities, Causality, ConfigError, Effect, Erased, Error, LinearState, LinearWeight,
    Method, NotMergeable, Shared, SharedParameters, SiteAdapter, SiteInfo, SiteLayer, Source, named_params,
};
use adapters_methods::ModuleFields;
use adapters_methods::{PeftModules, peft_modules};
use adapters_nn::draw;
use adapters_nn::ops::project;
use burn::module::{Module, Param};
use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

/// `W + B A`, where each piece of A and B is a mixture of `topk` vectors of a bank that all layers share and train.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `r` | 4 | rank | >= 1 |
/// | `num_vectors` | 256 | vectors in the bank | >= 1 |
/// | `vector_length` | 256 | their length; divides the features of every layer | >= 1 |
/// | `topk` | 2 | vectors of a mixture | >= 1, at most `num_vectors` |
/// | `vblora_dropout` | 0 | dropout on the input, in training | `0 <= p < 1` |
/// | `init_vector_bank_bound` | 0.02 | bound of the bank's initial values | > 0 |
/// | `init_logits_std` | 0.1 | deviation of the initial logits | > 0 |
/// | `save_only_topk_weights` | false | not read or written | false |
///
/// Paper: *VB-LoRA: Extreme Parameter Efficient Fine-Tuning with Vector Banks*, Li et al., 2024,
/// <https://arxiv.org/abs/2405.15179>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Vblora {
    /// Rank.
    pub r: usize,
    /// Vectors in the bank.
    pub num_vectors: usize,
    /// Their length.
    pub vector_length: usize,
    /// Vectors of a mixture.
    pub topk: usize,
    /// Dropout probability on the input, in training.
    pub vblora_dropout: f64,
    /// Bound of the bank's initial values.
    pub init_vector_bank_bound: f64,
    /// Deviation of the initial logits.
    pub init_logits_std: f64,
    /// Only `false` is read and written.
    pub save_only_topk_weights: bool,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

impl Default for Vblora {
    fn default() -> Self {
        Self {
            r: 4,
            num_vectors: 256,
            vector_length: 256,
            topk: 2,
            vblora_dropout: 0.0,
            init_vector_bank_bound: 0.02,
            init_logits_std: 0.1,
            save_only_topk_weights: false,
            targets: ModuleFields::default(),
        }
    }
}

/// The shared parameter.
const BANK: &str = "vblora_vector_bank";

impl Method for Vblora {
    const NAME: &'static str = "vblora";
    const DESCRIPTION: &'static str = "Low-rank matrices composed from a bank of vectors that all layers share.";

    fn check(&self) -> Result<(), ConfigError> {
        let fits = self.topk > 0 && self.topk <= self.num_vectors;
        ConfigError::size("r", self.r)?;
        ConfigError::size("num_vectors", self.num_vectors)?;
        ConfigError::elements("r x num_vectors", [self.r, self.num_vectors])?;
        let bank = [self.num_vectors, self.vector_length];
        ConfigError::elements("num_vectors x vector_length", bank)?;
        ConfigError::unless(
            self.vector_length > 0,
            "vector_length",
            "at least 1",
            self.vector_length,
        )?;
        ConfigError::unless(fits, "topk", "between 1 and num_vectors", self.topk)?;
        ConfigError::probability("vblora_dropout", self.vblora_dropout)?;
        ConfigError::unless(
            !self.save_only_topk_weights,
            "save_only_topk_weights",
            "false: such a file cannot be trained further",
            self.save_only_topk_weights,
        )
    }

    fn target(&self) -> Target {
        self.modules_or_query_and_value()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, d_out) = Self::linear_dims(site)?;
        let length = self.vector_length;
        if !d_in.is_multiple_of(length) || !d_out.is_multiple_of(length) {
            let reason = format!("vector_length is {length}, which does not divide {d_in} and {d_out}");
            return Err(Self::refuse(site, reason));
        }
        let longest = d_in.max(d_out) / length;
        Self::check_elements(site, "r, num_vectors", [self.r, longest, self.num_vectors])?;
        let mut rng = build.rng(None, site.site);
        let std = self.init_logits_std as f32;
        let mut logits = |rows, cols| {
            let data = draw::normal(&mut rng, [rows, cols, self.num_vectors], std);
            Param::from_data(data, build.device)
        };
        Ok(SiteLayer::Linear(Erased::new(Mixtures {
            a: logits(self.r, d_in / length),
            b: logits(d_out / length, self.r),
            top: self.topk,
            dropout: self.vblora_dropout,
        })))
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            shared: Some(self),
            ..Capabilities::default()
        }
    }
}

peft_modules!(Vblora: "VBLORA" {
    const BASE_FIELDS: &'static [BaseField] = BaseField::ALL;
});

impl SharedParameters for Vblora {
    fn owns(&self, param: &str) -> bool {
        param == BANK
    }

    fn build_shared(&self, build: &Build<'_>) -> Result<Shared, Error> {
        let shape = [self.num_vectors, self.vector_length];
        let bound = self.init_vector_bank_bound as f32;
        let bank = draw::uniform(&mut build.shared_rng(None), shape, bound);
        let vectors = Param::from_data(bank, build.device);
        Ok(Shared::of(VectorBank { vectors }))
    }
}

/// The vectors that all layers share.
#[derive(Module, Debug)]
pub(crate) struct VectorBank {
    /// `[num_vectors, vector_length]`.
    pub(crate) vectors: Param<Tensor<2>>,
}

named_params!(VectorBank: "vblora_vector_bank" => vectors);

/// The update of one layer: which vectors its pieces are mixed from.
#[derive(Module, Debug)]
pub(crate) struct Mixtures {
    /// Logits of A, `[r, d_in / length, vectors]`.
    pub(crate) a: Param<Tensor<3>>,
    /// Logits of B, `[d_out / length, r, vectors]`.
    pub(crate) b: Param<Tensor<3>>,
    /// Vectors of a mixture.
    pub(crate) top: usize,
    /// Dropout probability on the input.
    pub(crate) dropout: f64,
}

impl Mixtures {
    /// The mixtures, `[n, m, length]`.
    fn mixed(&self, logits: Tensor<3>, bank: &Tensor<2>) -> Tensor<3> {
        let [n, m, _] = logits.dims();
        let [_, length] = bank.dims();
        let (_, chosen) = logits.clone().detach().topk_with_indices(self.top, 2);
        let weights = activation::softmax(logits.gather(2, chosen.clone()), 2);
        let vectors = bank.clone().select(0, chosen.reshape([n * m * self.top]));
        let vectors = vectors.reshape([n * m, self.top, length]);
        let mixed = (vectors * weights.reshape([n * m, self.top, 1])).sum_dim(1);
        mixed.reshape([n, m, length])
    }

    /// A, `[r, d_in]`, and B, `[d_out, r]`.
    fn matrices(&self, shared: &VectorBank) -> (Tensor<2>, Tensor<2>) {
        let bank = shared.vectors.val();
        let a = self.mixed(self.a.val(), &bank);
        let b = self.mixed(self.b.val(), &bank);
        let ([r, tiles, length], [out_tiles, _, _]) = (a.dims(), b.dims());
        let a = a.reshape([r, tiles * length]);
        (a, b.swap_dims(1, 2).reshape([out_tiles * length, r]))
    }
}

impl SiteAdapter<LinearState, VectorBank> for Mixtures {
    fn apply(&self, state: LinearState, call: &Call<'_, VectorBank>) -> LinearState {
        let (a, b) = self.matrices(call.shared);
        state.plus(|x| project(project(call.dropout(x, self.dropout), a), b))
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, shared: &VectorBank) -> Result<LinearWeight, NotMergeable> {
        let (a, b) = self.matrices(shared);
        Ok(base.plus(b.matmul(a)))
    }
}

named_params!(Mixtures: "vblora_logits_A" => a, "vblora_logits_B" => b);
