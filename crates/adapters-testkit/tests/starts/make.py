"""Makes the starts of LoRA that read data or the weight, with peft 0.21.2: make.py GOLDEN OUT, where GOLDEN is golden/ of this crate. Of
EVA, A of each layer with its rank and alpha; of CorDA, which takes one text at a time, the product that is taken out of each weight; of
LoRA-GA, A and B after the gradients of two losses; of MiCA, B."""
import dataclasses, sys, torch

# What peft needs of attrs is what dataclasses have.
sys.modules.setdefault("attr", dataclasses)
from peft import EvaConfig, LoraConfig, get_peft_model, initialize_lora_eva_weights
from peft.tuners.lora.config import CordaConfig, LoraGAConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.loraga import preprocess_loraga
from safetensors.torch import load_file, save_file
from transformers import BertModel

GOLDEN, OUT = sys.argv[1:]
torch.set_num_threads(1)
inputs = load_file(f"{GOLDEN}/bert/inputs.safetensors")
TARGETS = ["query", "value", "intermediate.dense"]


def base():
    return BertModel.from_pretrained(f"{GOLDEN}/bert/base").eval()


config = LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS, init_lora_weights="eva", eva_config=EvaConfig(rho=2.0))
model = get_peft_model(base(), config, low_cpu_mem_usage=True)
initialize_lora_eva_weights(model, [inputs], show_progress_bar=False)
found = model.peft_config["default"]
tensors = {}
for name, module in model.named_modules():
    if hasattr(module, "lora_A") and "default" in module.lora_A:
        path = name.removeprefix("base_model.model.")
        tensors[f"{path}.lora_A"] = module.lora_A["default"].weight.data.clone()
        tensors[f"{path}.alpha"] = torch.tensor(float(found.alpha_pattern.get(path, found.lora_alpha)))
save_file(tensors, f"{OUT}/eva.safetensors")

tensors = {}
for method in ["ipm", "kpm"]:
    config = LoraConfig(
        r=4, lora_alpha=6, target_modules=TARGETS, init_lora_weights="corda", corda_config=CordaConfig(corda_method=method)
    )
    model = base()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}

    def run():
        for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"]):
            model(ids[mask.bool()][None])

    preprocess_corda(model, config, run_model=run)
    model = get_peft_model(model, config)
    for name, weight in model.base_model.model.state_dict().items():
        if name.endswith(".base_layer.weight"):
            path = name.removesuffix(".base_layer.weight")
            tensors[f"{method}.{path}"] = before[f"{path}.weight"] - weight
save_file(tensors, f"{OUT}/corda.safetensors")


def factors(model, prefix, names=("lora_A", "lora_B")):
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            path = name.removeprefix("base_model.model.")
            for factor in names:
                tensors[f"{prefix}.{path}.{factor}"] = getattr(module, factor)["default"].weight.data.clone()


# With this rank the decomposition of the gradient, which is for the largest values alone, is whole; and there are more positions than
# directions.
ids = torch.tensor([[5 + (11 * row + 7 * at * (1 + row)) % 80 for at in range(12)] for row in range(4)])
tensors = {}
for direction, scale in [("ArB2r", "stable"), ("A2rBr", "weight_svd"), ("ArBr", "gd_scale"), ("ArB2r", "unit")]:
    ga = LoraGAConfig(direction=direction, scale=scale, stable_gamma=9)
    config = LoraConfig(r=8, lora_alpha=12, target_modules=TARGETS, init_lora_weights="lora_ga", lora_ga_config=ga)
    model = base()

    def step():
        for power in [2, 3]:
            model(ids).last_hidden_state.tanh().pow(power).sum().backward()

    preprocess_loraga(model, config, step)
    factors(get_peft_model(model, config), f"{direction}.{scale}")
save_file(tensors, f"{OUT}/lora_ga.safetensors")

tensors = {}
config = LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS, init_lora_weights="mica")
factors(get_peft_model(base(), config), "mica", ["lora_B"])
save_file(tensors, f"{OUT}/mica.safetensors")
