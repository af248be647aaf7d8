//! Trainable tokens: chosen rows of an embedding table, trained in copies.

use adapters_core::config::to_fields;
use adapters_core::{
    AdapterHub, Build, Call, Capabilities, Causality, Codec, ConfigError, Effect, Erased, Error, Host, LinearState,
    LinearWeight, Method, NotMergeable, Peft, Role, SiteAdapter, SiteInfo, SiteKind, SiteLayer, Source, StoredConfig,
    TableState, TiesHead, named_params,
};
use adapters_core::{target::ModulePattern, target::Target};
use adapters_methods::ModuleFields;
use adapters_methods::{name_modules, read_modules};
use adapters_nn::float_weight;
use adapters_nn::ops::project;
use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The rows `token_indices` of an embedding table, trained: for new tokens, or tokens of a new meaning. They act in a head whose
/// weight is the table, too. On a linear layer they are the rows of its published weight, `[d_out, d_in]`.
///
/// | Name | Default | Purpose | Range |
/// |---|---|---|---|
/// | `token_indices` | none | the rows | at least one, each once, inside the table |
///
/// Beside LoRA it is a union, `lora|trainable_tokens[..]`: peft's `trainable_token_indices` inside its LoRA.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainableTokens {
    /// The rows.
    pub token_indices: Vec<usize>,
    /// Which modules.
    #[serde(flatten)]
    pub targets: ModuleFields,
}

impl Method for TrainableTokens {
    const NAME: &'static str = "trainable_tokens";
    const DESCRIPTION: &'static str = "Chosen rows of the token table, trained in copies.";

    fn check(&self) -> Result<(), ConfigError> {
        let mut rows = self.token_indices.clone();
        rows.sort_unstable();
        rows.dedup();
        let fits = !rows.is_empty() && rows.len() == self.token_indices.len();
        ConfigError::unless(
            fits,
            "token_indices",
            "at least one row, each once",
            format!("{:?}", self.token_indices),
        )
    }

    fn target(&self) -> Target {
        self.targets.target_or(Target::roles([Role::TokenEmbedding]))
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        let table = build.host.table(site.site).map(|table| table.weight.val());
        let head = || Some(float_weight(build.host.linear(site.site)?).transpose());
        let Some(frozen) = table.or_else(head) else {
            return Err(Self::refuse(site, "it adapts embedding tables and linear layers only"));
        };
        let [rows, _] = frozen.dims();
        let padding = match site.kind {
            SiteKind::Table { padding, .. } => padding,
            _ => None,
        };
        if let Some(row) = self.token_indices.iter().find(|row| **row >= rows) {
            return Err(Self::refuse(site, format!("token {row} is outside its {rows} rows")));
        }
        let n = self.token_indices.len();
        let chosen: Vec<i64> = self.token_indices.iter().map(|row| *row as i64).collect();
        let chosen = Tensor::<1, Int>::from_data(TensorData::new(chosen, [n]), build.device);
        let table = Tensor::<2>::from_data(frozen.into_data(), build.device);
        // The other tokens go to a row of zeros after the last.
        let mut indices = vec![n as i64; rows];
        for (index, row) in self.token_indices.iter().enumerate() {
            indices[*row] = index as i64;
        }
        let layer = TokenRows {
            tokens: self.token_indices.clone(),
            rows: Param::from_data(table.select(0, chosen.clone()).into_data(), build.device),
            chosen,
            indices: Tensor::from_data(TensorData::new(indices, [rows]), build.device),
            padding: padding.and_then(|row| self.token_indices.iter().position(|token| *token == row)),
        };
        Ok(match site.kind {
            SiteKind::Table { .. } => SiteLayer::Table(Erased::new(layer)),
            _ => SiteLayer::Linear(Erased::new(layer)),
        })
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            tied: Some(self),
            ..Capabilities::default()
        }
    }
}

impl TiesHead for TrainableTokens {
    /// A head of other rows than the table's has rows of its own.
    fn on_tied_head(&self, table: &SiteLayer, head: &SiteInfo) -> Option<SiteLayer> {
        let SiteLayer::Table(layer) = table else { return None };
        let rows: &TokenRows = layer.downcast_ref()?;
        if self.target().covers(head).unwrap_or(false) && rows.tokens != self.token_indices {
            return None;
        }
        // The padding token's row is fixed only where it is looked up.
        Some(SiteLayer::Linear(Erased::new(TokenRows {
            padding: None,
            ..rows.clone()
        })))
    }

    fn on_tied_table(&self, table: &SiteLayer) -> Option<SiteLayer> {
        let SiteLayer::Table(layer) = table else { return None };
        layer.downcast_ref::<TokenRows>()?;
        Some(table.clone())
    }
}

impl Codec<AdapterHub> for TrainableTokens {}

