//! A pretrained model of any architecture behind one type.

use adapters_core::{Ctx, Error, Forward, Host, LayerMut, LayerRef, Mirror, MirrorPlan, Role, SiteInfo, Sites, Stack};
use adapters_module::{Boxed, BoxedKind, Boxes, DynModule, transparent_module};
use burn::module::{Content, Module, ModuleDisplay, ModuleDisplayDefault};
use burn::tensor::{Device, Tensor};

use crate::cache::KeyValueCache;
use crate::chain::Chain;
use crate::error::ModelError;
use crate::input::Input;
use crate::kind::ModelKind;
use crate::linear_scores::LinearScores;
use crate::transformer::{
    CausalLm, ClassifierLayout, EncoderDecoder, ImageEncoder, ModelInfo, SoundEncoder, TextAndImage, TextEncoder,
    Transformer,
};

/// A pretrained model. What it can do beyond its last hidden state depends on its kind: [`causal_lm`](Self::causal_lm) and
/// the like give access to it.
#[derive(Clone, Debug)]
pub struct Model(Boxed<AnyTransformer>, Vec<[usize; 2]>);

impl Model {
    /// Boxes a model.
    pub fn new<M: Transformer + Module + 'static>(model: M) -> Self {
        Self(Boxed::of(model), Vec::new())
    }

    /// The model with the layers of these ranges of its own, in their order, each as often as a range has it: `[[0, 2], [0, 2]]`
    /// has the first two twice. All copies of a layer share its weights; adapters act on each by itself. Adapters of peft with
    /// `layer_replication` are trained on such a model.
    ///
    /// # Errors
    ///
    /// [`ModelError::Layers`] for a range that is empty or beyond the layers, and for a model that cannot use a layer twice.
    pub fn with_layer_replication(&self, ranges: &[[usize; 2]]) -> Result<Self, ModelError> {
        let count = self.num_layers();
        let refuse = |reason: String| ModelError::Layers {
            architecture: self.architecture().to_owned(),
            ranges: format!("{ranges:?}"),
            reason,
        };
        if !self.1.is_empty() {
            return Err(refuse(format!("its layers are replicated already, as {:?}", self.1)));
        }
        let wrong = ranges.iter().find(|[start, end]| start >= end || *end > count);
        if ranges.is_empty() || wrong.is_some() {
            let found = wrong.map_or("none".to_owned(), |range| format!("{range:?}"));
            return Err(refuse(format!("expected ranges within [0, {count}], found {found}")));
        }
        let order: Vec<usize> = ranges.iter().flat_map(|[start, end]| *start..*end).collect();
        let replicated = self.0.with_layers_dyn(&order);
        let replicated = replicated.ok_or_else(|| refuse("it has no single stack of layers".to_owned()))?;
        Ok(Self(replicated, ranges.to_vec()))
    }

    /// Facts of the model.
    pub fn info(&self) -> ModelInfo {
        self.0.info_dyn()
    }

    /// Longest input in positions; `None` where there is no limit.
    pub fn max_length(&self) -> Option<usize> {
        self.info().max_length
    }

    /// Tokens in the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.info().vocab_size
    }

    /// Number of layers, of all stacks.
    pub fn num_layers(&self) -> usize {
        self.info().num_layers
    }

    /// Id of the padding token.
    pub fn pad_id(&self) -> usize {
        self.info().pad_id
    }

    /// What it reads and writes.
    pub fn kind(&self) -> ModelKind {
        if let Some(model) = self.0.encoder_decoder_dyn() {
            return match model.reads_speech() {
                true => ModelKind::SpeechToText,
                false => ModelKind::EncoderDecoder,
            };
        }
        let kinds = [
            (self.0.image_encoder_dyn().is_some(), ModelKind::ImageEncoder),
            (self.0.causal_lm_dyn().is_some(), ModelKind::CausalLm),
            (self.0.text_and_image_dyn().is_some(), ModelKind::TextAndImage),
            (self.0.sound_encoder_dyn().is_some(), ModelKind::SoundEncoder),
        ];
        let of = kinds.into_iter().find(|(is, _)| *is);
        of.map_or(ModelKind::Encoder, |(_, kind)| kind)
    }

    /// Begins a pass; see [`Transformer::chain`].
    ///
    /// # Errors
    ///
    /// [`Error::WrongInput`] for an input of another kind than the model reads; those of [`Ctx::begin`].
    ///
    /// # Panics
    ///
    /// As the model's.
    pub fn chain(&self, input: impl Into<Input>, cx: &mut Ctx<'_>) -> Result<Chain<'_>, Error> {
        self.0.chain_dyn(input.into(), None, cx)
    }

    /// The last hidden state, `[batch, seq, d_model]`; see [`Transformer::forward`].
    ///
    /// # Errors
    ///
    /// [`Error::WrongInput`] for an input of another kind than the model reads; those of [`Ctx::begin`].
    ///
    /// # Panics
    ///
    /// As the model's.
    pub fn forward(&self, input: impl Into<Input>, cx: &mut Ctx<'_>) -> Result<Tensor<3>, Error> {
        Ok(self.chain(input, cx)?.run(None, cx.hooks()))
    }

    /// Scores of the vocabulary, `[batch, seq, d_model] -> [batch, seq, vocab]`; `None` for a model without a language-model
    /// head of its own.
    ///
    /// # Panics
    ///
    /// Panics on another `d_model`.
    pub fn logits(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> Option<Tensor<3>> {
        self.scores(hidden, cx).map(LinearScores::whole)
    }

    /// The same, computed where they are needed.
    pub fn scores(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> Option<LinearScores> {
        match (self.0.causal_lm_dyn(), self.0.encoder_decoder_dyn()) {
            (Some(model), _) => Some(model.scores(hidden, cx)),
            (_, Some(model)) => Some(model.scores(hidden, cx)),
            _ => None,
        }
    }

    /// What the pooler makes of hidden states, `[batch, seq, d_model] -> [batch, d_model]`; `None` without one.
    pub fn pool(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> Option<Tensor<2>> {
        self.0.pool_dyn(hidden, cx)
    }

    /// Whether it has a pooler.
    pub fn has_pooler(&self) -> bool {
        self.0.has_pooler_dyn()
    }

    /// Where the published class for a class of a whole text or image keeps its head.
    pub fn classifier(&self) -> ClassifierLayout {
        let own = self.0.classifier_dyn();
        own.unwrap_or_else(|| ClassifierLayout::of(self.kind()))
    }

    /// The table of the token embeddings, `[vocab, width]`, the encoder's where each stack has its own; `None` for a model that
    /// reads no tokens.
    pub fn word_embeddings(&self) -> Option<Tensor<2>> {
        let mut table = None;
        self.visit_sites(&mut |info, layer| {
            if let (Role::TokenEmbedding, LayerRef::Table(found)) = (info.site.role, layer) {
                table.get_or_insert_with(|| found.weight.val());
            }
        });
        table
    }

    /// Where its weights are.
    pub fn device(&self) -> Device {
        self.devices().first().cloned().unwrap_or_default()
    }

    /// The model as an encoder of text.
    ///
    /// # Errors
    ///
    /// [`ModelError::WrongKind`] if it is not one.
    pub fn text_encoder(&self) -> Result<&dyn TextEncoder, ModelError> {
        self.0.text_encoder_dyn().ok_or_else(|| self.wrong(ModelKind::Encoder))
    }

    /// The model as a causal language model.
    ///
    /// # Errors
    ///
    /// [`ModelError::WrongKind`] if it is not one.
    pub fn causal_lm(&self) -> Result<&dyn CausalLm, ModelError> {
        self.0.causal_lm_dyn().ok_or_else(|| self.wrong(ModelKind::CausalLm))
    }

    /// The model as an encoder-decoder.
    ///
    /// # Errors
    ///
    /// [`ModelError::WrongKind`] if it is not one.
    pub fn encoder_decoder(&self) -> Result<&dyn EncoderDecoder, ModelError> {
        let found = self.0.encoder_decoder_dyn();
        found.ok_or_else(|| self.wrong(ModelKind::EncoderDecoder))
    }

    /// The model as an encoder of images.
    ///
    /// # Errors
    ///
    /// [`ModelError::WrongKind`] if it is not one.
    pub fn image_encoder(&self) -> Result<&dyn ImageEncoder, ModelError> {
        let found = self.0.image_encoder_dyn();
        found.ok_or_else(|| self.wrong(ModelKind::ImageEncoder))
    }

    /// The model as one of texts and images.
    ///
    /// # Errors
    ///
    /// [`ModelError::WrongKind`] if it is not one.
    pub fn text_and_image(&self) -> Result<&dyn TextAndImage, ModelError> {
        let found = self.0.text_and_image_dyn();
        found.ok_or_else(|| self.wrong(ModelKind::TextAndImage))
    }

    /// The model as an encoder of sound.
    ///
    /// # Errors
    ///
    /// [`ModelError::WrongKind`] if it is not one.
    pub fn sound_encoder(&self) -> Result<&dyn SoundEncoder, ModelError> {
        let found = self.0.sound_encoder_dyn();
        found.ok_or_else(|| self.wrong(ModelKind::SoundEncoder))
    }

    fn wrong(&self, wanted: ModelKind) -> ModelError {
        ModelError::WrongKind {
            architecture: self.architecture().to_owned(),
            found: self.kind(),
            wanted,
        }
    }
}

/// [`DynTransformer`] as a kind of boxed module.
#[derive(Clone, Copy, Debug)]
enum AnyTransformer {}

impl BoxedKind for AnyTransformer {
    type Dyn = dyn DynTransformer;
}

impl<M: Transformer + Module + 'static> Boxes<M> for AnyTransformer {
    fn boxed(model: M) -> Box<dyn DynTransformer> {
        Box::new(model)
    }
}

/// The object-safe face of a [`Transformer`] that is a [`Module`].
trait DynTransformer: Host + DynModule<AnyTransformer> {
    fn info_dyn(&self) -> ModelInfo;
    fn with_layers_dyn(&self, order: &[usize]) -> Option<Boxed<AnyTransformer>>;
    fn chain_dyn(&self, input: Input, cache: Option<&mut KeyValueCache>, cx: &mut Ctx<'_>) -> Result<Chain<'_>, Error>;
    fn pool_dyn(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> Option<Tensor<2>>;
    fn has_pooler_dyn(&self) -> bool;
    fn classifier_dyn(&self) -> Option<ClassifierLayout>;
    fn text_encoder_dyn(&self) -> Option<&dyn TextEncoder>;
    fn causal_lm_dyn(&self) -> Option<&dyn CausalLm>;
    fn encoder_decoder_dyn(&self) -> Option<&dyn EncoderDecoder>;
    fn image_encoder_dyn(&self) -> Option<&dyn ImageEncoder>;
    fn text_and_image_dyn(&self) -> Option<&dyn TextAndImage>;
    fn sound_encoder_dyn(&self) -> Option<&dyn SoundEncoder>;
}

impl<M: Transformer + Module + 'static> DynTransformer for M {
    fn info_dyn(&self) -> ModelInfo {
        self.info()
    }

    fn with_layers_dyn(&self, order: &[usize]) -> Option<Boxed<AnyTransformer>> {
        self.clone().with_layers(order).map(Boxed::of)
    }

    fn chain_dyn(&self, input: Input, cache: Option<&mut KeyValueCache>, cx: &mut Ctx<'_>) -> Result<Chain<'_>, Error> {
        match M::Input::try_from(input) {
            Ok(input) => self.begin(input, cache, cx),
            Err(other) => Err(Error::WrongInput {
                architecture: self.architecture().to_owned(),
                found: other.kind(),
            }),
        }
    }

    fn pool_dyn(&self, hidden: Tensor<3>, cx: &mut Ctx<'_>) -> Option<Tensor<2>> {
        self.pool(hidden, cx)
    }

    fn has_pooler_dyn(&self) -> bool {
        self.has_pooler()
    }

    fn classifier_dyn(&self) -> Option<ClassifierLayout> {
        self.classifier()
    }

    fn text_encoder_dyn(&self) -> Option<&dyn TextEncoder> {
        self.text_encoder()
    }

    fn causal_lm_dyn(&self) -> Option<&dyn CausalLm> {
        self.causal_lm()
    }

    fn encoder_decoder_dyn(&self) -> Option<&dyn EncoderDecoder> {
        self.encoder_decoder()
    }

    fn image_encoder_dyn(&self) -> Option<&dyn ImageEncoder> {
        self.image_encoder()
    }

    fn text_and_image_dyn(&self) -> Option<&dyn TextAndImage> {
        self.text_and_image()
    }

    fn sound_encoder_dyn(&self) -> Option<&dyn SoundEncoder> {
        self.sound_encoder()
    }
}

transparent_module!(impl[] Model, 0);

impl ModuleDisplayDefault for Model {
    fn content(&self, content: Content) -> Option<Content> {
        content.add_debug_attribute("model", &self.0).optional()
    }
}

impl ModuleDisplay for Model {}

impl Sites for Model {
    fn visit_sites<'a>(&'a self, visit: &mut dyn FnMut(&'a SiteInfo, LayerRef<'a>)) {
        self.0.visit_sites(visit);
    }

    fn visit_sites_mut<'a>(&'a mut self, visit: &mut dyn FnMut(&mut SiteInfo, LayerMut<'a>)) {
        self.0.visit_sites_mut(visit);
    }
}

impl Forward for Model {
    type Input = Input;
    type Output = Tensor<3>;

    fn forward(&self, input: Input, cx: &mut Ctx<'_>) -> Result<Tensor<3>, Error> {
        Self::forward(self, input, cx)
    }
}

impl Host for Model {
    fn architecture(&self) -> &str {
        self.0.architecture()
    }

    fn d_model(&self) -> usize {
        self.0.d_model()
    }

    fn class_name(&self) -> &str {
        self.0.class_name()
    }

    fn base_prefix(&self) -> &str {
        self.0.base_prefix()
    }

    fn is_larger_class(&self) -> bool {
        self.0.is_larger_class()
    }

    fn layer_replication(&self) -> &[[usize; 2]] {
        &self.1
    }

    fn mirror(&self, plan: &MirrorPlan, device: &Device) -> Result<Box<dyn Mirror>, String> {
        self.0.mirror(plan, device)
    }

    fn attention_dropout(&self) -> f64 {
        self.0.attention_dropout()
    }

    fn hub_role(&self, role: Role) -> Role {
        self.0.hub_role(role)
    }

    fn tied_head_scale(&self) -> f64 {
        self.0.tied_head_scale()
    }

    fn d_model_of(&self, stack: Stack) -> usize {
        self.0.d_model_of(stack)
    }

    fn attention_name(&self, stack: Stack) -> &'static str {
        self.0.attention_name(stack)
    }
}
