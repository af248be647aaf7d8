"""Log-mel features of transformers' WhisperFeatureExtractor for a fixed signal, as whisper_features.json beside this script."""

import json
from pathlib import Path

import numpy as np
from transformers import WhisperFeatureExtractor


def signal(count):
    """16-bit samples by integer arithmetic alone: a sweep in noise."""
    state, samples = 1, []
    for n in range(count):
        state = (state * 1103515245 + 12345) % (1 << 31)
        noise = ((state >> 16) & 0x7FFF) - 16384
        samples.append((n * n // 37) % 12000 - 6000 + noise // 16)
    return np.array(samples, dtype=np.float32) / 32768


CASES = [
    (dict(feature_size=16, chunk_length=1), 9600, range(0, 100, 9)),
    (dict(feature_size=80, chunk_length=1), 16000, [0, 1, 50, 99]),
    (dict(feature_size=20, chunk_length=2, n_fft=512, hop_length=200, sampling_rate=16000), 4000, [0, 3, 19, 20, 21, 159]),
]

if __name__ == "__main__":
    cases = []
    for config, count, frames in CASES:
        extractor = WhisperFeatureExtractor(**config)
        features = extractor(signal(count), sampling_rate=16000, return_tensors="np").input_features[0]
        published = {k: v for k, v in extractor.to_dict().items() if k != "mel_filters"}
        values = [[round(float(x), 6) for x in features[:, frame]] for frame in frames]
        cases.append(dict(config=published, samples=count, frames=list(frames), values=values))
    Path(__file__).with_suffix(".json").write_text(json.dumps(cases) + "\n")
