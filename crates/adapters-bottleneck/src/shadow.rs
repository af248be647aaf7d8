//! Shadow: a small decoder next to the model, whose state is compared with that of the model in front of each layer.

use std::borrow::Cow;
use std::sync::Arc;

use adapters_core::config::to_fields;
use adapters_core::target::{ModulePattern, Target};
use adapters_core::{
    Build, Call, Capabilities, Causality, ConfigError, EmbeddingState, Erased, Error, Host, LayerMut, LayerRef, Method,
    Mirror, MirrorInput, MirrorPlan, NamedParams, NormWeight, OutputState, ParamId, Pass, Role, Shared,
    SharedParameters, SiteAdapter, SiteInfo, SiteKind, SiteLayer, named_params,
};
use adapters_methods::{Fields, ModuleFields, name_modules, peft_modules};
use adapters_nn::ops::{Activation, affine, project};
use adapters_nn::{draw, float_weight};
use burn::module::{Module, Param};
use burn::tensor::activation::sigmoid;
use burn::tensor::{Device, Int, Tensor};
use serde::{Deserialize, Serialize};

/// A small decoder of the model's class reads the text first; its last hidden state is the shadow `s`. In front of each layer the
/// hidden state becomes `h + a U D dropout(h - s)`, and behind it the shadow becomes `(1 - g) s + g t` with
/// `t = T2 gelu(T1 h)` and `g = sigmoid(G2 gelu(G1 h))`.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `r` | 8 | rank of `U D` | >= 1 |
/// | `shadow_alpha` | 0.1 | `a` | finite |
/// | `shadow_dropout` | 0.2 | dropout on the difference, in training | `0 <= p < 1` |
/// | `update_hidden_size` | `r` | width between `T1` and `T2`, `G1` and `G2` | >= 1 |
/// | `shadow_num_hidden_layers` | 1 | layers of the small decoder | >= 1 |
/// | `shadow_hidden_size` | that of the model | its width, from which a matrix leads to the model's; it then has a token table of its own | >= 1 |
/// | `shadow_num_attention_heads` | that of the model | its heads | >= 1 |
/// | `shadow_intermediate_size` | that of the model | width of its feed-forward blocks | >= 1 |
/// | `share_embeddings` | true | whether it reads the rows of the model's token table | |
/// | `init_weights` | true | `U` begins at zero, so that the adapter is the identity | |
/// | `target_modules` | all layers | the layers, which follow each other | |
///
/// Paper: *ShadowPEFT*, as peft 0.21.2 computes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Shadow {
    /// Rank.
    pub r: usize,
    /// Factor of what is added in front of a layer.
    pub shadow_alpha: f64,
    /// Dropout probability on the difference, in training.
    pub shadow_dropout: f64,
    /// Width inside the update of the shadow.
    pub update_hidden_size: Option<usize>,
    /// Layers of the small decoder.
    pub shadow_num_hidden_layers: Option<usize>,
    /// Its width.
    pub shadow_hidden_size: Option<usize>,
    /// Its heads.
    pub shadow_num_attention_heads: Option<usize>,
    /// Width of its feed-forward blocks.
    pub shadow_intermediate_size: Option<usize>,
    /// Whether it reads the rows of the model's token table.
    pub share_embeddings: bool,
    /// Where the small decoder comes from: `mirror`, made new.
    pub shadow_model: String,
    /// Whether a new adapter is the identity.
    pub init_weights: bool,
    /// Which layers.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

impl Default for Shadow {
    fn default() -> Self {
        Self {
            r: 8,
            shadow_alpha: 0.1,
            shadow_dropout: 0.2,
            update_hidden_size: None,
            shadow_num_hidden_layers: None,
            shadow_hidden_size: None,
            shadow_num_attention_heads: None,
            shadow_intermediate_size: None,
            share_embeddings: true,
            shadow_model: MIRROR.to_owned(),
            init_weights: true,
            targets: ModuleFields::default(),
        }
    }
}

const MIRROR: &str = "mirror";

/// Beginnings of the names of the shared parameters.
const BACKBONE: &str = "shadow_backbone.default.";
const PROJECTION: &str = "shadow_projection.default.weight";

impl Shadow {
    /// The layers that are named.
    fn layers(&self) -> Target {
        match self.targets.target() {
            Some(target) => Target::Blocks(target),
            None => Target::roles([Role::LayerInput, Role::LayerOutput]),
        }
    }

    fn plan(&self, host: &dyn Host, seed: u64) -> MirrorPlan {
        let own_width = self.shadow_hidden_size.is_some_and(|width| width != host.d_model());
        MirrorPlan {
            layers: self.shadow_num_hidden_layers.unwrap_or(1),
            hidden_size: self.shadow_hidden_size,
            heads: self.shadow_num_attention_heads,
            intermediate_size: self.shadow_intermediate_size,
            own_table: own_width || !self.share_embeddings,
            seed,
        }
    }
}

