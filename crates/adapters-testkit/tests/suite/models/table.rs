//! The table of what each architecture offers adapters, in the README of the crate of models.

use adapters::Host;
use adapters::core::{Role, SiteInfo, SiteKind};
use adapters::models::{ARCHITECTURES, Architectures, Model};
use adapters_testkit::model_contract::{ModelCase, random_checkpoint};
use burn::tensor::Device;

/// The title of a column, and whether a model has the feature.
type Feature = (&'static str, fn(&Model) -> bool);

/// The columns behind the name and the kind.
const FEATURES: [Feature; 7] = [
    ("token table", |model| {
        any(model, |info| info.site.role == Role::TokenEmbedding)
    }),
    ("inserted tokens", |model| {
        any(model, |info| info.site.role == Role::EmbeddedTokens)
    }),
    ("prefixes", |model| any(model, |info| info.site.role == Role::KeyValue)),
    ("fused projections", |model| {
        any(model, |info| !info.site.role.projections().is_empty())
    }),
    ("experts", |model| {
        any(model, |info| {
            info.site.expert.is_some() || matches!(info.kind, SiteKind::Matrices { .. })
        })
    }),
    ("masked language model", |model| model.info().masked_lm.is_some()),
    ("pooler", Model::has_pooler),
];

fn any(model: &Model, is: fn(&SiteInfo) -> bool) -> bool {
    model.sites().iter().any(is)
}

/// A feature is there if a model of any of the tiny configurations has it.
#[test]
fn the_readme_lists_what_each_architecture_offers() {
    let titles = FEATURES.map(|(title, _)| title);
    let mut table = format!("| `model_type` | kind | {} |\n", titles.join(" | "));
    table.push_str(&format!("|{}\n", "---|".repeat(FEATURES.len() + 2)));
    for known in ARCHITECTURES {
        let (configs, optional_keys) = super::tiny::configs(super::name_of(known));
        let models: Vec<Model> = configs
            .into_iter()
            .map(|config| {
                let dir = tempfile::tempdir().unwrap();
                let case = ModelCase {
                    config,
                    optional_keys,
                    architectures: Architectures::default(),
                };
                random_checkpoint(&case, dir.path(), &Device::flex()).0
            })
            .collect();
        let cells = FEATURES.map(|(_, has)| if models.iter().any(has) { "yes" } else { "" });
        table.push_str(&format!(
            "| `{}`{} | {} | {} |\n",
            known.model_type,
            known.class.map_or_else(String::new, |class| format!(" (`{class}`)")),
            known.kind,
            cells.join(" | ")
        ));
    }
    let readme = include_str!("../../../../adapters-models/README.md");
    assert!(
        readme.contains(&table),
        "the table of the README of adapters-models has to be\n{table}"
    );
}
