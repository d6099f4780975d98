"""Pipelines of every family in the states that users bring them in, and what to compare of them."""

from __future__ import annotations

import numpy as np
import torch
from peft import LoraConfig

from excise import Edit, erase
from excise.edits.bases import base_of
from excise.edits.deltas import LowRank
from excise.edits.exports import FORMATS
from excise.edits.originals import original_weights
from excise.edits.record import EditRecord
from excise.families import family_of
from excise.families.networks import parameters

FAMILIES = ["sd", "sdxl", "sana"]
UNET_FORMATS = tuple(format for format in FORMATS if format != "comfyui-lora")  # which transformers alone have


def uce(pipe) -> Edit:
    return erase(pipe, ["cat"], method="uce", preserve=["dog"], vocabulary=None)


def encoder_edit(pipe) -> Edit:
    """A change of keys and values and of a map in the text encoder."""
    family = family_of(pipe)
    layer = "text_encoder.encoder.layers.0.mlp.fc2" if family.name != "sana" else "text_encoder.layers.0.mlp.down_proj"
    generator = torch.Generator().manual_seed(0)
    deltas = {}
    for path, w in original_weights(family, [family.projections()[0].path, layer]).items():
        deltas[path] = LowRank(*(torch.randn(s, generator=generator) for s in ((w.shape[0], 1), (1, w.shape[1]))))
    assert layer in deltas
    return Edit(EditRecord(excise="0", base=base_of(family, "tiny"), method="test", concepts=()), (), deltas)


def image(pipe) -> np.ndarray:
    family = family_of(pipe)
    return np.asarray(family.sample(["a cat"], [0], steps=2, guidance=2.0, batch=1)[0]).astype(int)


def state(pipe) -> dict[str, torch.Tensor]:
    family = family_of(pipe)
    parts = [family.denoiser, *family.text_encoders.values()]
    return {f"{i}.{name}": w for i, part in enumerate(parts) for name, w in parameters(part).items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(one[name] is other[name] for name in one)


def add_lora(network, targets=("to_q", "to_k", "to_v"), seed: int = 0) -> None:
    torch.manual_seed(seed)
    network.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=list(targets), init_lora_weights=False))


def pixel_judge(images, names) -> list[bool]:
    """A judge that reads pixels: arbitrary, but the same for the same picture."""
    return [int(np.asarray(i, dtype=np.int64).sum()) % 2 == 0 for i in images]


def every_second(images, names) -> list[bool]:
    """A judge that sees every second picture, whatever the processor's arithmetic makes of them."""
    return [i % 2 == 0 for i in range(len(images))]


def stopping_at(step: int):
    """What receives progress and interrupts a training behind a step."""

    def say(what: str, done: float, total: int) -> None:
        if what.startswith("training") and done == step:
            raise KeyboardInterrupt

    return say
