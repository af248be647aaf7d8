//! Positions and rows: edits at the ends of rows, prompts that make rows longer, and what follows from that.

use adapters::core::Format;
use adapters::models::TextInput;
use adapters::store::{LoadOptions, load_adapter, save_adapter};
use adapters::{AdapterSet, Composition, Ctx, Error, METHODS, method};
use adapters_testkit::contract::Bench;
use burn::tensor::{Device, TensorData};

#[test]
fn signs_survive_decay_and_files() {
    let bench = Bench::new(2, 4, 5, &Device::flex());
    for config in ["loreft[r=2]", "lora[r=3]|loreft[r=2]"] {
        let set = bench.attach(config);
        let want = bench.output(&set);
        // What a thousand steps of weight decay leave of the diagonal.
        let decayed = scaled_diagonals(&set, 0.3);
        assert_eq!(bench.output(&decayed), want, "{config}: decay changes the rows");
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("under_test");
        save_adapter(&dir, Format::AdapterHub, &decayed, "under_test", &bench.model).unwrap();
        let mut loaded = AdapterSet::new();
        let options = LoadOptions::default();
        load_adapter(&dir, &mut loaded, &bench.model, &METHODS, &options, &Device::flex()).unwrap();
        loaded.activate("under_test").unwrap();
        assert_eq!(bench.output(&loaded), want, "{config}: files hold something else");
    }
}

/// Every diagonal of an orthogonal projection times `factor`.
fn scaled_diagonals(set: &AdapterSet, factor: f32) -> AdapterSet {
    let mut values = set.get("under_test").unwrap().values();
    values.retain(|(_, param), _| param.ends_with("weight.original"));
    assert!(!values.is_empty());
    for data in values.values_mut() {
        let (rank, width) = (data.shape()[0], data.shape()[1]);
        let mut all: Vec<f32> = data.iter().collect();
        all.iter_mut().step_by(width + 1).take(rank).for_each(|x| *x *= factor);
        *data = TensorData::new(all, [rank, width]);
    }
    let mut set = set.clone();
    set.put_values("under_test", values).unwrap();
    set
}

#[test]
fn reft_refuses_what_the_model_does_not_have() {
    let bench = Bench::new(2, 4, 5, &Device::flex());
    let attach = |config: &str| {
        let method = method(config).unwrap();
        let refused = AdapterSet::new().attach("a", method, &bench.model, 0, &Device::flex());
        let error = refused.unwrap_err();
        let source = std::error::Error::source(&error)
            .map(ToString::to_string)
            .unwrap_or_default();
        format!("{error}: {source}")
    };
    let error = attach("loreft[layers=[0,7]]");
    assert!(error.contains("layer_output of layer 7"), "{error}");
    let error = attach("loreft[r=9]");
    assert!(error.contains("`r`") && error.contains("the width is 8"), "{error}");
}

#[test]
fn prompts_that_begin_as_a_text() {
    let bench = Bench::new(2, 4, 5, &Device::flex());
    let words = bench.model.word_embeddings().unwrap().into_data();
    let words: Vec<f32> = words.iter().collect();
    for config in [
        "prompt_tuning[prompt_length=5,prompt_init=from_string,prompt_init_text=film]",
        "peft_prompt_tuning[num_virtual_tokens=5,prompt_tuning_init=TEXT,prompt_tuning_init_text=film,\
        tokenizer_name_or_path=tiny]",
    ] {
        let attach = |method| {
            let mut set = AdapterSet::new();
            set.attach("a", method, &bench.model, 0, &Device::flex()).map(|_| set)
        };
        let text = method(config).unwrap();
        let error = attach(text.clone()).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("with_tokens"), "{config}: {source}");
        // Repeated to the prompt's length.
        let tokens = text
            .capabilities()
            .tokenizer
            .unwrap()
            .with_tokens(&|_| Ok(vec![9, 4]))
            .unwrap()
            .unwrap();
        let values = attach(tokens).unwrap().get("a").unwrap().values();
        let rows: Vec<f32> = values.values().next().unwrap().iter().collect();
        let want: Vec<f32> = [9, 4, 9, 4, 9]
            .iter()
            .flat_map(|id| &words[id * 8..][..8])
            .copied()
            .collect();
        assert_eq!(rows, want, "{config}");
        let unknown = text
            .capabilities()
            .tokenizer
            .unwrap()
            .with_tokens(&|_| Ok(vec![16]))
            .unwrap()
            .unwrap();
        let error = attach(unknown).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(
            source.contains("below 16") && source.contains("found 16"),
            "{config}: {source}"
        );
    }
}

