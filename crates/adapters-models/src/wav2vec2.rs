//! wav2vec 2.0, from the published configuration to the last hidden state.
//!
//! Paper: *wav2vec 2.0: A Framework for Self-Supervised Learning of Speech Representations*, Baevski et al., 2020,
//! <https://arxiv.org/abs/2006.11477>. Behavior follows `Wav2Vec2Model` of Hugging Face transformers; SpecAugment is not
//! applied in training.

use crate::modeling::*;
use crate::sound::{LayerSum, patches};
use crate::standard_layer::{StandardLayer, StandardNames, StandardOptions};
use crate::wav2vec2_adapters::{LanguageAdapter, Shortening, ShorteningSizes, Wav2Vec2Layer};
use adapters_core::{ConvolutionRole, GroupedConvolution};

/// Epsilon of the normalizations behind the convolutions, which the published class does not configure.
const EPSILON: f64 = 1e-5;

/// `config.json` of a wav2vec 2.0 checkpoint: the fields that change what is computed. Others are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Wav2Vec2Config {
    pub(crate) hidden_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) num_attention_heads: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) hidden_act: String,
    pub(crate) hidden_dropout: f64,
    pub(crate) activation_dropout: f64,
    pub(crate) attention_dropout: f64,
    pub(crate) feat_proj_dropout: f64,
    pub(crate) final_dropout: f64,
    /// Probability that a batch skips a layer, in training.
    pub(crate) layerdrop: f64,
    pub(crate) layer_norm_eps: f64,
    /// `group`: a normalization over time behind the first convolution; `layer`: one over channels behind each.
    pub(crate) feat_extract_norm: String,
    pub(crate) feat_extract_activation: String,
    pub(crate) conv_dim: Vec<usize>,
    pub(crate) conv_stride: Vec<usize>,
    pub(crate) conv_kernel: Vec<usize>,
    pub(crate) conv_bias: bool,
    pub(crate) num_conv_pos_embeddings: usize,
    pub(crate) num_conv_pos_embedding_groups: usize,
    /// Whether norms come before the blocks.
    pub(crate) do_stable_layer_norm: bool,
    /// Whether classes are told by a weighted sum of all hidden states, and not by the last one.
    pub(crate) use_weighted_layer_sum: bool,
    /// Width of the language adapters inside, which layers have whose norms come before the blocks.
    pub(crate) adapter_attn_dim: Option<usize>,
    /// Whether convolutions behind the last layer make the sequence shorter.
    pub(crate) add_adapter: bool,
    pub(crate) adapter_kernel_size: usize,
    pub(crate) adapter_stride: usize,
    pub(crate) num_adapter_layers: usize,
    /// Width of what leaves these convolutions; that of the layers without it.
    pub(crate) output_hidden_size: Option<usize>,
}

impl Default for Wav2Vec2Config {
    /// The defaults of the published class (wav2vec 2.0 base).
    fn default() -> Self {
        Self {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "gelu".to_owned(),
            hidden_dropout: 0.1,
            activation_dropout: 0.1,
            attention_dropout: 0.1,
            feat_proj_dropout: 0.0,
            final_dropout: 0.1,
            layerdrop: 0.1,
            layer_norm_eps: 1e-5,
            feat_extract_norm: "group".to_owned(),
            feat_extract_activation: "gelu".to_owned(),
            conv_dim: vec![512; 7],
            conv_stride: vec![5, 2, 2, 2, 2, 2, 2],
            conv_kernel: vec![10, 3, 3, 3, 3, 2, 2],
            conv_bias: false,
            num_conv_pos_embeddings: 128,
            num_conv_pos_embedding_groups: 16,
            do_stable_layer_norm: false,
            use_weighted_layer_sum: false,
            adapter_attn_dim: None,
            add_adapter: false,
            adapter_kernel_size: 3,
            adapter_stride: 2,
            num_adapter_layers: 3,
            output_hidden_size: None,
        }
    }
}

