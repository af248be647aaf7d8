//! `adapters info`

use std::collections::BTreeMap;
use std::path::Path;

use adapters::Host;
use adapters::core::SiteKind;
use adapters::models::Pretrained;
use adapters::store::Manifest;
use burn::module::Module;

use crate::args::InfoArgs;
use crate::failure::Failure;
use crate::loading;

/// Describes a model folder or an adapter folder.
pub fn run(args: InfoArgs) -> Result<(), Failure> {
    if args.path.join("adapter_config.json").exists() {
        adapter(&args)
    } else {
        let dir = loading::model_dir(&args.path.to_string_lossy())?;
        model(&dir, &args)
    }
}

fn model(dir: &Path, args: &InfoArgs) -> Result<(), Failure> {
    let model = Pretrained::open(dir)?.model(&loading::device(&args.device)?)?;
    say!("model {}", dir.display());
    say!("architecture {} ({})", model.architecture(), model.class_name());
    say!("parameters {}", model.num_params());
    say!(
        "width {}, layers {}, vocabulary {}, longest input {}",
        model.d_model(),
        model.num_layers(),
        model.vocab_size(),
        model.max_length()
    );
    sites(&model, args.sites);
    Ok(())
}

/// The sites, all of them or counted by role.
fn sites(model: &impl Host, all: bool) {
    let sites = model.sites();
    say!("sites {}", sites.len());
    if all {
        for info in &sites {
            say!("  {:<28} {:<44} {}", info.site.to_string(), info.path, kind(&info.kind));
        }
        return;
    }
    let mut by_role: BTreeMap<String, (usize, String, String)> = BTreeMap::new();
    for info in &sites {
        let entry = by_role.entry(info.site.role.to_string());
        entry.or_insert_with(|| (0, kind(&info.kind), info.path.clone())).0 += 1;
    }
    for (role, (count, kind, path)) in by_role {
        say!("  {role:<18} {count:>3} x {kind:<28} e.g. {path}");
    }
}

fn kind(kind: &SiteKind) -> String {
    match kind {
        SiteKind::Linear { d_in, d_out } => format!("linear {d_in} -> {d_out}"),
        SiteKind::Norm { d_model } => format!("norm {d_model}"),
        SiteKind::Table { rows, d_model, .. } => format!("table {rows} x {d_model}"),
        SiteKind::Hidden { d_model } => format!("residual {d_model}"),
        SiteKind::KeyValue { heads, d_head } => format!("key/value {heads} x {d_head}"),
        SiteKind::Embedding { d_model } => format!("embedding {d_model}"),
        SiteKind::LayerOutput { d_model } => format!("layer output {d_model}"),
        SiteKind::LmHeadInput { d_model } => format!("head input {d_model}"),
    }
}

fn adapter(args: &InfoArgs) -> Result<(), Failure> {
    let found = Manifest::read(&args.path)?;
    let manifest = found.clone().unwrap_or_default();
    let dir = loading::base_dir(args.model.as_deref(), &manifest)?;
    let device = loading::device(&args.device)?;
    let base = Pretrained::open(&dir)?.model(&device)?;
    let (adapted, report) = loading::adapted(base, &args.path, args.allow_bin, &device)?;
    let attached = adapted.set.attached(&report.attached.adapter)?;
    say!("adapter {} in {}", attached.name(), args.path.display());
    say!("format {}, weights {}", report.format, report.weights.display());
    say!("config {}", attached.method());
    say!(
        "parameters {} ({:.3} % of the base)",
        attached.num_params(),
        attached.num_params() as f64 / (*adapted.base).num_params() as f64 * 100.0
    );
    say!("base {} ({})", dir.display(), adapted.base.architecture());
    if let Some(head) = &manifest.head {
        let field = |key: &str| head.config.get(key).and_then(|value| value.as_str()).unwrap_or("none");
        say!(
            "head {} ({}, {} pooling)",
            head.file,
            field("head_type"),
            field("pooling")
        );
    }
    if found.is_none() {
        say!("manifest none");
    }
    say!("touches {} sites", attached.layers().count());
    for layer in attached.layers() {
        say!("  {:<44} {}", layer.info.path, kind(&layer.info.kind));
    }
    Ok(())
}