impl Method for Shadow {
    const NAME: &'static str = "shadow";
    const DESCRIPTION: &'static str =
        "A small decoder next to the model, whose state corrects that of the model in front of each layer.";

    fn check(&self) -> Result<(), ConfigError> {
        ConfigError::size("r", self.r)?;
        let (alpha, dropout) = (self.shadow_alpha, self.shadow_dropout);
        ConfigError::finite("shadow_alpha", alpha)?;
        ConfigError::probability("shadow_dropout", dropout)?;
        for (field, size) in [
            ("update_hidden_size", self.update_hidden_size),
            ("shadow_num_hidden_layers", self.shadow_num_hidden_layers),
            ("shadow_hidden_size", self.shadow_hidden_size),
            ("shadow_num_attention_heads", self.shadow_num_attention_heads),
            ("shadow_intermediate_size", self.shadow_intermediate_size),
        ] {
            ConfigError::size(field, size.unwrap_or(1))?;
        }
        match self.shadow_model == MIRROR {
            true => Ok(()),
            // peft keeps the weights of another model elsewhere.
            false => Err(ConfigError::Unsupported {
                field: "shadow_model",
                found: self.shadow_model.clone(),
            }),
        }
    }

    fn target(&self) -> Target {
        Target::Any(vec![Target::First(Role::Embedding), self.layers()])
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let mut rng = build.rng(None, site.site);
        Ok(match site.kind {
            SiteKind::Embedding { .. } => SiteLayer::Embedding(Erased::new(ShadowStart {
                reads_tokens: self.plan(build.host, 0).own_table,
            })),
            SiteKind::LayerInput { d_model } => SiteLayer::Output(Erased::new(ShadowCorrection {
                down: draw::linear_param(&mut rng, [self.r, d_model], d_model, build.device),
                up: match self.init_weights {
                    true => Param::from_data(draw::constant([d_model, self.r], 0.0), build.device),
                    false => draw::linear_param(&mut rng, [d_model, self.r], self.r, build.device),
                },
                alpha: self.shadow_alpha,
                dropout: self.shadow_dropout,
            })),
            SiteKind::LayerOutput { d_model } => {
                let inner = self.update_hidden_size.unwrap_or(self.r);
                let mut network = || TwoLayers {
                    first: draw::linear_param(&mut rng, [inner, d_model], d_model, build.device),
                    first_bias: draw::linear_param(&mut rng, [inner], d_model, build.device),
                    second: draw::linear_param(&mut rng, [d_model, inner], inner, build.device),
                    second_bias: draw::linear_param(&mut rng, [d_model], inner, build.device),
                };
                SiteLayer::Output(Erased::new(ShadowUpdate {
                    transform: network(),
                    gate: network(),
                }))
            }
            _ => return Err(Self::refuse(site, "it acts on the embedded tokens and on whole layers")),
        })
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            shared: Some(self),
            ..Capabilities::default()
        }
    }
}

peft_modules!(Shadow: "SHADOW" {
    fn shared_param_key(param: &str) -> String {
        format!("base_model.{param}")
    }

    /// The frequencies of the small decoder's positions.
    fn is_computed(key: &str) -> bool {
        key.ends_with(".rotary_emb.inv_freq")
    }

    /// The layers by their paths: their last components are numbers.
    fn written(&self, sites: &[&SiteInfo], host: &dyn Host) -> Fields {
        let mut config = self.clone();
        let layers = sites.iter().filter(|info| info.site.role == Role::LayerOutput);
        let paths = layers.map(|info| info.path.clone()).collect();
        config.targets.target_modules.get_or_insert(ModulePattern::Names(paths));
        name_modules(Self::PEFT_TYPE, &mut config.targets, sites, host);
        to_fields(&config, &[])
    }
});

impl SharedParameters for Shadow {
    fn build_shared(&self, build: &Build<'_>) -> Result<Shared, Error> {
        let host = build.host;
        let layers: Vec<usize> = self
            .layers()
            .select(host)?
            .sites
            .iter()
            .filter_map(|info| info.site.layer)
            .collect();
        let refuse = |reason: String| Error::CannotBuild {
            method: Self::NAME,
            path: host.base_prefix().trim_end_matches('.').to_owned(),
            reason,
        };
        // A layer has two sites, one after the other.
        if layers.windows(2).any(|pair| pair[1] > pair[0] + 1) {
            return Err(refuse(format!(
                "its layers are {layers:?}, expected layers that follow each other"
            )));
        }
        let plan = self.plan(host, build.seed);
        let model = host.mirror(&plan, build.device).map_err(refuse)?;
        let projection = self
            .shadow_hidden_size
            .filter(|width| *width != host.d_model())
            .map(|width| {
                draw::linear_param(
                    &mut build.shared_rng(None),
                    [host.d_model(), width],
                    width,
                    build.device,
                )
            });
        Ok(Shared::of(Backbone::new(model, projection, build.device)))
    }

