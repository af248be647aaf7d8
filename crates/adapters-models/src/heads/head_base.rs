//! What a head needs of the model below it.

use adapters_core::{Ctx, Host, Role, Site, SiteKind, Stack};
use burn::tensor::Tensor;

use crate::heads::pooling::Pooling;
use crate::kind::ModelKind;
use crate::model::Model;
use crate::transformer::{ClassifierLayout, MaskedLmLayout};

/// A model whose last hidden state heads read.
pub trait HeadBase: Host {
    /// Tokens in the vocabulary.
    fn vocab_size(&self) -> usize;

    /// Where adapters act on the embeddings: an invertible adapter there is undone before a language model's last layer.
    fn embedding_site(&self) -> Site;

    /// What AdapterHub's library reads for a whole text where a head does not use the pooler: the first position of an
    /// encoder, the last token of the others. Of a sound, the mean, which the class of transformers reads.
    fn default_pooling(&self) -> Pooling {
        Pooling::Last
    }

    /// Where the published class for a class of a whole text or image keeps its head, and what that reads.
    fn classifier(&self) -> ClassifierLayout {
        ClassifierLayout::of(ModelKind::Encoder)
    }

    /// The layers that the published classes for tags and for answers have below their last one; `None` for the last alone.
    fn below_tags(&self) -> Option<MaskedLmLayout> {
        None
    }

    /// Whether it reads images in place of text.
    fn reads_images(&self) -> bool {
        false
    }

    /// Whether it reads sounds in place of text.
    fn reads_sounds(&self) -> bool {
        false
    }

    /// Epsilon of the layer normalizations of a head; 1e-12 where the model's configuration has no `layer_norm_eps`.
    fn norm_epsilon(&self) -> f64 {
        1e-12
    }

    /// Dropout probability of a head that names none; zero where the model's configuration has none for it.
    fn head_dropout(&self) -> f64 {
        0.0
    }

    /// The word embeddings, `[vocab, d_model]`, to which a language model's last layer is tied; `None` where the model lists no
    /// token table.
    fn word_embeddings(&self) -> Option<Tensor<2>> {
        let is_words = |kind: &SiteKind, role| matches!(kind, SiteKind::Table { .. }) && role == Role::TokenEmbedding;
        let words = self
            .sites()
            .into_iter()
            .find(|info| is_words(&info.kind, info.site.role));
        let table = self.table(words?.site)?;
        Some(table.weight.val())
    }

    /// Width of the word embeddings, which may not be that of the hidden states; that of the hidden states without a token table.
    fn word_width(&self) -> usize {
        self.word_embeddings().map_or(self.d_model(), |words| words.dims()[1])
    }

    /// What the model's pooler makes of its hidden states, `[batch, seq, d_model] -> [batch, d_model]`; `None` without one.
    fn pool(&self, _hidden: Tensor<3>, _cx: &mut Ctx<'_>) -> Option<Tensor<2>> {
        None
    }

    /// Whether it has a pooler.
    fn has_pooler(&self) -> bool {
        false
    }
}

impl HeadBase for Model {
    fn vocab_size(&self) -> usize {
        Model::vocab_size(self)
    }

    fn embedding_site(&self) -> Site {
        let stack = match self.kind() {
            ModelKind::CausalLm => Stack::Decoder,
            _ => Stack::Encoder,
        };
        Site::outside(stack, Role::Embedding)
    }

    fn default_pooling(&self) -> Pooling {
        match self.kind() {
            ModelKind::CausalLm | ModelKind::EncoderDecoder => Pooling::Last,
            ModelKind::SoundEncoder => Pooling::Mean,
            _ => Pooling::First,
        }
    }

    fn classifier(&self) -> ClassifierLayout {
        Model::classifier(self)
    }

    fn below_tags(&self) -> Option<MaskedLmLayout> {
        self.info().masked_lm.filter(|layout| layout.below_tags)
    }

    fn reads_images(&self) -> bool {
        self.kind() == ModelKind::ImageEncoder
    }

    fn reads_sounds(&self) -> bool {
        self.kind() == ModelKind::SoundEncoder
    }

    fn norm_epsilon(&self) -> f64 {
        self.info().head_norm_epsilon
    }

    fn head_dropout(&self) -> f64 {
        self.info().head_dropout
    }

    fn pool(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> Option<Tensor<2>> {
        Model::pool(self, hidden, cx)
    }

    fn has_pooler(&self) -> bool {
        Model::has_pooler(self)
    }
}
