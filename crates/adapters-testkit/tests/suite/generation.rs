//! Continuing texts: the cache changes no token, padding changes none, and what is drawn depends on the seed alone.

use std::path::Path;

use adapters::core::Causality;
use adapters::models::{
    Beams, EarlyStopping, Generation, KeyValueCache, Model, PaddingSide, Pretrained, PromptCache, Sampling, TextInput,
};
use adapters::{Adapted, AdapterSet, Composition, Ctx, Frozen, METHODS, method};
use adapters_testkit::contract::{for_tiny_llama, randomized, relative_error};
use burn::tensor::{Device, Tensor};

/// Three rows, two of them padded in a batch.
const PROMPTS: [&[u32]; 3] = [&[5, 17, 42, 8, 61], &[33, 7], &[90, 12, 71, 4]];

/// More than the identifiers show.
const MORE: &[&str] = &[
    "lora[r=4,alpha=6,attn_matrices=[q,k,v],intermediate_lora=true,output_lora=true]",
    "lora[r=4,target_modules=all-linear]",
    "lora[r=4,use_gating=true]",
    "ia3[use_gating=true]",
    "seq_bn[use_gating=true]",
    "prefix_tuning[use_gating=true]",
    "loreft[prefix_positions=2,suffix_positions=2]",
    "loreft[prefix_positions=4,suffix_positions=1,tied_weights=true]",
    "adapter_plus[mh_adapter=true]",
    "seq_bn[output_adapter=true]|lora[r=4]",
    "loreft[r=2,suffix_positions=2]",
    "prompt_tuning[prompt_length=3]|noreft[r=2,suffix_positions=3]",
];

fn golden(model: &str, device: &Device) -> Model {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("golden")
        .join(model)
        .join("base");
    Pretrained::open(&folder).unwrap().model(device).unwrap()
}

fn llama(device: &Device) -> Model {
    golden("llama", device)
}

fn configs() -> Vec<String> {
    let methods = METHODS;
    // Routers need the adapters that they route to.
    let plain = methods
        .identifiers()
        .filter(|identifier| !["arrow", "xlora"].contains(identifier))
        .map(for_tiny_llama);
    plain.chain(MORE.iter().map(|config| (*config).to_owned())).collect()
}

/// The adapter with random parameters, or why the model cannot have it.
fn attached(lm: &Model, config: &str, device: &Device) -> Result<AdapterSet, adapters::Error> {
    let mut set = AdapterSet::new();
    set.attach("a", method(config)?, lm, 1, device)?;
    set.activate("a")?;
    Ok(randomized(set, 7))
}

fn adapted(lm: &Model, config: &str, device: &Device) -> AdapterSet {
    attached(lm, config, device).unwrap_or_else(|e| panic!("{config}: {e}"))
}

fn greedy(cache: bool) -> Generation {
    Generation {
        max_new_tokens: 12,
        cache,
        ..Generation::default()
    }
}

fn tokens(generation: &Generation, lm: &Model, set: &AdapterSet, prompts: &[&[u32]]) -> Vec<Vec<u32>> {
    let mut generation = generation.clone();
    if generation.tasks.is_empty() {
        generation.tasks = tasks(set, prompts.len());
    }
    generation.run(&with_set(lm, set), prompts, |_, _| ()).unwrap()
}

/// A model with the adapters of a set.
fn with_set(model: &Model, set: &AdapterSet) -> Adapted<Model> {
    Adapted::with_set(Frozen::new(model.clone()), set.clone())
}

/// A task for each row where a method needs to know it.
fn tasks(set: &AdapterSet, rows: usize) -> Vec<Option<usize>> {
    match set
        .iter()
        .any(|adapter| adapter.method().capabilities().tasks.is_some())
    {
        true => vec![Some(1); rows],
        false => Vec::new(),
    }
}

#[test]
fn every_method_gives_the_same_tokens_with_the_cache_and_in_a_padded_batch() {
    let refused = with_and_without_the_cache("llama", 30);
    assert!(refused.is_empty(), "{refused:?}");
}

