"""Whether the Python libraries open what recipes write and give the same scores: open_in_python.py ADAPTERS OUT [TASK].., where
ADAPTERS is the command. Each classification recipe trains for a moment on a little of its data; AdapterHub's `load_adapter(.., with_head=True)`
and peft's `AutoPeftModel..from_pretrained` open the folders. With adapters 1.3.0, peft 0.21.2 and transformers 4.57.6."""
import base64, io, json, os, shutil, subprocess, sys, torch
from safetensors.torch import load_file, save_file

ADAPTERS, OUT = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
REPO = os.path.abspath(f"{os.path.dirname(__file__)}/..")
TEXT, DIGITS = f"{OUT}/all-MiniLM-L6-v2", f"{REPO}/models/vit-tiny-digits"
LIMIT = 1e-5
torch.set_num_threads(1)


def rows(path, count):
    with open(path) as file:
        return [json.loads(line) for line, _ in zip(file, range(count))]


def several(row):
    return {"text": row["text"], "label": [row["label"]] + (["long"] if len(row["text"]) > 100 else [])}


# Recipe, what differs from it, the rows of the task, labels of the head, the class of peft.
CASES = {
    "classification": ("reviews", ["head.pooling=pooler"], None, 2, "AutoPeftModelForSequenceClassification"),
    "regression": (
        "reviews", ["head.pooling=pooler", "head.kind=regression", "data.labels=0"],
        lambda row: {"text": row["text"], "label": len(row["text"]) / 100}, 1, "AutoPeftModelForSequenceClassification",
    ),
    "multi_label": (
        "reviews", ["head.pooling=pooler", "head.kind=multi_label", "data.labels=['negative', 'positive', 'long']"],
        several, 3, "AutoPeftModelForSequenceClassification",
    ),
    "tagging": ("addresses", [], None, 17, "AutoPeftModelForTokenClassification"),
    "question_answering": ("definitions-in-sentences", [], None, 2, "AutoPeftModelForQuestionAnswering"),
    # peft has no class for it.
    "multiple_choice": ("definitions", ["head.pooling=pooler"], None, 4, None),
    "image_classification": ("digits", [], None, 10, "AutoPeftModel"),
}


def restore():
    """The compact base as transformers reads it: eight-bit rows times their scales."""
    compact = f"{REPO}/models/all-MiniLM-L6-v2"
    shutil.copytree(compact, TEXT, dirs_exist_ok=True)
    stored = load_file(f"{compact}/model.safetensors")
    scaled = lambda key, value: value.float() * stored[f"{key}.scale"][:, None] if f"{key}.scale" in stored else value
    weights = {key: scaled(key, value) for key, value in stored.items() if not key.endswith(".scale")}
    save_file(weights, f"{TEXT}/model.safetensors", {"format": "pt"})


def run(*args):
    return subprocess.run([ADAPTERS, *args], cwd=OUT, check=True, stdout=subprocess.PIPE, text=True).stdout


def inputs(task, row, tokenizer, processor):
    if task == "image_classification":
        from PIL import Image

        image = Image.open(io.BytesIO(base64.b64decode(row["image"].split(",")[1]))).convert("RGB")
        return processor(image, return_tensors="pt")
    if task == "tagging":
        return tokenizer(row["words"], is_split_into_words=True, return_tensors="pt")
    if task == "question_answering":
        return tokenizer(row["question"], row["context"], return_tensors="pt")
    if task == "multiple_choice":
        pairs = [row["question"]] * len(row["choices"]), row["choices"]
        return tokenizer(*pairs, padding=True, return_tensors="pt")
    return tokenizer(row["text"], return_tensors="pt")


@torch.no_grad()
def scores(model, task, given):
    # `PeftModelForQuestionAnswering` of peft 0.21.2 does not hand on `token_type_ids`; the model in it reads them.
    inner = task == "question_answering" and hasattr(model, "get_base_model")
    output = (model.get_base_model() if inner else model)(**given)
    spans = [output.start_logits, output.end_logits] if task == "question_answering" else None
    return (torch.stack(spans, -1) if spans else output.logits).flatten()


def largest_difference(model, task, data, ours, tokenizer, processor):
    model.eval()
    theirs = [scores(model, task, inputs(task, row, tokenizer, processor)) for row in data]
    return max((mine - other).abs().max().item() for mine, other in zip(ours, theirs, strict=True))


def main():
    import peft
    from adapters import AutoAdapterModel
    from transformers import AutoImageProcessor, AutoTokenizer

    os.makedirs(OUT, exist_ok=True)
    restore()
    tokenizer, processor = AutoTokenizer.from_pretrained(TEXT), AutoImageProcessor.from_pretrained(DIGITS)
    failed = False
    for task, (recipe, overrides, change, labels, cls) in CASES.items():
        if sys.argv[3:] and task not in sys.argv[3:]:
            continue
        base = DIGITS if task == "image_classification" else TEXT
        splits = {"train": 32, "validation": 8, "test": 24}
        overrides = [*overrides, f"model.path={base}", "train.epochs=1"]
        for split, count in splits.items():
            path = f"{OUT}/{task}-{split}.jsonl"
            data = [change(row) if change else row for row in rows(f"{REPO}/data/{recipe}/{split}.jsonl", count)]
            with open(path, "w") as file:
                file.writelines(json.dumps(row) + "\n" for row in data)
            overrides.append(f"data.{split}={path}")
        out = f"{OUT}/{task}"
        shutil.rmtree(out, ignore_errors=True)
        run("train", f"{REPO}/recipes/{recipe}.toml", "--out", out, *(arg for value in overrides for arg in ("--set", value)))
        predicted = run("predict", "--adapter", f"{out}/adapter", "--data", path, "--json", "--batch", "1")
        ours = [torch.tensor(json.loads(line)["scores"]) for line in predicted.splitlines()]
        opened = {}
        model = AutoAdapterModel.from_pretrained(base)
        model.load_adapter(f"{out}/adapter", with_head=True, set_active=True)
        opened["AutoAdapterModel.load_adapter"] = model
        if cls:
            # Two labels are the default of transformers, and peft's files have no other number.
            options = {} if labels == 2 else {"num_labels": labels}
            opened[cls] = getattr(peft, cls).from_pretrained(f"{out}/adapter-peft", **options)
        for name, model in opened.items():
            apart = largest_difference(model, task, data, ours, tokenizer, processor)
            print(f"{task:<22} {name:<42} {apart:.1e}", flush=True)
            failed |= not apart <= LIMIT
    sys.exit("scores differ" if failed else 0)


main()
