"""What transformers' Wav2Vec2FeatureExtractor makes of two fixed signals, as waveforms.json beside this script."""

import json
from pathlib import Path

from transformers import Wav2Vec2FeatureExtractor
from whisper_features import signal

LENGTHS, AT = [400, 250], [0, 1, 100, 249, 250, 399]
CASES = [dict(return_attention_mask=True), dict(return_attention_mask=False), dict(do_normalize=False, padding_value=0.5)]

if __name__ == "__main__":
    cases = []
    for config in CASES:
        extractor = Wav2Vec2FeatureExtractor(**config)
        sounds = [signal(length) for length in LENGTHS]
        values = extractor(sounds, sampling_rate=16000, padding=True, return_tensors="np").input_values
        rows = [[round(float(row[at]), 6) for at in AT] for row in values]
        cases.append(dict(config=extractor.to_dict(), lengths=LENGTHS, at=AT, values=rows))
    Path(__file__).with_suffix(".json").write_text(json.dumps(cases) + "\n")
