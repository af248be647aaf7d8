//! A decoder run step by step with a cache computes what it computes at once.

use std::path::Path;

use adapters::models::{CausalInput, DecoderCache, EncoderDecoder, KeyValueCache, Pretrained};
use adapters::{AdapterSet, Ctx, Host, method};
use adapters_testkit::contract::{randomised, relative_error};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

fn base(model: &str) -> Pretrained {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("golden")
        .join(model)
        .join("base");
    Pretrained::open(&dir).unwrap()
}

fn ids<const N: usize>(rows: [[i64; N]; 2]) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::from(rows), &Device::flex())
}

/// Adapters of two methods at every layer, active one after the other.
fn adapted(host: &dyn Host) -> AdapterSet {
    let mut set = AdapterSet::new();
    for (name, config) in [
        ("a", "lora[r=2,alpha=5,attn_matrices=[q,k,v],output_lora=true]"),
        ("b", "double_seq_bn[cross_adapter=true]"),
    ] {
        let config = method(config).unwrap();
        if let Err(error) = set.attach(name, config, host, 1, &Device::flex()) {
            // There is no cross attention in a decoder alone.
            assert!(error.to_string().contains("after_cross_attention"), "{error}");
            let config = method("double_seq_bn").unwrap();
            set.attach(name, config, host, 1, &Device::flex()).unwrap();
        }
    }
    set.activate(adapters::Composition::stack(["a", "b"])).unwrap();
    randomised(set, 3)
}

#[test]
fn a_causal_model_goes_on_where_it_stopped() {
    let tokens = ids([[0, 5, 9, 3, 14], [8, 2, 11, 6, 1]]);
    // The first row begins with padding.
    let padding = Tensor::<2, Bool>::from_data(
        TensorData::from([[true, false, false, false, false], [false; 5]]),
        &Device::flex(),
    );
    for name in ["gpt2", "llama"] {
        let model = base(name).causal_lm(&Device::flex()).unwrap();
        let set = adapted(&model);
        let columns = |from: usize, to: usize| CausalInput {
            ids: tokens.clone().slice_dim(1, from..to),
            padding: Some(padding.clone().slice_dim(1, from..to)),
        };
        let whole = model.forward(columns(0, 5), &mut Ctx::new(&set)).unwrap();
        let mut cache = KeyValueCache::new();
        let steps = [(0, 3), (3, 4), (4, 5)].map(|(from, to)| {
            assert_eq!(cache.columns(), from);
            model
                .forward_cached(columns(from, to), &mut cache, &mut Ctx::new(&set))
                .unwrap()
        });
        let steps = Tensor::cat(steps.into(), 1);
        // What a padded position computes is nobody's business.
        let seen = |x: Tensor<3>| x.slice_dim(1, 1..5).into_data();
        let error = relative_error(&seen(steps), &seen(whole));
        assert!(error < 1e-5, "{name}: off by {error:e}");
    }
}

#[test]
fn a_decoder_goes_on_and_reads_the_encoder_once() {
    let model: EncoderDecoder = base("t5").encoder_decoder(&Device::flex()).unwrap();
    let set = adapted(&model);
    let tokens = ids([[7, 5, 9, 3, 1], [8, 2, 1, 0, 0]]);
    let padding = tokens.clone().equal_elem(0);
    let decoder = ids([[0, 4, 6, 21], [0, 33, 2, 9]]);
    let encoded = model.encode(tokens, Some(padding), &mut Ctx::new(&set)).unwrap();
    let whole = model
        .decode(decoder.clone(), &encoded, None, &mut Ctx::new(&set))
        .unwrap();
    let mut cache = DecoderCache::new();
    let mut encoded = encoded;
    let steps = [(0, 1), (1, 3), (3, 4)].map(|(from, to)| {
        assert_eq!(cache.columns(), from);
        let ids = decoder.clone().slice_dim(1, from..to);
        let step = model
            .decode(ids, &encoded, Some(&mut cache), &mut Ctx::new(&set))
            .unwrap();
        // Its keys and values are in the cache from the first step on.
        encoded.hidden = encoded.hidden.clone() * 0.0;
        step
    });
    let error = relative_error(&Tensor::cat(steps.into(), 1).into_data(), &whole.into_data());
    assert!(error < 1e-5, "off by {error:e}");
}
