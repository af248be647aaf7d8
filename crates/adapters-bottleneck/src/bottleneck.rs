//! [`BottleneckConfig`]: the fields, their check, the layers they build, and AdapterHub's files.

use adapters_core::config::{from_fields, published_seed, to_fields};
use adapters_core::target::Target;
use adapters_core::{
    AdapterHub, Build, Capabilities, Codec, ConfigError, Erased, Error, Host, LARGEST_SIZE, Method, Peft, Preset, Role,
    Shared, SharedParameters, SiteInfo, SiteKind, SiteLayer, StoredConfig,
};
use adapters_nn::{NonLinearity, draw};
use burn::module::Param;
use burn::nn::LayerNormConfig;
use burn::tensor::Tensor;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::compacter::{Phm, PhmLayer, PhmWeight, RuleInit, SHARED_NAMES, SharedPhm, WeightInit};
use crate::invertible::{Coupling, CouplingKind};
use crate::layer::{BottleneckLayer, Insertion, Shape};
use crate::presets::PRESETS;
use crate::projection::{Dense, Init, Project, Side};
use crate::reduction::Reduction;

/// A bottleneck adapter: `up(act(down(h))) * scaling` and a residual connection.
///
/// "Parameter-Efficient Transfer Learning for NLP", Houlsby et al. (2019), <https://arxiv.org/abs/1902.00751>;
/// "AdapterFusion", Pfeiffer et al. (2021), <https://arxiv.org/abs/2005.00247>.
///
/// The fields are those of the `config` object in AdapterHub's `adapter_config.json`. A field that a file leaves out has
/// the default given below; the presets ([`seq_bn`](Self::seq_bn) and so on) are where a program begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BottleneckConfig {
    /// With `ln_after`: add the residual before that norm instead of after it. Default false.
    #[serde(default)]
    pub adapter_residual_before_ln: bool,
    /// Adapt after the cross-attention block of a decoder layer. Default false.
    #[serde(default)]
    pub cross_adapter: bool,
    /// Dropout probability on the adapter's output, in `[0, 1)`. Default 0.
    #[serde(default)]
    pub dropout: f64,
    /// Initialization of the projections. Default [`Init::Bert`], the only one with `phm_layer`.
    #[serde(default)]
    pub init_weights: Init,
    /// Seed that is set again for every layer, so that all start equal; zero counts as none. Default none.
    #[serde(default)]
    pub init_weights_seed: Option<i64>,
    /// Invertible block after the embeddings. Default none.
    #[serde(default)]
    pub inv_adapter: Option<CouplingKind>,
    /// Reduction inside the invertible block, at least 1; required where there is one.
    #[serde(default)]
    pub inv_adapter_reduction_factor: Option<f64>,
    /// Put the adapter in parallel to the block: it reads the block's input and is added to its output. Otherwise it reads
    /// the block's output. Default false.
    #[serde(default)]
    pub is_parallel: bool,
    /// Layers without adapter, counted from 0. Default empty.
    #[serde(default)]
    pub leave_out: Vec<usize>,
    /// A new layer norm after the up projection. Default false.
    #[serde(default)]
    pub ln_after: bool,
    /// A new layer norm before the down projection. Default false.
    #[serde(default)]
    pub ln_before: bool,
    /// Adapt after the self-attention block. Required.
    pub mh_adapter: bool,
    /// Name of the activation between the projections, one of [`NonLinearity`]'s. Required.
    pub non_linearity: String,
    /// Apply the model's residual connection and layer norm after the adapter. Default true.
    #[serde(default = "yes")]
    pub original_ln_after: bool,
    /// Sequential adapters: apply the model's residual connection and layer norm before the adapter. Default false.
    #[serde(default)]
    pub original_ln_before: bool,
    /// Adapt after the feed-forward block. Required.
    pub output_adapter: bool,
    /// Width of the model over width of the bottleneck, greater than 0; below 1 the bottleneck is wider than the model.
    /// Required.
    pub reduction_factor: Reduction,
    /// Sequential adapters: the state that the adapter's own residual connection carries. Default `Flag(true)`.
    #[serde(default)]
    pub residual_before_ln: ResidualBeforeLn,
    /// Factor on the adapter's output. Default 1.0.
    #[serde(default)]
    pub scaling: Scaling,
    /// Probability of dropping the adapter for a row of the batch in training, in `[0, 1)`. A parallel adapter ignores it, as
    /// in the `adapters` library. Default 0.
    #[serde(default)]
    pub stochastic_depth: Option<f64>,
    /// Multiply the output by a learned gate, one number a row. Default false.
    #[serde(default)]
    pub use_gating: bool,
    /// Hypercomplex projections, sums of Kronecker products, instead of linear ones. Default false; the fields below describe them.
    #[serde(default)]
    pub phm_layer: bool,
    /// The weight of a hypercomplex projection is a product of two matrices of rank `phm_rank`. Default true.
    #[serde(default = "yes", rename = "factorized_phm_W")]
    pub factorized_phm_w: bool,
    /// Each rule is a product of a column and a row. Default false.
    #[serde(default)]
    pub factorized_phm_rule: bool,
    /// Initialization of the weight; the `adapters` library draws a Glorot normal whatever the name. Default
    /// `glorot-uniform`.
    #[serde(default)]
    pub hypercomplex_nonlinearity: WeightInit,
    /// Whether the rules are trained. Default true.
    #[serde(default = "yes")]
    pub learn_phm: bool,
    /// A bias in each projection. Default true.
    #[serde(default = "yes")]
    pub phm_bias: bool,
    /// Initialization of the rules. Default `normal`.
    #[serde(default)]
    pub phm_c_init: RuleInit,
    /// Number of summands; divides the width of the model and of the bottleneck. Default 4.
    #[serde(default = "four")]
    pub phm_dim: usize,
    /// Standard deviation of the normal initialization of the rules, greater than 0. Default 0.0001.
    #[serde(default = "phm_init_range")]
    pub phm_init_range: f64,
    /// Rank of a factorized weight, at least 1. Default 1.
    #[serde(default = "one")]
    pub phm_rank: Option<usize>,
    /// One weight for all layers. Default false.
    #[serde(default, rename = "shared_W_phm")]
    pub shared_w_phm: bool,
    /// One rule for all layers. Default true.
    #[serde(default = "yes")]
    pub shared_phm_rule: bool,
    /// Other fields of a file. They are written back unchanged.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Which state a sequential adapter's residual connection carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", expecting = "expected true, false or \"post_add\"")]
