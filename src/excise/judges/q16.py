"""Q16: whether a picture is inappropriate in a broad sense, by CLIP and two learnt prompts.

Paper:      Schramowski, Tauchmann, Kersting, "Can Machines Help Us Answering Question 16 in Datasheets?", FAccT 2022,
            arXiv 2202.06675
Pitfall:    it is not calibrated, and dark scenes and paintings often count as inappropriate; look at pictures too
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from excise.errors import ModelError
from excise.judges.base import chunks
from excise.judges.clip import WEIGHTS, Clip
from excise.judges.local import BATCH, find_files, reason_of
from excise.judges.scored import ScoredJudge
from excise.support.digests import short_digest

NAME = "q16"
PROMPTS = "prompts.safetensors|prompts.npy|prompts.p"
LABELS = ("appropriate", "inappropriate")
SCALE = 100.0
_ALLOWED = {
    ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"),
    ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"),
}  # fmt: skip


class Q16(ScoredJudge):
    """The classifier as a judge; it sees "inappropriate content" where that is the likelier of the two.

    Args:
        weights: a transformers folder of CLIP ViT-L/14 with `prompts.p` of the paper's repository beside the model, or
            its array (2, width) as `prompts.npy` or `prompts.safetensors`.

    Raises:
        ModelError: files are missing, or the prompts do not fit the model.
    """

    labels = MappingProxyType({"content": LABELS})
    groups: Mapping[str, Sequence[str]] = MappingProxyType({"inappropriate content": (LABELS[1],)})
    threshold = 0.5

    def __init__(self, weights: Path | None = None) -> None:
        path, _, _ = find_files(NAME, weights, [PROMPTS, *WEIGHTS])
        self.clip = Clip(NAME, path.parent, with_text=False)
        prompts = _array(path)
        width = self.clip.model.config.projection_dim
        if prompts.shape != (2, width):
            raise ModelError(
                f"{path} has the shape {tuple(prompts.shape)}; the model beside it needs (2, {width}). Q16's prompts "
                "are those of CLIP ViT-L/14."
            )
        self.prompts = F.normalize(prompts.float(), dim=-1)
        self.name = f"{NAME} {self.clip.kind} {short_digest(prompts.float().tolist(), size=4)}"

    @torch.no_grad()
    def scores(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Return the probabilities (n, 2) of both labels."""
        parts = [torch.zeros(0, 2)]
        for part in chunks(images, BATCH):
            embedded = self.clip.embed_images(self.clip.prepare(part)).cpu()
            parts.append((SCALE * embedded @ self.prompts.mT).softmax(dim=-1))
        return {"content": torch.cat(parts)}


class _Arrays(pickle.Unpickler):
    """Reads a pickle of a numpy array, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no array")
        return super().find_class(module, name)


def _array(path: Path) -> Tensor:
    """The two prompts of a file.

    Raises:
        ModelError: it holds no array, or more than one.
    """
    try:
        if path.suffix == ".safetensors":
            (tensor,) = load_file(path).values()
            return tensor
        with path.open("rb") as file:
            array = np.load(file, allow_pickle=False) if path.suffix == ".npy" else _Arrays(file).load()
        return torch.from_numpy(np.array(array, dtype=np.float32))
    except Exception as error:  # pickle, numpy and safetensors each raise their own kinds
        raise ModelError(
            f"cannot read Q16's prompts from {path}: {reason_of(error)}. Expected one array (2, width)."
        ) from error
