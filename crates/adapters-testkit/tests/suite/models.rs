//! The contract of models, for every architecture of the library and for one a program registers.

mod table;
mod tiny;

use std::path::Path;

use adapters::core::{EmbeddingState, Error, Hooks, LinearRole, ResidualHook, ResidualRole, Stack};
use adapters::models::vit::VitModel;
use adapters::models::{
    ARCHITECTURES, Architecture, Architectures, Block, Chain, FromCheckpoint, KeyValueCache, ModelError, ModelInfo,
    ModelKind, Pretrained, Slot, TextEncoder, TextInput, Transformer, Weights,
};
use adapters::store::write_json;
use adapters::{Ctx, Host, Location, Point, Sited, Sites};
use adapters_testkit::model_contract::{ModelCase, all, random_checkpoint};
use burn::module::Module;
use burn::nn::{Embedding, Linear};
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use serde_json::json;

use tiny::configs;

/// The class of an architecture that has one of its own, else the `model_type`.
fn name_of(known: &Architecture) -> &'static str {
    known.class.unwrap_or(known.model_type)
}

fn check(model_type: &str) {
    let (configs, optional_keys) = configs(model_type);
    for config in configs {
        all(&ModelCase {
            config,
            optional_keys,
            architectures: Architectures::default(),
        });
    }
}

/// A test each, so that they run beside each other and fail alone.
macro_rules! checked {
    ($($test:ident: $model_type:literal),* $(,)?) => {
        $(#[test] fn $test() {
            check($model_type);
        })*

        #[test]
        fn no_architecture_is_left_out() {
            let checked = [$($model_type),*];
            let left_out: Vec<_> =
                ARCHITECTURES.iter().filter(|known| !checked.contains(&name_of(known))).collect();
            assert!(left_out.is_empty(), "{left_out:?}");
        }
    };
}

checked!(
    albert: "albert",
    bart: "bart",
    bert: "bert",
    bert_generation: "bert-generation",
    deberta: "deberta",
    deberta_v2: "deberta-v2",
    distilbert: "distilbert",
    electra: "electra",
    gemma2: "gemma2",
    gemma3_text: "gemma3_text",
    gpt2: "gpt2",
    gpt_neox: "gpt_neox",
    gpt_oss: "gpt_oss",
    gptj: "gptj",
    granite: "granite",
    llama: "llama",
    mbart: "mbart",
    mistral: "mistral",
    modernbert: "modernbert",
    mixtral: "mixtral",
    mt5: "mt5",
    olmo2: "olmo2",
    opt: "opt",
    phi3: "phi3",
    phi: "phi",
    plbart: "plbart",
    qwen2: "qwen2",
    qwen3: "qwen3",
    qwen3_moe: "qwen3_moe",
    roberta: "roberta",
    smollm3: "smollm3",
    t5: "t5",
    vit: "vit",
    xlm_roberta: "xlm-roberta",
    xlm_roberta_underscore: "xlm_roberta",
    xmod: "xmod",
    beit: "beit",
    clip: "clip",
    clip_text_model: "clip_text_model",
    clip_vision_model: "clip_vision_model",
    dinov2: "dinov2",
    encoder_decoder: "encoder-decoder",
    siglip_vision_model: "siglip_vision_model",
    wav2vec2: "wav2vec2",
    whisper: "whisper",
    whisper_encoder: "WhisperForAudioClassification",
);

