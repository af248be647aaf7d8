//! The text model of CLIP: it reads texts from left to right.

use super::LAYER;
use crate::modeling::*;
use crate::standard_layer::{StandardLayer, StandardOptions};

/// `config.json` of a text model: the fields that change what is computed. Others are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct ClipTextConfig {
    pub(crate) vocab_size: usize,
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) num_attention_heads: usize,
    pub(crate) max_position_embeddings: usize,
    pub(crate) hidden_act: String,
    pub(crate) layer_norm_eps: f64,
    pub(crate) attention_dropout: f64,
    pub(crate) pad_token_id: usize,
    pub(crate) eos_token_id: usize,
}

impl Default for ClipTextConfig {
    /// The defaults of the published class.
    fn default() -> Self {
        Self {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: "quick_gelu".to_owned(),
            layer_norm_eps: 1e-5,
            attention_dropout: 0.0,
            pad_token_id: 1,
            eos_token_id: 49407,
        }
    }
}

impl ClipTextConfig {
    fn check(&self, path: &Path) -> Result<StandardOptions, ModelError> {
        let check = ConfigCheck::new(path);
        check.sizes([
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
        ])?;
        check.layers([("num_hidden_layers", self.num_hidden_layers)])?;
        let heads = ("num_attention_heads", self.num_attention_heads);
        check.multiple(("hidden_size", self.hidden_size), heads)?;
        check.dropouts([("attention_dropout", self.attention_dropout)])?;
        Ok(StandardOptions {
            names: LAYER,
            norm_epsilon: self.layer_norm_eps,
            attention_dropout: self.attention_dropout,
            filler: self.pad_token_id,
            ..StandardOptions::of(
                [self.hidden_size, self.num_attention_heads, self.intermediate_size],
                check.activation("hidden_act", &self.hidden_act)?,
            )
        })
    }
}

/// The text model: embeddings, layers and a final normalization.
#[derive(Module, Sites, Debug)]
pub(crate) struct ClipTextModel {
    words: Sited<Embedding>,
    embedded: Point<EmbeddingHook>,
    positions: Embedding,
    embedding: Point<EmbeddingHook>,
    layers: Vec<StandardLayer>,
    norm: Sited<LayerNorm>,
    #[module(skip)]
    pub(super) config: ClipTextConfig,
}

impl FromCheckpoint for ClipTextModel {
    type Config = ClipTextConfig;
    const PREFIX: &'static str = "clip.";

    fn build(config: ClipTextConfig, path: &Path, weights: &mut Weights) -> Result<Self, ModelError> {
        let options = config.check(path)?;
        let d = config.hidden_size;
        let layers = (Stack::Encoder, "text_model.encoder.layers");
        let layers = StandardLayer::stack(&options, layers, config.num_hidden_layers, weights);
        let mut at = weights.at(Location::outside(Stack::Encoder), "text_model");
        let words = "embeddings.token_embedding";
        Ok(Self {
            words: at.table(words, [config.vocab_size, d], None),
            embedded: at.embedded(EmbeddingRole::EmbeddedTokens, words, d),
            positions: at.embedding("embeddings.position_embedding", [config.max_position_embeddings, d]),
            embedding: at.embedded(EmbeddingRole::Embedding, "embeddings", d),
            layers,
            norm: at.layer_norm(NormRole::FinalNorm, "final_layer_norm", d, config.layer_norm_eps),
            config,
        })
    }

    /// What the checkpoint of both models has in addition.
    fn is_unused(&self, key: &str) -> bool {
        let larger = ["text_projection.", "visual_projection.", "logit_scale", "vision_model."];
        larger.iter().any(|known| key.starts_with(known)) || key.ends_with("embeddings.position_ids")
    }
}

impl ClipTextModel {
    /// What enters the first layer of a pass that has begun.
    pub(super) fn embed(&self, input: TextInput, cx: &mut Hooks<'_>) -> EmbeddingState {
        let words = cx.lookup(&self.words, input.ids);
        let mut state = cx.embedding(&self.embedded, EmbeddingState::new(words, input.padding));
        let ([_, seq, _], first) = (state.hidden.dims(), cx.first_position());
        let positions = self.positions.weight.val().slice_dim(0, first..first + seq);
        state.hidden = state.hidden + positions.unsqueeze();
        cx.embedding(&self.embedding, state)
    }

    /// The layers, and the normalization after them.
    pub(super) fn layers_of(&self, state: EmbeddingState) -> Chain<'_> {
        let [_, seq, _] = state.hidden.dims();
        let device = state.hidden.device().inner();
        let mask = ops::causal_bias(seq, 0, None, state.padding.as_ref(), &device);
        let chain = Chain::new(state.hidden).layers(&self.layers, [Some(mask), None]);
        chain.then(|x, cx| cx.norm(&self.norm, x))
    }
}

impl ClipTextModel {
    /// Where the vector of a whole text stands: at its first end token, or in old configurations, whose end token is wrong,
    /// at its largest id. `[batch, seq] -> [batch]`
    pub(super) fn ends(&self, ids: Tensor<2, Int>) -> Tensor<1, Int> {
        let ends = match self.config.eos_token_id {
            2 => ids,
            end => ids.equal_elem(end as i64).int(),
        };
        // The first of several that are largest.
        let largest = ends.clone().max_dim(1);
        let seq = ends.dims()[1];
        let behind = Tensor::<1, Int>::arange(0..seq as i64, &ends.device()).unsqueeze::<2>();
        let found = ends.equal(largest).int();
        let first = (found.clone() * behind + (found * -1 + 1) * seq as i64).min_dim(1);
        first.squeeze_dim(1)
    }
}

impl Transformer for ClipTextModel {
    type Input = TextInput;

    fn info(&self) -> ModelInfo {
        let c = &self.config;
        ModelInfo {
            num_layers: c.num_hidden_layers,
            max_length: Some(c.max_position_embeddings),
            vocab_size: c.vocab_size,
            pad_id: c.pad_token_id,
            head_norm_epsilon: c.layer_norm_eps,
            activation: c.hidden_act.clone(),
            ..ModelInfo::default()
        }
    }

    fn chain(&self, input: TextInput, _: Option<&mut KeyValueCache>, cx: &mut Ctx<'_>) -> Result<Chain<'_>, Error> {
        let (cx, input) = cx.begin(self, input)?;
        Ok(self.layers_of(self.embed(input, cx)))
    }

    fn text_encoder(&self) -> Option<&dyn TextEncoder> {
        Some(self)
    }
}

impl TextEncoder for ClipTextModel {}

impl Host for ClipTextModel {
    fn architecture(&self) -> &str {
        "clip_text_model"
    }

    fn class_name(&self) -> &str {
        "CLIPTextModel"
    }

    fn d_model(&self) -> usize {
        self.config.hidden_size
    }

    fn base_prefix(&self) -> &str {
        Self::PREFIX
    }

    fn attention_dropout(&self) -> f64 {
        self.config.attention_dropout
    }

    fn attention_name(&self, _: Stack) -> &'static str {
        "clip_text_model_self_prefix"
    }
}