/// GPT-2 has absolute positions and one fused projection, which some methods have no layer for.
#[test]
fn so_it_is_with_absolute_positions() {
    let refused = with_and_without_the_cache("gpt2", 20);
    for (config, error) in refused {
        assert!(
            error.contains("c_attn") || error.contains("matches nothing"),
            "{config}: {error}"
        );
    }
}

/// Checks every method on a golden model; the configurations it refuses.
fn with_and_without_the_cache(model: &str, at_least: usize) -> Vec<(String, String)> {
    let device = Device::flex();
    let lm = golden(model, &device);
    let plain = tokens(&greedy(true), &lm, &AdapterSet::new(), &PROMPTS);
    assert_eq!(plain, tokens(&greedy(false), &lm, &AdapterSet::new(), &PROMPTS));
    let scores = |set: &AdapterSet| {
        let input = TextInput::padded(&PROMPTS, 0, PaddingSide::Left, &device);
        let mut cx = Ctx::new(set).with_tasks(tasks(set, PROMPTS.len())).unwrap();
        let hidden = lm.forward(input, &mut cx).unwrap();
        lm.logits(hidden, &mut cx).unwrap().into_data()
    };
    let unchanged = scores(&AdapterSet::new());
    let (mut checked, mut gated, mut changed) = (0, 0, 0);
    let mut refused = Vec::new();
    for config in configs() {
        let set = match attached(&lm, &config, &device) {
            Ok(set) => set,
            Err(error) => {
                refused.push((config, error.to_string()));
                continue;
            }
        };
        let cached = tokens(&greedy(true), &lm, &set, &PROMPTS);
        assert!(scores(&set) != unchanged, "{config} changes nothing");
        changed += usize::from(cached != plain);
        assert_eq!(cached, tokens(&greedy(false), &lm, &set, &PROMPTS), "{config}");
        if !Ctx::new(&set).is_causal() {
            // A gate is a mean over the whole row, padding included, as in the reference.
            gated += 1;
            continue;
        }
        for (row, prompt) in PROMPTS.iter().enumerate() {
            let alone = tokens(&greedy(true), &lm, &set, &[prompt]);
            assert_eq!(alone[0], cached[row], "{config}, row {row}");
        }
        checked += 1;
    }
    assert!(checked >= at_least && gated >= 3, "{checked} and {gated}");
    assert!(
        changed * 10 >= (checked + gated) * 8,
        "only {changed} of {checked} and {gated}"
    );
    refused
}

/// Four prompts, each but the third with the one before and its answer; the third has the first's begin. How many tokens of each
/// were not computed again, and whether the answers are those without the cache.
fn conversation(lm: &Model, set: &AdapterSet, config: &str) -> Vec<usize> {
    let adapted = with_set(lm, set);
    let generation = Generation {
        max_new_tokens: 5,
        tasks: tasks(set, 1),
        ..Generation::default()
    };
    let mut cache = PromptCache::new(&adapted);
    let mut prompt = vec![5, 17, 42, 8, 61];
    let mut reused = Vec::new();
    for (turn, said) in [&[33, 7][..], &[90, 12, 71], &[42, 8, 3], &[4]].into_iter().enumerate() {
        if turn == 2 {
            prompt.truncate(4);
        }
        prompt.extend(said);
        let mut streamed = Vec::new();
        let answer = generation
            .run_cached(&mut cache, &prompt, |token| streamed.push(token))
            .unwrap();
        assert_eq!(answer, streamed, "{config}, turn {turn}");
        assert_eq!(
            vec![answer.clone()],
            tokens(&generation, lm, set, &[&prompt]),
            "{config}, turn {turn}"
        );
        reused.push(cache.reused());
        prompt.extend(answer);
    }
    reused
}