impl Wav2Vec2Config {
    /// Checks the values against each other and against what is computed here; returns the activations of the feed-forward
    /// blocks and of the convolutions.
    fn check(&self, path: &Path) -> Result<[Activation; 2], ModelError> {
        let check = ConfigCheck::new(path);
        let groups = self.num_conv_pos_embedding_groups;
        check.sizes([
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("num_conv_pos_embeddings", self.num_conv_pos_embeddings),
            ("num_conv_pos_embedding_groups", groups),
        ])?;
        check.layers([("num_hidden_layers", self.num_hidden_layers)])?;
        let heads = ("num_attention_heads", self.num_attention_heads);
        check.multiple(("hidden_size", self.hidden_size), heads)?;
        check.multiple(
            ("hidden_size", self.hidden_size),
            ("num_conv_pos_embedding_groups", groups),
        )?;
        check.dropouts([
            ("hidden_dropout", self.hidden_dropout),
            ("activation_dropout", self.activation_dropout),
            ("attention_dropout", self.attention_dropout),
            ("feat_proj_dropout", self.feat_proj_dropout),
            ("final_dropout", self.final_dropout),
            ("layerdrop", self.layerdrop),
        ])?;
        let count = self.conv_dim.len();
        check.layers([("conv_dim", count)])?;
        for (field, list) in [("conv_stride", &self.conv_stride), ("conv_kernel", &self.conv_kernel)] {
            check.require(
                list.len() == count,
                field,
                format!("{count} numbers, as conv_dim"),
                list.len(),
            )?;
        }
        for (field, list) in [
            ("conv_dim", &self.conv_dim),
            ("conv_stride", &self.conv_stride),
            ("conv_kernel", &self.conv_kernel),
        ] {
            list.iter().try_for_each(|size| check.sizes([(field, *size)]))?;
        }
        let norm = &self.feat_extract_norm;
        check.require(
            norm == "group" || norm == "layer",
            "feat_extract_norm",
            "`group` or `layer`",
            norm,
        )?;
        check.sizes([
            ("adapter_attn_dim", self.adapter_attn_dim.unwrap_or(1)),
            ("adapter_kernel_size", self.adapter_kernel_size),
            ("adapter_stride", self.adapter_stride),
            ("output_hidden_size", self.output_width()),
        ])?;
        if self.add_adapter {
            let count = self.num_adapter_layers;
            check.require(count <= 64, "num_adapter_layers", "at most 64", count)?;
            // As in the class of transformers for classes of sounds.
            let expected = "false with add_adapter: the hidden states have other lengths than the output";
            check.require(!self.use_weighted_layer_sum, "use_weighted_layer_sum", expected, true)?;
        }
        let convolutions = &self.feat_extract_activation;
        Ok([
            check.activation("hidden_act", &self.hidden_act)?,
            check.activation("feat_extract_activation", convolutions)?,
        ])
    }

    fn layer(&self, activation: Activation) -> StandardOptions {
        StandardOptions {
            names: StandardNames {
                attention: "attention",
                attention_norm: "layer_norm",
                up: "feed_forward.intermediate_dense",
                down: "feed_forward.output_dense",
                ..StandardNames::BART
            },
            norm_first: self.do_stable_layer_norm,
            norm_epsilon: self.layer_norm_eps,
            dropouts: [self.hidden_dropout; 2],
            attention_dropout: self.attention_dropout,
            activation_dropout: self.activation_dropout,
            layer_drop: self.layerdrop,
            ..StandardOptions::of(
                [self.hidden_size, self.num_attention_heads, self.intermediate_size],
                activation,
            )
        }
    }

    /// Width of what leaves the model.
    fn output_width(&self) -> usize {
        self.output_hidden_size
            .filter(|_| self.add_adapter)
            .unwrap_or(self.hidden_size)
    }