pub enum ResidualBeforeLn {
    /// The sum of the block's output and its input, before the model's layer norm; needs `original_ln_before`.
    PostAdd,
    /// True: the block's output. False: the adapter's input, which `original_ln_before` changes.
    #[serde(untagged)]
    Flag(bool),
}

impl Default for ResidualBeforeLn {
    fn default() -> Self {
        Self::Flag(true)
    }
}

/// Factor on the adapter's output.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(
    rename_all = "snake_case",
    expecting = "expected a number, \"learned\" or \"channel\""
)]
pub enum Scaling {
    /// One learned number, 1 at the start.
    Learned,
    /// A learned vector of the model's width, 1 at the start.
    Channel,
    /// A constant.
    #[serde(untagged)]
    Fixed(f64),
}

impl Default for Scaling {
    fn default() -> Self {
        Self::Fixed(1.0)
    }
}

fn yes() -> bool {
    true
}

fn one() -> Option<usize> {
    Some(1)
}

fn four() -> usize {
    4
}

fn phm_init_range() -> f64 {
    1e-4
}

impl BottleneckConfig {
    /// Where the adapter is inserted.
    fn insertion(&self) -> Insertion {
        match self.is_parallel {
            true => Insertion::Parallel,
            false => Insertion::Sequential {
                original_ln_before: self.original_ln_before,
                residual: self.residual_before_ln,
            },
        }
    }

