"""Inception features for FID and KID, as torch-fidelity computes them, from a local file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from excise.errors import ModelError
from excise.judges.base import chunks
from excise.judges.features import Features
from excise.judges.local import BATCH, device, find_files, import_optional, read_state

NAME = "inception"
FILE = "weights-inception-*.pth|inception.pth"
LAYOUT = "the Inception network of torch-fidelity"


def inception(weights: Path | None = None) -> Features:
    """Return the feature extractor: n images to the last pooling layer's output (n, 2048), float64.

    Args:
        weights: folder with torch-fidelity's `weights-inception-*.pth`, or the same file as `inception.pth`.

    Raises:
        ModelError: the file is missing or belongs to another network, or torch-fidelity is not installed.
    """
    (path,) = find_files(NAME, weights, [FILE])
    import_optional("torch_fidelity", "fid", NAME)
    fid = import_optional("torchmetrics.image.fid", "fid", NAME)
    read_state(path)  # refuses a pickle with code in it, which torch-fidelity would run
    try:
        network = fid.NoTrainInceptionV3("inception-v3-compat", ["2048"], str(path), antialias=False).to(device())
    except RuntimeError as error:  # names or shapes differ
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{path} is not {LAYOUT}: {reason}. Fetch the file that torch-fidelity uses.") from error

    @torch.no_grad()
    def features(images: Sequence[Image.Image]) -> np.ndarray:
        outputs = []
        for part in chunks(images, BATCH):
            pixels = [torch.from_numpy(np.array(i.convert("RGB"))).permute(2, 0, 1) for i in part]
            same_size = len({p.shape for p in pixels}) == 1  # the network resizes, so images may differ in size
            batches = [torch.stack(pixels)] if same_size else [p[None] for p in pixels]
            outputs += [network(b.to(device())).cpu() for b in batches]
        return torch.cat(outputs).double().numpy()

    return features
