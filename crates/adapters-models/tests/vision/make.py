"""Makes images, cases.json and expected.safetensors of the vision tests with Pillow and transformers."""
import json
import sys
from pathlib import Path

import numpy as np
import transformers
from PIL import Image
from safetensors.numpy import save_file
from transformers.image_utils import load_image

out = Path(sys.argv[1])
random = np.random.default_rng(0)


def picture(height, width, channels=3):
    """Waves of several lengths, an edge and some noise."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    layers = [np.sin((7 + 3 * c) * x + 5 * y * y + c) + np.sin(23 * y * (c + 1)) * 0.4 for c in range(channels)]
    image = np.stack(layers, -1) + (x > y)[..., None] + random.normal(0, 0.1, (height, width, channels))
    image -= image.min()
    return (image * (255 / image.max())).astype(np.uint8)


rgb = Image.fromarray(picture(22, 17))
rgb.save(out / "rgb.png", optimize=True)
Image.fromarray(picture(11, 15)[..., 0]).save(out / "gray.png", optimize=True)
Image.fromarray(picture(9, 14, 4)).save(out / "alpha.png", optimize=True)
palette = Image.fromarray(picture(13, 11)).quantize(12)
palette.save(out / "palette.png", optimize=True, transparency=3)
Image.fromarray(picture(20, 24)).save(out / "color.jpg", quality=80, subsampling=0, optimize=True)
Image.fromarray(picture(20, 24)).save(out / "subsampled.jpg", quality=85, optimize=True)
exif = Image.Exif()
exif[0x0112] = 6
Image.fromarray(picture(11, 18)[..., 0]).save(out / "rotated.jpg", quality=90, exif=exif, optimize=True)

half = [0.5, 0.5, 0.5]
raw = {"image_processor_type": "ViTImageProcessor", "do_resize": False, "do_rescale": False, "do_normalize": False}
configs = {
    "raw": raw,
    "older": {"do_normalize": True, "do_resize": True, "image_mean": half, "image_std": half, "size": 8},
    "bilinear": {"feature_extractor_type": "ViTFeatureExtractor", "resample": 2, "size": {"height": 10, "width": 7}},
    "larger": {"image_processor_type": "ViTImageProcessor", "resample": 3, "size": [25, 19], "do_normalize": False, "do_rescale": False},
    "nearest": raw | {"do_resize": True, "resample": 0, "size": 9},
    "lanczos": raw | {"do_resize": True, "resample": 1, "size": {"height": 11, "width": 6}},
    "bicubic": raw | {"do_resize": True, "resample": 3, "size": {"height": 11, "width": 12}},
    "box": raw | {"do_resize": True, "resample": 4, "size": {"height": 7, "width": 11}},
    "hamming": raw | {"do_resize": True, "resample": 5, "size": {"height": 7, "width": 11}},
    "deit": {"image_processor_type": "DeiTImageProcessor", "size": 12, "crop_size": {"height": 10, "width": 9}},
    "clip": {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 10}, "crop_size": 8, "processor_class": "CLIPProcessor"},
    "bit": {"image_processor_type": "BitImageProcessor", "size": 7, "crop_size": [8, 10], "image_mean": 0.25, "rescale_factor": 0.01},
    "uncropped": {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 8}, "do_center_crop": False},
}
cases = [("raw", image.name) for image in sorted(out.glob("*.*g"))]
cases += [(name, "rgb.png") for name in configs if name != "raw"]
cases += [("older", "subsampled.jpg"), ("bilinear", "gray.png"), ("clip", "rotated.jpg"), ("bit", "color.jpg"), ("uncropped", "alpha.png")]
expected = {}
for name, image in cases:
    config = dict(configs[name])
    kind = config.get("image_processor_type", "ViTImageProcessor")
    processor = getattr(transformers, kind).from_dict(config)
    pixels = processor(load_image(str(out / image)), return_tensors="np", input_data_format="channels_last")["pixel_values"]
    expected[f"{name}/{image}"] = np.ascontiguousarray(pixels[0].astype(np.float32))
(out / "cases.json").write_text(json.dumps({"configs": configs, "cases": cases}, indent=1) + "\n")
save_file(expected, out / "expected.safetensors")
