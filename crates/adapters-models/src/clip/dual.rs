//! CLIP whole: how well each image goes with each text.

use super::text::{ClipTextConfig, ClipTextModel};
use super::vision::{self, ClipVisionConfig, ClipVisionModel};
use crate::encoder::EncoderStack;
use crate::modeling::*;
use crate::vision_encoder::ImagePooler;

/// `config.json` of both models: the fields that change what is computed. Others are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct ClipConfig {
    /// The text model's.
    pub(crate) text_config: ClipTextConfig,
    /// The image model's.
    pub(crate) vision_config: ClipVisionConfig,
    /// Width of the common space.
    pub(crate) projection_dim: usize,
}

impl Default for ClipConfig {
    /// The defaults of the published class.
    fn default() -> Self {
        Self {
            text_config: ClipTextConfig::default(),
            vision_config: ClipVisionConfig::default(),
            projection_dim: 512,
        }
    }
}

/// Both models, and the projections of what each makes of a whole input onto a common space. The image model's layers are
/// counted behind the text model's, as in AdapterHub.
#[derive(Module, Sites, Debug)]
pub(crate) struct ClipModel {
    text: ClipTextModel,
    vision: ClipVisionModel,
    text_projection: Sited<Linear>,
    visual_projection: Sited<Linear>,
    /// Logarithm of the factor of the scores.
    logit_scale: Param<Tensor<1>>,
}

impl FromCheckpoint for ClipModel {
    type Config = ClipConfig;
    const PREFIX: &'static str = "clip.";

    fn build(config: ClipConfig, path: &Path, weights: &mut Weights) -> Result<Self, ModelError> {
        let projected = config.projection_dim;
        ConfigCheck::new(path).sizes([("projection_dim", projected)])?;
        let (d_text, d_image) = (config.text_config.hidden_size, config.vision_config.hidden_size);
        let first = config.text_config.num_hidden_layers;
        let text = ClipTextModel::build(config.text_config, path, weights)?;
        let vision = vision::build(config.vision_config, path, (Stack::Image, first), weights)?;
        let mut project = |stack, name, d| {
            let mut at = weights.at(Location::outside(stack), "");
            at.linear_with(false, LinearRole::OutputProjection, name, [d, projected])
        };
        Ok(Self {
            text,
            vision,
            text_projection: project(Stack::Encoder, "text_projection", d_text),
            visual_projection: project(Stack::Image, "visual_projection", d_image),
            logit_scale: weights.scalar("logit_scale"),
        })
    }

    fn is_unused(&self, key: &str) -> bool {
        key.ends_with("embeddings.position_ids")
    }
}

/// Divided by its length, vector by vector.
fn of_length_one(x: Tensor<3>) -> Tensor<3> {
    let length = x.clone().square().sum_dim(2).sqrt();
    x / length
}

impl ClipModel {
    /// Begins with texts; the last state is their vectors, `[texts, 1, projection]`.
    fn text_chain(&self, texts: TextInput, cx: &mut Ctx<'_>) -> Result<Chain<'_>, Error> {
        let (cx, texts) = cx.begin(self, texts)?;
        let ends = self.text.ends(texts.ids.clone());
        let state = self.text.embed(texts, cx);
        // What adapters inserted moves the ends.
        let ends = state.inserted.iter().fold(ends, |ends, inserted| {
            let moved = ends.clone().greater_equal_elem(inserted.at as i64).int();
            ends + moved * inserted.count as i64
        });
        Ok(self.text.layers_of(state).then(move |x, cx| {
            let [rows, _, d] = x.dims();
            let index = ends.clone().reshape([rows, 1, 1]).repeat_dim(2, d);
            of_length_one(cx.linear(&self.text_projection, x.gather(1, index)))
        }))
    }

    fn image_vector(&self, hidden: Tensor<3>, cx: &mut Hooks<'_>) -> Tensor<3> {
        let class = match &self.vision.pooler {
            Some(pooler) => pooler.pool(hidden, cx).unsqueeze_dim(1),
            None => hidden.slice_dim(1, 0..1),
        };
        of_length_one(cx.linear(&self.visual_projection, class))
    }
}

impl Transformer for ClipModel {
    type Input = TextAndImageInput;

    fn info(&self) -> ModelInfo {
        let (text, vision) = (self.text.info(), self.vision.info());
        ModelInfo {
            num_layers: text.num_layers + vision.num_layers,
            ..text
        }
    }

    fn chain(
        &self,
        input: TextAndImageInput,
        _: Option<&mut KeyValueCache>,
        cx: &mut Ctx<'_>,
    ) -> Result<Chain<'_>, Error> {
        let (patches, grid) = self.vision.cut(input.images, self)?;
        let (_, patches) = cx.begin(self, patches)?;
        let chain = self.text_chain(input.texts, cx)?.decoding(move |cx| {
            cx.next_stack(None);
            self.vision.embed(patches.clone(), grid, cx).hidden
        });
        Ok(chain
            .layers(&self.vision.stack, [None, None])
            .with_encoded(|hidden, texts, cx| {
                let images = self.image_vector(hidden, cx).squeeze_dim::<2>(1);
                let texts = texts.squeeze_dim::<2>(1);
                let scores = images.matmul(texts.transpose()) * self.logit_scale.val().exp().unsqueeze();
                scores.unsqueeze_dim(2)
            }))
    }

    fn text_and_image(&self) -> Option<&dyn TextAndImage> {
        Some(self)
    }
}

impl TextAndImage for ClipModel {
    fn image_size(&self) -> [usize; 3] {
        self.vision.facts.image
    }

    fn text_vectors(&self, texts: TextInput, cx: &mut Ctx<'_>) -> Result<Tensor<2>, Error> {
        let vectors = self.text_chain(texts, cx)?.run(None, cx.hooks());
        Ok(vectors.squeeze_dim(1))
    }

    fn image_vectors(&self, images: ImageInput, cx: &mut Ctx<'_>) -> Result<Tensor<2>, Error> {
        let (patches, grid) = self.vision.cut(images, self)?;
        let (cx, patches) = cx.begin(self, patches)?;
        let embedded = self.vision.embed(patches, grid, cx);
        let chain = self.vision.stack.chain(embedded, None, cx);
        Ok(chain
            .then(|x, cx| self.image_vector(x, cx))
            .run(None, cx)
            .squeeze_dim(1))
    }
}

impl Host for ClipModel {
    fn architecture(&self) -> &str {
        "clip"
    }

    fn class_name(&self) -> &str {
        "CLIPModel"
    }

    fn d_model(&self) -> usize {
        self.text.d_model()
    }

    fn d_model_of(&self, stack: Stack) -> usize {
        match stack {
            Stack::Image => self.vision.d_model(),
            _ => self.text.d_model(),
        }
    }

    fn base_prefix(&self) -> &str {
        Self::PREFIX
    }

    fn attention_dropout(&self) -> f64 {
        self.text.attention_dropout()
    }

    fn attention_name(&self, stack: Stack) -> &'static str {
        match stack {
            Stack::Image => self.vision.attention_name(stack),
            _ => self.text.attention_name(stack),
        }
    }
}