#[test]
fn a_conversation_computes_new_tokens_only_and_answers_the_same() {
    let device = Device::flex();
    // All of the turn before but the last token of its answer; what the third has in common; and so on.
    let (all, none) = ([0, 7 + 4, 4, 7 + 4], [0; 4]);
    for model in ["llama", "gpt2"] {
        assert_eq!(
            conversation(&golden(model, &device), &AdapterSet::new(), "no adapter"),
            all
        );
    }
    let lm = llama(&device);
    for (config, causality) in [
        ("lora", Causality::Causal),
        ("prefix_tuning", Causality::Causal),
        ("prompt_tuning[prompt_length=3]", Causality::Causal),
        ("cpt[cpt_token_ids=[5,7,42]]", Causality::Causal),
        ("seq_bn_inv", Causality::Causal),
        (
            "loreft[prefix_positions=2,suffix_positions=2]",
            Causality::DependsOnPrompt,
        ),
        ("alora[alora_invocation_tokens=[42,8]]", Causality::DependsOnPrompt),
        ("seq_bn[use_gating=true]", Causality::LooksAhead),
    ] {
        let set = adapted(&lm, config, &device);
        assert_eq!(Ctx::new(&set).causality(), causality, "{config}");
        let expected = match causality {
            // From the invocation on, which the third prompt has at another place, it is computed again.
            _ if config.starts_with("alora") => [0, 7 + 4, 2, 7 + 4],
            Causality::Causal => all,
            _ => none,
        };
        assert_eq!(conversation(&lm, &set, config), expected, "{config}");
    }
}

#[test]
fn activated_lora_goes_on_with_what_the_base_has_computed() {
    let device = Device::flex();
    let lm = llama(&device);
    let plain = with_set(&lm, &AdapterSet::new());
    let set = adapted(&lm, "alora[alora_invocation_tokens=[42,8]]", &device);
    let invoked = with_set(&lm, &set);
    let generation = Generation {
        max_new_tokens: 5,
        ..Generation::default()
    };
    let mut prompt = vec![5, 17, 42, 8, 61, 33];
    let mut cache = PromptCache::new(&plain);
    prompt.extend(generation.run_cached(&mut cache, &prompt, |_| ()).unwrap());
    let read = prompt.len() - 1;
    let said = [prompt.clone(), vec![42, 8, 3]].concat();
    let mut cache = cache.with_adapters_of(&invoked);
    let answer = generation.run_cached(&mut cache, &said, |_| ()).unwrap();
    assert_eq!(cache.reused(), read);
    assert_eq!(vec![answer.clone()], tokens(&generation, &lm, &set, &[&said]));
    assert_ne!(vec![answer], tokens(&generation, &lm, &AdapterSet::new(), &[&said]));
    let mut cache = cache.with_adapters_of(&plain);
    let answer = generation.run_cached(&mut cache, &said, |_| ()).unwrap();
    assert_eq!(cache.reused(), prompt.len());
    assert_eq!(vec![answer], tokens(&generation, &lm, &AdapterSet::new(), &[&said]));
}

/// An encoder-decoder: the encoder reads padded texts, the decoder goes on from its start token.
#[test]
fn an_encoder_decoder_answers_the_same_with_the_cache_and_in_a_padded_batch() {
    let device = Device::flex();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/t5/base");
    let model = Pretrained::open(&folder).unwrap().encoder_decoder(&device).unwrap();
    let answers = |cache, set: &AdapterSet, texts: &[&[u32]]| {
        let generation = Generation {
            tasks: tasks(set, texts.len()),
            ..greedy(cache)
        };
        generation.answer(&with_set(&model, set), texts, |_, _| ()).unwrap()
    };
    let none = AdapterSet::new();
    let plain = answers(true, &none, &PROMPTS);
    assert_eq!(plain, answers(false, &none, &PROMPTS));
    let (mut checked, mut gated, mut changed) = (0, 0, 0);
    for config in configs() {
        let mut set = AdapterSet::new();
        // Some sizes and names of modules are not those of this model.
        if set.attach("a", method(&config).unwrap(), &model, 1, &device).is_err() {
            continue;
        }
        set.activate("a").unwrap();
        let set = randomized(set, 7);
        let cached = answers(true, &set, &PROMPTS);
        assert_eq!(cached, answers(false, &set, &PROMPTS), "{config}");
        changed += usize::from(cached != plain);
        if !Ctx::new(&set).is_causal() {
            gated += 1;
            continue;
        }
        for (row, prompt) in PROMPTS.iter().enumerate() {
            assert_eq!(answers(true, &set, &[prompt])[0], cached[row], "{config}, row {row}");
        }
        checked += 1;
    }
    assert!(checked >= 20 && gated >= 2, "{checked} and {gated}");
    assert!(
        changed * 10 >= (checked + gated) * 7,
        "only {changed} of {checked} and {gated}"
    );
}

