"""CLIP (arXiv 2103.00020) from a local transformers folder: CLIP score, zero-shot labels, image features."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from excise.errors import ModelError
from excise.families.load import quiet
from excise.judges.base import chunks
from excise.judges.features import Features
from excise.judges.local import BATCH, Classifier, central_crop, check_whole, device, find_files, reason_of
from excise.protocols.base import Protocol

ZERO_SHOT = "clip-zero-shot"
ABSTAIN_BELOW = 0.5
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
WEIGHTS = ("config.json", "model.safetensors|pytorch_model.bin")
TOKENIZER = "tokenizer.json|vocab.json"
TEMPLATES = {"style": "an image in {} style"}  # prompt by attribute; PLAIN for all others
PLAIN = "a photo of {}"
_SIZES = {768: "B", 1024: "L", 1280: "H", 1664: "bigG"}


class Clip:
    """Image and text embeddings of unit length.

    Args:
        who: name of the judge or feature space, for messages.
        folder: a transformers folder of a CLIPModel.
        with_text: whether texts are embedded too, which needs a tokenizer in the folder.

    Raises:
        ModelError: files are missing, or the folder holds no CLIP model.
    """

    def __init__(self, who: str, folder: Path | None, with_text: bool = True) -> None:
        root = find_files(who, folder, [*WEIGHTS, TOKENIZER] if with_text else list(WEIGHTS))[0].parent
        self.model, self.tokenizer = _load(who, root, with_text)
        vision = self.model.config.vision_config
        self.prepare = central_crop(vision.image_size, vision.image_size, MEAN, STD, Image.Resampling.BICUBIC)
        side = "" if vision.image_size == 224 else f"@{vision.image_size}"
        self.kind = f"ViT-{_SIZES.get(vision.hidden_size, vision.hidden_size)}/{vision.patch_size}{side}"

    @torch.no_grad()
    def embed_images(self, pixels: Tensor) -> Tensor:
        """Return unit embeddings (B, d) of pixels (B, 3, H, W) as `prepare` makes them."""
        pooled = self.model.vision_model(pixel_values=pixels.to(device())).pooler_output
        return F.normalize(self.model.visual_projection(pooled), dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit embeddings (B, d) of B texts; a text longer than the model's context is cut."""
        longest = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        ids, mask = tokens.input_ids.to(device()), tokens.attention_mask.to(device())
        pooled = self.model.text_model(input_ids=ids, attention_mask=mask).pooler_output
        return F.normalize(self.model.text_projection(pooled), dim=-1)