impl Codec<Peft> for TrainableTokens {
    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        read_modules(PEFT_TYPE, stored, |config: &Self| &config.targets)
    }

    fn write(&self, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, ConfigError> {
        let mut config = self.clone();
        name_modules(PEFT_TYPE, &mut config.targets, sites, host);
        Ok(to_fields(&config, &[]))
    }

    fn write_nested(&self, outer: &Map<String, Value>) -> Option<Map<String, Value>> {
        let rows = Value::from(self.token_indices.clone());
        let field = match &self.targets.target_modules {
            None => rows,
            Some(ModulePattern::Names(names)) => {
                Map::from_iter(names.iter().map(|name| (name.clone(), rows.clone()))).into()
            }
            Some(ModulePattern::Regex(_) | ModulePattern::AllLinear) => return None,
        };
        has_field(outer).then(|| Map::from_iter([(NESTED.to_owned(), field)]))
    }

    fn read_nested(outer: &Map<String, Value>) -> Vec<(&'static str, Map<String, Value>)> {
        let config = |rows: &Value, table: Option<&String>| {
            let mut fields = Map::new();
            fields.insert("peft_type".to_owned(), PEFT_TYPE.into());
            fields.insert("token_indices".to_owned(), rows.clone());
            if let Some(table) = table {
                fields.insert("target_modules".to_owned(), Value::from([table.as_str()].as_slice()));
            }
            (NESTED, fields)
        };
        // Anything else is left to the outer method, which refuses what it does not know.
        match outer.get(NESTED).filter(|_| has_field(outer)) {
            Some(Value::Object(tables)) if tables.values().all(Value::is_array) => {
                tables.iter().map(|(table, rows)| config(rows, Some(table))).collect()
            }
            Some(rows @ Value::Array(items)) if !items.is_empty() => vec![config(rows, None)],
            _ => Vec::new(),
        }
    }

    fn nested_key(&self, site: &SiteInfo, _adapter: &str, param: &str) -> String {
        format!("{}.token_adapter.{param}", site.path)
    }
}

/// Peft's name.
const PEFT_TYPE: &str = "TRAINABLE_TOKENS";

/// The field of peft's LoRA for them: rows of the input embeddings, or an object of rows by the name of their table.
const NESTED: &str = "trainable_token_indices";

/// The configurations whose peft class has that field.
fn has_field(outer: &Map<String, Value>) -> bool {
    outer.get("peft_type").is_some_and(|name| name == "LORA")
}

/// Rows in place of those of one table.
#[derive(Module, Debug)]
pub(crate) struct TokenRows {
    /// `[n, d_model]`.
    pub(crate) rows: Param<Tensor<2>>,
    /// Which rows of the table they replace, `[n]`, constant.
    pub(crate) chosen: Tensor<1, Int>,
    /// For each row of the table its index among them, or `n`; constant.
    pub(crate) indices: Tensor<1, Int>,
    /// The index of the padding token's row, which gets no gradient.
    pub(crate) padding: Option<usize>,
    /// Which rows they are, as numbers.
    #[module(skip)]
    pub(crate) tokens: Vec<usize>,
}

impl TokenRows {
    /// The rows, and a row of zeros after the last.
    fn with_zero(&self) -> Tensor<2> {
        let [_, d_model] = self.rows.dims();
        let rows = self.rows.val();
        let rows = match self.padding {
            Some(index) => {
                let fixed = rows.clone().detach().slice_dim(0, index..index + 1);
                rows.slice_assign([index..index + 1, 0..d_model], fixed)
            }
            None => rows,
        };
        let zero = Tensor::zeros([1, d_model], &rows.device());
        Tensor::cat(vec![rows, zero], 0)
    }

    /// The weight `[rows, d_model]` with these rows in place of its own.
    fn with_trained_rows(&self, base: Tensor<2>) -> Tensor<2> {
        let [n, _] = self.rows.dims();
        let rows = self.with_zero().select(0, self.indices.clone());
        let [all] = self.indices.dims();
        let chosen = self.indices.clone().not_equal_elem(n as i64).float().reshape([all, 1]);
        base * (chosen.ones_like() - chosen) + rows
    }
}

impl SiteAdapter<TableState> for TokenRows {
    fn apply(&self, state: TableState, _call: &Call<'_>) -> TableState {
        let ([batch, seq], [n, d_model]) = (state.ids.dims(), self.rows.dims());
        let indices = self.indices.clone().select(0, state.ids.clone().reshape([batch * seq]));
        let rows = self.with_zero().select(0, indices.clone());
        let chosen = indices.not_equal_elem(n as i64).float().reshape([batch, seq, 1]);
        TableState {
            output: state.output.clone() * (chosen.ones_like() - chosen) + rows.reshape([batch, seq, d_model]),
            ..state
        }
    }

    fn effect(&self) -> Effect {
        Effect::Changes
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: Tensor<2>, _shared: &()) -> Result<Tensor<2>, NotMergeable> {
        Ok(self.with_trained_rows(base))
    }
}

impl SiteAdapter<LinearState> for TokenRows {
    /// Adds to the chosen outputs what the rows give more than those of the frozen weight.
    fn apply(&self, state: LinearState, _call: &Call<'_>) -> LinearState {
        let weight = float_weight(&state.layer).transpose();
        let more = self.rows.val() - weight.select(0, self.chosen.clone());
        let indices = self.indices.clone();
        state.plus(|x| {
            let more = project(x, more);
            let [batch, seq, _] = more.dims();
            let zero = Tensor::zeros([batch, seq, 1], &more.device());
            Tensor::cat(vec![more, zero], 2).select(2, indices)
        })
    }

    fn effect(&self) -> Effect {
        Effect::Adds(Source::Input)
    }

    fn causality(&self) -> Causality {
        Causality::Causal
    }

    fn merged(&self, base: LinearWeight, _shared: &()) -> Result<LinearWeight, NotMergeable> {
        Ok(LinearWeight {
            weight: self.with_trained_rows(base.weight.transpose()).transpose(),
            ..base
        })
    }
}

named_params!(TokenRows: "trainable_tokens_delta" => rows);
