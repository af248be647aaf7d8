//! LoRA: a low-rank update of linear layers and embedding tables.

use adapters_core::target::{Target, name_matches};
use adapters_core::{
    AdapterHub, Attached, Build, Capabilities, Codec, ConfigError, ConvertsForStorage, Erased, Error, Format, Host,
    LearnsFaster, Method, ModulePatterns, Peft, ScalesUpdate, SiteInfo, SiteKind, SiteLayer, StoredConfig, Tensors,
    TiesHead, config::from_fields,
};
use adapters_methods::{copies::TableCopy, copies::bias_copy_of, copies::copy_of};
use adapters_nn::draw;
use burn::tensor::{Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value};

use crate::adapterhub::{self, Object};
use crate::init::{Init, from_weight, init_a, init_b, minor_directions, orthogonal};
use crate::lora_config::{BiasTraining, LoraConfig};
use crate::low_rank::{LowRank, Origin};
use crate::low_rank_convolution::LowRankConvolution;
use crate::low_rank_matrices::LowRankMatrices;
use crate::low_rank_table::LowRankTable;
use crate::peft;
use crate::plain_lora::as_plain_lora;
use crate::scaling::Scaling;
use crate::site_builder::{SiteBuilder, linear};
use crate::start;

impl Method for LoraConfig {
    const NAME: &'static str = "lora";
    const DESCRIPTION: &'static str = "A low-rank update of linear layers and embedding tables.";

    fn check(&self) -> Result<(), ConfigError> {
        self.check_fields()
    }

    fn target(&self) -> Target {
        self.all_targets()
    }

    fn build(&self, site: &SiteInfo, build: &Build<'_>) -> Result<SiteLayer, Error> {
        if let Some(ranges) = &self.layer_replication
            && ranges != build.host.layer_replication()
        {
            let found = build.host.layer_replication();
            let reason = format!(
                "`layer_replication` is {ranges:?}, and that of the model is {found:?}: give it the layers with \
                 `Model::with_layer_replication`"
            );
            return Err(Self::refuse(site, reason));
        }
        if let Some(copy) = self.copied(site, build)? {
            return Ok(copy);
        }
        let as_parameter = self.adapts_parameter(site)?;
        if as_parameter
            && (self.dropout != 0.0 || self.up_bias || self.scaling == Scaling::Gated || self.init.is_computed())
        {
            return Err(Self::refuse(
                site,
                "for a parameter only plain LoRA without dropout is supported",
            ));
        }
        let mut builder = SiteBuilder::new(Self::NAME, &self.target, self.seed, site, build);
        match site.kind {
            SiteKind::Table { rows, d_model, padding } => {
                let table = self.table(&mut builder, rows, d_model, padding)?;
                Ok(SiteLayer::Table(Erased::new(table)))
            }
            SiteKind::Convolution {
                channels,
                d_out,
                kernel,
                groups,
            } => self.convolution(&mut builder, [channels, kernel], d_out, groups),
            SiteKind::Matrices { count, rows, cols } => self.matrices(&mut builder, count, [rows, cols]),
            _ => Ok(linear(self.low_rank(&mut builder)?)),
        }
    }

    fn capabilities(&self) -> Capabilities<'_> {
        Capabilities {
            storage: self.init.takes_from_base().then_some(self),
            faster: Some(self),
            patterns: Some(self),
            scaled: Some(self),
            from_inputs: self.needs_data().then_some(self),
            tied: self.ties_copies().then_some(self),
            ..Capabilities::default()
        }
    }
}

/// The B matrices. *LoRA+: Efficient Low Rank Adaptation of Large Models*, Hayou et al., 2024,
/// <https://arxiv.org/abs/2402.12354>.
impl LearnsFaster for LoraConfig {
    fn learns_faster(&self, param: &str) -> bool {
        param.starts_with("lora_B") || param.starts_with("lora_embedding_B")
    }
}

impl ModulePatterns for LoraConfig {
    fn patterns(&self) -> Vec<(&'static str, &str)> {
        let ranks = self
            .rank_pattern
            .keys()
            .map(|pattern| ("rank_pattern", pattern.as_str()));
        let alphas = self
            .alpha_pattern
            .keys()
            .map(|pattern| ("alpha_pattern", pattern.as_str()));
        ranks.chain(alphas).collect()
    }
}

