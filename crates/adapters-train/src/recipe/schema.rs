//! The JSON schema of recipes.

/// The JSON schema of recipes, for editors and checkers.
pub const RECIPE_SCHEMA: &str = include_str!("../../recipe.schema.json");

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Map, Value, json};
    use toml::Table;

    use super::*;
    use crate::recipe::{AdapterSection, HeadSection, Recipe, TrainSection};

    fn schema() -> Value {
        serde_json::from_str(RECIPE_SCHEMA).unwrap()
    }

    /// A recipe with `value` at a path such as `train.epochs`.
    fn read(path: &str, value: toml::Value) -> Result<Recipe, toml::de::Error> {
        let text = "[model]\npath = \"m\"\n[data]\ntrain = \"t\"\n[adapter]\nconfig = \"lora\"\n";
        let mut recipe: Table = toml::from_str(text).unwrap();
        let mut names = path.split('.').collect::<Vec<_>>();
        let last = names.pop().unwrap();
        let mut table = &mut recipe;
        for name in names {
            let inner = table.entry(name).or_insert_with(|| Table::new().into());
            table = inner.as_table_mut().unwrap();
        }
        table.insert(last.to_owned(), value);
        toml::from_str(&toml::to_string(&recipe).unwrap())
    }

    /// The fields that serde knows of the table at a path.
    fn known(path: &str) -> BTreeSet<String> {
        let error = read(&format!("{path}.no_such_field"), true.into()).unwrap_err();
        let names = error.message().split('`').skip(1).step_by(2);
        names
            .filter(|name| *name != "no_such_field")
            .map(str::to_owned)
            .collect()
    }

    fn keys(object: &Value) -> BTreeSet<String> {
        object.as_object().unwrap().keys().cloned().collect()
    }

    #[test]
    fn the_schema_has_the_fields_of_recipes() {
        let schema = schema();
        let of = |path: &str| {
            let mut at = &schema["properties"];
            for name in path.split('.') {
                at = &at[name]["properties"];
            }
            keys(at)
        };
        for path in [
            "model",
            "data",
            "data.fields",
            "data.shard",
            "fusion",
            "head",
            "train",
            "output",
        ] {
            assert_eq!(of(path), known(path), "{path}");
        }
        let whole = AdapterSection {
            config: Some(String::new()),
            method: Some(String::new()),
            from: Some("a".into()),
            stack_on: Some("a".into()),
            fuse: vec!["a".into()],
            fusion: Some(String::new()),
            ..AdapterSection::default()
        };
        assert_eq!(of("adapter"), keys(&serde_json::to_value(whole).unwrap()));
        let sections = ["adapter", "data", "fusion", "head", "model", "output", "train"];
        assert_eq!(keys(&schema["properties"]), sections.map(str::to_owned).into());
    }

    #[test]
    fn its_defaults_and_choices_are_those_of_recipes() {
        let schema = schema();
        let defaults = [
            ("head", serde_json::to_value(HeadSection::default()).unwrap()),
            ("train", serde_json::to_value(TrainSection::default()).unwrap()),
        ];
        for (section, values) in defaults {
            let properties = schema["properties"][section]["properties"].as_object().unwrap();
            let stated: Map<String, Value> = properties
                .iter()
                // Not written where it is off.
                .filter(|(name, _)| *name != "tensorboard")
                .filter_map(|(name, about)| Some((name.clone(), about.get("default")?.clone())))
                .collect();
            assert_eq!(json!(stated), values, "{section}");
        }
        for section in ["model", "data", "head", "train"] {
            for (name, about) in schema["properties"][section]["properties"].as_object().unwrap() {
                for choice in about["enum"].as_array().into_iter().flatten() {
                    let choice = choice.as_str().unwrap();
                    let read = read(&format!("{section}.{name}"), choice.into());
                    assert!(read.is_ok(), "{section}.{name} = {choice}: {}", read.unwrap_err());
                }
                let wrong = read(&format!("{section}.{name}"), "no such choice".into());
                assert!(about.get("enum").is_none() || wrong.is_err(), "{section}.{name}");
            }
        }
        let tasks: Vec<&str> = crate::tasks::TASKS.iter().map(|task| task.name).collect();
        assert_eq!(schema["properties"]["head"]["properties"]["kind"]["enum"], json!(tasks));
    }
}
