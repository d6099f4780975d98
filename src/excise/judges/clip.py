"""CLIP (arXiv 2103.00020) from a local transformers folder: score, zero-shot labels, image features."""

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
from excise.judges.local import BATCH, Classifier, cropped, device, find
from excise.protocols.base import Protocol

ZERO_SHOT = "clip-zero-shot"
ABSTAIN_BELOW = 0.5
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
WEIGHTS = ("config.json", "model.safetensors|pytorch_model.bin")
TOKENIZER = "tokenizer.json|vocab.json"
TEMPLATES = {"style": "an image in {} style"}  # by attribute; any other attribute: PLAIN
PLAIN = "a photo of {}"
_SIZES = {768: "B", 1024: "L", 1280: "H", 1664: "bigG"}


class Clip:
    """Image and text embeddings of unit length.

    Args:
        who: the judge or the feature space, for messages.
        folder: a transformers folder of a CLIPModel.
        reads: whether texts are embedded too, which takes a tokenizer.

    Raises:
        ModelError: files are missing, or are no CLIP model.
    """

    def __init__(self, who: str, folder: Path | None, reads: bool = True) -> None:
        root = find(who, folder, [*WEIGHTS, TOKENIZER] if reads else list(WEIGHTS))[0].parent
        self.model, self.tokenizer = _load(who, root, reads)
        vision = self.model.config.vision_config
        self.prepare = cropped(vision.image_size, vision.image_size, MEAN, STD, Image.Resampling.BICUBIC)
        side = "" if vision.image_size == 224 else f"@{vision.image_size}"
        self.kind = f"ViT-{_SIZES.get(vision.hidden_size, vision.hidden_size)}/{vision.patch_size}{side}"

    @torch.no_grad()
    def see(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, d)."""
        pooled = self.model.vision_model(pixel_values=pixels.to(device())).pooler_output
        return F.normalize(self.model.visual_projection(pooled), dim=-1)

    @torch.no_grad()
    def read(self, texts: Sequence[str]) -> Tensor:
        """(B, d); a text longer than the model takes is cut."""
        longest = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        ids, mask = tokens.input_ids.to(device()), tokens.attention_mask.to(device())
        pooled = self.model.text_model(input_ids=ids, attention_mask=mask).pooler_output
        return F.normalize(self.model.text_projection(pooled), dim=-1)


class ClipScore:
    """100 max(cos, 0) of image and prompt (Hessel et al., arXiv 2104.08718, without their factor 2.5); no labels.

    Its name tells which CLIP it is: scores of two of them are not on one scale.
    """

    def __init__(self, weights: Path | None = None) -> None:
        self.clip = Clip("clip-score", weights)
        self.name = f"clip-score {self.clip.kind}"

    def verdicts(self, images: Sequence[Image.Image]) -> dict[str, list[str]]:
        return {}

    def values(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> dict[str, list[float]]:
        """`clip_score`, 0..100, one an image."""
        scores: list[float] = []
        for part in chunks(images, BATCH):
            texts = self.clip.read(prompts[len(scores) : len(scores) + len(part)])
            cosine = (self.clip.see(self.clip.prepare(part)) * texts).sum(dim=-1)
            scores += (100 * cosine.clamp(min=0)).tolist()
        return {"clip_score": scores}


class ClipZeroShot(Classifier):
    """CLIP's choice among the labels of each attribute, or none where its share is below `abstain_below`.

    A closed list: what is not on it is called by the nearest name that is. Cosines are scaled as CLIP was trained
    (by 100 in the published models) before the softmax.

    Args:
        labels: by attribute; an attribute has two labels or more.
        templates: by attribute, a prompt with "{}" for the label.
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
            texts = clip.read([templates.get(attribute, PLAIN).format(name) for name in names])
            heads[attribute] = (partial(_likeness, clip, scale * texts), names)
        super().__init__(f"{ZERO_SHOT} {clip.kind}", heads, clip.prepare, abstain_below)

    @classmethod
    def of(cls, protocol: Protocol, weights: Path | None = None, abstain_below: float = ABSTAIN_BELOW) -> ClipZeroShot:
        """The judge over every label that a protocol asks for."""
        asked: dict[str, list[str]] = {}
        for attribute, label in dict.fromkeys(pair for item in protocol.items for pair in item.asked.items()):
            asked.setdefault(attribute, []).append(label)
        return cls(asked, weights, abstain_below)


def clip_zero_shot(weights: Path | None = None) -> ClipZeroShot:
    """The judge over the labels that stand in `labels.json` beside the model, by attribute.

    Raises:
        ModelError: files are missing, or labels.json is not of the form {"object": ["cat", "dog"]}.
    """
    path = find(ZERO_SHOT, weights, ["labels.json", *WEIGHTS, TOKENIZER])[0]
    return ClipZeroShot(_labels(path), weights)


def clip_image(weights: Path | None = None) -> Features:
    """(n, d) float64 unit image embeddings, for CMMD and KID; published CMMD is of ViT-L/14@336."""
    clip = Clip("clip-image", weights, reads=False)

    def features(images: Sequence[Image.Image]) -> np.ndarray:
        return torch.cat([clip.see(clip.prepare(p)).cpu() for p in chunks(images, BATCH)]).double().numpy()

    return features


def _likeness(clip: Clip, texts: Tensor, pixels: Tensor) -> Tensor:
    return clip.see(pixels) @ texts.T


def _labels(path: Path) -> dict[str, list[str]]:
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}. Expected labels by attribute as JSON.") from error
    if not isinstance(labels, dict) or not all(isinstance(v, list) for v in labels.values()):
        raise ModelError(f'{path} holds no labels by attribute; expected for example {{"object": ["cat", "dog"]}}.')
    return labels


def _load(who: str, root: Path, reads: bool) -> tuple[Any, Any]:
    from transformers import CLIPModel, CLIPTokenizer

    try:
        with quiet():
            model, found = CLIPModel.from_pretrained(
                root, local_files_only=True, output_loading_info=True, dtype=torch.float32
            )
            tokenizer = CLIPTokenizer.from_pretrained(root, local_files_only=True) if reads else None
    except Exception as error:  # whatever transformers meets in a folder that is not what it should be
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{who} cannot read {root} ({reason}); expected a CLIPModel of transformers.") from error
    if found["missing_keys"]:  # transformers would leave them random
        missing = ", ".join(sorted(found["missing_keys"])[:3])
        raise ModelError(f"{root} lacks weights of a CLIPModel ({missing} ...); fetch the whole model again.")
    return model.eval().requires_grad_(False).to(device()), tokenizer