/// The scale belongs to B, and to the bias next to it.
impl ScalesUpdate for LoraConfig {
    fn update_scale(&self, site: &SiteInfo, param: &str) -> Result<Option<f64>, Error> {
        if !self.learns_faster(param) || self.scaling == Scaling::Gated {
            return Ok(None);
        }
        let (_, scale) = match &site.parameter {
            Some(parameter) => self.rank_and_scale(&format!("{}.{}", site.path, parameter.name))?,
            None => self.rank_and_scale(&site.path)?,
        };
        Ok(Some(scale))
    }
}

impl LoraConfig {
    /// What is updated, copied, or trained in its bias.
    pub(crate) fn all_targets(&self) -> Target {
        let mut targets = vec![self.updated_modules()];
        targets.extend(self.parameters());
        targets.extend(self.saved_modules());
        if self.bias == BiasTraining::All {
            targets.push(Target::Biased);
        }
        match targets.len() {
            1 => targets.remove(0),
            _ => Target::Any(targets),
        }
    }

    /// The copy of a module or of its bias that trains at a site; `None` where there is an update.
    pub(crate) fn copied(&self, site: &SiteInfo, build: &Build<'_>) -> Result<Option<SiteLayer>, Error> {
        if let Some(saved) = self.saved_modules()
            && saved.covers(site)?
        {
            let copy = copy_of(build.host, site, build.device);
            let copy = copy.ok_or_else(|| Self::refuse(site, "the model gives no access to this weight"));
            return copy.map(Some);
        }
        if self.bias == BiasTraining::All && !self.adapts_parameter(site)? && !self.updated_modules().covers(site)? {
            let copy = bias_copy_of(build.host, site.site, build.device);
            let copy = copy.ok_or_else(|| Self::refuse(site, "it has no bias to train"));
            return copy.map(Some);
        }
        Ok(None)
    }

    /// The update of a linear layer.
    pub(crate) fn low_rank(&self, builder: &mut SiteBuilder<'_>) -> Result<LowRank, Error> {
        let (d_in, d_out) = builder.dims()?;
        let (rank, scale) = self.rank_and_scale(&builder.site.path)?;
        let computed = self.init.is_computed() || self.start.is_some();
        let (a, b, origin) = if computed {
            if builder.fused.is_some() {
                return Err(
                    builder.refuse("single projections of a fused layer have no initial values that are computed")
                );
            }
            if rank > d_in.min(d_out) {
                let most = d_in.min(d_out);
                return Err(builder.refuse(format!("its rank {rank} is above the {most} of the weight")));
            }
            if self.needs_data() {
                return Err(builder.refuse(match self.init {
                    Init::LoraGa => {
                        "its initial values follow from gradients; attach it with `Adapted::attach_from_gradients`"
                    }
                    _ => "its initial values follow from inputs; attach it with `Adapted::attach_from_inputs`",
                }));
            }
            let (a, b) = match self.start_at(builder.site.site) {
                Some(start) => start,
                None if self.init == Init::Loftq => start::of_loss(builder.frozen()?, rank, scale)
                    .ok_or_else(|| builder.refuse("its weight is quantized already, and what was lost is not known"))?,
                None if self.init == Init::Orthogonal && !rank.is_multiple_of(2) => {
                    return Err(builder.refuse(format!("its rank {rank} is odd, and `orthogonal` needs an even one")));
                }
                None if self.init == Init::Orthogonal => {
                    orthogonal(&mut builder.rng, rank, [d_in, d_out], builder.build.device)
                }
                None if self.init == Init::Mica => (
                    draw::constant([rank, d_in], 0.0),
                    minor_directions(builder.frozen_weight()?, rank),
                ),
                None => from_weight(self.init, builder.frozen_weight()?, rank, scale),
            };
            let origin = self.init.takes_from_base().then(|| Origin {
                a: builder.param(a.clone(), self.dtype).set_require_grad(false),
                b: builder.param(b.clone(), self.dtype).set_require_grad(false),
            });
            (a, b, origin)
        } else if let Some(table) = builder.site.tied_to.filter(|_| self.ties_updates()) {
            // As the table starts, the other way round.
            let (a, b) = table_start(&mut builder.build.rng(self.seed, table), [d_out, d_in], rank);
            let transposed = |data| {
                Tensor::<2>::from_data(data, builder.build.device)
                    .transpose()
                    .into_data()
            };
            (transposed(b), transposed(a), None)
        } else {
            let rows = rank * builder.groups();
            let a = init_a(self.init, &mut builder.rng, rank, [rows, d_in]);
            let b = init_b(self.init, &mut builder.rng, d_out, rank);
            (a, b, None)
        };
        let gate = builder.gate_of(self, d_in);
        let frozen = builder.build.host.linear(builder.site.site);
        let base_bias = match self.bias {
            BiasTraining::None => None,
            BiasTraining::LoraOnly | BiasTraining::All => frozen.and_then(|frozen| frozen.bias.as_ref()),
        };
        Ok(LowRank {
            a: builder.param(a, self.dtype),
            b: builder.param(b, self.dtype),
            fixed_b: self.init == Init::Mica,
            up_bias: self
                .up_bias
                .then(|| builder.param(draw::constant([d_out], 0.0), self.dtype)),
            base_bias: base_bias.map(|bias| builder.param(bias.val().into_data(), None)),
            fused: builder.fused.clone(),
            origin,
            gate,
            scale,
            dropout: self.dropout,
        })
    }

