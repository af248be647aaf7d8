# Merged checkpoints read by transformers: `adapters merge` writes the LoRA cases of a golden folder into their bases, the
# published classes load them strictly, and their outputs are compared with those of the cases. One line for each model.
#
#     python merged.py GOLDEN ADAPTERS [MODEL ..]        ADAPTERS is the command, e.g. target/debug/adapters
import json, subprocess, sys, tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file

CASES = [
    "lora", "lora_all", "peft_lora", "peft_lora_all_linear", "peft_lora_conv", "peft_lora_conv1d", "peft_lora_conv1d_all",
    "peft_lora_embedding", "peft_lora_embedding_tied", "peft_lora_experts", "peft_lora_lm_head", "peft_lora_target_parameters",
]
golden, command = Path(sys.argv[1]), sys.argv[2]
models = sys.argv[3:] or sorted(path.parent.name for path in golden.glob("*/cases"))
torch.set_num_threads(1)
transformers.logging.set_verbosity_error()


def difference(model, case):
    """The largest difference of a merged case from its output, or why there is none."""
    folder = golden / model / "cases" / case
    meta = json.loads((folder / "case.json").read_text())
    if model == "xmod" and meta["framework"] == "adapters":
        return "AdapterHub's library deletes the adapters of languages, which transformers computes"
    [adapter] = meta["adapters"].values()
    with tempfile.TemporaryDirectory() as out:
        merge = [command, "merge", "--model", golden / model / "base", "--adapter", folder / adapter, "--out", out]
        done = subprocess.run(merge, capture_output=True, text=True)
        if done.returncode != 0:
            return done.stderr.strip().splitlines()[0]
        loader = getattr(transformers, meta["model_class"])
        merged, info = loader.from_pretrained(out, attn_implementation="eager", output_loading_info=True)
    keys = {kind: sorted(found) for kind, found in info.items() if found}
    if keys:
        return f"keys differ: {keys}"
    inputs = load_file(folder / meta["inputs"] if meta.get("inputs") else golden / model / "inputs.safetensors")
    if meta.get("use_attention_mask") is False:
        inputs.pop("attention_mask", None)
    expected = load_file(folder / "expected.safetensors")["output"]
    with torch.no_grad():
        output = getattr(merged.eval()(**inputs), meta["output"])
    return (output - expected).abs().max().item()


for model in models:
    found = {case: difference(model, case) for case in CASES if (golden / model / "cases" / case).is_dir()}
    numbers = [value for value in found.values() if isinstance(value, float)]
    print(f"{model}: {len(numbers)} of {len(found)} cases, at most {max(numbers, default=0.0):.1e}", flush=True)
    for case, why in found.items():
        if not isinstance(why, float):
            print(f"  {case}: {why}")
