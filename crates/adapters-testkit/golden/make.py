"""Makes the cases of this folder that are about options of models, with transformers 4.57.6, adapters 1.3.0 and peft 0.21.2:
make.py [NAME..], in this folder. The format and the rules are those of README.md. A case of a model that is there already uses
its base."""
import copy, dataclasses, json, logging, os, shutil, sys, warnings

# What the libraries need of attrs is what dataclasses have.
sys.modules.setdefault("attr", dataclasses)
warnings.filterwarnings("ignore")
import torch, transformers
from adapters import LoRAConfig, LoReftConfig, composition, init
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    BartForConditionalGeneration, BartModel, BeitConfig, BeitModel, BertConfig, BertModel, Dinov2Config, Dinov2Model, EncoderDecoderModel, Gemma3ForCausalLM, Gemma3TextConfig,
    GPT2LMHeadModel, MT5ForConditionalGeneration, Qwen2ForCausalLM, T5ForConditionalGeneration, ViTConfig, ViTModel, Wav2Vec2Config,
    Wav2Vec2Model, WhisperForConditionalGeneration,
)

transformers.logging.set_verbosity_error()
logging.disable(logging.WARNING)
torch.set_num_threads(1)
NOISE = {"rtol": 1e-4, "grad_rtol": 1e-3}


def draw(named, seed, scale=0.3):
    """Draws parameters again, those of norms around one."""
    numbers = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(named, key=lambda named: named[0]):
            norm = name.lower().endswith(("norm.weight", "norm1.weight", "norm2.weight", "layernorm_before.weight", "layernorm_after.weight"))
            p.copy_(float(norm) + scale * torch.randn(p.shape, generator=numbers))
            if name.endswith("parametrizations.weight.original"):
                tall = p.mT if p.shape[-2] < p.shape[-1] else p
                tall.copy_(torch.tril(tall, -1))
                tall.diagonal().fill_(-1.0)


def text(lengths, side="right", vocab=60):
    numbers, seq = torch.Generator().manual_seed(3), max(lengths)
    ids, mask = torch.zeros(len(lengths), seq, dtype=torch.long), torch.zeros(len(lengths), seq, dtype=torch.long)
    for row, length in enumerate(lengths):
        at = slice(0, length) if side == "right" else slice(seq - length, seq)
        ids[row, at] = torch.randint(3, vocab, (length,), generator=numbers)
        mask[row, at] = 1
    return {"input_ids": ids, "attention_mask": mask}


def images(height, width):
    return {"pixel_values": torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(4))}


def sounds(lengths):
    x = torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(4))
    mask = torch.zeros(x.shape, dtype=torch.long)
    for row, length in enumerate(lengths):
        x[row, length:], mask[row, :length] = 0, 1
    return {"input_values": x, "attention_mask": mask}


