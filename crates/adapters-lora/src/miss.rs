//! MiSS: one small matrix, shared by all pieces of the input.

use adapters_core::target::Target;
use adapters_core::{
    BaseField, Build, Call, Causality, ConfigError, Effect, Erased, Error, LinearState, LinearWeight, Method,
    NotMergeable, SiteAdapter, SiteInfo, SiteLayer, Source, named_params,
};
use adapters_methods::ModuleFields;
use adapters_methods::{PeftModules, peft_modules};
use adapters_nn::ops::project;
use adapters_nn::{draw, float_weight};
use burn::module::{Module, Param, ParamId};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `W + [D D .. D]^T`: the input is cut into pieces of `r` features, the pieces are added, and one matrix `D` acts on
/// their sum.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `r` | 64 | length of a piece | >= 1, at most `d_in` |
/// | `miss_dropout` | 0 | dropout on the input, in training | `0 <= p < 1` |
/// | `mini_r` | 1 | columns of `D` that are learned, with `mini` | divides `d_out` |
/// | `init_weights` | true | `mini` repeats the columns of `D`; `bat` is the update below | true, false, `mini`, `bat` |
///
/// With `bat` the weight is cut into blocks of `r` by `r`, and each becomes `W_ij + W_ij D_i + D_i`, with a `D_i` for every
/// `r` outputs; `r` divides both sizes, and the dropout has nothing to act on.
///
/// Paper: *MiSS: Revisiting the Trade-off in LoRA with an Efficient Shard-Sharing Structure*, Kang and Yin, 2024,
/// <https://arxiv.org/abs/2409.15371>.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Miss {
    /// Length of a piece.
    pub r: usize,
    /// Dropout probability on the input, in training.
    pub miss_dropout: f64,
    /// Columns of `D` that are learned, with `mini`.
    pub mini_r: usize,
    /// True, false (drawn at random), `mini` or `bat`.
    pub init_weights: Value,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

impl Default for Miss {
    fn default() -> Self {
        Self {
            r: 64,
            miss_dropout: 0.0,
            mini_r: 1,
            init_weights: Value::Bool(true),
            targets: ModuleFields::default(),
        }
    }
}

impl Method for Miss {
    const NAME: &'static str = "miss";
    const DESCRIPTION: &'static str = "One small matrix that all segments of the input share.";

    fn check(&self) -> Result<(), ConfigError> {
        ConfigError::size("r", self.r)?;
        ConfigError::size("mini_r", self.mini_r)?;
        ConfigError::probability("miss_dropout", self.miss_dropout)?;
        match &self.init_weights {
            Value::Bool(_) => Ok(()),
            form if form == "mini" || form == BAT => Ok(()),
            other => Err(ConfigError::Unsupported {
                field: "init_weights",
                found: other.to_string(),
            }),
        }
    }

    fn target(&self) -> Target {
        self.modules_or_query_and_value()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let (d_in, d_out) = Self::linear_dims(site)?;
        if self.r > d_in {
            return Err(Self::refuse(site, format!("r is {}, and it has {d_in} inputs", self.r)));
        }
        if self.init_weights == BAT {
            if !d_in.is_multiple_of(self.r) || !d_out.is_multiple_of(self.r) {
                let reason = format!("r is {}, which does not divide {d_in} and {d_out}", self.r);
                return Err(Self::refuse(site, reason));
            }
            let blocks = draw::constant([d_out / self.r, self.r, self.r], 0.0);
            let blocks = Param::from_data(blocks, build.device);
            return Ok(SiteLayer::Linear(Erased::new(Blocks { blocks })));
        }
        let mini = self.init_weights == "mini";
        if mini && !d_out.is_multiple_of(self.mini_r) {
            return Err(Self::refuse(
                site,
                format!("mini_r is {}, which does not divide {d_out}", self.mini_r),
            ));
        }
        let shape = [self.r, if mini { self.mini_r } else { d_out }];
        let block = match &self.init_weights {
            Value::Bool(false) => draw::linear(&mut build.rng(None, site.site), shape, shape[1]),
            _ => draw::constant(shape, 0.0),
        };
        Ok(SiteLayer::Linear(Erased::new(Shard {
            block: Param::from_data(block, build.device),
            d_out,
            dropout: self.miss_dropout,
        })))
    }
}

