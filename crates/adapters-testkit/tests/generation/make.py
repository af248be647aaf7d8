"""What `generate` of transformers 4.57.6 writes by the rules of a `generation_config.json`: `expected.json` next to this file.

    python make.py      # with torch and transformers
"""
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
TEXTS = [[5, 9, 33, 14, 7], [48, 12, 61]]
MANY = [3, 11, 17, 23, 29, 35, 41, 47]
RULES = [
    {},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 3, "repetition_penalty": 1.3},
    {"min_length": 6},
    {"min_new_tokens": 4},
    {"forced_bos_token_id": 7},
    {"forced_eos_token_id": 1},
    {"forced_eos_token_id": [1, 9]},
    {"suppress_tokens": [21, 25, 45, 84, 10]},
    {"begin_suppress_tokens": [21, 23, 10, 42]},
    {"forced_bos_token_id": 7, "begin_suppress_tokens": [21, 84, 77, 25]},
    {"bad_words_ids": [[21], [25, 25], [84, 84, 84], [1]]},
    {"renormalize_logits": True, "suppress_tokens": [21, 84, 45, 51]},
    {"renormalize_logits": True, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
    {"decoder_start_token_id": 3},
]


def written(model, text, rules, beams, ends, start):
    base = {"eos_token_id": ends, "pad_token_id": 0, "decoder_start_token_id": start}
    config = GenerationConfig(**{**base, **rules}, num_beams=beams, max_new_tokens=8)
    ids = torch.tensor([text])
    with torch.no_grad():
        found = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)[0].tolist()
    found = found[1:] if model.config.is_encoder_decoder else found[len(text):]
    ended = [at for at, token in enumerate(found) if token in ends]
    return found[: ended[0]] if ended else found


cases = []
for name, load in [("t5", AutoModelForSeq2SeqLM), ("bart", AutoModelForSeq2SeqLM), ("llama", AutoModelForCausalLM)]:
    model = load.from_pretrained(GOLDEN / name / "base").eval()
    model.generation_config = GenerationConfig()
    for rules in RULES:
        if name == "llama" and "decoder_start_token_id" in rules:
            continue
        # Several forced tokens have equal scores, and which of them beams take is not defined.
        equal = len(rules.get("forced_eos_token_id", [])) > 1 if isinstance(rules.get("forced_eos_token_id"), list) else False
        for beams in [1] if equal else [1, 3]:
            for ends in [[1], MANY]:
                texts = [written(model, text, rules, beams, ends, model.config.decoder_start_token_id) for text in TEXTS]
                case = {"model": name, "config": {**rules, "eos_token_id": ends}, "beams": beams, "tokens": texts}
                cases.append(case)
lines = ",\n".join(json.dumps(case) for case in cases)
(Path(__file__).parent / "expected.json").write_text(f"[\n{lines}\n]\n")
print(len(cases), "cases,", len({json.dumps(case["tokens"]) for case in cases}), "texts")