class ClipScore:
    """CLIP score, 100 max(cos, 0) of image and prompt (Hessel et al., arXiv 2104.08718, without their factor 2.5).

    A judge without labels. Its name contains the size of the CLIP model, since scores of two models are not on one
    scale.

    Raises:
        ModelError: files are missing in `weights`, or they are no CLIP model.
    """

    def __init__(self, weights: Path | None = None) -> None:
        self.clip = Clip("clip-score", weights)
        self.name = f"clip-score {self.clip.kind}"

    def verdicts(self, images: Sequence[Image.Image]) -> dict[str, list[str]]:
        """Return no attribute: a score is not a label."""
        return {}

    def values(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> dict[str, list[float]]:
        """Return `clip_score` in 0..100 for each image and its prompt."""
        scores: list[float] = []
        for part in chunks(images, BATCH):
            texts = self.clip.embed_texts(prompts[len(scores) : len(scores) + len(part)])
            cosine = (self.clip.embed_images(self.clip.prepare(part)) * texts).sum(dim=-1)
            scores += (100 * cosine.clamp(min=0)).tolist()
        return {"clip_score": scores}


class ClipZeroShot(Classifier):
    """Zero-shot CLIP: the likeliest label of each attribute, or `NONE` where its probability is below `abstain_below`.

    The list is closed: an image of anything else gets the label nearest to it. Probabilities are the softmax over
    cosines times CLIP's own scale (100 in the published models).

    Args:
        labels: by attribute, two labels or more.
        weights: a transformers folder of a CLIPModel.
        templates: by attribute, a prompt with "{}" for the label; "a photo of {}" for the rest.

    Raises:
        ModelError: an attribute with fewer than two labels, or files that are missing or no CLIP model.
    """

    def __init__(
        self,
        labels: Mapping[str, Sequence[str]],
        weights: Path | None = None,
        abstain_below: float = ABSTAIN_BELOW,
        templates: Mapping[str, str] = TEMPLATES,
    ) -> None:
        clip = Clip(ZERO_SHOT, weights)
        scale = clip.model.logit_scale.exp()
        heads = {}
        for attribute, names in labels.items():
            if len(set(names)) < 2:
                raise ModelError(f"{ZERO_SHOT} has the labels {list(names)} for '{attribute}'; it needs at least two.")
            texts = clip.embed_texts([templates.get(attribute, PLAIN).format(name) for name in names])
            heads[attribute] = (partial(_similarities, clip, scale * texts), names)
        super().__init__(f"{ZERO_SHOT} {clip.kind}", heads, clip.prepare, abstain_below)

    @classmethod
    def of(cls, protocol: Protocol, weights: Path | None = None, abstain_below: float = ABSTAIN_BELOW) -> ClipZeroShot:
        """Return the judge over every label that a protocol asks for."""
        labels: dict[str, list[str]] = {}
        for attribute, label in dict.fromkeys(pair for item in protocol.items for pair in item.asked.items()):
            labels.setdefault(attribute, []).append(label)
        return cls(labels, weights, abstain_below)


def clip_zero_shot(weights: Path | None = None) -> ClipZeroShot:
    """Return the zero-shot judge over the labels in `labels.json`, a file in the model's folder.

    Raises:
        ModelError: files are missing, or `labels.json` does not have the form {"object": ["cat", "dog"]}.
    """
    path = find_files(ZERO_SHOT, weights, ["labels.json", *WEIGHTS, TOKENIZER])[0]
    return ClipZeroShot(_labels(path), weights)


def clip_image(weights: Path | None = None) -> Features:
    """Return the feature extractor: n images to unit image embeddings (n, d), float64, for KID and CMMD.

    Published CMMD figures use ViT-L/14@336.

    Raises:
        ModelError: files are missing in `weights`, or they are no CLIP model.
    """
    clip = Clip("clip-image", weights, with_text=False)

    def features(images: Sequence[Image.Image]) -> np.ndarray:
        return torch.cat([clip.embed_images(clip.prepare(p)).cpu() for p in chunks(images, BATCH)]).double().numpy()

    return features


def _similarities(clip: Clip, texts: Tensor, pixels: Tensor) -> Tensor:
    return clip.embed_images(pixels) @ texts.T


def _labels(path: Path) -> dict[str, list[str]]:
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}. Expected labels by attribute as JSON.") from error
    if not isinstance(labels, dict) or not all(isinstance(v, list) for v in labels.values()):
        raise ModelError(f'{path} holds no labels by attribute; expected for example {{"object": ["cat", "dog"]}}.')
    return labels


def _load(who: str, root: Path, with_text: bool) -> tuple[Any, Any]:
    from transformers import CLIPModel, CLIPTokenizer

    try:
        with quiet():
            model, report = CLIPModel.from_pretrained(
                root, local_files_only=True, output_loading_info=True, dtype=torch.float32
            )
            tokenizer = CLIPTokenizer.from_pretrained(root, local_files_only=True) if with_text else None
    except Exception as error:  # transformers raises many kinds for a folder that is no CLIP model
        raise ModelError(
            f"{who} cannot read {root} ({reason_of(error)}); expected a CLIPModel of transformers."
        ) from error
    check_whole(report, root, "a CLIPModel")
    return model.eval().requires_grad_(False).to(device()), tokenizer