class Set:
    """A model's folder; made unless there is one."""

    def __init__(self, name, cls, output, config=None, inputs=None, seed=1, scale=0.3):
        self.name, self.cls, self.output = name, cls, output
        if config is not None:
            shutil.rmtree(name, ignore_errors=True)
            model = cls(config)
            draw(model.named_parameters(), seed, scale)
            model.tie_weights()
            model.save_pretrained(f"{name}/base")
            if os.path.exists(f"{name}/base/generation_config.json"):
                os.remove(f"{name}/base/generation_config.json")
            save_file(inputs, f"{name}/inputs.safetensors")
        self.inputs = load_file(f"{name}/inputs.safetensors")

    def base(self):
        return self.cls.from_pretrained(f"{self.name}/base", attn_implementation="eager").eval()

    def plain(self):
        self.record("no_adapter", "peft", self.base(), {}, {}, None, self.inputs, None, "the base alone")

    def hub(self, case, config, note, inputs=None):
        model = self.base()
        init(model)
        model.add_adapter("a", config=config)
        own = [(n, p) for n, p in model.named_parameters() if ".a." in n and not n.endswith(".base")]
        draw(own, 6)
        folder = f"{self.name}/cases/{case}/adapters/a"
        shutil.rmtree(f"{self.name}/cases/{case}", ignore_errors=True)
        os.makedirs(folder)
        model.save_adapter(folder, "a", use_safetensors=True, with_head=False)
        for file in ["head_config.json", "model_head.safetensors"]:
            if os.path.exists(f"{folder}/{file}"):
                os.remove(f"{folder}/{file}")
        model.set_active_adapters(composition.Stack("a"))
        live = model.state_dict(keep_vars=True)
        saved = load_file(f"{folder}/adapter.safetensors")
        params = {f"a/{k}": live[k] for k in saved if isinstance(live[k], torch.nn.Parameter)}
        active = model.adapters_config.active_setup.to_dict()
        self.record(case, "adapters", model.eval(), params, {"a": "adapters/a"}, active, inputs or self.inputs, inputs, note)

    def peft(self, case, targets, note, **options):
        model = self.base()
        config = LoraConfig(r=3, lora_alpha=5, init_lora_weights=False, target_modules=targets, **options)
        model = get_peft_model(model, config, adapter_name="a").eval()
        trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        draw([(n, p) for n, p in trained if ".a." in n or n.endswith((".a", ".bias"))], 6)
        folder = f"{self.name}/cases/{case}"
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(f"{folder}/adapters")
        for readme in [f"{folder}/adapters/README.md", f"{folder}/adapters/a/README.md"]:
            if os.path.exists(readme):
                os.remove(readme)
        saved = load_file(f"{folder}/adapters/a/adapter_model.safetensors")
        keys = {n.removesuffix(".a").replace(".a.", ".").replace(".modules_to_save.", "."): p for n, p in model.named_parameters()}
        keys = {k.replace("lora_magnitude_vector.weight", "lora_magnitude_vector"): p for k, p in keys.items()}
        params = {f"a/{k}": p for k, p in keys.items() if k in saved and p.requires_grad}
        self.record(case, "peft", model, params, {"a": "adapters/a"}, "a", self.inputs, None, note)

    def run(self, model, call, probe, params):
        model.zero_grad(set_to_none=True)
        out = getattr(model(**call), self.output)
        if probe is None:
            return out.detach()
        loss = (out * probe.to(out.dtype)).sum()
        if params:
            loss.backward()
        return out.detach(), {k: torch.zeros_like(p) if p.grad is None else p.grad.clone() for k, p in params.items()}, loss.detach()

    def record(self, case, framework, model, params, adapters, active, call, own, note):
        folder = f"{self.name}/cases/{case}"
        os.makedirs(folder, exist_ok=True)
        out = self.run(model, call, None, params)
        probe = torch.randn(out.shape, generator=torch.Generator().manual_seed(7))
        tensors, mask = {}, None
        if own is not None:
            save_file(own, f"{folder}/inputs.safetensors")
            if "decoder_input_ids" not in own:
                mask = tensors["output_mask"] = own["attention_mask"]
                probe = probe * mask[..., None]
        out, gradients, loss = self.run(model, call, probe, params)
        try:
            wide = copy.deepcopy(model).double()
            of = {id(p): n for n, p in model.named_parameters()}
            wide_params = {k: dict(wide.named_parameters())[of[id(p)]] for k, p in params.items()}
            wide_call = {k: v.double() if v.is_floating_point() else v for k, v in call.items()}
            wide_out, wide_gradients, _ = self.run(wide, wide_call, probe, wide_params)
            off = (out - wide_out).abs() if mask is None else (out - wide_out).abs() * mask[..., None]
            noise = [float(off.max()), max([float((gradients[k] - g).abs().max()) for k, g in wide_gradients.items()] or [0.0])]
            assert noise[0] == noise[0]
        except (AssertionError, RuntimeError):
            # Some classes do not run in float64.
            noise = [3e-7 * float(x) for x in [out.abs().max(), max([g.abs().max() for g in gradients.values()] or [0.0])]]
        tensors |= {"output": out, "probe": probe, "loss": loss} | {f"grad/{k}": g for k, g in gradients.items()}
        save_file({k: v.contiguous() for k, v in tensors.items()}, f"{folder}/expected.safetensors")
        case = {
            "framework": framework, "model_class": self.cls.__name__, "adapters": adapters, "active": active, "output": self.output,
            **NOISE, "atol": max(30 * noise[0], 2e-5), "grad_atol": max(30 * noise[1], 2e-5), "note": note, "attn_implementation": "eager",
            "fp32_noise": {"output": noise[0], "grad": noise[1]},
        } | ({"inputs": "inputs.safetensors"} if own is not None else {})
        with open(f"{folder}/case.json", "w") as file:
            json.dump(case, file, indent=1)
        print(f"{folder}: noise {noise[0]:.1e} {noise[1]:.1e}")


ENCODER = dict(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
)
SOUND = dict(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24, conv_dim=[6, 8], conv_kernel=[5, 3], conv_stride=[3, 2],
    num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, layerdrop=0.0, hidden_dropout=0.0, attention_dropout=0.0,
    activation_dropout=0.0, feat_proj_dropout=0.0, final_dropout=0.0, apply_spec_augment=False, mask_time_prob=0.0,
)


def gpt2():
    s = Set("gpt2", GPT2LMHeadModel, "logits")
    gate = LoRAConfig(r=3, alpha=5, use_gating=True, init_weights="bert")
    s.hub("lora_gating_left", gate, "padding in front, which counts in the gate", text([7, 5, 3], "left"))
    s.peft("peft_save_conv1d", ["c_attn"], "a copy of a layer whose weight is stored with the input first", modules_to_save=["c_fc"])


def bert():
    s = Set("bert", BertModel, "last_hidden_state")
    note = "DoRA with biases of the layers that it adapts, and with copies"
    s.peft("peft_dora_copies", ["query", "value"], note, use_dora=True, bias="lora_only", modules_to_save=["LayerNorm"])


def t5():
    s = Set("t5", T5ForConditionalGeneration, "logits")
    s.peft("peft_lora_shared", ["q", "shared"], "LoRA on a module that nothing calls: its layers are stored and do not act")
    s.peft("peft_tokens", ["q"], "rows of the shared table, which act in both stacks and the tied head", trainable_token_indices=[3, 5, 9])
    s.peft("peft_save_embed_tokens", ["q"], "a copy of the table for each stack", modules_to_save=["embed_tokens"])