    fn owns(&self, param: &str) -> bool {
        param.starts_with(BACKBONE) || param == PROJECTION
    }
}

/// The small decoder, with parameters in the layout of files.
#[derive(Module, Debug)]
pub(crate) struct Backbone {
    matrices: Vec<Param<Tensor<2>>>,
    vectors: Vec<Param<Tensor<1>>>,
    /// From its width to the model's, `[d_model, width]`.
    projection: Option<Param<Tensor<2>>>,
    /// Names of the matrices, and of the vectors.
    #[module(skip)]
    names: [Vec<String>; 2],
    #[module(skip)]
    model: Arc<dyn Mirror>,
}

impl Backbone {
    fn new(model: Box<dyn Mirror>, projection: Option<Param<Tensor<2>>>, device: &Device) -> Self {
        let (mut matrices, mut vectors, mut names) = (Vec::new(), Vec::new(), [Vec::new(), Vec::new()]);
        model.visit_sites(&mut |info, layer| {
            let mut name = |rank: usize, what: &str| names[rank - 1].push(format!("{BACKBONE}{}.{what}", info.path));
            let mut vector = |tensor: Tensor<1>| vectors.push(Param::from_data(tensor.into_data(), device));
            match layer {
                LayerRef::Linear(linear) => {
                    name(2, "weight");
                    matrices.push(Param::from_data(float_weight(linear).transpose().into_data(), device));
                    if let Some(bias) = &linear.bias {
                        name(1, "bias");
                        vector(bias.val());
                    }
                }
                LayerRef::Norm(norm) => {
                    let NormWeight { weight, bias } = norm.get();
                    name(1, "weight");
                    vector(weight);
                    if let Some(bias) = bias {
                        name(1, "bias");
                        vector(bias);
                    }
                }
                LayerRef::Table(table) => {
                    name(2, "weight");
                    matrices.push(Param::from_data(table.weight.val().into_data(), device));
                }
                LayerRef::Matrices(_) | LayerRef::Point => {}
            }
        });
        names.reverse();
        Self {
            matrices,
            vectors,
            projection,
            names,
            model: Arc::from(model),
        }
    }

    /// The shadow in front of the first layer, `[batch, seq, d_model]`.
    fn forward(&self, input: MirrorInput, pass: &Pass) -> Tensor<3> {
        let mut model = self.model.copied();
        let (mut matrices, mut vectors) = (self.matrices.iter(), self.vectors.iter());
        // As many, and in the same order, as `new` found.
        model.visit_sites_mut(&mut |_, layer| match layer {
            LayerMut::Linear(linear) => {
                let weight = matrices.next().map(|weight| weight.val().transpose());
                linear.weight = weight.map_or(linear.weight.clone(), constant);
                linear.bias = linear
                    .bias
                    .as_ref()
                    .and_then(|_| vectors.next())
                    .map(|bias| constant(bias.val()));
            }
            LayerMut::Norm(norm) => {
                let has_bias = norm.get().bias.is_some();
                if let Some(weight) = vectors.next() {
                    let bias = has_bias.then(|| vectors.next()).flatten();
                    norm.set(NormWeight {
                        weight: weight.val(),
                        bias: bias.map(|bias| bias.val()),
                    });
                }
            }
            LayerMut::Table(table) => {
                let weight = matrices.next().map(|weight| weight.val());
                table.weight = weight.map_or(table.weight.clone(), constant);
            }
            LayerMut::Matrices(_) | LayerMut::Point => {}
        });
        let hidden = model.forward(input, pass);
        match &self.projection {
            Some(projection) => project(hidden, projection.val()),
            None => hidden,
        }
    }
}

/// A value as a parameter.
fn constant<const D: usize>(value: Tensor<D>) -> Param<Tensor<D>> {
    Param::initialized(ParamId::new(), value)
}

impl NamedParams for Backbone {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let [matrices, vectors] = &self.names;
        let named = |names: &[String], ids: Vec<ParamId>| -> Vec<(Cow<'static, str>, ParamId)> {
            names.iter().map(|name| name.clone().into()).zip(ids).collect()
        };
        let mut params = named(matrices, self.matrices.iter().map(|param| param.id).collect());
        params.extend(named(vectors, self.vectors.iter().map(|param| param.id).collect()));
        params.extend(self.projection.iter().map(|param| (PROJECTION.into(), param.id)));
        params
    }
}

