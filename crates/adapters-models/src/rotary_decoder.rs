//! The decoder of Llama and its relatives, from a checked configuration to logits: rotary positions, grouped queries, two blocks
//! a layer.
//!
//! What a family adds is in its own file, as a [`Family`]. Papers: *RoFormer* for the positions (see
//! [`rotary`](mod@crate::rotary)); *GQA: Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints*,
//! Ainslie et al., 2023, <https://arxiv.org/abs/2305.13245>; *Root Mean Square Layer Normalization*, Zhang and Sennrich, 2019,
//! <https://arxiv.org/abs/1910.07467>. Behavior follows the causal language models of Hugging Face transformers.

use adapters_core::{LayerMut, LayerRef, Mirror, MirrorInput, MirrorPlan, Pass, Role, SiteInfo};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::checkpoint_folder::{CheckpointFolder, object};
use crate::lm_head::LmHead;
use crate::model::Model;
use crate::modeling::*;
use crate::norm::{Norm, NormKind};
use crate::packing::{Packing, bidirectional_bias, causal_bias};
use crate::rotary::{self, Rotary};
use crate::rotary_config::{Rotaries, RotaryDecoderConfig};
use crate::rotary_family::{AdapterHubForm, EmbeddingFactor, Family, Logits};
use crate::rotary_layer::{Frame, RotaryLayer};

/// A causal language model of one of the families: embeddings, layers, norm and head.
#[derive(Module, Sites, Debug)]
pub(crate) struct RotaryDecoder {
    words: Sited<Embedding>,
    embedded: Point<EmbeddingHook>,
    embedding: Point<EmbeddingHook>,
    layers: Vec<RotaryLayer>,
    norm: Sited<Norm>,
    head: LmHead,
    #[module(skip)]
    config: RotaryDecoderConfig,
    #[module(skip)]
    family: Family,
    #[module(skip)]
    rotaries: Rotaries,
}

impl RotaryDecoder {
    /// Loads a checkpoint of a family: `defaults` are those of its published class, and `family` decides by the fields that all
    /// families have and those of its own.
    pub(crate) fn load_family<Own: DeserializeOwned>(
        source: &CheckpointFolder,
        defaults: Value,
        family: fn(&RotaryDecoderConfig, Own, ConfigCheck<'_>) -> Result<Family, ModelError>,
        device: &Device,
    ) -> Result<Model, ModelError> {
        let defaults = object(defaults);
        let config: RotaryDecoderConfig = source.config_with(defaults.clone())?;
        let own = source.config_with(defaults)?;
        let path = source.dir().join("config.json");
        let check = ConfigCheck::new(&path);
        config.check_sizes(check)?;
        let family = family(&config, own, check)?;
        Ok(Model::new(Self::load(source, (family, config), device)?))
    }

    /// Rows of the token table, as adapters read them.
    fn scaled(&self, rows: Tensor<3>) -> Tensor<3> {
        match self.family.embeddings {
            EmbeddingFactor::Rows(factor) => rows * factor,
            EmbeddingFactor::One | EmbeddingFactor::State(_) => rows,
        }
    }

    /// The pass from the embedded tokens on.
    fn continued(
        &self,
        hidden: Tensor<3>,
        past: usize,
        padding: Option<Tensor<2, Bool>>,
        packing: Option<&Packing>,
        cx: &mut Hooks<'_>,
    ) -> Chain<'_> {
        let hidden = match self.family.embeddings {
            EmbeddingFactor::State(factor) => hidden * factor,
            EmbeddingFactor::One | EmbeddingFactor::Rows(_) => hidden,
        };
        let hidden = cx.dropout(hidden, self.family.embedding_dropout);
        let [_, seq, _] = hidden.dims();
        let frame = self.frame([seq, past], padding, packing, &hidden.device(), cx);
        let chain = Chain::new(hidden).carrying(cx.take_carried());
        chain.layers(&self.layers, frame).then(|x, cx| cx.norm(&self.norm, x))
    }

    fn frame(
        &self,
        [seq, past]: [usize; 2],
        padding: Option<Tensor<2, Bool>>,
        packing: Option<&Packing>,
        device: &Device,
        cx: &Hooks<'_>,
    ) -> Frame {
        let positions = rotary::positions([seq, past], padding.as_ref(), packing, device, cx);
        let mut biases: Vec<(Option<usize>, Tensor<4>)> = Vec::new();
        for window in self.family.layers.iter().map(|layer| layer.window) {
            if !biases.iter().any(|(of, _)| *of == window) {
                let seen = match self.family.bidirectional {
                    false => causal_bias,
                    true => bidirectional_bias,
                };
                biases.push((window, seen([seq, past], window, padding.as_ref(), packing, device)));
            }
        }
        let at = |rotary: &Rotary| rotary.at(positions.clone(), device);
        let last = self.layers.last();
        let last = last.filter(|_| self.family.adapterhub == AdapterHubForm::InterfaceWithLastNorms);
        Frame {
            full: at(&self.rotaries.full),
            sliding: self.rotaries.sliding.as_ref().map(at),
            biases,
            sum_norms: last.and_then(|layer| layer.output_norms(cx)),
        }
    }
}