    /// Vectors of sounds of these many samples.
    fn vectors(&self, samples: Tensor<2, Int>) -> Tensor<2, Int> {
        let convolutions = self.conv_kernel.iter().zip(&self.conv_stride);
        convolutions.fold(samples, |samples, (kernel, stride)| {
            // A sound that is shorter than the kernel has none.
            let behind = samples - *kernel as i64 + *stride as i64;
            behind.clamp_min(0) / *stride as i64
        })
    }
}

/// wav2vec 2.0: convolutions over samples, a projection, positions by a convolution, and layers.
#[derive(Module, Sites, Debug)]
pub(crate) struct Wav2Vec2Model {
    extractor: Vec<SoundConvolution>,
    projection_norm: Sited<LayerNorm>,
    projection: Sited<Linear>,
    /// Over neighboring vectors, in groups of features.
    positions: Sited<GroupedConvolution>,
    /// Before the layers, or after them where norms come before the blocks.
    norm: Sited<LayerNorm>,
    layers: Vec<Wav2Vec2Layer>,
    sum: Option<LayerSum>,
    shortening: Option<Shortening>,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    config: Wav2Vec2Config,
}

#[derive(Module, Sites, Debug)]
struct SoundConvolution {
    convolution: Sited<Linear>,
    norm: Option<LayerNorm>,
    /// Whether the normalization is over time, channel by channel.
    over_time: bool,
    kernel: usize,
    stride: usize,
}

impl FromCheckpoint for Wav2Vec2Model {
    type Config = Wav2Vec2Config;
    const PREFIX: &'static str = "wav2vec2.";

    fn build(config: Wav2Vec2Config, path: &Path, weights: &mut Weights) -> Result<Self, ModelError> {
        let [of_layers, activation] = config.check(path)?;
        let (d, eps) = (config.hidden_size, config.layer_norm_eps);
        let extractor = (0..config.conv_dim.len()).map(|index| SoundConvolution::build(&config, index, weights));
        let extractor = extractor.collect();
        let heard = config.conv_dim.last().copied().unwrap_or(1);
        let options = config.layer(of_layers);
        let layers = (0..config.num_hidden_layers).map(|index| {
            let location = Location::layer(Stack::Encoder, index);
            let name = format!("encoder.layers.{index}");
            let inner = config.adapter_attn_dim.filter(|_| config.do_stable_layer_norm);
            Wav2Vec2Layer {
                layer: StandardLayer::build(&options, weights.at(location, &name)),
                language: inner
                    .map(|inner| LanguageAdapter::build([d, inner], EPSILON, &mut weights.at(location, &name))),
            }
        });
        let layers = layers.collect();
        let positions = position_convolution(&config, weights);
        let shortening = config.add_adapter.then(|| {
            let sizes = ShorteningSizes {
                widths: [d, config.output_width()],
                count: config.num_adapter_layers,
                kernel: config.adapter_kernel_size,
                stride: config.adapter_stride,
                first: config.conv_dim.len(),
            };
            Shortening::build(sizes, EPSILON, weights)
        });
        let sum = LayerSum::build(config.use_weighted_layer_sum, config.num_hidden_layers, weights);
        let mut at = weights.at(Location::outside(Stack::Encoder), "");
        Ok(Self {
            extractor,
            projection_norm: at.layer_norm(NormRole::EmbeddingNorm, "feature_projection.layer_norm", heard, eps),
            projection: at.linear(LinearRole::InputProjection, "feature_projection.projection", [heard, d]),
            positions,
            norm: at.layer_norm(NormRole::FinalNorm, "encoder.layer_norm", d, eps),
            layers,
            sum,
            shortening,
            activation,
            config,
        })
    }

    /// What stands for a hidden vector in training, and what larger classes have.
    fn is_unused(&self, key: &str) -> bool {
        let larger = [
            "lm_head.",
            "quantizer.",
            "project_hid.",
            "project_q.",
            "projector.",
            "classifier.",
        ];
        key == "masked_spec_embed" || larger.iter().any(|known| key.starts_with(known))
    }
}

