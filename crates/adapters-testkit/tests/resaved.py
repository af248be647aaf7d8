# Adapters as `parity --resave` wrote them, read by the Python libraries: AdapterHub's `load_adapter` and peft's `from_pretrained` open the
# folders over the base of each case, and the output is compared with that of the case. A line for each case that differs or
# cannot be read, and one for each model. With FROM_GOLDEN set, the folders of the library itself, for comparison.
#
#     parity --dir GOLDEN --resave RESAVED
#     python resaved.py GOLDEN RESAVED [MODEL or MODEL/CASE ..]
import json, logging, os, sys
from pathlib import Path

import adapters
import adapters.composition
import peft
import torch
import transformers
from safetensors.torch import load_file

golden, resaved = Path(sys.argv[1]), Path(sys.argv[2])
source = golden if os.environ.get("FROM_GOLDEN") else resaved
asked = sys.argv[3:] or sorted(path.parent.name for path in golden.glob("*/cases"))
torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
logging.disable(logging.WARNING)


def copy_extra(model, case, meta):
    """What a library does not store is copied in by hand."""
    known = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, file in meta["extra_weights"].items():
        for key, value in load_file(case / file).items():
            if key.startswith("shared_parameters."):
                _, adapter, parameter = key.split(".", 2)
                model.base_model.shared_parameters[adapter][parameter].data.copy_(value)
                continue
            # A prompt is in the file, whatever it was made by.
            if key in known and known[key].shape == value.shape:
                known[key].data.copy_(value)


def with_adapterhub(model, case, folder, meta):
    adapters.init(model)
    for name, path in meta["adapters"].items():
        model.load_adapter(str(folder / path), load_as=name, set_active=False)
    for option, value in [pair for changed in meta.get("config_overrides", {}).values() for pair in changed.items()]:
        for module in model.modules():
            if hasattr(module, option):
                setattr(module, option, value)
    for names, path in meta["fusion_dirs"].items():
        model.load_adapter_fusion(str(folder / path), load_as=names)
    copy_extra(model, case, meta)
    if meta.get("zeroed_bias"):
        fused = [m for n, m in model.named_modules() if n.endswith(("in_proj", "Wqkv")) and getattr(m, "bias", None) is not None]
        for layer in fused:
            layer.bias.data.zero_()
    if meta["shared_parameters"]:
        model.share_parameters(meta["shared_parameters"])
    for op in meta["ops"]:
        if op["op"] == "average_adapter":
            options = {key: value for key, value in op.items() if key not in ("op", "name", "adapters")}
            model.average_adapter(op["name"], op["adapters"], **options)
    if meta["active"]:
        setup = getattr(adapters.composition, meta["active"]["type"]).from_dict(meta["active"])
        if meta["active"].get("kwargs", {}).get("weights"):
            # `from_dict` divides them by their sum.
            setup.weights = meta["active"]["kwargs"]["weights"]
        model.set_active_adapters(setup, **({"skip_layers": meta["skip_layers"]} if meta["skip_layers"] else {}))
    for op in meta["ops"]:
        if op["op"] != "average_adapter":
            getattr(model, op["op"])(**{key: value for key, value in op.items() if key != "op"})
    return model


def with_peft(model, case, folder, meta):
    if isinstance(meta["active"], str):
        path = folder / meta["adapters"][meta["active"]]
        config = peft.PeftConfig.from_pretrained(str(path))
        if config.peft_type == "XLORA":
            config.adapters = {name: str(folder / meta["adapters"][name]) for name in config.adapters}
            model = peft.PeftModel.from_pretrained(model, str(path), adapter_name=meta["active"], config=config)
            copy_extra(model, case, meta)
            return model
    (first, path), *others = meta["adapters"].items()
    model = peft.PeftModel.from_pretrained(model, str(folder / path), adapter_name=first)
    for name, path in others:
        model.load_adapter(str(folder / path), adapter_name=name)
    copy_extra(model, case, meta)
    for op in meta["ops"]:
        names = {"op": None, "name": "adapter_name"} if op["op"] == "add_weighted_adapter" else {"op": None}
        options = {names.get(key, key): value for key, value in op.items()}
        del options[None]
        getattr(model, op["op"])(**options)
    (model.base_model if isinstance(meta["active"], list) else model).set_adapter(meta["active"])
    return model


@torch.no_grad()
def difference(model_name, case, meta):
    """The largest difference from the output of a case, and whether it is within its tolerance."""
    loader = getattr(transformers, meta["model_class"], None) or getattr(adapters, meta["model_class"])
    base = golden / model_name / "base"
    model = loader.from_pretrained(base, attn_implementation=meta["attn_implementation"])
    model.config.use_cache = False
    if meta.get("head"):
        adapters.init(model)
        model.load_head(str(case / meta["head"]), use_safetensors=True)
    attach = with_adapterhub if meta["framework"] == "adapters" else with_peft
    model = attach(model, case, source / model_name / ("cases" if source == golden else "") / case.name, meta)
    inputs = load_file(case / meta["inputs"] if meta.get("inputs") else golden / model_name / "inputs.safetensors")
    if meta.get("use_attention_mask") is False:
        inputs.pop("attention_mask", None)
    if meta["task_ids"] is not None:
        inputs["task_ids"] = torch.tensor(meta["task_ids"])
    if meta.get("adapter_names"):
        inputs["adapter_names"] = meta["adapter_names"]
    output = getattr(model.eval()(**inputs), meta["output"])
    expected = load_file(case / "expected.safetensors")
    apart = (output - expected["output"]).abs()
    if "output_mask" in expected:
        apart = apart * expected["output_mask"].unsqueeze(-1)
    return apart.max().item(), bool((apart <= meta["atol"] + meta["rtol"] * expected["output"].abs()).all())


failed = False
for name in asked:
    model_name, _, one = name.partition("/")
    right, largest, count = 0, 0.0, 0
    for case in sorted((golden / model_name / "cases").glob(one or "*")):
        meta = {"task_ids": None} | json.loads((case / "case.json").read_text())
        # An Arrow router is not stored by either library.
        if not meta["adapters"] or any(op["op"] == "create_arrow_model" for op in meta["ops"]):
            continue
        count += 1
        try:
            apart, within = difference(model_name, case, meta)
        except Exception as error:
            print(f"  {case.name}: {type(error).__name__}: {str(error)[:200]}", flush=True)
            continue
        right, largest = right + within, max(largest, apart)
        if not within:
            print(f"  {case.name}: {apart:.1e} off", flush=True)
    failed |= right < count
    print(f"{name}: {right} of {count} cases, at most {largest:.1e}", flush=True)
sys.exit("some differ" if failed else 0)