impl FromCheckpoint for RotaryDecoder {
    type Config = (Family, RotaryDecoderConfig);
    const PREFIX: &'static str = "model.";
    const LARGER_CLASS: bool = true;

    fn build((family, config): Self::Config, path: &Path, weights: &mut Weights) -> Result<Self, ModelError> {
        let (activation, rotaries) = config.check(path, &family)?;
        let (d, vocab) = (config.hidden_size, config.vocab_size);
        let outside = Location::outside(Stack::Decoder);
        let mut at = weights.at(outside, "");
        let words = at.table("embed_tokens", [vocab, d], config.pad_token_id);
        let embedded = at.embedded(EmbeddingRole::EmbeddedTokens, "embed_tokens", d);
        let embedding = at.embedded(EmbeddingRole::Embedding, "", d);
        let layers = family.layers.iter().enumerate().map(|(index, plan)| {
            let at = weights.at(Location::layer(Stack::Decoder, index), format!("layers.{index}"));
            RotaryLayer::build(&config, &family, activation, *plan, at)
        });
        let layers = layers.collect();
        let mut at = weights.at(outside, "");
        let norm = at.norm(
            family.norm,
            NormRole::FinalNorm,
            family.final_norm,
            d,
            config.rms_norm_eps,
        );
        let tied = config.tie_word_embeddings.then_some(&words);
        Ok(Self {
            head: LmHead::build("lm_head", family.head_bias, tied, [d, vocab], weights),
            words,
            embedded,
            embedding,
            layers,
            norm,
            config,
            family,
            rotaries,
        })
    }

    /// Old buffers, and the table a second time.
    fn is_unused(&self, key: &str) -> bool {
        key.ends_with(".rotary_emb.inv_freq") || (self.config.tie_word_embeddings && key == "lm_head.weight")
    }
}

impl Transformer for RotaryDecoder {
    type Input = TextInput;

    fn info(&self) -> ModelInfo {
        let c = &self.config;
        ModelInfo {
            num_layers: c.num_hidden_layers,
            max_length: Some(c.max_position_embeddings),
            vocab_size: c.vocab_size,
            pad_id: c.pad_token_id.unwrap_or(0),
            token_types: None,
            // The configuration of the others has no `layer_norm_eps`.
            head_norm_epsilon: match self.family.norm {
                NormKind::Layer => c.rms_norm_eps,
                NormKind::Rms | NormKind::OnePlusRms => 1e-12,
            },
            head_dropout: 0.0,
            activation: self.family.activation.clone(),
            masked_lm: None,
        }
    }

    fn chain(&self, input: TextInput, cache: Option<&mut KeyValueCache>, cx: &mut Ctx<'_>) -> Result<Chain<'_>, Error> {
        let (begun, cx) = Begun::new(self, input, cache, cx)?;
        let scale = |rows| self.scaled(rows);
        let Embedded {
            state, packing, past, ..
        } = begun.embed(&self.words, &self.embedded, scale, cx);
        let EmbeddingState { hidden, padding, .. } = cx.embedding(&self.embedding, state);
        Ok(self.continued(hidden, past, padding, packing.as_ref(), cx))
    }

    fn with_layers(mut self, order: &[usize]) -> Option<Self> {
        self.layers = replicated(&self.layers, order);
        self.config.num_hidden_layers = order.len();
        Some(self)
    }

    fn causal_lm(&self) -> Option<&dyn CausalLm> {
        Some(self)
    }
}

impl CausalLm for RotaryDecoder {
    fn keeps(&self, past: usize, all: usize) -> bool {
        if self.family.bidirectional {
            return false;
        }
        let Rotaries { full, sliding } = &self.rotaries;
        full.keeps(past, all) && sliding.as_ref().is_none_or(|rotary| rotary.keeps(past, all))
    }