    /// The hypercomplex projections, if that is what the projections are.
    pub(crate) fn phm(&self) -> Option<Phm> {
        self.phm_layer.then(|| Phm {
            dim: self.phm_dim,
            shared_rule: self.shared_phm_rule,
            factorized_rule: self.factorized_phm_rule,
            rule_init: self.phm_c_init,
            init_range: self.phm_init_range,
            shared_weight: self.shared_w_phm,
            weight: match self.factorized_phm_w {
                true => PhmWeight::Factorized {
                    rank: self.phm_rank.unwrap_or(0),
                },
                false => PhmWeight::Full,
            },
            bias: self.phm_bias,
        })
    }

    fn check_phm(&self, phm: &Phm) -> Result<(), ConfigError> {
        ConfigError::size("phm_dim", phm.dim)?;
        ConfigError::elements("phm_dim x phm_dim x phm_dim", [phm.dim; 3])?;
        if let PhmWeight::Factorized { rank } = phm.weight {
            ConfigError::size("phm_rank", rank)?;
        }
        let range = phm.init_range;
        let fits = range.is_finite() && range > 0.0;
        ConfigError::unless(fits, "phm_init_range", "a finite number greater than 0", range)?;
        ConfigError::unless(
            self.init_weights == Init::Bert,
            "init_weights",
            "`bert` where `phm_layer` is true: hypercomplex projections have an initialization of their own",
            serde_json::json!(self.init_weights),
        )
    }

    /// Width of the bottleneck in `layer`.
    fn width(&self, layer: usize, d_model: usize) -> Result<usize, ConfigError> {
        let size = self.reduction_factor.bottleneck_size(layer, d_model);
        let size = size.ok_or_else(|| ConfigError::OutOfRange {
            field: "reduction_factor",
            expected: "a factor for every layer, or a `default`",
            found: format!("without layer {layer}"),
        })?;
        ConfigError::unless(
            size <= LARGEST_SIZE,
            "reduction_factor",
            "a factor that makes a bottleneck of at most 65536",
            format!("a bottleneck of {size}"),
        )?;
        Ok(size)
    }

    /// The object of a file: reduction factors without a fraction where they have none, scaling factors with one.
    pub(crate) fn published(&self) -> Map<String, Value> {
        to_fields(self, &["reduction_factor", "inv_adapter_reduction_factor"])
    }

    fn seed(&self) -> Option<u64> {
        published_seed(self.init_weights_seed)
    }

    fn non_linearity(&self, build: &Build<'_>) -> Result<NonLinearity, ConfigError> {
        let field = "non_linearity";
        NonLinearity::named(&self.non_linearity, build.device)
            .map_err(|unknown| ConfigError::UnknownName { field, unknown })
    }

    /// The down and the up projection, after checking that hypercomplex ones divide both widths.
    fn projections(
        &self,
        d_model: usize,
        width: usize,
        build: &Build<'_>,
        rng: &mut ChaCha8Rng,
    ) -> Result<(Project, Project), ConfigError> {
        let (init, device) = (self.init_weights, build.device);
        Ok(match self.phm() {
            None => (
                Project::Linear(Dense::new(d_model, width, init, Side::Down, rng, device)),
                Project::Linear(Dense::new(width, d_model, init, Side::Up, rng, device)),
            ),
            Some(phm) => {
                phm.check_divides(d_model, width)?;
                (
                    Project::Phm(PhmLayer::new(&phm, d_model, width, Side::Down, rng, device)),
                    Project::Phm(PhmLayer::new(&phm, width, d_model, Side::Up, rng, device)),
                )
            }
        })
    }