    /// The updates of matrices in one parameter.
    fn matrices(
        &self,
        builder: &mut SiteBuilder<'_>,
        count: usize,
        [rows, cols]: [usize; 2],
    ) -> Result<SiteLayer, Error> {
        let name = builder.site.parameter.as_ref().map_or("", |parameter| &parameter.name);
        let (rank, scale) = self.rank_and_scale(&format!("{}.{name}", builder.site.path))?;
        let a = init_a(self.init, &mut builder.rng, rank, [count * rank, cols]);
        Ok(SiteLayer::Matrices(Erased::new(LowRankMatrices {
            a: builder.param(a, self.dtype),
            b: builder.param(draw::constant([rows, rank * count], 0.0), self.dtype),
            count,
            scale,
        })))
    }

    /// The update of a convolution in groups.
    fn convolution(
        &self,
        builder: &mut SiteBuilder<'_>,
        [channels, kernel]: [usize; 2],
        d_out: usize,
        groups: usize,
    ) -> Result<SiteLayer, Error> {
        if self.init.is_computed() || self.scaling == Scaling::Gated || self.bias != BiasTraining::None {
            return Err(builder.refuse("at a convolution in groups only plain LoRA is supported"));
        }
        let (rank, scale) = self.rank_and_scale(&builder.site.path)?;
        if rank % groups != 0 {
            return Err(builder.refuse(format!("r is {rank}, expected a multiple of its {groups} groups")));
        }
        let shaped = |data: TensorData, shape: [usize; 3]| TensorData::new(data.iter::<f32>().collect(), shape);
        let a = init_a(self.init, &mut builder.rng, rank, [rank, channels * kernel]);
        let a = shaped(a, [rank, channels, kernel]);
        let b = init_b(self.init, &mut builder.rng, d_out, rank / groups);
        let b = shaped(b, [d_out, rank / groups, 1]);
        Ok(SiteLayer::Convolution(Erased::new(LowRankConvolution {
            a: builder.param(a, self.dtype),
            b: builder.param(b, self.dtype),
            up_bias: self
                .up_bias
                .then(|| builder.param(draw::constant([d_out], 0.0), self.dtype)),
            groups,
            scale,
            dropout: self.dropout,
        })))
    }

    /// The update of an embedding table.
    pub(crate) fn table(
        &self,
        builder: &mut SiteBuilder<'_>,
        rows: usize,
        d_model: usize,
        padding: Option<usize>,
    ) -> Result<LowRankTable, Error> {
        let is_mica = self.init == Init::Mica;
        if self.up_bias || (self.init.is_computed() && !is_mica) || self.scaling == Scaling::Gated {
            return Err(builder.refuse("on an embedding table only plain LoRA is supported"));
        }
        let (rank, scale) = self.rank_and_scale(&builder.site.path)?;
        let (a, mut b) = table_start(&mut builder.rng, [rows, d_model], rank);
        if is_mica {
            let table = builder.build.host.table(builder.site.site);
            let table = table.ok_or_else(|| builder.refuse("the model gives no access to this table"))?;
            if rank > rows.min(d_model) {
                let most = rows.min(d_model);
                return Err(builder.refuse(format!("its rank {rank} is above the {most} of the table")));
            }
            b = minor_directions(table.weight.val(), rank);
        }
        Ok(LowRankTable {
            a: builder.param(a, self.dtype),
            b: builder.param(b, self.dtype),
            fixed_b: is_mica,
            scale,
            padding,
        })
    }
}

