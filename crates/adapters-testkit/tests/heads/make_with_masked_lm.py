"""Makes masked_lm_lora/, with Python's peft 0.21.2 and transformers 4.57.6: make_with_masked_lm.py OUT. Tiny masked language models, and
LoRA on modules of which one is in their head."""
import json, os, sys, torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import BertConfig, BertForMaskedLM, DistilBertConfig, DistilBertForMaskedLM

OUT = sys.argv[1]
torch.set_num_threads(1)
torch.manual_seed(5)
CASES = {
    "bert": (
        BertForMaskedLM,
        BertConfig(vocab_size=24, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20, max_position_embeddings=12),
        ["dense"],
    ),
    "distilbert": (
        DistilBertForMaskedLM,
        DistilBertConfig(vocab_size=24, dim=16, n_layers=1, n_heads=2, hidden_dim=20, max_position_embeddings=12),
        ["q_lin", "vocab_transform"],
    ),
}
ids = torch.tensor([[5, 9, 3, 14, 7], [8, 2, 11, 6, 1]])
for family, (cls, config, targets) in CASES.items():
    model = cls(config).eval()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.3 + (parameter.data.mean() == 1)
    model.tie_weights()
    folder = f"{OUT}/masked_lm_lora/{family}"
    model.save_pretrained(f"{folder}/base")
    model = get_peft_model(model, LoraConfig(r=3, lora_alpha=6, target_modules=targets)).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape) * 0.3
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    model.save_pretrained(folder)
    path = f"{folder}/adapter_config.json"
    config = json.load(open(path))
    config["base_model_name_or_path"] = ""
    json.dump(config, open(path, "w"), indent=2, sort_keys=True)
    os.remove(f"{folder}/README.md")
    os.remove(f"{folder}/base/generation_config.json") if os.path.exists(f"{folder}/base/generation_config.json") else None
    save_file({"output": logits, "input_ids": ids}, f"{folder}/expected.safetensors")