    fn scores(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> LinearScores {
        let cx = cx.hooks();
        let hidden = match self.family.adapterhub {
            AdapterHubForm::Classes => hidden,
            AdapterHubForm::Interface | AdapterHubForm::InterfaceWithLastNorms => {
                cx.before_lm_head(self.embedding.site(), hidden)
            }
        };
        let scores = self.head.scores(hidden, cx);
        match self.family.logits {
            Logits::Plain => scores,
            Logits::Divided(by) => scores.map(|scores| scores / by),
            Logits::Capped(cap) => scores.map(|scores| (scores / cap).tanh() * cap),
        }
    }
}

impl Host for RotaryDecoder {
    fn architecture(&self) -> &str {
        self.family.model_type
    }

    fn class_name(&self) -> &str {
        self.family.class_name
    }

    fn d_model(&self) -> usize {
        self.config.hidden_size
    }

    fn base_prefix(&self) -> &str {
        Self::PREFIX
    }

    fn is_larger_class(&self) -> bool {
        Self::LARGER_CLASS
    }

    fn mirror(&self, plan: &MirrorPlan, device: &Device) -> Result<Box<dyn Mirror>, String> {
        if !self.family.has_mirror() {
            return Err(format!(
                "a smaller {} model has parameters without a module of their own, which do not train",
                self.family.model_type
            ));
        }
        let [heads, kv_heads, d_head] = self.config.heads();
        let config = RotaryDecoderConfig {
            // A head is not made, nor a table that is not its own.
            vocab_size: if plan.own_table { self.config.vocab_size } else { 1 },
            pad_token_id: self.config.pad_token_id.filter(|_| plan.own_table),
            tie_word_embeddings: true,
            num_hidden_layers: plan.layers,
            hidden_size: plan.hidden_size.unwrap_or(self.config.hidden_size),
            intermediate_size: plan.intermediate_size.unwrap_or(self.config.intermediate_size),
            num_attention_heads: plan.heads.unwrap_or(heads),
            num_key_value_heads: Some(kv_heads),
            head_dim: Some(d_head),
            layer_types: None,
            ..self.config.clone()
        };
        let (planned, own) = (config.layer_elements(), self.config.layer_elements());
        if planned > own.max(SMALL_MIRROR) {
            return Err(format!(
                "its layers would have {planned} numbers, more than those of the model, which have {own}"
            ));
        }
        let layers = self
            .family
            .layers
            .iter()
            .chain(self.family.layers.last().into_iter().cycle());
        let family = Family {
            layers: layers.take(plan.layers).copied().collect(),
            ..self.family.clone()
        };
        let mut weights = Weights::random(plan.seed, device);
        let decoder = Self::build((family, config), Path::new("config.json"), &mut weights);
        Ok(Box::new(RotaryMirror {
            decoder: decoder.map_err(|error| error.to_string())?,
            own_table: plan.own_table,
        }))
    }

    fn hub_role(&self, role: Role) -> Role {
        match role {
            Role::FfnUp if self.family.adapterhub == AdapterHubForm::Classes => Role::FfnDown,
            Role::FfnDown if self.family.adapterhub == AdapterHubForm::Classes => Role::FfnUp,
            role => role,
        }
    }
}

/// Numbers in the layers of a mirror that may be larger than its host.
const SMALL_MIRROR: usize = 1 << 24;

/// A decoder without its head, and where it has no table of its own without that.
#[derive(Clone, Debug)]
struct RotaryMirror {
    decoder: RotaryDecoder,
    own_table: bool,
}

impl Sites for RotaryMirror {
    fn visit_sites<'a>(&'a self, visit: &mut dyn FnMut(&'a SiteInfo, LayerRef<'a>)) {
        if self.own_table {
            self.decoder.words.visit_sites(visit);
        }
        self.decoder.layers.visit_sites(visit);
        self.decoder.norm.visit_sites(visit);
    }

    fn visit_sites_mut<'a>(&'a mut self, visit: &mut dyn FnMut(&mut SiteInfo, LayerMut<'a>)) {
        if self.own_table {
            self.decoder.words.visit_sites_mut(visit);
        }
        self.decoder.layers.visit_sites_mut(visit);
        self.decoder.norm.visit_sites_mut(visit);
    }
}

impl Mirror for RotaryMirror {
    fn copied(&self) -> Box<dyn Mirror> {
        Box::new(self.clone())
    }

    fn forward(&self, input: MirrorInput, pass: &Pass) -> Tensor<3> {
        let mut cx = Hooks::plain(pass.clone());
        let hidden = match input {
            MirrorInput::Rows(rows) => rows,
            MirrorInput::Tokens(ids) => self.decoder.scaled(cx.lookup(&self.decoder.words, ids)),
        };
        let chain = self.decoder.continued(hidden, 0, pass.padding.clone(), None, &mut cx);
        chain.run(None, &mut cx)
    }
}