/// A, `[rank, rows]`, and B, `[d_model, rank]`, of a new update of a table. The other way round than in a linear layer, as
/// published: A is zero.
fn table_start(rng: &mut ChaCha8Rng, [rows, d_model]: [usize; 2], rank: usize) -> (TensorData, TensorData) {
    let b = draw::normal(rng, [d_model, rank], 1.0);
    (draw::constant([rank, rows], 0.0), b)
}

impl TiesHead for LoraConfig {
    /// A copy is one for both. Low-rank updates have parameters of their own at each.
    fn on_tied_head(&self, table: &SiteLayer, _head: &SiteInfo) -> Option<SiteLayer> {
        let SiteLayer::Table(layer) = table else { return None };
        let copy: &TableCopy = layer.downcast_ref()?;
        Some(SiteLayer::Linear(Erased::new(copy.on_head())))
    }
}

impl ConvertsForStorage for LoraConfig {
    fn to_storage(&self, _format: Format, adapter: &Attached, host: &dyn Host) -> Result<Option<Attached>, Error> {
        as_plain_lora(self, adapter, host).map(Some)
    }
}

impl Codec<AdapterHub> for LoraConfig {
    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        let object = Object::of(Self::NAME, stored)?;
        Some(object.and_then(|object| from_fields(object.fields)))
    }

    fn write(&self, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, ConfigError> {
        Object::default().write(self, sites, host)
    }

    fn key(&self, site: &SiteInfo, adapter: &str, param: &str) -> String {
        adapterhub::key(site, adapter, param)
    }
}

impl Codec<Peft> for LoraConfig {
    fn read(stored: &StoredConfig<'_>) -> Option<Result<Self, ConfigError>> {
        peft::read_lora(stored, false)
    }

    fn names() -> &'static peft::Names {
        peft::LORA
    }

    fn write(&self, sites: &[&SiteInfo], host: &dyn Host) -> Result<Map<String, Value>, ConfigError> {
        peft::write_lora(self, false, sites, host)
    }

    fn key(&self, site: &SiteInfo, _adapter: &str, param: &str) -> String {
        // Each parameter of a module that is adapted wraps the module once more, the first one innermost.
        let target = self.target_parameters.as_deref().unwrap_or_default();
        let outer = site
            .parameter
            .iter()
            .flat_map(|parameter| &parameter.after)
            .filter(|name| {
                let path = format!("{}.{name}", site.path);
                target.iter().any(|wanted| name_matches(wanted, &path))
            });
        peft::lora_key(site, &format!("{}{param}", "base_layer.".repeat(outer.count())))
    }

    fn stored_shape(&self, site: &SiteInfo, param: &str, shape: Vec<usize>) -> Vec<usize> {
        peft::lora_shape(site, param, shape)
    }

    /// With the head's name among the modules where peft has taken it out, as it does once the head is tied to a table.
    fn adjusted_to(&self, tensors: &Tensors) -> Option<Self> {
        let is_tied = self.ties_copies() || self.ties_updates();
        (self.ensure_weight_tying && !is_tied).then(|| self.with_tied_head(tensors))?
    }

    /// The product that peft takes out of the weight again when it loads a file of PiSSA or OLoRA.
    fn may_lack(&self, param: &str) -> bool {
        matches!(param, "lora_A_initial" | "lora_B_initial")
    }
}

#[cfg(test)]
mod tests {
    use adapters_core::AnyMethod;
    use adapters_methods::{MethodEntry, Registry};
    use serde_json::json;

    use super::*;
    use crate::target::LayerRoles;

