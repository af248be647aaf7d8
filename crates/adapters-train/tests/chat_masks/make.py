"""Writes tokenizer.json and expected.json: chats in published templates, with the tokens that are an assistant's.

    python make.py

The templates in `templates/` are those of tokenizer_config.json of Meta-Llama-3-8B-Instruct (llama3), Qwen2.5-7B-Instruct (qwen2.5),
Mistral-7B-Instruct-v0.2 (mistral), gemma-2-9b-it (gemma) and SmolLM2-135M-Instruct (smollm2), and ChatML as transformers documents it (chatml). None
of them has `{% generation %}`; the answers are the differences of rendered prefixes. The templates `*_generation` are two of them with
the blocks added; for these the mask is that of `return_assistant_tokens_mask`.
"""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).parent

# Beginning and end of a text, of the published tokenizers.
TOKENS = {
    "llama3": ("<|begin_of_text|>", "<|eot_id|>"),
    "qwen2.5": (None, "<|im_end|>"),
    "mistral": ("<s>", "</s>"),
    "gemma": ("<bos>", "<eos>"),
    "smollm2": ("<|im_start|>", "<|im_end|>"),
    "chatml": (None, "<|im_end|>"),
    "chatml_generation": (None, "<|im_end|>"),
    "llama3_generation": ("<|begin_of_text|>", "<|eot_id|>"),
}
SPECIAL = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<s>", "</s>", "<bos>", "<eos>",
           "<start_of_turn>", "<end_of_turn>", "<|im_start|>", "<|im_end|>"]

user = lambda text: {"role": "user", "content": text}
assistant = lambda text: {"role": "assistant", "content": text}
system = lambda text: {"role": "system", "content": text}

CHATS = [
    [user("What is a harbour?"), assistant("A place where ships lie safe.")],
    [user("Name two."), assistant("!Rotterdam, \u00c5lesund \u2693"), user("  And a third?  "), assistant("  Oslo.\n")],
    [system("Be brief. "), user("Hello"), assistant("Hi"), user("Bye"), assistant("Goodbye, friend."), user("?")],
]
TOOL = {"type": "function", "function": {"name": "weather", "description": "The weather of a place, <now>.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}}}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"place": "Oslo"}}}
WITH_TOOLS = [user("Is it raining in Oslo?"), {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]},
              {"role": "tool", "name": "weather", "content": "rain"}, {"role": "tool", "name": "weather", "content": "4 degrees"},
              assistant("Yes, it is.")]


def tokenizer():
    """A byte-level BPE, small, with tokens of several characters."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=360, special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    texts = [m["content"] for chat in CHATS for m in chat] + ["system\n", "user\n\n", "assistant\n", "model\n", " [/INST]!", "[INST] "]
    inner.train_from_iterator(texts * 4, trainer)
    inner.save(str(HERE / "tokenizer.json"))
    return inner


def case(name, inner, messages, tools):
    bos, eos = TOKENS[name]
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=bos, eos_token=eos)
    fast.chat_template = (HERE / "templates" / f"{name}.jinja").read_text()
    text = fast.apply_chat_template(messages, tools=tools, tokenize=False)
    if name.endswith("_generation"):
        out = fast.apply_chat_template(messages, tools=tools, return_dict=True, return_assistant_tokens_mask=True)
        ids, mask = out["input_ids"], out["assistant_masks"]
    else:
        render = lambda part, ask: fast.apply_chat_template(part, tools=tools, tokenize=False, add_generation_prompt=ask)
        spans = []
        for index, message in enumerate(messages):
            if message["role"] == "assistant":
                asked, answered = render(messages[:index], True), render(messages[: index + 1], False)
                assert answered.startswith(asked) and text.startswith(answered)
                spans.append((len(asked), len(answered)))
        out = fast(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = out["input_ids"]
        mask = [int(any(a < end and b > start for start, end in spans)) for a, b in out["offset_mapping"]]
    found = {"template": name, "bos_token": bos, "eos_token": eos, "messages": messages, "text": text, "ids": ids,
             "mask": "".join(map(str, mask))}
    return found | ({"tools": tools} if tools else {})


inner = tokenizer()
cases = []
for name in TOKENS:
    for messages in CHATS:
        # Their templates refuse a system message, and want an answer behind each question.
        if name in ("mistral", "gemma") and messages[0]["role"] == "system":
            messages = messages[1:-1]
        cases.append(case(name, inner, messages, None))
cases.append(case("qwen2.5", inner, WITH_TOOLS, [TOOL]))
(HERE / "expected.json").write_text(json.dumps(cases, ensure_ascii=False, indent=1) + "\n")