    fn layer(&self, site: &SiteInfo, d_model: usize, build: &Build<'_>) -> Result<BottleneckLayer, ConfigError> {
        let mut rng = build.rng(self.seed(), site.site);
        let width = self.width(site.site.layer.unwrap_or(0), d_model)?;
        let (down, up) = self.projections(d_model, width, build, &mut rng)?;
        let norm = |wanted: bool| wanted.then(|| LayerNormConfig::new(d_model).with_epsilon(1e-5).init(build.device));
        let gate = self.use_gating.then(|| {
            let mut gate = Dense::new(d_model, 1, Init::Bert, Side::Down, &mut rng, build.device);
            if self.init_weights == Init::Houlsby {
                // The `adapters` library leaves this one as torch makes it.
                gate.weight = draw::linear_param(&mut rng, [1, d_model], d_model, build.device);
                gate.bias = draw::linear_param(&mut rng, [1], d_model, build.device);
            }
            gate
        });
        let ones = |size: usize| Param::from_tensor(Tensor::<1>::ones([size], build.device));
        let (factor, scaling) = match self.scaling {
            Scaling::Fixed(factor) => (factor, None),
            Scaling::Learned => (1.0, Some(ones(1))),
            Scaling::Channel => (1.0, Some(ones(d_model))),
        };
        Ok(BottleneckLayer {
            ln_before: norm(self.ln_before),
            down,
            non_linearity: self.non_linearity(build)?,
            up,
            scaling,
            gate,
            ln_after: norm(self.ln_after),
            shape: Shape {
                insertion: self.insertion(),
                original_ln_after: self.original_ln_after,
                residual_before_ln_after: self.adapter_residual_before_ln,
                factor,
                dropout: self.dropout,
                stochastic_depth: match self.is_parallel {
                    true => 0.0,
                    false => self.stochastic_depth.unwrap_or(0.0),
                },
            },
        })
    }

    fn coupling(
        &self,
        kind: CouplingKind,
        site: &SiteInfo,
        d_model: usize,
        build: &Build<'_>,
    ) -> Result<Coupling, ConfigError> {
        let mut rng = build.rng(self.seed(), site.site);
        // `check` refuses a block without a factor.
        let factor = self.inv_adapter_reduction_factor.unwrap_or(1.0);
        let non_linearities = [self.non_linearity(build)?, self.non_linearity(build)?];
        Ok(Coupling::new(
            kind,
            factor,
            d_model,
            non_linearities,
            &mut rng,
            build.device,
        ))
    }
}

impl Method for BottleneckConfig {
    const NAME: &'static str = "bottleneck";
    const DESCRIPTION: &'static str =
        "A small network with a residual connection behind the attention or feed-forward block of each layer.";

    fn presets() -> &'static [Preset<Self>] {
        PRESETS
    }

    fn check(&self) -> Result<(), ConfigError> {
        ConfigError::unless(
            self.mh_adapter || self.output_adapter || self.cross_adapter || self.inv_adapter.is_some(),
            "output_adapter",
            "true, or one of `mh_adapter`, `cross_adapter` and `inv_adapter` set",
            self.output_adapter,
        )?;
        self.reduction_factor.check()?;
        let field = "non_linearity";
        NonLinearity::check(&self.non_linearity).map_err(|unknown| ConfigError::UnknownName { field, unknown })?;
        let post_add = !self.is_parallel && self.residual_before_ln == ResidualBeforeLn::PostAdd;
        // The `adapters` library fails in the first forward pass here: the sum is never computed.
        ConfigError::unless(
            !post_add || self.original_ln_before,
            "residual_before_ln",
            "true or false where `original_ln_before` is false",
            "post_add",
        )?;
        if let Scaling::Fixed(factor) = self.scaling {
            ConfigError::finite("scaling", factor)?;
        }
        if self.inv_adapter.is_some() {
            let factor = self.inv_adapter_reduction_factor;
            ConfigError::unless(
                factor.is_some_and(|factor| factor.is_finite() && factor >= 1.0),
                "inv_adapter_reduction_factor",
                "a finite number of at least 1 where `inv_adapter` is set",
                factor.map_or_else(|| "none".to_owned(), |factor| factor.to_string()),
            )?;
        }
        ConfigError::probability("dropout", self.dropout)?;
        ConfigError::probability("stochastic_depth", self.stochastic_depth.unwrap_or(0.0))?;
        self.phm().map_or(Ok(()), |phm| self.check_phm(&phm))
    }

    fn target(&self) -> Target {
        let roles = [
            (self.mh_adapter, Role::AfterAttention),
            (self.output_adapter, Role::AfterFfn),
            (self.cross_adapter, Role::AfterCrossAttention),
            (self.inv_adapter.is_some(), Role::Embedding),
        ];
        Target::Roles {
            roles: roles.into_iter().filter_map(|(on, role)| on.then_some(role)).collect(),
            leave_out: self.leave_out.clone(),
        }
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        match (site.kind, self.inv_adapter) {
            (SiteKind::Hidden { d_model }, _) => {
                let layer = Error::in_config(Self::NAME, self.layer(site, d_model, build))?;
                Ok(SiteLayer::Hidden(Erased::new(layer)))
            }
            (SiteKind::Embedding { d_model }, Some(kind)) => {
                let block = Error::in_config(Self::NAME, self.coupling(kind, site, d_model, build))?;
                Ok(SiteLayer::Embedding(Erased::new(block)))
            }
            _ => Err(Self::refuse(
                site,
                "it adapts the output of attention and feed-forward blocks, and with `inv_adapter` the embeddings",
            )),
        }
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            shared: Some(self),
            ..Capabilities::default()
        }
    }
}

