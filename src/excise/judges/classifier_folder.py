"""A judge of your own: any image classifier of transformers (ViT, Swin, ConvNeXt, ...) from a local folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from excise.errors import JudgeError, ModelError
from excise.families.drawing import weights_key
from excise.families.load import quiet
from excise.judges.local import Classifier, check_whole, device, find_files, reason_of
from excise.support.digests import short_digest

NAME = "image-classifier"
FILES = ("config.json", "preprocessor_config.json", "model.safetensors|pytorch_model.bin")
ABSTAIN_BELOW = 0.5


def image_classifier(weights: Path | None = None, threshold: float | str = ABSTAIN_BELOW) -> Classifier:
    """Return the classifier of a folder; its labels are those of the folder's `config.json`.

    Args:
        weights: a folder that transformers saved, with the model and its image processor.
        threshold: the judge abstains where the likeliest label has a lower probability; 0 never abstains.

    Raises:
        ModelError: files are missing, or they are no image classifier with labels of its own.
        JudgeError: the threshold is no probability.
    """
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    below = float(threshold)
    if not 0 <= below <= 1:
        raise JudgeError(f"{NAME} has threshold={threshold}; it takes a probability, 0 to 1.")
    root = find_files(NAME, weights, list(FILES))[0].parent
    try:
        with quiet():
            processor = AutoImageProcessor.from_pretrained(root, local_files_only=True, use_fast=False)
            model, report = AutoModelForImageClassification.from_pretrained(
                root, local_files_only=True, output_loading_info=True, dtype=torch.float32
            )
    except Exception as error:  # transformers raises many kinds for a folder that is no classifier
        raise ModelError(f"{NAME} cannot read {root} ({reason_of(error)}); expected an image classifier.") from error
    check_whole(report, root, "its classifier")
    names = [str(model.config.id2label[i]) for i in range(model.config.num_labels)]
    if len(set(names)) < len(names) or all(name.startswith("LABEL_") for name in names):
        raise ModelError(f"the labels of {root} have no names of their own; write them into id2label of config.json.")
    model.eval().requires_grad_(False).to(device())

    def prepare(images: Sequence[Image.Image]) -> Tensor:
        pixels: Tensor = processor(images=[i.convert("RGB") for i in images], return_tensors="pt").pixel_values
        return pixels

    kind = f"{model.config.model_type} {short_digest([weights_key(model), names], size=4)}"
    return Classifier(f"{NAME} {kind} >= {below!r}", {"label": (lambda x: model(x).logits, names)}, prepare, below)