/// The convolution of positions, whose weight is published as lengths and directions: `g v / |v|`, the length over both
/// channels, sample by sample of the kernel.
fn position_convolution(config: &Wav2Vec2Config, weights: &mut Weights) -> Sited<GroupedConvolution> {
    let (d, groups, kernel) = (
        config.hidden_size,
        config.num_conv_pos_embedding_groups,
        config.num_conv_pos_embeddings,
    );
    let path = "encoder.pos_conv_embed.conv";
    let old = weights.has(&format!("{path}.weight_g")) && !weights.is_random();
    let [length, direction] = match old {
        true => ["weight_g", "weight_v"],
        false => ["parametrizations.weight.original0", "parametrizations.weight.original1"],
    };
    let length: Param<Tensor<3>> = weights.tensor(&format!("{path}.{length}"), [1, 1, kernel]);
    let direction: Param<Tensor<3>> = weights.tensor(&format!("{path}.{direction}"), [d, d / groups, kernel]);
    let (length, direction) = (length.val(), direction.val());
    let norm = direction.clone().square().sum_dim(0).sum_dim(1).sqrt();
    let convolution = GroupedConvolution {
        weight: Param::from_tensor(direction * length / norm).set_require_grad(false),
        bias: Some(weights.vector(&format!("{path}.bias"), d)),
        groups,
        zeros: kernel / 2,
    };
    Sited::new(
        Location::outside(Stack::Encoder),
        ConvolutionRole::PositionConvolution,
        path,
        convolution,
    )
}

impl SoundConvolution {
    fn build(config: &Wav2Vec2Config, index: usize, weights: &mut Weights) -> Self {
        let channels = index.checked_sub(1).map_or(1, |before| config.conv_dim[before]);
        let (d, kernel) = (config.conv_dim[index], config.conv_kernel[index]);
        let over_time = config.feat_extract_norm == "group";
        let name = format!("feature_extractor.conv_layers.{index}");
        let mut at = weights.at(Location::layer(Stack::Encoder, index), name);
        Self {
            convolution: at.convolution("conv", config.conv_bias, vec![channels, kernel], d),
            norm: (!over_time || index == 0).then(|| at.plain_layer_norm("layer_norm", d, EPSILON)),
            over_time,
            kernel,
            stride: config.conv_stride[index],
        }
    }

    /// `[batch, channels, samples]` to the same with fewer samples.
    fn forward(&self, x: Tensor<3>, activation: Activation, cx: &mut Hooks<'_>) -> Tensor<3> {
        let x = cx.linear(&self.convolution, patches(x, self.kernel, self.stride, 0));
        let x = match &self.norm {
            Some(norm) if self.over_time => {
                let centered = x.clone() - x.mean_dim(1);
                let variance = centered.clone().square().mean_dim(1);
                let normed = centered / (variance + EPSILON).sqrt() * norm.gamma.val().unsqueeze();
                match &norm.beta {
                    Some(beta) => normed + beta.val().unsqueeze(),
                    None => normed,
                }
            }
            Some(norm) => ops::layer_norm(norm, x),
            None => x,
        };
        activation.forward(x).swap_dims(1, 2)
    }
}

impl Wav2Vec2Model {
    /// True at vectors of padding, `[batch, vectors]`.
    fn vector_padding(&self, padding: Tensor<2, Bool>, vectors: usize) -> Tensor<2, Bool> {
        let ([rows, _], device) = (padding.dims(), padding.device());
        let heard = self.config.vectors(padding.bool_not().int().sum_dim(1));
        let at = Tensor::<1, Int>::arange(0..vectors as i64, &device).unsqueeze::<2>();
        at.expand([rows, vectors]).greater_equal(heard.expand([rows, vectors]))
    }
}

