"""Writes tiny Llamas in every kind of file, adapters of peft that have other tokens than their base, and what they compute.

    python make.py

`base` and `tied` have 20 tokens; `bin` and `bin_shards` are `base` as PyTorch files. The adapters: `trained` trains table and head over 23
tokens, `copies` has 23 tokens of which peft stores the rows next to a LoRA, `cut` has 17, `tied_copies` 23 over `tied`, `tokens` trains the
rows of two of three added tokens. Over `tied`, `tied_head` has LoRA on the head and `tied_tokens` trains such rows.
"""

import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
torch.manual_seed(0)


def base(tied):
    config = LlamaConfig(vocab_size=20, hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2,
                         num_key_value_heads=1, max_position_embeddings=32, tie_word_embeddings=tied, eos_token_id=2,
                         bos_token_id=1, pad_token_id=0)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return model


def save(model, name, **options):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, **options)
    (folder / "README.md").unlink(missing_ok=True)
    (folder / "generation_config.json").unlink(missing_ok=True)
    return folder


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].tolist()


def adapted(source, name, tokens, targets=("q_proj", "v_proj"), **options):
    model = LlamaForCausalLM.from_pretrained(HERE / source)
    model.resize_token_embeddings(tokens, mean_resizing=False)
    with torch.no_grad():
        for table in (model.get_input_embeddings(), model.get_output_embeddings()):
            if tokens > 20:
                table.weight[20:].normal_()
    model = get_peft_model(model, LoraConfig(r=2, lora_alpha=3, target_modules=list(targets), **options))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    model.peft_config["default"].base_model_name_or_path = source
    save(model, name)
    # As a user has it: the base as published, resized, and the adapter on top.
    again = LlamaForCausalLM.from_pretrained(HERE / source)
    again.resize_token_embeddings(tokens, mean_resizing=False)
    again = PeftModel.from_pretrained(again, HERE / name).eval()
    return logits(again, IDS[:4] + [tokens - 1, tokens - 2])


IDS = [1, 5, 16, 9, 3, 12]
expected = {}
for name, tied in (("base", False), ("tied", True)):
    model = base(tied)
    save(model, name)
    expected[name] = logits(model, IDS)
    if name == "base":
        save(model, "bin", safe_serialization=False)
        save(model, "bin_shards", safe_serialization=False, max_shard_size="1KB")
expected["trained"] = adapted("base", "trained", 23, modules_to_save=["embed_tokens", "lm_head"])
expected["copies"] = adapted("base", "copies", 23)
expected["cut"] = adapted("base", "cut", 17)
expected["tied_copies"] = adapted("tied", "tied_copies", 23)
expected["tokens"] = adapted("base", "tokens", 23, trainable_token_indices=[21, 22])
expected["tied_head"] = adapted("tied", "tied_head", 23, ["q_proj", "lm_head"])
expected["tied_tokens"] = adapted("tied", "tied_tokens", 23, trainable_token_indices=[21, 22])
(HERE / "expected.json").write_text(json.dumps(expected) + "\n")
