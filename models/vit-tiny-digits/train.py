"""Trains the vision transformer in this folder, from random weights, on the digits 0 to 4 of data/digits/train.jsonl.

    python models/vit-tiny-digits/train.py

Needs torch, transformers and Pillow. Images of the digits 5 to 9, and all of validation.jsonl and test.jsonl, are not looked at.
"""

import base64
import io
import json
import pathlib

import numpy as np
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, ViTModel

HERE = pathlib.Path(__file__).parent
DATA = HERE.parent.parent / "data" / "digits" / "train.jsonl"
CLASSES, EPOCHS, BATCH = 5, 80, 32
SHAPE = dict(
    hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=128, image_size=8, patch_size=2
)


def read():
    images, labels = [], []
    for line in DATA.read_text().splitlines():
        row = json.loads(line)
        if row["label"] < CLASSES:
            png = base64.b64decode(row["image"].split(",")[1])
            images.append(np.asarray(Image.open(io.BytesIO(png)).convert("RGB")))
            labels.append(row["label"])
    return images, torch.tensor(labels)


def shifted(pixels, generator):
    """Each image moved by at most one pixel in each direction; what comes in is black."""
    padded = torch.nn.functional.pad(pixels, (1, 1, 1, 1), value=-1.0)
    moves = torch.randint(0, 3, (len(pixels), 2), generator=generator)
    return torch.stack([image[:, y : y + 8, x : x + 8] for image, (y, x) in zip(padded, moves.tolist())])


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    processor = ViTImageProcessor(
        size={"height": 8, "width": 8}, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_resize=True
    )
    model = ViTForImageClassification(ViTConfig(**SHAPE, num_labels=CLASSES)).train()
    images, labels = read()
    pixels = processor(images, return_tensors="pt")["pixel_values"]
    steps = EPOCHS * -(-len(labels) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    for epoch in range(EPOCHS):
        right = 0
        for rows in torch.randperm(len(labels), generator=generator).split(BATCH):
            output = model(shifted(pixels[rows], generator), labels=labels[rows])
            output.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            right += (output.logits.argmax(1) == labels[rows]).sum().item()
        print(f"epoch {epoch + 1} accuracy {right / len(labels):.4f}", flush=True)
    base = ViTModel(ViTConfig(**SHAPE), add_pooling_layer=False)
    base.load_state_dict(model.vit.state_dict())
    base.half().save_pretrained(HERE)
    processor.save_pretrained(HERE)


if __name__ == "__main__":
    main()
