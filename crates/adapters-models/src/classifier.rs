//! A sequence classifier: an adapted encoder and a head.

use std::borrow::Cow;
use std::path::Path;

use adapters_core::{Adapted, Ctx, NamedParams, Pass, Tensors};
use adapters_nn::draw;
use adapters_store::{Pooling, StoreError, TensorProblem, read_safetensors, write_safetensors};
use burn::module::{Module, Param, ParamId};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::error::ModelError;
use crate::heads::masked_mean;
use crate::input::TextInput;
use crate::model::Model;

/// `logits = W dropout(pool(hidden)) + b`.
#[derive(Module, Debug)]
pub struct ClassificationHead {
    /// `[d_model, classes]`, Burn's layout; `[classes, d_model]` in files.
    pub linear: Linear,
    /// Dropout probability before the linear layer, in training.
    pub dropout: f64,
    #[module(skip)]
    pooling: Pooling,
}

impl ClassificationHead {
    /// A head with weights normal with standard deviation 0.02 and a zero bias.
    pub fn new(d_model: usize, classes: usize, pooling: Pooling, dropout: f64, seed: u64, device: &Device) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(u64::MAX);
        let weight = Tensor::<2>::from_data(draw::normal(&mut rng, [classes, d_model], 0.02), device);
        let bias = Tensor::<1>::from_data(draw::constant([classes], 0.0), device);
        Self::from_tensors(weight, bias, pooling, dropout)
    }

    fn from_tensors(weight: Tensor<2>, bias: Tensor<1>, pooling: Pooling, dropout: f64) -> Self {
        Self {
            linear: Linear {
                weight: Param::from_tensor(weight.transpose()),
                bias: Some(Param::from_tensor(bias)),
            },
            dropout,
            pooling,
        }
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.linear.weight.dims()[1]
    }

    /// How the hidden states become one vector.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// Logits of the hidden states of a pass. What an adapter put in among the embedded tokens is pooled like any
    /// position: the first position may be such a one, as in the reference, and a mean is over all that are not padding.
    ///
    /// # Shapes
    ///
    /// `[batch, seq, d_model] -> [batch, classes]`
    pub fn forward(&self, hidden: Tensor<3>, pass: &Pass) -> Tensor<2> {
        let pooled = match self.pooling {
            Pooling::First => hidden.slice_dim(1, 0..1).squeeze_dim(1),
            Pooling::Mean => masked_mean(hidden, pass.padding.clone()),
        };
        self.linear.forward(pass.dropout(pooled, self.dropout))
    }

    /// Reads a head file: `weight [classes, d_model]`, `bias [classes]`.
    ///
    /// # Errors
    ///
    /// [`StoreError`] for files; [`StoreError::Mismatch`] listing what does not fit.
    pub fn load(path: &Path, d_model: usize, pooling: Pooling, device: &Device) -> Result<Self, ModelError> {
        let (mut tensors, _) = read_safetensors(path)?;
        let mut problems = Vec::new();
        let mut take = |key: &str| {
            let data = tensors.remove(key);
            if data.is_none() {
                problems.push(TensorProblem::Missing {
                    key: key.to_owned(),
                    nearest: None,
                });
            }
            data.unwrap_or_else(|| TensorData::from([0.0f32]))
        };
        let (weight, bias) = (take("weight"), take("bias"));
        problems.extend(tensors.into_keys().map(|key| TensorProblem::Unexpected { key }));
        if problems.is_empty() {
            let classes = weight.shape().to_vec().first().copied().unwrap_or(0);
            for (key, data, expected) in [
                ("weight", &weight, vec![classes, d_model]),
                ("bias", &bias, vec![classes]),
            ] {
                let found = data.shape().to_vec();
                if found != expected || classes == 0 {
                    problems.push(TensorProblem::Shape {
                        key: key.to_owned(),
                        expected,
                        found,
                    });
                }
            }
        }
        if !problems.is_empty() {
            return Err(StoreError::Mismatch {
                path: path.to_owned(),
                problems,
            }
            .into());
        }
        let weight = Tensor::<2>::from_data(weight, device);
        let bias = Tensor::<1>::from_data(bias, device);
        Ok(Self::from_tensors(weight, bias, pooling, 0.0))
    }

    /// Writes a head file, atomically.
    ///
    /// # Errors
    ///
    /// [`StoreError::Write`].
    pub fn save(&self, path: &Path) -> Result<(), StoreError> {
        let mut tensors = Tensors::from([("weight".to_owned(), self.linear.weight.val().transpose().into_data())]);
        tensors.extend(
            self.linear
                .bias
                .iter()
                .map(|b| ("bias".to_owned(), b.val().into_data())),
        );
        write_safetensors(path, &tensors, [])
    }
}

impl NamedParams for ClassificationHead {
    fn named_params(&self) -> Vec<(Cow<'static, str>, ParamId)> {
        let mut params = vec![("weight".into(), self.linear.weight.id)];
        params.extend(self.linear.bias.iter().map(|b| ("bias".into(), b.id)));
        params
    }
}

/// An adapted encoder with a classification head: as a module, its adapters and its head.
#[derive(Module, Debug)]
pub struct SequenceClassifier {
    /// Base and adapters.
    pub adapted: Adapted<Model>,
    /// The head.
    pub head: ClassificationHead,
}

impl SequenceClassifier {
    /// Logits of a batch, with the adapters active in the set; with a dropout seed as in training.
    ///
    /// # Shapes
    ///
    /// `[batch, seq]` of token ids to `[batch, classes]`.
    ///
    /// # Panics
    ///
    /// As [`Model::forward`].
    pub fn forward(&self, input: TextInput, dropout_seed: Option<u64>) -> Tensor<2> {
        let mut cx = Ctx::new(&self.adapted.set);
        if let Some(seed) = dropout_seed {
            cx = cx.training(seed);
        }
        let hidden = self.adapted.base.forward(input, &mut cx);
        self.head.forward(hidden, cx.pass())
    }
}