#[test]
fn reft_counts_positions_of_the_longer_rows() {
    let bench = Bench::new(2, 4, 5, &Device::flex());
    for combine in ["prefix", "prefix_after_bos"] {
        let prompt = format!("prompt_tuning[prompt_length=2,combine={combine}]");
        let both = format!("{prompt}|noreft[prefix_positions=1,suffix_positions=1,layers=[1]]");
        // The same prompt in both: its values are drawn first.
        let (alone, edited) = (bench.attach_random(&prompt), bench.attach_random(&both));
        let (alone, edited) = (bench.output(&alone), bench.output(&edited));
        assert_eq!(edited.shape().to_vec(), [3, 7, 8]);
        let (alone, edited): (Vec<f32>, Vec<f32>) = (alone.iter().collect(), edited.iter().collect());
        let changed = |row: usize, t: usize| {
            let range = (row * 7 + t) * 8..(row * 7 + t + 1) * 8;
            alone[range.clone()] != edited[range]
        };
        // Rows of 5, 3 and 2 tokens: the first position is edited, and the last that is no padding.
        for (row, last) in [(0, 6), (1, 4), (2, 3)] {
            let positions: Vec<usize> = (0..7).filter(|t| changed(row, *t)).collect();
            assert_eq!(positions, [0, last], "{combine}, row {row}");
        }
    }
}

#[test]
fn longer_rows_are_refused_where_rows_would_differ() {
    let bench = Bench::new(2, 4, 5, &Device::flex());
    let mut set = bench.attach("prompt_tuning[prompt_length=2]");
    for (name, config) in [
        ("twin", "prompt_tuning[prompt_length=2]"),
        ("long", "prompt_tuning[prompt_length=3]"),
        ("edit", "loreft[r=2]"),
    ] {
        set.attach(name, method(config).unwrap(), &bench.model, 3, &Device::flex())
            .unwrap();
    }
    let shared = |children: [&str; 2]| Composition::batch_split(children, [1, 2]);
    // Of a stack the first adapter alone acts on the embedded tokens.
    for composition in [
        Composition::stack(["under_test", "edit"]),
        shared(["under_test", "twin"]),
    ] {
        set.activate(composition).unwrap();
        assert_eq!(bench.output(&set).shape().to_vec(), [3, 7, 8]);
    }
    for composition in [
        shared(["under_test", "long"]),
        shared(["edit", "under_test"]),
        Composition::multi_task(["under_test", "edit"]),
        Composition::split(["under_test", "edit"], [2, 3]),
    ] {
        let refused = set.activate(composition);
        assert!(matches!(refused, Err(Error::BlockNotRunnable { .. })), "{refused:?}");
    }
}

#[test]
fn edits_of_shared_out_rows_are_those_of_each_adapter_alone() {
    let bench = Bench::new(2, 4, 5, &Device::flex());
    let mut set = bench.attach("noreft[r=2,suffix_positions=1]");
    let other = method("loreft[r=3,prefix_positions=1]").unwrap();
    set.attach("other", other, &bench.model, 3, &Device::flex()).unwrap();
    let alone = ["under_test", "other"].map(|name| {
        set.activate(name).unwrap();
        bench.output(&set).iter::<f32>().collect::<Vec<f32>>()
    });
    set.activate(Composition::batch_split(["under_test", "other"], [1, 2]))
        .unwrap();
    let both: Vec<f32> = bench.output(&set).iter().collect();
    let row = 5 * 8;
    let want = [&alone[0][..row], &alone[1][row..]].concat();
    let worst = both
        .iter()
        .zip(&want)
        .fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs()));
    assert!(worst < 1e-5, "{worst}");
    assert_ne!(alone[0], alone[1]);
}

#[test]
fn prompts_do_not_see_padding() {
    // A row alone and the same row padded give one output.
    let bench = Bench::new(2, 4, 5, &Device::flex());
    for config in [
        "prompt_tuning[prompt_length=2]",
        "peft_prompt_tuning[num_virtual_tokens=2]",
    ] {
        let set = bench.attach_random(config);
        let run = |input: TextInput| {
            let output = bench.model.forward(input, &mut Ctx::new(&set)).unwrap();
            let output = output.slice([0..1, 0..5]).into_data();
            output.iter::<f32>().collect::<Vec<f32>>()
        };
        let ids = bench.input.ids.clone().slice([1..2, 0..5]);
        let padded = TextInput {
            padding: bench.input.padding.clone().map(|padding| padding.slice([1..2, 0..5])),
            ..TextInput::new(ids.clone())
        };
        let alone = TextInput::new(ids.slice([0..1, 0..3]));
        let (padded, alone) = (run(padded), run(alone));
        let worst = padded
            .iter()
            .zip(&alone)
            .fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs()));
        assert!(worst < 1e-5, "{config}: {worst}");
    }
}
