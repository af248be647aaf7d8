//! RoBERTa and XLM-RoBERTa: BERT with positions that count tokens, and another head of the masked language model.
//!
//! Papers: *RoBERTa: A Robustly Optimized BERT Pretraining Approach*, Liu et al., 2019, <https://arxiv.org/abs/1907.11692>;
//! *Unsupervised Cross-lingual Representation Learning at Scale*, Conneau et al., 2020,
//! <https://arxiv.org/abs/1911.02116>. Behavior follows `RobertaModel` and `XLMRobertaModel` of Hugging Face transformers.

use serde_json::{Map, Value, json};

use crate::bert::{BertModel, Tokens, Variant};
use crate::checkpoint_folder::CheckpointFolder;
use crate::llama::object;
use crate::model::Model;
use crate::modeling::*;

const ROBERTA: Variant = Variant {
    model_type: "roberta",
    class_name: "RobertaModel",
    prefix: "roberta.",
    unused: &["embeddings.position_ids", "lm_head.", "classifier.", "qa_outputs."],
    reserved: |config| config.pad_token_id + 1,
    positions,
    masked_lm: MaskedLmLayout {
        dense: "lm_head.dense",
        norm: "lm_head.layer_norm",
        bias: "lm_head.bias",
        activation: Some("gelu"),
    },
};

const XLM_ROBERTA: Variant = Variant {
    model_type: "xlm-roberta",
    class_name: "XLMRobertaModel",
    ..ROBERTA
};

/// Loads a checkpoint of RoBERTa.
pub(crate) fn load(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    BertModel::load_variant(ROBERTA, defaults(), source, device)
}

/// Loads a checkpoint of XLM-RoBERTa.
pub(crate) fn load_xlm(source: &CheckpointFolder, device: &Device) -> Result<Model, ModelError> {
    let mut defaults = defaults();
    defaults.insert("vocab_size".to_owned(), 30522.into());
    BertModel::load_variant(XLM_ROBERTA, defaults, source, device)
}

/// The defaults of the published class, where they are not those of BERT.
fn defaults() -> Map<String, Value> {
    object(json!({"vocab_size": 50265, "pad_token_id": 1}))
}

/// Tokens that are no padding stand at `pad_id + 1`, `pad_id + 2`, .., and padding at `pad_id`. Where an adapter inserted
/// vectors there are no ids to tell padding by, and all positions count, as in the reference.
fn positions(table: &Embedding, tokens: &Tokens<'_>) -> Tensor<3> {
    let (first, pad) = (tokens.first as i64, tokens.pad_id as i64);
    let positions = match tokens.state.inserted.is_empty() {
        true => {
            let counted = tokens.ids.clone().not_equal_elem(pad).int();
            (counted.clone().cumsum(1) + first) * counted + pad
        }
        false => {
            let [_, seq, _] = tokens.state.hidden.dims();
            let from = pad + 1 + first;
            Tensor::<1, Int>::arange(from..from + seq as i64, &tokens.ids.device()).unsqueeze()
        }
    };
    table.forward(positions)
}
