# Peft's LoRA with `trainable_token_indices` inside, on the golden BERT: adapters and outputs for tests/tokens.rs.
import json, sys
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import BertModel

GOLDEN, OUT = sys.argv[1], sys.argv[2]
inputs = load_file(f"{GOLDEN}/bert/inputs.safetensors")
ids, mask = inputs["input_ids"], inputs["attention_mask"]
chosen = sorted({int(i) for i in ids.flatten()[:6]} | {7})[:4]
for name, tokens in [("list", chosen), ("layer", {"word_embeddings": chosen})]:
    model = BertModel.from_pretrained(f"{GOLDEN}/bert/base", attn_implementation="eager").eval()
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["query", "value"], trainable_token_indices=tokens)
    model = get_peft_model(model, config).eval()
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, p in sorted((n, p) for n, p in model.named_parameters() if p.requires_grad):
            p.copy_(torch.randn(p.shape, generator=g) * 0.3)
    model.save_pretrained(f"{OUT}/{name}")
    path = f"{OUT}/{name}/adapter_config.json"
    config = json.load(open(path))
    config["base_model_name_or_path"] = None
    json.dump(config, open(path, "w"), indent=2, sort_keys=True)
    with torch.no_grad():
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
    save_file({"hidden": hidden.contiguous()}, f"{OUT}/{name}/expected.safetensors")
    print(list(load_file(f"{OUT}/{name}/adapter_model.safetensors")), chosen)
