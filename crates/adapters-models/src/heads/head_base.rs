//! What a head needs to know of the model below it.

use adapters_core::{Host, Role, Site, Stack};

use crate::heads::pooling::Pooling;
use crate::kind::ModelKind;
use crate::model::Model;
use crate::transformer::MaskedLmLayout;

impl Model {
    /// Where adapters act on the embeddings: an invertible adapter there is undone before a language model's last layer.
    pub(super) fn embedding_site(&self) -> Site {
        let stack = match self.kind() {
            ModelKind::CausalLm => Stack::Decoder,
            _ => Stack::Encoder,
        };
        Site::outside(stack, Role::Embedding)
    }

    /// What AdapterHub's library reads for a whole text where a head does not use the pooler: the first position of an
    /// encoder, the last token of the others. Of a sound, the mean, which the class of transformers reads.
    pub(super) fn default_pooling(&self) -> Pooling {
        match self.kind() {
            ModelKind::CausalLm | ModelKind::EncoderDecoder => Pooling::Last,
            ModelKind::SoundEncoder => Pooling::Mean,
            _ => Pooling::First,
        }
    }

    /// The layers that the published classes for tags and for answers have below their last one; `None` for the last alone.
    pub(super) fn below_tags(&self) -> Option<MaskedLmLayout> {
        self.info().masked_lm.filter(|layout| layout.below_tags)
    }

    /// Whether it reads images in place of text.
    pub(super) fn reads_images(&self) -> bool {
        self.kind() == ModelKind::ImageEncoder
    }

    /// Whether it reads sounds in place of text.
    pub(super) fn reads_sounds(&self) -> bool {
        self.kind() == ModelKind::SoundEncoder
    }

    /// Width of the word embeddings, which may not be that of the hidden states; that of the hidden states without a token table.
    pub(super) fn word_width(&self) -> usize {
        self.word_embeddings().map_or(self.d_model(), |words| words.dims()[1])
    }
}