/// Makes the shadow of the embedded tokens.
#[derive(Module, Debug)]
pub(crate) struct ShadowStart {
    reads_tokens: bool,
}

impl SiteAdapter<EmbeddingState, Backbone> for ShadowStart {
    fn apply(&self, state: EmbeddingState, call: &Call<'_, Backbone>) -> EmbeddingState {
        let [batch, seq, _] = state.hidden.dims();
        let mut pass = call.pass.clone();
        pass.padding.clone_from(&state.padding);
        let input = match call.tokens.clone().filter(|_| self.reads_tokens) {
            // Another adapter may have inserted positions in front, which are no tokens.
            Some(tokens) => {
                let inserted = seq.saturating_sub(tokens.dims()[1]);
                let none = Tensor::<2, Int>::zeros([batch, inserted], &tokens.device());
                MirrorInput::Tokens(if inserted > 0 {
                    Tensor::cat(vec![none, tokens], 1)
                } else {
                    tokens
                })
            }
            None => MirrorInput::Rows(state.hidden.clone()),
        };
        EmbeddingState {
            carried: Some(call.shared.forward(input, &pass)),
            ..state
        }
    }

    fn effect(&self) {}

    /// The small decoder keeps nothing from one pass to the next.
    fn causality(&self) -> Causality {
        Causality::LooksAhead
    }
}

named_params!(ShadowStart:);

/// `h + a U D dropout(h - s)` in front of a layer.
#[derive(Module, Debug)]
pub(crate) struct ShadowCorrection {
    /// D, `[r, d_model]`.
    pub(crate) down: Param<Tensor<2>>,
    /// U, `[d_model, r]`.
    pub(crate) up: Param<Tensor<2>>,
    /// The factor a.
    pub(crate) alpha: f64,
    /// Dropout probability on the difference.
    pub(crate) dropout: f64,
}

impl SiteAdapter<OutputState> for ShadowCorrection {
    fn apply(&self, state: OutputState, call: &Call<'_>) -> OutputState {
        let Some(shadow) = state.carried.clone() else {
            return state;
        };
        let difference = call.dropout(state.hidden.clone() - shadow, self.dropout);
        let correction = project(project(difference, self.down.val()), self.up.val());
        OutputState {
            hidden: state.hidden + correction * self.alpha,
            ..state
        }
    }

    fn effect(&self) {}

    fn causality(&self) -> Causality {
        Causality::Causal
    }
}

named_params!(ShadowCorrection: "shadow_down.default.weight" => down, "shadow_up.default.weight" => up);

/// `(1 - g) s + g t` behind a layer.
#[derive(Module, Debug)]
pub(crate) struct ShadowUpdate {
    /// Makes t.
    pub(crate) transform: TwoLayers,
    /// Makes g, in front of the sigmoid.
    pub(crate) gate: TwoLayers,
}

/// `W2 gelu(W1 h + b1) + b2`.
#[derive(Module, Debug)]
pub(crate) struct TwoLayers {
    /// `[inner, d_model]`.
    pub(crate) first: Param<Tensor<2>>,
    /// `[inner]`.
    pub(crate) first_bias: Param<Tensor<1>>,
    /// `[d_model, inner]`.
    pub(crate) second: Param<Tensor<2>>,
    /// `[d_model]`.
    pub(crate) second_bias: Param<Tensor<1>>,
}

impl TwoLayers {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let inner = affine(x, self.first.val(), self.first_bias.val());
        affine(
            Activation::Gelu.forward(inner),
            self.second.val(),
            self.second_bias.val(),
        )
    }
}

impl SiteAdapter<OutputState> for ShadowUpdate {
    fn apply(&self, state: OutputState, _call: &Call<'_>) -> OutputState {
        let Some(shadow) = state.carried.clone() else {
            return state;
        };
        let candidate = self.transform.forward(state.hidden.clone());
        let gate = sigmoid(self.gate.forward(state.hidden.clone()));
        OutputState {
            carried: Some(shadow.clone() + gate * (candidate - shadow)),
            ..state
        }
    }

    fn effect(&self) {}

    fn causality(&self) -> Causality {
        Causality::Causal
    }
}

impl NamedParams for ShadowUpdate {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let of = |name: &str, network: &TwoLayers| {
            [
                ("0.weight", network.first.id),
                ("0.bias", network.first_bias.id),
                ("2.weight", network.second.id),
                ("2.bias", network.second_bias.id),
            ]
            .map(|(what, id)| (format!("shadow_update_{name}.default.{what}").into(), id))
        };
        [of("transform", &self.transform), of("gate", &self.gate)].concat()
    }
}
