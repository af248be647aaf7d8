"""Makes a golden folder of real checkpoints, with transformers 4.57.6: checkpoints.py OUT CHECKPOINT .. Each gets the case of the base alone,
two texts of which one is shorter; the tolerance is 30 times the difference between float32 and float64. Then:

    parity --dir OUT
"""
import json, sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

OUT, *CHECKPOINTS = sys.argv[1:]
TEXTS = ["The quick brown fox jumps over the lazy dog, and the dog does not mind.", "A short one."]
torch.set_num_threads(2)
for checkpoint in map(Path, CHECKPOINTS):
    folder = Path(OUT) / checkpoint.name
    case = folder / "cases" / "no_adapter"
    case.mkdir(parents=True, exist_ok=True)
    (folder / "base").symlink_to(checkpoint.resolve())
    writes = json.loads((checkpoint / "config.json").read_text())["model_type"] in ("llama", "gpt2", "qwen2")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    inputs = tokenizer(TEXTS, padding=True, padding_side="right", return_tensors="pt")
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    loader = AutoModelForCausalLM if writes else AutoModel
    model = loader.from_pretrained(checkpoint, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        outputs = model(**inputs)
        output = outputs.logits if writes else outputs.last_hidden_state
        outputs = model.double()(**inputs)
        exact = outputs.logits if writes else outputs.last_hidden_state
    noise = (output.double() - exact).abs().max().item()
    save_file(inputs, folder / "inputs.safetensors")
    save_file({"output": output}, case / "expected.safetensors")
    meta = {
        "framework": "adapters", "library_versions": {}, "model_class": type(model).__name__, "adapters": {}, "fusions": [],
        "fusion_dirs": {}, "active": None, "output": "logits" if writes else "last_hidden_state", "rtol": 1e-4,
        "atol": max(30 * noise, 2e-5), "grad_rtol": 1e-3, "grad_atol": 2e-5, "note": "", "attn_implementation": "eager",
        "skip_layers": None, "task_ids": None, "shared_parameters": None, "ops": [], "expected_adapters": {}, "extra_weights": {},
        "head": None, "use_attention_mask": True,
    }
    (case / "case.json").write_text(json.dumps(meta, indent=1))
    print(f"{checkpoint.name}: float64 is {noise:.1e} off, the largest element {output.abs().max():.1f}")