def mt5():
    s = Set("mt5", MT5ForConditionalGeneration, "logits")
    s.peft("peft_tokens", ["q"], "rows of the shared table, which act nowhere where the head is not tied", trainable_token_indices=[3, 5, 9])


def bart():
    s = Set("bart", BartModel, "last_hidden_state")
    s.peft("peft_lora_embed_tokens", ["q_proj", "embed_tokens"], "LoRA on the table of each stack")
    s = Set("bart", BartForConditionalGeneration, "logits")
    s.peft("peft_tokens_lm", ["q_proj"], "rows of the shared table, in the head too", trainable_token_indices={"shared": [3, 5, 9]})


def whisper():
    s = Set("whisper", WhisperForConditionalGeneration, "logits")
    s.peft("peft_tokens_lm", ["q_proj"], "rows of the table, in the head too", trainable_token_indices=[3, 5, 9])


def qwen2_tied():
    s = Set("qwen2_tied", Qwen2ForCausalLM, "logits")
    rows = {"embed_tokens": [3, 5, 9], "lm_head": [4, 5]}
    s.peft("peft_tokens_differ", ["q_proj"], "other rows in the tied head than in the table", trainable_token_indices=rows)


def encoder_decoder():
    s = Set("encoder_decoder", EncoderDecoderModel, "logits")
    inputs = text([7, 6, 4], "left") | {"decoder_input_ids": s.inputs["decoder_input_ids"]}
    s.hub("loreft_left", LoReftConfig(r=2), "padding in front of the encoder's text", inputs)


def vit_pair():
    config = ViTConfig(**ENCODER, image_size=[13, 22], patch_size=[3, 5])
    s = Set("vit_pair", ViTModel, "last_hidden_state", config, images(13, 22), 21)
    s.plain()
    s.peft("peft_lora_conv", ["projection", "query"], "images and patches of another height than width")


def beit_pair():
    config = BeitConfig(**ENCODER, image_size=[12, 20], patch_size=4, use_relative_position_bias=True, drop_path_rate=0.0)
    s = Set("beit_pair", BeitModel, "last_hidden_state", config, images(12, 20), 22)
    s.peft("peft_lora", ["query", "value"], "distances in a window of another height than width")


def dinov2_pair():
    sizes = {k: v for k, v in ENCODER.items() if k != "intermediate_size"}
    config = Dinov2Config(**sizes, mlp_ratio=2, image_size=[8, 32], patch_size=4, drop_path_rate=0.0)
    s = Set("dinov2_pair", Dinov2Model, "last_hidden_state", config, images(8, 32), 23)
    s.peft("peft_lora", ["query", "value"], "16 patches in two rows, whose positions are interpolated from those of a square")


def gemma3_bidirectional():
    config = Gemma3TextConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=8, intermediate_size=24,
        max_position_embeddings=64, sliding_window=6, query_pre_attn_scalar=9, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        use_bidirectional_attention=True, layer_types=["sliding_attention", "full_attention"],
    )
    s = Set("gemma3_bidirectional", Gemma3ForCausalLM, "logits", config, text([9, 6, 4]), 24)
    s.peft("peft_lora", ["q_proj", "v_proj"], "attention that looks ahead, in a window and without one")


def bert_decoder():
    config = BertConfig(**ENCODER, vocab_size=60, max_position_embeddings=24, is_decoder=True, use_cache=False, pad_token_id=0)
    s = Set("bert_decoder", BertModel, "last_hidden_state", config, text([7, 5, 4]), 25)
    s.peft("peft_lora", ["query", "value"], "an encoder that sees the past alone")


def wav2vec2_language():
    config = Wav2Vec2Config(**SOUND, do_stable_layer_norm=True, feat_extract_norm="layer", adapter_attn_dim=6)
    s = Set("wav2vec2_language", Wav2Vec2Model, "last_hidden_state", config, sounds([200, 150, 90]), 26, 0.2)
    s.peft("peft_lora", ["q_proj", "linear_1"], "the adapter of a language in each layer")


def wav2vec2_shorter():
    config = Wav2Vec2Config(
        **SOUND, add_adapter=True, output_hidden_size=12, num_adapter_layers=2, adapter_kernel_size=4, adapter_stride=3
    )
    s = Set("wav2vec2_shorter", Wav2Vec2Model, "last_hidden_state", config, sounds([200, 150, 90]), 27, 0.2)
    s.peft("peft_lora", ["v_proj", "proj"], "convolutions behind the layers that make the sequence shorter")


ALL = [
    bert, gpt2, t5, mt5, bart, whisper, qwen2_tied, encoder_decoder, vit_pair, beit_pair, dinov2_pair, gemma3_bidirectional, bert_decoder,
    wav2vec2_language, wav2vec2_shorter,
]
for make in ALL:
    if not sys.argv[1:] or make.__name__ in sys.argv[1:]:
        make()
