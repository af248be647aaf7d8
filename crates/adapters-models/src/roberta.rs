//! RoBERTa and XLM-RoBERTa: BERT with positions that count tokens, and another head of the masked language model.
//!
//! Papers: *RoBERTa: A Robustly Optimized BERT Pretraining Approach*, Liu et al., 2019, <https://arxiv.org/abs/1907.11692>;
//! *Unsupervised Cross-lingual Representation Learning at Scale*, Conneau et al., 2020,
//! <https://arxiv.org/abs/1911.02116>. Behavior follows `RobertaModel` and `XLMRobertaModel` of Hugging Face transformers.

use serde_json::json;

use crate::bert::{self, BertConfig, Variant};
use crate::checkpoint_folder::{CheckpointFolder, object};
use crate::encoder::{self, EncoderNames};
use crate::model::Model;
use crate::modeling::*;
use crate::text_embeddings::Counting;

const ROBERTA: EncoderNames = EncoderNames {
    model_type: "roberta",
    class_name: "RobertaModel",
    prefix: "roberta.",
    unused: &["embeddings.position_ids", "lm_head.", "classifier.", "qa_outputs."],
    classifier: CLASSIFIER,
    ..bert::NAMES
};

const XLM_ROBERTA: EncoderNames = EncoderNames {
    model_type: "xlm-roberta",
    class_name: "XLMRobertaModel",
    ..ROBERTA
};

/// The head for a class of a whole text of RoBERTa and its relatives.
pub(crate) const CLASSIFIER: ClassifierLayout = ClassifierLayout {
    hidden: Some(("classifier.dense", "tanh")),
    last: "classifier.out_proj",
    bias: true,
    reads_pooler: false,
    prefixed: true,
};

/// The head of the masked language model of RoBERTa and its relatives.
pub(crate) const MASKED_LM: MaskedLmLayout = MaskedLmLayout {
    dense: "lm_head.dense",
    norm: "lm_head.layer_norm",
    decoder: "lm_head.decoder",
    bias: Some("lm_head.bias"),
    activation: Some(Cow::Borrowed("gelu")),
    ..MaskedLmLayout::BIASED
};

/// Loads a checkpoint of RoBERTa.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    load_named(ROBERTA, 50265, (source, device))
}

/// Loads a checkpoint of XLM-RoBERTa.
pub(crate) fn load_xlm(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    load_named(XLM_ROBERTA, 30522, (source, device))
}

fn load_named(names: EncoderNames, vocab: usize, from: (&CheckpointFolder, &Device)) -> Result<Model, ModelError> {
    let defaults = object(json!({"vocab_size": vocab, "pad_token_id": 1}));
    encoder::load(&names, defaults, from, |config: BertConfig, path, weights| {
        let pad_id = config.pad_token_id;
        let variant = Variant {
            names,
            projection: None,
            counting: Counting::BehindPadding { pad_id },
            adds_positions: false,
            masked_lm: Some(MASKED_LM),
        };
        variant.build(config, path, weights)
    })
}
