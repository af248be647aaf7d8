"""Writes vocab.txt, vocab.json, merges.txt, clip-vocab.json and clip-merges.txt, small vocabularies, and expected.json: the ids that
transformers has of texts in folders with these files and no tokenizer.json.

    python make.py
"""

import json
import shutil
import tempfile
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer

HERE = Path(__file__).parent
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<|endoftext|>"]
TEXTS = [
    "The quick brown fox jumps over the lazy dog. The dog sleeps; the fox doesn't.",
    "They're HERE, it's 1,234.50 and we'll see: naïve café, Ålesund Zürich über alles",
    "harbour harbour-master unbelievably 東京 is Tokyo \u2693 don't\n\nstop  two   spaces\ttab",
]
ROWS = TEXTS + ["", " leading", "cafe\u0301 e\u0301", "\u6771\u4eac\u90fd", "a [MASK] b <mask> c </s> d <|endoftext|>e", "<new> <other> x", "A\u00a0B",
                "x" * 120]
PAIR = ("The fox", "doesn't sleep")


def words():
    inner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    texts = [text for text in TEXTS] + [text.lower() for text in TEXTS] + ["naive cafe"]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    inner.train_from_iterator(texts * 3, trainers.WordPieceTrainer(vocab_size=220, special_tokens=special, show_progress=False))
    vocab = sorted(inner.get_vocab().items(), key=lambda item: item[1])
    (HERE / "vocab.txt").write_text("".join(f"{token}\n" for token, _ in vocab))


def pieces():
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=380, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator(TEXTS * 3, trainer)
    save(inner, "")


def clip():
    inner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|startoftext|>", "<|endoftext|>"]
    trainer = trainers.BpeTrainer(vocab_size=620, special_tokens=special, initial_alphabet=alphabet, show_progress=False,
                                  end_of_word_suffix="</w>")
    texts = [text.replace(" ", "") for text in TEXTS] + TEXTS
    inner.train_from_iterator(texts, trainer)
    # Every byte, alone and at the end of a word, as the published vocabulary has them.
    content = json.loads(inner.to_str())["model"]
    vocab = content["vocab"]
    for byte in alphabet:
        vocab.setdefault(byte + "</w>", len(vocab))
    write(vocab, content["merges"], "clip-")


def save(inner, prefix):
    content = json.loads(inner.to_str())["model"]
    write(content["vocab"], content["merges"], prefix)


def write(vocab, merges, prefix):
    (HERE / f"{prefix}vocab.json").write_text(json.dumps(vocab, ensure_ascii=False) + "\n")
    (HERE / f"{prefix}merges.txt").write_text("#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in merges))


def case(vocabulary, **files):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name in vocabulary:
            shutil.copy(HERE / name, folder / name.removeprefix("clip-"))
        files = {f"{name}.json": content for name, content in files.items()}
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.is_fast
        rows = []
        for text, pair in [(text, None) for text in ROWS] + [PAIR]:
            out = tokenizer(text, pair, return_token_type_ids=True)
            rows.append({"text": text, "pair": pair, "ids": out["input_ids"], "types": out["token_type_ids"],
                         "decoded": tokenizer._tokenizer.decode(out["input_ids"], skip_special_tokens=True)})
        special = sorted(id for id, token in tokenizer.added_tokens_decoder.items() if token.special)
        return {"vocabulary": vocabulary, "files": files, "tokens": len(tokenizer), "special": special, "rows": rows}


words()
pieces()
clip()
BERT, BPE, CLIP = ["vocab.txt"], ["vocab.json", "merges.txt"], ["clip-vocab.json", "clip-merges.txt"]
WORDS = len((HERE / "vocab.txt").read_text().splitlines())
TOKENS = len(json.loads((HERE / "vocab.json").read_text()))
token = lambda content, **fields: {"content": content, "lstrip": False, "rstrip": False, "single_word": False, "normalized": False} | fields
config = lambda model_type: {"model_type": model_type}
cases = {
    "bert": case(BERT, config=config("bert"), tokenizer_config={}),
    "bert, cased": case(BERT, config=config("bert"), tokenizer_config={"tokenizer_class": "BertTokenizer", "do_lower_case": False}),
    "bert, accents": case(BERT, config=config("bert"), tokenizer_config={"strip_accents": False, "tokenize_chinese_chars": False}),
    "bert, accents off": case(BERT, tokenizer_config={"tokenizer_class": "BertTokenizerFast", "strip_accents": True,
                                                      "do_lower_case": False}, config=config("bert")),
    "bert, legacy": case(BERT, config=config("bert"), special_tokens_map={"mask_token": "[MASK]", "cls_token": token("[CLS]"),
                         "additional_special_tokens": ["<other>"]}, added_tokens={"<new>": WORDS, "<other>": WORDS + 1}),
    "distilbert": case(BERT, config=config("distilbert"), tokenizer_config={"do_lower_case": False}),
    "electra": case(BERT, config=config("electra"), tokenizer_config={}),
    "roberta": case(BPE, config=config("roberta"), tokenizer_config={}),
    "roberta, space": case(BPE, config=config("roberta"), tokenizer_config={"add_prefix_space": True, "trim_offsets": False}),
    "bart": case(BPE, config=config("bart"), tokenizer_config={"mask_token": token("<mask>", lstrip=True, __type="AddedToken")}),
    "deberta": case(BPE, config=config("deberta"), tokenizer_config={}),
    "gpt2": case(BPE, config=config("gpt2"), tokenizer_config={}),
    "gpt2, space": case(BPE, config=config("gpt2"), tokenizer_config={"add_prefix_space": True, "pad_token": "<pad>",
                        "added_tokens_decoder": {str(TOKENS): token("<new>", special=True), str(TOKENS + 1): token("<other>", rstrip=True)}}),
    "opt": case(BPE, config=config("opt"), tokenizer_config={"add_bos_token": True, "bos_token": "</s>", "eos_token": "</s>",
                "unk_token": "</s>", "pad_token": "<pad>"}),
    "phi": case(BPE, config=config("phi"), tokenizer_config={"tokenizer_class": "CodeGenTokenizer"}),
    "qwen2": case(BPE, config=config("qwen2"), tokenizer_config={"additional_special_tokens": ["<new>"]}),
    "clip": case(CLIP, config=config("clip"), tokenizer_config={}),
}
(HERE / "expected.json").write_text(json.dumps(cases, ensure_ascii=False, indent=None, separators=(",", ":")).replace('{"text"', '\n{"text"') + "\n")