#[test]
fn a_stack_and_tasks_give_the_same_tokens_with_the_cache() {
    let device = Device::flex();
    let lm = llama(&device);
    let mut set = AdapterSet::new();
    for (name, config) in [
        ("a", "lora[r=4]"),
        ("b", "seq_bn"),
        ("c", "lora[r=2,attn_matrices=[k]]"),
    ] {
        set.attach(name, method(config).unwrap(), &lm, 1, &device).unwrap();
    }
    let mut set = randomized(set, 7);
    set.activate(Composition::stack(["a", "b"])).unwrap();
    let stacked = tokens(&greedy(true), &lm, &set, &PROMPTS);
    assert_eq!(stacked, tokens(&greedy(false), &lm, &set, &PROMPTS));

    set.activate(Composition::multi_task(["a", "c"])).unwrap();
    let by_task = |cache| Generation {
        tasks: vec![Some(1), None, Some(0)],
        ..greedy(cache)
    };
    let mixed = tokens(&by_task(true), &lm, &set, &PROMPTS);
    assert_eq!(mixed, tokens(&by_task(false), &lm, &set, &PROMPTS));
    let plain = tokens(&greedy(true), &lm, &AdapterSet::new(), &PROMPTS);
    set.activate("a").unwrap();
    let a = tokens(&greedy(true), &lm, &set, &PROMPTS);
    set.activate("c").unwrap();
    let c = tokens(&greedy(true), &lm, &set, &PROMPTS);
    assert_eq!(mixed, [&c[0], &plain[1], &a[2]].map(Clone::clone));
    assert!(a != c && a != plain && c != plain);
}

/// Scores of the last token of each prefix of a text, all at once, and token by token through the cache.
#[test]
fn the_cache_computes_what_a_whole_pass_computes() {
    the_cache_computes_the_whole_pass_of("llama");
}

/// Texts of nine tokens in layers that see three, in gpt-oss with a sink.
#[test]
fn so_it_is_past_the_window() {
    let device = Device::flex();
    for model in ["gemma2", "gemma3_text", "gpt_oss"] {
        the_cache_computes_the_whole_pass_of(model);
        let lm = golden(model, &device);
        let set = adapted(&lm, "lora[r=4,target_modules=all-linear]", &device);
        let prompts: [&[u32]; 2] = [&[5, 9, 3, 14, 7, 21], &[8, 2]];
        let cached = tokens(&greedy(true), &lm, &set, &prompts);
        assert_eq!(cached, tokens(&greedy(false), &lm, &set, &prompts), "{model}");
        assert_eq!(cached[0].len(), 12);
    }
}