/// The defaults of these families are beyond a small vocabulary.
#[test]
fn a_default_padding_token_is_compared_with_the_vocabulary() {
    for (name, default) in [
        ("modernbert", 50283),
        ("phi3", 32000),
        ("smollm3", 128004),
        ("whisper", 50256),
    ] {
        let (mut configs, optional_keys) = configs(name);
        let mut case = ModelCase {
            config: configs.remove(0),
            optional_keys,
            architectures: Architectures::default(),
        };
        case.config["pad_token_id"] = 0.into();
        let (dir, device) = (tempfile::tempdir().unwrap(), Device::flex());
        random_checkpoint(&case, dir.path(), &device);
        case.config.as_object_mut().unwrap().remove("pad_token_id");
        write_json(&dir.path().join("config.json"), &case.config).unwrap();
        let refused = Pretrained::open(dir.path())
            .unwrap()
            .model(&device)
            .unwrap_err()
            .to_string();
        let expected = format!("`pad_token_id` is {default}, expected a token id below vocab_size = 24");
        assert!(refused.contains(&expected), "{refused}");
    }
}

#[test]
fn a_vit_that_is_not_computed_is_refused_by_name() {
    for (field, value, expected) in [
        ("patch_size", 8, "`patch_size` is 8, expected at most image_size = 4"),
        (
            "pooler_output_size",
            8,
            "`pooler_output_size` is 8, expected hidden_size = 16",
        ),
    ] {
        let mut config = configs("vit").0.remove(0);
        config[field] = value.into();
        let config = serde_json::from_value(config).unwrap();
        let error = VitModel::random(config, 0, &Device::flex()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

// A model of a program's own: a table, and layers that add what a linear layer makes of the hidden state.

#[derive(Deserialize)]
struct OwnConfig {
    vocab_size: usize,
    width: usize,
    layers: usize,
}

#[derive(Module, Sites, Debug)]
struct Own {
    words: Embedding,
    layers: Vec<OwnLayer>,
    width: usize,
}

#[derive(Module, Sites, Debug)]
struct OwnLayer {
    up: Sited<Linear>,
    after: Point<ResidualHook>,
}

impl Block for OwnLayer {
    type Frame = ();

    fn forward(&self, x: Tensor<3>, _: &(), _: Slot<'_>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let up = cx.linear(&self.up, x.clone()).tanh();
        cx.residual(&self.after, up, x, None)
    }
}

impl Transformer for Own {
    type Input = TextInput;

    fn info(&self) -> ModelInfo {
        ModelInfo {
            num_layers: self.layers.len(),
            ..ModelInfo::default()
        }
    }

    fn chain(&self, input: TextInput, _: Option<&mut KeyValueCache>, cx: &mut Ctx<'_>) -> Result<Chain<'_>, Error> {
        let (_, input) = cx.begin(self, input)?;
        let state = EmbeddingState::new(self.words.forward(input.ids), input.padding);
        Ok(Chain::new(state.hidden).layers(&self.layers, ()))
    }

    fn text_encoder(&self) -> Option<&dyn TextEncoder> {
        Some(self)
    }
}

impl TextEncoder for Own {}

impl Host for Own {
    fn architecture(&self) -> &str {
        "own"
    }

    fn d_model(&self) -> usize {
        self.width
    }
}

impl FromCheckpoint for Own {
    type Config = OwnConfig;
    const PREFIX: &'static str = "own.";

    fn build(config: OwnConfig, _: &Path, weights: &mut Weights) -> Result<Self, ModelError> {
        let width = config.width;
        let layers = (0..config.layers).map(|index| {
            let mut at = weights.at(Location::layer(Stack::Encoder, index), format!("layers.{index}"));
            OwnLayer {
                up: at.linear(LinearRole::FfnUp, "up", [width, width]),
                after: at.residual(ResidualRole::AfterFfn, "output", width),
            }
        });
        Ok(Self {
            layers: layers.collect(),
            words: weights.embedding("words", config.vocab_size, width),
            width,
        })
    }
}

#[test]
fn a_registered_architecture_keeps_the_contract() {
    let own = Architecture::of::<Own>("own", ModelKind::Encoder);
    all(&ModelCase {
        config: json!({"model_type": "own", "vocab_size": 24, "width": 16, "layers": 2}),
        optional_keys: &[],
        architectures: Architectures::default().with(own),
    });
}
