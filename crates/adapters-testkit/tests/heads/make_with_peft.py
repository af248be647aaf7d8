"""Makes the cases of the classes of transformers in peft/ whose head has another form than BERT's, with Python's peft 0.21.2 and
transformers 4.57.6: make_with_peft.py GOLDEN OUT [NAME ..], where GOLDEN is golden/ of this crate. Each case has its input in
expected.safetensors."""
import json, os, sys, torch
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    BartForSequenceClassification,
    DistilBertForSequenceClassification,
    ModernBertForQuestionAnswering,
    ModernBertForTokenClassification,
    RobertaForSequenceClassification,
    T5ForSequenceClassification,
    ViTForImageClassification,
    Wav2Vec2ForSequenceClassification,
    WhisperForAudioClassification,
)

GOLDEN, OUT, *NAMES = sys.argv[1:]
torch.set_num_threads(1)
generator = torch.Generator().manual_seed(11)
CASES = [
    ("roberta_lora_seq_cls", "roberta", RobertaForSequenceClassification, ["query", "value"], ["classifier"]),
    ("distilbert_lora_seq_cls", "distilbert", DistilBertForSequenceClassification, ["q_lin", "v_lin"], ["pre_classifier", "classifier"]),
    ("bart_lora_seq_cls", "bart", BartForSequenceClassification, ["q_proj", "v_proj"], ["classification_head"]),
    ("t5_lora_seq_cls", "t5", T5ForSequenceClassification, ["q", "v"], ["classification_head"]),
    ("vit_lora_image_cls", "vit", ViTForImageClassification, ["query", "value"], ["classifier"]),
    ("wav2vec2_lora_audio_cls", "wav2vec2", Wav2Vec2ForSequenceClassification, ["q_proj", "v_proj"], ["projector", "classifier"]),
    ("wav2vec2_lora_weighted_audio_cls", "wav2vec2", Wav2Vec2ForSequenceClassification, ["q_proj", "v_proj"], ["projector", "classifier"]),
    ("whisper_lora_audio_cls", "whisper", WhisperForAudioClassification, ["q_proj", "fc1"], ["projector", "classifier"]),
    ("whisper_lora_weighted_audio_cls", "whisper", WhisperForAudioClassification, ["q_proj", "fc1"], ["projector", "classifier"]),
    # Layers below the last one that are those of the checkpoint: adapted, and trained as a whole.
    ("modernbert_lora_token_cls", "modernbert_mlm", ModernBertForTokenClassification, ["Wqkv", "head.dense"], ["classifier"]),
    ("modernbert_lora_question_ans", "modernbert_mlm", ModernBertForQuestionAnswering, ["Wqkv"], ["head", "classifier"]),
]
TASKS = {"image_cls": None, "audio_cls": None, "token_cls": TaskType.TOKEN_CLS, "question_ans": TaskType.QUESTION_ANS}
for name, family, cls, targets, modules in CASES:
    if NAMES and name not in NAMES:
        continue
    base = f"{GOLDEN}/{family}/base"
    inputs = load_file(f"{GOLDEN}/{family}/inputs.safetensors")
    # A layer of another width than the model's below the last one.
    wide = {"classifier_proj_size": 20} if family in ("wav2vec2", "whisper") else {}
    # A weighted sum of all layers, whose weights peft does not train.
    weighted = "_weighted_" in name
    if weighted:
        wide["use_weighted_layer_sum"] = True
    task = TASKS.get(name.split("_lora_")[1].removeprefix("weighted_"), TaskType.SEQ_CLS)
    model = cls.from_pretrained(base, num_labels=2 if task == TaskType.QUESTION_ANS else 3, **wide)
    if weighted:
        model.layer_weights.data = torch.randn(model.layer_weights.shape, generator=generator)
    config = LoraConfig(r=3, lora_alpha=6, target_modules=targets, modules_to_save=modules, task_type=task)
    model = get_peft_model(model, config).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    given = {key: inputs[key] for key in ("input_ids", "attention_mask", "pixel_values", "input_values", "input_features") if key in inputs}
    if family in ("bart", "t5"):
        # These classes read the last end token of each row, of which all have as many.
        eos = model.config.eos_token_id
        ids, last = given["input_ids"], given["attention_mask"].sum(1) - 1
        ids[ids == eos] = 5
        ids[torch.arange(len(ids)), last] = eos
    with torch.no_grad():
        output = model(**given)
        spans = task == TaskType.QUESTION_ANS
        logits = torch.stack([output.start_logits, output.end_logits], -1) if spans else output.logits
    folder = f"{OUT}/{name}"
    model.save_pretrained(folder)
    path = f"{folder}/adapter_config.json"
    config = json.load(open(path))
    config["base_model_name_or_path"] = ""
    json.dump(config, open(path, "w"), indent=2, sort_keys=True)
    os.remove(f"{folder}/README.md")
    if weighted:
        given["layer_weights"] = model.get_base_model().layer_weights.data
    save_file({"output": logits, **given}, f"{folder}/expected.safetensors")