fn the_cache_computes_the_whole_pass_of(model: &str) {
    let device = Device::flex();
    let lm = golden(model, &device);
    let set = adapted(&lm, "double_seq_bn", &device);
    let text: Vec<u32> = (0..9).map(|i| (i * 37 + 11) % 100).collect();
    let rows = [&text[..], &text[3..]];
    let input = |rows: &[&[u32]]| TextInput::padded(rows, 0, PaddingSide::Left, &device);
    let logits = |hidden: Tensor<3>| lm.logits(hidden, &mut Ctx::new(&set)).unwrap();
    let whole = logits(lm.forward(input(&rows), &mut Ctx::new(&set)).unwrap());

    let mut cache = KeyValueCache::new();
    let first = input(&[&text[..7], &text[3..7]]);
    let mut parts = vec![logits(
        lm.causal_lm()
            .unwrap()
            .forward_cached(first, &mut cache, &mut Ctx::new(&set))
            .unwrap(),
    )];
    for column in 7..9 {
        let next = input(&[&text[column..=column], &text[column..=column]]);
        parts.push(logits(
            lm.causal_lm()
                .unwrap()
                .forward_cached(next, &mut cache, &mut Ctx::new(&set))
                .unwrap(),
        ));
    }
    assert_eq!(cache.columns(), 9);
    let parts = Tensor::cat(parts, 1);
    // What comes out at padding is nobody's business.
    let text_only = |x: Tensor<3>| x.slice_dim(1, 3..9).into_data();
    let error = relative_error(&text_only(parts), &text_only(whole));
    assert!(error < 1e-5, "{model}: {error}");
}

#[test]
fn stop_tokens_end_a_text_and_are_not_part_of_it() {
    let device = Device::flex();
    let lm = llama(&device);
    let set = AdapterSet::new();
    let whole = tokens(&greedy(true), &lm, &set, &PROMPTS);
    let stop = Generation {
        stop: vec![whole[0][4]],
        ..greedy(true)
    };
    let mut streamed = vec![Vec::new(); 3];
    let ended = stop
        .run(&with_set(&lm, &set), &PROMPTS, |row, token| streamed[row].push(token))
        .unwrap();
    assert_eq!(ended, streamed);
    for (ended, whole) in ended.iter().zip(&whole) {
        let until = whole
            .iter()
            .position(|token| *token == stop.stop[0])
            .unwrap_or(whole.len());
        assert_eq!(ended, &whole[..until]);
    }
    assert!(ended[0].len() < 12);
}

#[test]
fn what_is_drawn_depends_on_the_seed_and_not_on_the_batch() {
    let device = Device::flex();
    let lm = llama(&device);
    let set = AdapterSet::new();
    let random = |seed| Generation {
        sampling: Sampling::Random {
            temperature: 1.0,
            top_k: Some(50),
            top_p: Some(0.95),
        },
        repetition_penalty: 1.2,
        seed,
        ..greedy(true)
    };
    let drawn = tokens(&random(1), &lm, &set, &PROMPTS);
    assert_eq!(
        drawn,
        tokens(
            &Generation {
                cache: false,
                ..random(1)
            },
            &lm,
            &set,
            &PROMPTS
        )
    );
    assert_eq!(drawn[0], tokens(&random(1), &lm, &set, &PROMPTS[..1])[0]);
    assert_ne!(drawn, tokens(&random(2), &lm, &set, &PROMPTS));
}

#[test]
fn what_cannot_be_continued_is_named() {
    let device = Device::flex();
    let lm = llama(&device);
    let error = |generation: Generation, prompts: &[&[u32]]| {
        let result = generation.run(&Adapted::new(lm.clone()), prompts, |_, _| ());
        result.unwrap_err().to_string()
    };
    let long = Generation {
        max_new_tokens: 60,
        ..greedy(true)
    };
    assert!(error(long, &PROMPTS).contains("at most the 64 tokens the model takes"));
    assert!(error(greedy(true), &[&[]]).contains("at least one token"));
    let penalty = Generation {
        repetition_penalty: 0.0,
        ..greedy(true)
    };
    assert!(error(penalty, &PROMPTS).contains("repetition_penalty"));
}