/// The samples of a pass, `[batch, 1, samples]`, and their padding.
struct Samples(Tensor<3>, Option<Tensor<2, Bool>>);

impl Batch for Samples {
    fn size(&self) -> [usize; 2] {
        let [rows, _, samples] = self.0.dims();
        [rows, samples]
    }

    fn repeated(self, times: usize) -> Self {
        Self(
            self.0.repeat_dim(0, times),
            self.1.map(|padding| padding.repeat_dim(0, times)),
        )
    }
}

impl Transformer for Wav2Vec2Model {
    type Input = SoundInput;

    fn info(&self) -> ModelInfo {
        let c = &self.config;
        ModelInfo {
            num_layers: c.num_hidden_layers,
            max_length: None,
            head_norm_epsilon: c.layer_norm_eps,
            head_dropout: c.final_dropout,
            activation: c.hidden_act.clone(),
            ..ModelInfo::default()
        }
    }

    fn chain(&self, input: SoundInput, _: Option<&mut KeyValueCache>, cx: &mut Ctx<'_>) -> Result<Chain<'_>, Error> {
        let c = &self.config;
        let samples = Samples(input.samples.unsqueeze_dim(1), input.padding);
        let (cx, Samples(mut x, padding)) = cx.begin(self, samples)?;
        for convolution in &self.extractor {
            x = convolution.forward(x, self.activation, cx);
        }
        let x = cx.norm(&self.projection_norm, x.swap_dims(1, 2));
        let x = cx.linear(&self.projection, x);
        let mut x = cx.dropout(x, c.feat_proj_dropout);
        let padding = padding.map(|padding| self.vector_padding(padding, x.dims()[1]));
        cx.next_stack(padding.clone());
        if let Some(padding) = &padding {
            x = x.clone() * padding.clone().bool_not().float().unsqueeze_dim(2);
        }
        let seq = x.dims()[1];
        let near = cx
            .convolution(&self.positions, x.clone().swap_dims(1, 2))
            .slice_dim(2, 0..seq);
        let mut x = x + self.activation.forward(near).swap_dims(1, 2);
        if !c.do_stable_layer_norm {
            x = cx.norm(&self.norm, x);
        }
        let x = cx.dropout(x, c.hidden_dropout);
        let chain = Chain::new(x).layers(&self.layers, [padding.clone().map(ops::padding_bias), None]);
        let chain = match c.do_stable_layer_norm {
            true => chain.then(|x, cx| cx.norm(&self.norm, x)),
            false => chain,
        };
        Ok(match (&self.sum, &self.shortening) {
            (Some(sum), _) => sum.extend(chain),
            (None, Some(shortening)) => chain.then(move |x, cx| shortening.forward(x, padding.as_ref(), cx)),
            (None, None) => chain,
        })
    }

    fn sound_encoder(&self) -> Option<&dyn SoundEncoder> {
        Some(self)
    }
}

impl SoundEncoder for Wav2Vec2Model {
    fn reads(&self) -> SoundForm {
        let convolutions = self.config.conv_kernel.iter().zip(&self.config.conv_stride).rev();
        let needed = self.shortening.as_ref().map_or(1, Shortening::shortest);
        SoundForm::Samples {
            shortest: convolutions.fold(needed, |vectors, (kernel, stride)| {
                (vectors - 1).saturating_mul(*stride).saturating_add(*kernel)
            }),
        }
    }
}

impl Host for Wav2Vec2Model {
    fn architecture(&self) -> &str {
        "wav2vec2"
    }

    fn class_name(&self) -> &str {
        "Wav2Vec2Model"
    }

    fn d_model(&self) -> usize {
        self.config.output_width()
    }

    fn d_model_of(&self, _: Stack) -> usize {
        self.config.hidden_size
    }

    fn base_prefix(&self) -> &str {
        Self::PREFIX
    }

    fn attention_dropout(&self) -> f64 {
        self.config.attention_dropout
    }
}
