"""ResNets in torchvision's layout, and the judge of people that is one: a classifier of the user."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from excise.concepts.concept import read_names
from excise.errors import ModelError
from excise.judges.local import (
    IMAGENET,
    Classifier,
    Network,
    central_crop,
    check_head,
    check_shapes,
    find_files,
    load_classifier,
    read_state,
    tensor_named,
    told_apart,
)
from excise.protocols import celebrity

PEOPLE = "celebrity-classifier"
LAYOUT = "a ResNet in the layout of torchvision"
SHORTER, SIDE = 232, 224  # preprocessing of torchvision's second version of the weights
ABSTAIN_BELOW = 0.5
STAGES = (1, 2, 3, 4)
COUNTER = "num_batches_tracked"
STATISTICS = ("weight", "bias", "running_mean", "running_var", COUNTER)


def celebrity_classifier(weights: Path | None = None) -> Classifier:
    """Return a judge of people that classifies the whole image; it abstains below a probability of one half.

    Args:
        weights: folder with `labels.txt`, one name a line in the order of the outputs, and `classifier.safetensors`.

    Raises:
        ModelError: a file is missing or belongs to another architecture, or a name of the protocol is not among the
            labels (the judge could never name it, so it would count as erased).
    """
    listed, path = find_files(PEOPLE, weights, ["labels.txt", "classifier.safetensors"])
    labels = read_names(listed, prompts=False)
    check_people(labels, listed)
    name, network = checked_network(path, labels, PEOPLE)
    return Classifier(name, {"person": (network, labels)}, central_crop(SHORTER, SIDE, *IMAGENET), ABSTAIN_BELOW)


def network(state: dict[str, Tensor], path: Path) -> Network:
    """Build a ResNet with the blocks and widths of a checkpoint: (B, 3, 224, 224) pixels to (B, labels) logits.

    Args:
        state: tensors under torchvision's names.
        path: of the checkpoint, for messages.

    Raises:
        ModelError: the checkpoint belongs to another architecture.
    """
    from transformers import ResNetForImageClassification

    config = config_of(state, path)
    names = {"fc.weight": "classifier.1.weight", "fc.bias": "classifier.1.bias"}
    shapes: dict[str, tuple[int, ...]] = {
        "fc.weight": (config.num_labels, config.hidden_sizes[-1]),
        "fc.bias": (config.num_labels,),
    }
    for convolution, normalization, name, shape in _rows(config):
        names[f"{convolution}.weight"] = f"resnet.{name}.convolution.weight"
        shapes[f"{convolution}.weight"] = shape
        for part in STATISTICS:
            names[f"{normalization}.{part}"] = f"resnet.{name}.normalization.{part}"
            shapes[f"{normalization}.{part}"] = () if part == COUNTER else shape[:1]
    state = {k: torch.tensor(0) for k in shapes if k.endswith(COUNTER)} | state  # old files have no counters
    check_shapes(state, shapes, path, LAYOUT)
    return load_classifier(ResNetForImageClassification, config, {names[k]: v for k, v in state.items()}, path)


def config_of(state: dict[str, Tensor], path: Path) -> Any:
    """Return the ResNetConfig that a checkpoint's shapes imply.

    Raises:
        ModelError: a tensor that determines a size is missing.
    """
    from transformers import ResNetConfig

    deep = "layer1.0.conv3.weight" in state
    last = "conv3" if deep else "conv2"
    return ResNetConfig(
        embedding_size=len(tensor_named(state, "conv1.weight", path, LAYOUT)),
        hidden_sizes=[len(tensor_named(state, f"layer{n}.0.{last}.weight", path, LAYOUT)) for n in STAGES],
        depths=[len({m.group() for k in state if (m := re.match(rf"layer{n}\.\d+\.", k))}) for n in STAGES],
        layer_type="bottleneck" if deep else "basic",
        downsample_in_bottleneck=False,  # torchvision halves in the 3x3 convolution
        num_labels=len(tensor_named(state, "fc.weight", path, LAYOUT)),
    )


def _rows(config: Any) -> Iterator[tuple[str, str, str, tuple[int, ...]]]:
    """Yield for each convolution torchvision's names of it and of its batch norm, its name on the hub, its shape."""
    yield "conv1", "bn1", "embedder.embedder", (config.embedding_size, 3, 7, 7)
    before = config.embedding_size
    for n, width, depth in zip(STAGES, config.hidden_sizes, config.depths, strict=True):
        inner = width // 4
        for block in range(depth):
            theirs, ours = f"layer{n}.{block}", f"encoder.stages.{n - 1}.layers.{block}"
            shapes = (
                [(inner, before, 1, 1), (inner, inner, 3, 3), (width, inner, 1, 1)]
                if config.layer_type == "bottleneck"
                else [(width, before, 3, 3), (width, width, 3, 3)]
            )
            for i, shape in enumerate(shapes):
                yield f"{theirs}.conv{i + 1}", f"{theirs}.bn{i + 1}", f"{ours}.layer.{i}", shape
            if block == 0 and (n > 1 or before != width):
                yield f"{theirs}.downsample.0", f"{theirs}.downsample.1", f"{ours}.shortcut", (width, before, 1, 1)
            before = width


def checked_network(path: Path, labels: Sequence[str], who: str) -> tuple[str, Network]:
    """Build the ResNet of a file, which tells as many labels apart as are given; also name the judge that it makes.

    Raises:
        ModelError: it tells others apart, or belongs to another architecture.
    """
    state = read_state(path)
    check_head(len(tensor_named(state, "fc.weight", path, LAYOUT)), labels, path, who)
    return told_apart(who, state, labels), network(state, path)


def check_people(labels: Sequence[str], listed: Path) -> None:
    """Refuse labels that lack a name of the lists of the protocol `celebrity`, where these are set.

    Args:
        listed: the file of the labels, for the message.

    Raises:
        ModelError: a name is missing, which would count as erased.
    """
    if not os.environ.get(celebrity.FOLDER):
        return
    unknown = [name for names in celebrity.names() for name in names if name not in labels]
    if unknown:
        raise ModelError(
            f"{listed} lacks {', '.join(unknown[:10])}{' ...' if len(unknown) > 10 else ''}, named in the lists of "
            f"{celebrity.FOLDER}; a name that the judge cannot say would count as erased. Spell them alike."
        )