/// The search of `early_stopping` with `length_penalty` over two texts, in a padded batch and with the cache or without.
fn searched(model: &str, stop: &[u32], length_penalty: f64, early_stopping: EarlyStopping, more: Generation) -> String {
    let model = golden(model, &Device::flex());
    let texts: [&[u32]; 2] = [&[5, 9, 33, 14, 7], &[48, 12, 61]];
    let [with, without] = [true, false].map(|cache| {
        let generation = Generation {
            max_new_tokens: 8,
            stop: stop.to_vec(),
            beams: Some(Beams {
                count: 3,
                length_penalty,
                early_stopping,
            }),
            cache,
            ..more.clone()
        };
        let mut seen = vec![Vec::new(); texts.len()];
        let adapted = Adapted::new(model.clone());
        let on_token = |text: usize, token| seen[text].push(token);
        let grown = match model.causal_lm() {
            Ok(_) => generation.run(&adapted, &texts, on_token),
            Err(_) => generation.answer(&adapted, &texts, on_token),
        };
        let grown = grown.unwrap();
        assert_eq!(seen, grown);
        grown
    });
    assert_eq!(with, without);
    format!("{with:?}")
}

/// The tokens are those of `generate(num_beams=3, max_new_tokens=8)` of transformers 4.57.6 on the same checkpoints.
#[test]
fn beams_find_what_those_of_transformers_find() {
    use EarlyStopping::{False, Never, True};
    const MANY: &[u32] = &[3, 11, 17, 23, 29, 35, 41, 47];
    let plain = Generation::default;
    let both = |first: &[u32], second: &[u32]| format!("{:?}", [first, second]);

    let want = both(&[21, 21, 21, 21, 21, 21, 42, 77], &[51, 21, 21, 21, 21, 21, 21, 21]);
    assert_eq!(searched("t5", &[1], 1.0, False, plain()), want);
    let want = both(&[42, 77, 77, 77, 77, 77, 77, 77], &[51, 21, 21, 21, 21, 21, 21, 21]);
    assert_eq!(searched("t5", MANY, 1.0, False, plain()), want);
    assert_eq!(searched("t5", MANY, 2.0, True, plain()), want);
    let want = both(&[], &[51, 21, 21, 21, 21, 21, 21, 21]);
    assert_eq!(searched("t5", MANY, -1.0, Never, plain()), want);
    let penalty = Generation {
        repetition_penalty: 1.5,
        ..plain()
    };
    let want = both(&[21, 42], &[21, 51, 42]);
    assert_eq!(searched("t5", MANY, 1.0, False, penalty), want);

    let want = both(&[23, 25, 25, 23, 25, 84, 84, 84], &[84; 8]);
    assert_eq!(searched("bart", &[1], 1.0, False, plain()), want);
    assert_eq!(searched("bart", MANY, -1.0, Never, plain()), both(&[], &[]));
    assert_eq!(searched("bart", MANY, 0.0, Never, plain()), both(&[], &[84; 8]));

    let want = both(&[10, 93, 64, 46, 91, 45, 45, 45], &[16, 87, 96, 44, 36, 94, 94, 94]);
    assert_eq!(searched("llama", &[1], 1.0, False, plain()), want);
    let want = both(&[10, 93, 64, 46, 91, 45, 45, 45], &[45, 82]);
    assert_eq!(searched("llama", MANY, 0.0, Never, plain()), want);
}

#[test]
fn a_search_without_beams_or_of_drawn_tokens_is_refused() {
    let model = llama(&Device::flex());
    let refused = |beams: Beams, sampling: Sampling| {
        let generation = Generation {
            beams: Some(beams),
            sampling,
            ..greedy(true)
        };
        let error = generation.run(&Adapted::new(model.clone()), &PROMPTS, |_, _| ());
        error.unwrap_err().to_string()
    };
    let none = Beams {
        count: 0,
        ..Beams::default()
    };
    assert_eq!(refused(none, Sampling::Greedy), "`beams` is 0, expected 1 to 1024");
    let drawn = Sampling::Random {
        temperature: 1.0,
        top_k: None,
        top_p: None,
    };
    let error = refused(Beams::default(), drawn);
    assert_eq!(error, "`sampling` is random, expected greedy, with beams");
    let endless = Beams {
        length_penalty: f64::NAN,
        ..Beams::default()
    };
    assert!(refused(endless, Sampling::Greedy).starts_with("`length_penalty` is NaN"));
}
