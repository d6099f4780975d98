"""The identities of GIPHY's celebrity detector, from the folder `resources` of its published archive.

Program:    https://github.com/Giphy/celeb-detection-oss (Mozilla Public License 2.0), by which MACE (arXiv 2403.06135)
            and SPEED (arXiv 2503.07392) judge people
Provenance: the layout of its files was read from the program; its code is not used
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

from torch import Tensor
from torch.nn import functional

from excise.errors import ModelError
from excise.judges.local import (
    Classifier,
    check_head,
    device,
    find_files,
    read_state,
    resized_square,
    tensor_named,
    told_apart,
)
from excise.judges.resnet import network
from excise.support.strict import read_text

NAME = "giphy"
LABELS, STATES = "face_recognition/labels.csv", "face_recognition/best_model_states.pkl|face_recognition/*.safetensors"
LAYOUT = "the ResNet of GIPHY's celebrity detector"
SIDE = 224  # pixels of a face; not normalised beyond 0 to 1
STEM = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
"""The children of torchvision's ResNet by their place in `stem`."""


def giphy_identities(folder: Path, who: str) -> Classifier:
    """Return the classifier of faces: a ResNet, an embedding, a linear map to names. It never abstains.

    Args:
        folder: `resources` of the archive. who: name of the judge, for messages.

    Raises:
        ModelError: a file is missing or of another layout.
    """
    listed, path = find_files(who, folder, [LABELS, STATES])
    names, state = read_labels(listed), read_state(path)
    weight, bias = (tensor_named(state, f"model.fc2.{part}", path, LAYOUT).to(device()) for part in ("weight", "bias"))
    check_head(len(weight), names, path, who)
    embedding = network({k: v for old, v in state.items() if (k := _torchvisions(old))}, path)

    def logits(x: Tensor) -> Tensor:
        return functional.linear(embedding(x), weight, bias)

    return Classifier(
        told_apart(NAME, state, names), {"person": (logits, names)}, resized_square(SIDE, (0, 0, 0), (1, 1, 1))
    )


def read_labels(path: Path) -> list[str]:
    """Return the names of `labels.csv` in the order of the network's outputs, that of the labels by their bytes.

    "Aaron_Paul_[m.03qj7gf]" is Aaron Paul; of two people of one name each keeps its label.

    Raises:
        ModelError: the file cannot be read, or holds no labels.
    """
    rows = list(csv.reader(read_text(path, "names from", ModelError).splitlines()))[1:]
    labels = sorted(row[0] for row in rows if row and row[0].strip())
    if not labels:
        raise ModelError(f"{path} holds no labels; expected a line 'Labels,Index' and one row a person.")
    plain = [re.sub(r"_?\[[^\]]*\]$", "", label).replace("_", " ").strip() for label in labels]
    count = Counter(plain)
    return [name if count[name] == 1 else label for name, label in zip(plain, labels, strict=True)]


def _torchvisions(name: str) -> str:
    """The name that torchvision's ResNet has for a tensor; empty for one that is no part of it."""
    if match := re.fullmatch(r"model\.stem\.(\d)\.(.+)", name):
        return f"{STEM.get(match[1], f'stem.{match[1]}')}.{match[2]}"
    return name.replace("model.fc1.", "fc.") if name.startswith("model.fc1.") else ""