impl SharedParameters for BottleneckConfig {
    fn build_shared(&self, build: &Build<'_>) -> Result<Shared, Error> {
        let Some(phm) = self.phm() else {
            return Ok(Shared::of(SharedPhm::default()));
        };
        let d_model = build.host.d_model();
        let width = Error::in_config(Self::NAME, self.width(0, d_model))?;
        Error::in_config(Self::NAME, phm.check_divides(d_model, width))?;
        let mut rng = build.shared_rng(self.seed());
        Ok(Shared::of(SharedPhm::draw(
            &phm,
            d_model,
            width,
            &mut rng,
            build.device,
        )))
    }

    fn owns(&self, param: &str) -> bool {
        SHARED_NAMES.iter().any(|names| names.contains(&param))
    }
}

/// The object has no `architecture`, or `"adapter"` or `"bottleneck"`, which lies in `extra`.
impl Codec<AdapterHub> for BottleneckConfig {
    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        let mine = match stored.fields.get("architecture") {
            None | Some(Value::Null) => stored.fields.contains_key("reduction_factor"),
            Some(architecture) => architecture == "adapter" || architecture == Self::NAME,
        };
        let mut fields = stored.fields.clone();
        if !stored.versioned && fields.get("non_linearity").is_some_and(|name| name == "gelu") {
            // Files from before there were versions mean what is called `gelu_new` now.
            fields.insert("non_linearity".to_owned(), "gelu_new".into());
        }
        // Files of version 1 nest the invertible block; the nested fields win, as in the `adapters` library.
        if let Some(Value::Object(old)) = fields.get("invertible_adapter").cloned() {
            fields.shift_remove("invertible_adapter");
            for (new, old_name) in [
                ("inv_adapter", "block_type"),
                ("inv_adapter_reduction_factor", "reduction_factor"),
            ] {
                fields.insert(new.to_owned(), old.get(old_name).cloned().unwrap_or_default());
            }
        }
        mine.then(|| from_fields(fields))
    }

    fn write(&self, _sites: &[&SiteInfo], _host: &dyn Host) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.published())
    }

    fn key(&self, site: &SiteInfo, adapter: &str, param: &str) -> String {
        match site.kind {
            // In the module that holds the embeddings, where that is not the model itself.
            SiteKind::Embedding { .. } => {
                let holder = site.path.rsplit_once('.').map(|(holder, _)| format!("{holder}."));
                format!("{}invertible_adapters.{adapter}.{param}", holder.unwrap_or_default())
            }
            _ => format!("{}.adapters.{adapter}.{param}", site.path),
        }
    }

    fn is_duplicate(&self, key: &str) -> bool {
        // An encoder-decoder of two models holds what its stacks share in each of them, too.
        let of_a_stack = [".shared_parameters.", ".invertible_adapters."]
            .iter()
            .any(|shared| key.contains(shared));
        of_a_stack
            || key.contains(".adapter_norm_before.")
            || (key.contains(".adapter_down.") && key.ends_with(".f.weight"))
    }
}

/// Peft has no bottleneck adapters.
impl Codec<Peft> for BottleneckConfig {}