peft_modules!(Miss: "MISS" {
    const BASE_FIELDS: &'static [BaseField] = BaseField::ALL;
});

/// The name of the form with blocks.
const BAT: &str = "bat";

/// The update of one layer, whose form is `bat`.
#[derive(Module, Debug)]
pub(crate) struct Blocks {
    /// `D_i`, `[d_out / r, r, r]`.
    pub(crate) blocks: Param<Tensor<3>>,
}

impl Blocks {
    /// The weight `[d_in, d_out]` with the update.
    fn changed(&self, weight: Tensor<2>) -> Tensor<2> {
        let ([d_in, d_out], [outputs, r, _]) = (weight.dims(), self.blocks.dims());
        // Each block the other way round, as Burn's layout has it: `(W D)^T = D^T W^T`.
        let pieces = weight.clone().reshape([d_in / r, r, outputs, r]).swap_dims(1, 2);
        let blocks: Tensor<4> = self.blocks.val().swap_dims(1, 2).unsqueeze();
        let update = blocks.clone().matmul(pieces) + blocks;
        weight + update.swap_dims(1, 2).reshape([d_in, d_out])
    }
}

impl SiteAdapter<LinearState> for Blocks {
    /// Changes the frozen layer, so that what other adapters add stays as it is.
    fn apply(&self, mut state: LinearState, _call: &Call<'_>) -> LinearState {
        let changed = self.changed(float_weight(&state.layer));
        state.layer.weight = Param::initialized(ParamId::new(), changed);
        state
    }

    fn effect(&self) -> Effect {
        Effect::Changes
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, _shared: &()) -> Result<LinearWeight, NotMergeable> {
        Ok(LinearWeight {
            weight: self.changed(base.weight),
            ..base
        })
    }
}

named_params!(Blocks: "miss_block" => blocks);

/// The update of one layer.
#[derive(Module, Debug)]
pub(crate) struct Shard {
    /// `D`, `[r, d_out]`, or its first columns.
    pub(crate) block: Param<Tensor<2>>,
    /// Output features: the columns are repeated up to these.
    pub(crate) d_out: usize,
    /// Dropout probability on the input.
    pub(crate) dropout: f64,
}

impl Shard {
    /// `D`, `[r, d_out]`.
    fn whole(&self) -> Tensor<2> {
        let [_, cols] = self.block.dims();
        self.block.val().repeat_dim(1, self.d_out / cols)
    }
}

impl SiteAdapter<LinearState> for Shard {
    fn apply(&self, state: LinearState, call: &Call<'_>) -> LinearState {
        let block = self.whole();
        let [r, _] = block.dims();
        state.plus(|x| {
            let [batch, seq, d_in] = x.dims();
            let missing = (r - d_in % r) % r;
            let x = match missing {
                0 => x,
                _ => Tensor::cat(vec![x.clone(), Tensor::zeros([batch, seq, missing], &x.device())], 2),
            };
            let pieces = call
                .dropout(x, self.dropout)
                .reshape([batch, seq, (d_in + missing) / r, r]);
            project(pieces.sum_dim(2).reshape([batch, seq, r]), block.transpose())
        })
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, _shared: &()) -> Result<LinearWeight, NotMergeable> {
        let block = self.whole();
        let ([r, _], [d_in, _]) = (block.dims(), base.weight.dims());
        let stacked = block.repeat_dim(0, d_in.div_ceil(r)).slice_dim(0, 0..d_in);
        Ok(base.plus(stacked.transpose()))
    }
}

named_params!(Shard: "miss_block" => block);