    fn parse(text: &str) -> Result<AnyMethod, Error> {
        Registry::default().with(MethodEntry::of::<LoraConfig>()).parse(text)
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        for (config, field) in [
            (LoraConfig::new(0), "`r` is 0"),
            (LoraConfig::new(8).with_alpha(f64::NAN), "`alpha` is NaN"),
            (LoraConfig::new(8).with_dropout(1.0), "`dropout` is 1"),
            (LoraConfig::new(8).with_init(Init::Ia3), "`init_weights` is ia3"),
        ] {
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
        let none = LayerRoles {
            self_attention: false,
            ..LayerRoles::default()
        };
        assert!(LoraConfig::new(8).with_roles(none).check().is_err());
    }

    #[test]
    fn the_scale_follows_patterns_and_rslora() {
        let mut config = LoraConfig::new(4).with_alpha(8.0);
        config.rank_pattern.insert("query".into(), 16);
        config.alpha_pattern.insert("value".into(), 2.0);
        let lora = &config;
        assert_eq!(lora.rank_and_scale("a.query").unwrap(), (16, 0.5));
        assert_eq!(lora.rank_and_scale("a.value").unwrap(), (4, 0.5));
        let lora = config.with_scaling(Scaling::RankStabilized);
        assert_eq!(lora.rank_and_scale("a.key").unwrap(), (4, 4.0));
    }

    #[test]
    fn config_strings_read_and_print() {
        for text in [
            "lora",
            "lora[r=16,alpha=32]",
            "lora[attn_matrices=[q,k,v],output_lora=true]",
            "lora[target_modules=all-linear]",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn mistakes_in_config_strings_are_named() {
        for (text, parts) in [
            (
                "lora[rank=4]",
                &["unknown field `rank`; did you mean `r`?", "known: "][..],
            ),
            ("lora[alhpa=4]", &["did you mean `alpha`?"]),
            ("lora[r=0]", &["`r` is 0, expected 1 to 65536"]),
            ("lora[r=x]", &["invalid type: string"]),
            ("lora[use_gating=true,use_rslora=true]", &["`use_rslora` is true"]),
            (
                "lorra",
                &["unknown adapter configuration `lorra`; did you mean `lora`?"],
            ),
            ("lora|lora[r=4]", &["`lora` and `lora[r=4]` both target `query`"]),
        ] {
            let error = parse(text).unwrap_err();
            let source = std::error::Error::source(&error).map(ToString::to_string);
            let all = format!("{error}: {}", source.unwrap_or_default());
            for part in parts {
                assert!(all.contains(part), "{text}: {all}");
            }
        }
    }

    #[test]
    fn json_and_toml_round_trip_with_unknown_fields() {
        let written = json!({"r": 4, "alpha": 6, "attn_matrices": ["q", "k"], "later": {"x": [1]}});
        let config: LoraConfig = serde_json::from_value(written).unwrap();
        assert_eq!((config.rank, config.alpha), (4, 6.0));
        let back: LoraConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
        assert_eq!(back, config);
        assert_eq!(back.extra["later"], json!({"x": [1]}));
        let config = LoraConfig {
            extra: Map::new(),
            ..config
        };
        let back: LoraConfig = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(back, config);
        let toml_extra: LoraConfig = toml::from_str("r = 2\nlater = 1").unwrap();
        assert_eq!(toml_extra.extra["later"], json!(1));
    }

    fn stored(format: Format, fields: &Map<String, Value>, version: Option<(u32, u32)>) -> StoredConfig<'_> {
        StoredConfig {
            format,
            fields,
            version,
            versioned: version.is_some(),
        }
    }

    #[test]
    fn old_files_mean_alpha_equals_r() {
        let written = json!({"architecture": "lora", "r": 2, "alpha": 4, "init_weights": "bert"});
        let fields = written.as_object().unwrap();
        let registry = Registry::default().with(MethodEntry::of::<LoraConfig>());
        let read = |version| {
            let stored = stored(Format::AdapterHub, fields, version);
            registry.read(&stored).unwrap().to_string()
        };
        assert_eq!(read(Some((1, 3))), "lora[r=2,alpha=4,init_weights=bert]");
        assert_eq!(read(Some((1, 0))), "lora[r=2,alpha=2,init_weights=bert]");
        assert_eq!(read(None), "lora[r=2,alpha=2,init_weights=bert]");
    }

    #[test]
    fn peft_files_are_refused_by_name() {
        for (fields, named) in [
            (
                json!({"peft_type": "LORA", "target_modules": ["q"], "init_lora_weights": "pissa_niter_4"}),
                "init_lora_weights",
            ),
            (json!({"peft_type": "LORA"}), "target_modules"),
        ] {
            let stored = stored(Format::Peft, fields.as_object().unwrap(), None);
            let error = <LoraConfig as Codec<Peft>>::read(&stored).unwrap().unwrap_err();
            assert!(error.to_string().contains(named), "{error}");
        }
    }
}
