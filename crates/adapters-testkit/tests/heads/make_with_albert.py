"""A masked language model as a head of AdapterHub's library over ALBERT, whose word embeddings are narrower than its layers:
make_with_albert.py GOLDEN OUT, where GOLDEN is golden/ of this crate. Makes masked_lm_albert/."""
import json, sys, torch
from adapters import AlbertAdapterModel
from safetensors.torch import load_file, save_file

GOLDEN, OUT = sys.argv[1:]
torch.set_num_threads(1)
generator = torch.Generator().manual_seed(13)
model = AlbertAdapterModel.from_pretrained(f"{GOLDEN}/albert/base", attn_implementation="eager").eval()
model.config.name_or_path = ""
model.add_masked_lm_head("words")
embeddings = model.get_input_embeddings().weight
for parameter in model.heads["words"].parameters():
    if parameter is not embeddings:
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
inputs = load_file(f"{GOLDEN}/albert/inputs.safetensors")
with torch.no_grad():
    logits = model(**inputs, head="words").logits
model.save_head(OUT, "words", use_safetensors=True)
path = f"{OUT}/head_config.json"
config = json.load(open(path))
config["model_name"] = ""
json.dump(config, open(path, "w"), indent=2, sort_keys=True)
save_file({"output": logits.contiguous()}, f"{OUT}/expected.safetensors")
print({key: tuple(value.shape) for key, value in load_file(f"{OUT}/model_head.safetensors").items()})
