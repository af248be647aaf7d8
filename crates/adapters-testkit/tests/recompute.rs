//! Gradients with the memory of one block are those of the whole graph.

use std::path::{Path, PathBuf};

use adapters::models::{Blocks, CausalInput, EncoderDecoderInput, EncoderInput, Pretrained};
use adapters::train::LossGradients;
use adapters::{AdapterSet, Composition, Ctx, Host, method};
use adapters_testkit::contract::randomised;
use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::{Linear, LinearConfig};
use burn::optim::GradientsParams;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

fn base(model: &str) -> Pretrained {
    let golden: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    // Masks are drawn in every block, and must be the same the second time.
    Pretrained::open(&golden.join(model).join("base"))
        .unwrap()
        .with_dropout(0.2)
}

/// Gradients in the order of the parameters; `None` for one without.
fn values(module: &impl Module, gradients: &GradientsParams) -> Vec<Option<TensorData>> {
    struct Values<'a>(&'a GradientsParams, Vec<Option<TensorData>>);
    impl ModuleVisitor for Values<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1.push(self.0.get::<D>(param.id).map(Tensor::into_data));
        }
    }
    let mut values = Values(gradients, Vec::new());
    module.visit(&mut values);
    values.1
}

fn largest(data: &TensorData) -> f64 {
    data.iter::<f64>().map(f64::abs).fold(0.0, f64::max)
}

/// Both ways, with and without what is shared by layers, what acts on the embeddings, and what acts in few layers.
fn check<M: Blocks + Host>(model: &M, forward: impl Fn(M::Input, &mut Ctx<'_>) -> Tensor<3>, input: &M::Input) {
    let device = Device::flex();
    for configs in [
        &["lora[r=2,alpha=5,dropout=0.3,output_lora=true]"][..],
        &["double_seq_bn[dropout=0.1]", "lora[r=2,leave_out=[0]]"],
        &["compacter[reduction_factor=4]"],
        &["seq_bn_inv"],
        &["adalora[init_r=3,target_modules=all-linear]"],
        &["ln_tuning"],
        &["prefix_tuning[prefix_length=3]"],
        &["prompt_tuning[prompt_length=2]"],
        &["loreft[r=2]"],
        &["unipelt"],
    ] {
        let mut set = AdapterSet::new();
        for (name, config) in ["a", "b"].into_iter().zip(configs) {
            let config = method(config).unwrap();
            set.attach(name, config, model, 1, &device).unwrap();
        }
        let names: Vec<&str> = set.iter().map(adapters::core::Attached::name).collect();
        let composition = Composition::stack(names);
        set.activate(composition).unwrap();
        let set = randomised(set, 3).train();
        let head: Linear = LinearConfig::new(model.d_model(), 3).init(&device).train();
        let loss = |hidden: Tensor<3>, cx: &mut Ctx<'_>| {
            let loss = head.forward(cx.dropout(hidden, 0.4)).tanh().square().sum();
            match set.penalty() {
                Some(penalty) => loss + penalty,
                None => loss,
            }
        };
        let cx = Ctx::new(&set).training(9);
        let got = LossGradients::by_block(model, input.clone(), &set, &head, &cx, loss);
        let mut cx = Ctx::new(&set).training(9);
        let whole = loss(forward(input.clone(), &mut cx), &mut cx);
        let want = LossGradients::of(&whole, &set, &head);

        assert!((got.loss - want.loss).abs() < 1e-5 * want.loss.abs(), "{configs:?}");
        let of_set = (values(&set, &got.adapter_grads), values(&set, &want.adapter_grads));
        let of_head = (values(&head, &got.head_grads), values(&head, &want.head_grads));
        // A gate's gradient may be what is left of large terms that cancel: no float has it to 1e-4 of itself.
        let all = of_set.1.iter().chain(&of_head.1).flatten();
        let most = all.map(largest).fold(0.0, f64::max);
        let mut compared = 0;
        for (got, want) in of_set.0.iter().chain(&of_head.0).zip(of_set.1.iter().chain(&of_head.1)) {
            match (got, want) {
                (Some(got), Some(want)) => {
                    assert_eq!(got.shape(), want.shape(), "{configs:?}");
                    assert!(got.iter::<f64>().all(f64::is_finite), "{configs:?}");
                    let off = got
                        .iter::<f64>()
                        .zip(want.iter::<f64>())
                        .map(|(got, want)| (got - want).abs());
                    let error = off.fold(0.0, f64::max);
                    let bound = 1e-4 * largest(want) + 1e-6 * most;
                    assert!(error <= bound, "{configs:?}: off by {error:e}, of {:e}", largest(want));
                    compared += 1;
                }
                (None, None) => {}
                _ => panic!("{configs:?}: {} and {}", got.is_some(), want.is_some()),
            }
        }
        assert!(compared >= 3, "{configs:?}: only {compared} gradients");
    }
}

fn ids() -> Tensor<2, Int> {
    Tensor::from_data(
        TensorData::from([[5i64, 9, 3, 14, 7], [8, 2, 11, 1, 0]]),
        &Device::flex(),
    )
}

fn padding() -> Option<Tensor<2, Bool>> {
    Some(ids().equal_elem(0))
}

#[test]
fn of_an_encoder() {
    let model = base("bert").encoder(&Device::flex()).unwrap();
    let input = EncoderInput {
        ids: ids(),
        token_types: None,
        padding: padding(),
    };
    check(&model, |input, cx| model.forward(input, cx), &input);
}

#[test]
fn of_causal_models() {
    for name in ["gpt2", "llama"] {
        let model = base(name).causal_lm(&Device::flex()).unwrap();
        let input = CausalInput {
            ids: ids(),
            padding: padding(),
        };
        check(&model, |input, cx| model.forward(input, cx), &input);
    }
}

/// The decoder's layers read the encoder's output, whose gradient comes from all of them.
#[test]
fn of_two_stacks() {
    let model = base("t5").encoder_decoder(&Device::flex()).unwrap();
    let input = EncoderDecoderInput {
        ids: ids(),
        padding: padding(),
        decoder_ids: ids().slice_dim(1, 1..4),
    };
    let forward = |input: EncoderDecoderInput, cx: &mut Ctx<'_>| {
        let encoded = model.encode(input.ids, input.padding, cx);
        model.decode(input.decoder_ids, &encoded, None, cx)
    };
    check(&model, forward, &input);
}
