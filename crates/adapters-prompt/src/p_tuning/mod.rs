//! P-tuning: virtual tokens that a network computes while they train.

pub(crate) mod network;

use adapters_core::target::Target;
use adapters_core::{
    AdapterHub, Attached, Build, Capabilities, Codec, ConfigError, ConvertsForStorage, Error, Format, Host, Method,
    Pass, Peft, Shared, SharedParameters, SiteInfo, SiteLayer, StoredConfig, Tensors,
};
use adapters_nn::draw;
use burn::module::Param;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::layer::PromptRows;
use crate::peft_file;
use crate::start::{Start, Starting, starting};
use crate::virtual_tokens::{PROMPT, VirtualTokens};
use network::{NETWORK, PromptNetwork};

/// P-tuning: learned rows in front of those of the token table, which get positions and whatever else a model adds to
/// embeddings. A network computes them while they train; a file holds what it computed.
///
/// *GPT Understands, Too*, Liu et al., 2021, <https://arxiv.org/abs/2103.10385>, as peft 0.21.2 computes it. The fields are
/// those of its `adapter_config.json`; one that a file leaves out, or that is null, has the default given below.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PTuningConfig {
    /// How many rows there are.
    #[serde(flatten)]
    pub tokens: VirtualTokens,
    /// The network. Default `MLP`.
    pub encoder_reparameterization_type: NetworkKind,
    /// Width of the network, at least 1. Default 128; peft has no default.
    pub encoder_hidden_size: usize,
    /// Recurrent layers of an `LSTM`, at least 1. Default 2.
    pub encoder_num_layers: usize,
    /// Dropout probability between the recurrent layers of an `LSTM`, in `[0, 1)`. Default 0.
    pub encoder_dropout: f64,
    /// Whether there is a network, or the rows of a file; in no file.
    #[serde(skip)]
    pub start: Start,
    /// Other fields of a file. They are written back unchanged.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Which network computes the rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum NetworkKind {
    /// Three linear layers with ReLU between: `W4 relu(W2 relu(W0 e + b0) + b2) + b4` of each row `e` of an embedding.
    #[default]
    Mlp,
    /// A bidirectional LSTM over the rows of an embedding, then `W2 relu(W0 h + b0) + b2`.
    Lstm,
}

const PEFT_TYPE: &str = "P_TUNING";

impl Default for PTuningConfig {
    fn default() -> Self {
        Self {
            tokens: VirtualTokens::default(),
            encoder_reparameterization_type: NetworkKind::Mlp,
            encoder_hidden_size: 128,
            encoder_num_layers: 2,
            encoder_dropout: 0.0,
            start: Start::Configured,
            extra: Map::new(),
        }
    }
}

impl PTuningConfig {
    /// The network that computes the rows; `None` where they are those of a file.
    fn network(&self) -> Option<PromptNetwork> {
        let hidden_size = self.encoder_hidden_size;
        match (&self.start, self.encoder_reparameterization_type) {
            (Start::Stored | Start::Tokens(_), _) => None,
            (Start::Configured, NetworkKind::Mlp) => Some(PromptNetwork::Mlp { hidden_size }),
            (Start::Configured, NetworkKind::Lstm) => Some(PromptNetwork::Lstm {
                hidden_size,
                layers: self.encoder_num_layers,
                dropout: self.encoder_dropout,
            }),
        }
    }
}

starting!(PTuningConfig);

impl Method for PTuningConfig {
    const NAME: &'static str = "p_tuning";
    const DESCRIPTION: &'static str = "Virtual tokens that a small network computes in training.";

    fn check(&self) -> Result<(), ConfigError> {
        self.tokens.check()?;
        ConfigError::size("encoder_hidden_size", self.encoder_hidden_size)?;
        let square = [self.encoder_hidden_size; 2];
        ConfigError::elements("encoder_hidden_size x encoder_hidden_size", square)?;
        if self.encoder_reparameterization_type == NetworkKind::Mlp {
            // Peft ignores the layers and the dropout of an MLP.
            return Ok(());
        }
        ConfigError::size("encoder_num_layers", self.encoder_num_layers)?;
        let (layers, hidden) = (self.encoder_num_layers, self.encoder_hidden_size);
        let fields = "encoder_num_layers x encoder_hidden_size x encoder_hidden_size";
        ConfigError::elements(fields, [layers, hidden, hidden])?;
        ConfigError::probability("encoder_dropout", self.encoder_dropout)
    }

    fn target(&self) -> Target {
        VirtualTokens::target()
    }

    fn build(&self, site: &SiteInfo, _build: &Build<'_>) -> Result<SiteLayer, Error> {
        self.tokens.layer::<Self>(site)
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            shared: Some(self),
            embeddings: Some(&self.tokens),
            storage: Some(self),
            ..Capabilities::default()
        }
    }
}

impl SharedParameters for PTuningConfig {
    fn build_shared(&self, build: &Build<'_>) -> Result<Shared, Error> {
        let Some([rows, width]) = self.tokens.shape(build.host)? else {
            return Ok(Shared::new());
        };
        Ok(Shared::of(match self.network() {
            Some(network) => PromptRows::Network(network.draw(rows, width, &mut build.shared_rng(None), build.device)),
            None => PromptRows::Rows(Param::from_data(draw::constant([rows, width], 0.0), build.device)),
        }))
    }

    fn owns(&self, param: &str) -> bool {
        param == PROMPT || param.starts_with(NETWORK)
    }
}

/// A file holds the rows that the network computes.
impl ConvertsForStorage for PTuningConfig {
    fn to_storage(&self, _format: Format, adapter: &Attached, _host: &dyn Host) -> Result<Option<Attached>, Error> {
        let Some(PromptRows::Network(network)) = adapter.shared().get() else {
            return Ok(None);
        };
        let pass = Pass::default();
        let vectors = network.forward(|x, prob| pass.dropout(x, prob));
        let device = vectors.device().inner();
        let vectors = Tensor::<2>::from_data(vectors.into_data(), &device);
        let shared = Shared::of(PromptRows::Rows(Param::from_tensor(vectors)));
        let layers = adapter.layers().cloned().collect();
        let method = adapters_core::AnyMethod::new(self.clone().starting(Start::Stored))?;
        Ok(Some(adapter.reformed(method, layers).with_shared(shared)))
    }
}

impl Codec<AdapterHub> for PTuningConfig {}

impl Codec<Peft> for PTuningConfig {
    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        peft_file::read(PEFT_TYPE, stored).map(Self::stored)
    }

    fn write(&self, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, ConfigError> {
        Ok(peft_file::write(PEFT_TYPE, self, sites, host))
    }

    fn shared_key(&self, _adapter: &str, param: &str) -> String {
        param.to_owned()
    }

    /// What the network computes is not read where the network is.
    fn is_duplicate(&self, key: &str) -> bool {
        self.network().is_some() && key == PROMPT
    }

    /// A file that holds the network, too.
    fn adjusted_to(&self, tensors: &Tensors) -> Option<Self> {
        let network = tensors.keys().any(|key| key.starts_with(NETWORK));
        network.then(|| self.clone().starting(Start::Configured))
    }
}
