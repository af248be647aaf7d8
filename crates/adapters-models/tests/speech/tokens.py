"""What transformers writes of the signal with the Whisper in base, as tokens.json beside this script."""

import json
from pathlib import Path

import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from whisper_features import signal

HERE = Path(__file__).parent
# Fourteen frames of eight bands, which this checkpoint reads.
PREPROCESSOR = dict(feature_size=8, chunk_length=1, hop_length=1142)
NO_TIMESTAMPS = 11

model = WhisperForConditionalGeneration.from_pretrained(HERE / "base").eval()
features = WhisperFeatureExtractor(**PREPROCESSOR)(signal(9600), sampling_rate=16000, return_tensors="pt").input_features
config = model.generation_config
config.decoder_start_token_id, config.pad_token_id = model.config.decoder_start_token_id, model.config.pad_token_id
config.no_timestamps_token_id, config.return_timestamps = NO_TIMESTAMPS, False
config.is_multilingual, config.forced_decoder_ids, config.eos_token_id = False, None, 1


def written(suppressed, suppressed_first):
    config.suppress_tokens, config.begin_suppress_tokens = suppressed, suppressed_first
    with torch.no_grad():
        tokens = model.generate(features, max_new_tokens=12, do_sample=False, num_beams=1)[0].tolist()
    return dict(suppress_tokens=suppressed, begin_suppress_tokens=suppressed_first, tokens=tokens)


free = written([], [])
first, *_ = free["tokens"]
others = sorted(set(free["tokens"]) - {first})[:1]
cases = [free, written([], [first]), written([first] + others, [])]
cases.append(written([first], cases[2]["tokens"][:1]))
out = dict(preprocessor=PREPROCESSOR, no_timestamps_token_id=NO_TIMESTAMPS, cases=cases)
Path(__file__).with_suffix(".json").write_text(json.dumps(out) + "\n")
