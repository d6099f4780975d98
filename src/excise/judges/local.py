"""Parts that judges with local weights share: find and read the files, prepare pixels, take the top-1 label."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from excise.errors import ModelError
from excise.families.drawing import weights_key
from excise.families.load import pick_device, quiet
from excise.judges.base import chunks
from excise.judges.scored import ScoredJudge
from excise.support.digests import short_digest

BATCH = 32  # images through a network at once
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and standard deviation of the channels

Network = Callable[[Tensor], Tensor]
"""(B, 3, H, W) pixels to (B, labels) logits."""
Prepare = Callable[[Sequence[Image.Image]], Tensor]
"""B images to (B, 3, H, W) pixels, resized and normalised as in the network's training."""


class MissingFilesError(ModelError):
    """The given folder lacks files that a judge or a feature space needs.

    Attributes:
        files: that are missing, in words.
    """

    def __init__(self, message: str, files: str) -> None:
        super().__init__(message)
        self.files = files


class Classifier(ScoredJudge):
    """A judge with one network for each attribute; its scores are probabilities.

    Args:
        name: of the judge.
        heads: by attribute, a network and its labels in the order of its outputs.
        prepare: images to the networks' input.
        abstain_below: the judge abstains where the likeliest label has a lower probability; 0 never abstains.
    """

    def __init__(
        self,
        name: str,
        heads: Mapping[str, tuple[Network, Sequence[str]]],
        prepare: Prepare,
        abstain_below: float = 0.0,
    ) -> None:
        self.name, self.prepare, self.threshold = name, prepare, abstain_below
        self.networks = {attribute: network for attribute, (network, _) in heads.items()}
        self.labels = {attribute: tuple(labels) for attribute, (_, labels) in heads.items()}

    @torch.no_grad()
    def scores(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Return, by attribute, the probabilities (n, labels) of n images."""
        parts: dict[str, list[Tensor]] = {attribute: [] for attribute in self.networks}
        for part in chunks(images, BATCH):
            x = self.prepare(part).to(device())
            for attribute, network in self.networks.items():
                parts[attribute].append(network(x).softmax(dim=-1).cpu())
        empty = {attribute: torch.zeros(0, len(names)) for attribute, names in self.labels.items()}
        return {attribute: torch.cat([empty[attribute], *p]) for attribute, p in parts.items()}


def device() -> str:
    """Return the device that judges run on: the accelerator if there is one, else "cpu"."""
    return pick_device("auto")


def resized_square(side: int, mean: Sequence[float], std: Sequence[float]) -> Prepare:
    """Return a `Prepare` that resizes images to a square of `side` pixels, bilinear, ignoring their aspect ratio."""

    def prepare(images: Sequence[Image.Image]) -> Tensor:
        resized = [i.convert("RGB").resize((side, side), Image.Resampling.BILINEAR) for i in images]
        return _normalised(resized, mean, std)

    return prepare


def central_crop(
    shorter: int,
    side: int,
    mean: Sequence[float],
    std: Sequence[float],
    resample: Image.Resampling = Image.Resampling.BILINEAR,
) -> Prepare:
    """Return a `Prepare` that resizes the shorter side to `shorter` pixels and crops the central square of `side`."""

    def crop(image: Image.Image) -> Image.Image:
        image = image.convert("RGB")
        least = min(image.size)
        width, height = (shorter * length // least for length in image.size)
        left, top = round((width - side) / 2), round((height - side) / 2)
        return image.resize((width, height), resample).crop((left, top, left + side, top + side))

    return lambda images: _normalised([crop(i) for i in images], mean, std)


def find_files(who: str, folder: Path | None, needed: Sequence[str]) -> list[Path]:
    """Return the path of each file that a judge needs, in the order of `needed`.

    Args:
        who: name of the judge or feature space, for messages.
        folder: the folder to search; None if the user gave none.
        needed: for each file the accepted names, best first, joined by "|"; "*" matches any text.

    Raises:
        MissingFilesError: files are missing; the message names all of them and the folder.
        ModelError: two files match one name.
    """
    options = [names.split("|") for names in needed]
    if folder is None:
        raise MissingFilesError(
            f"{who} needs a local folder with {_listed(options)}, and none was named; "
            "pass it as judge_weights (--judge-weights of excise evaluate and judge). Its layout is in docs/judges.md.",
            _listed(options),
        )
    folder = Path(folder).expanduser()
    hits = [next((h for h in (sorted(folder.glob(n)) for n in names) if h), []) for names in options]
    missing = [names for names, matches in zip(options, hits, strict=True) if not matches]
    if missing:
        raise MissingFilesError(
            f"{who} does not find {_listed(missing)} in {folder}{'' if folder.is_dir() else ', which is no folder'}; "
            "put the files there, or name the folder that holds them as judge_weights (--judge-weights).",
            _listed(missing),
        )
    for matches in hits:
        if len(matches) > 1:
            raise ModelError(
                f"{who} finds {' and '.join(f.name for f in matches)} in {folder} and needs one; remove the others."
            )
    return [matches[0] for matches in hits]


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint in float32, without running code from pickles.

    A state dict nested under `model_state_dict`, `model_state` or `state_dict` is unwrapped, and the prefix `module.`
    of parallel training is removed.

    Raises:
        ModelError: the file cannot be read, contains code, or holds no state dict.
    """
    try:
        pickled = path.suffix.lower() != ".safetensors"
        state: Any = torch.load(path, map_location="cpu", weights_only=True) if pickled else load_file(path)
    except Exception as error:  # torch, pickle, zip and safetensors each raise their own kinds
        raise ModelError(
            f"cannot read {path} ({reason_of(error)}); expected a state dict of tensors, best as .safetensors."
        ) from error
    for wrapper in ("model_state_dict", "model_state", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"{path} holds no state dict; expected tensors by name, as state_dict() gives them.")
    return {k.removeprefix("module."): v.float() if v.is_floating_point() else v for k, v in state.items()}


def reason_of(error: Exception) -> str:
    """Return what an error of another library says, in its first line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def check_whole(report: Mapping[str, Any], root: Path, what: str) -> None:
    """Refuse a folder that lacks weights, which transformers would leave random.

    Args:
        report: of `from_pretrained(..., output_loading_info=True)`. what: the folder should hold.

    Raises:
        ModelError: the message names up to three.
    """
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise ModelError(f"{root} lacks weights of {what} ({missing} ...); fetch the whole model again.")


def tensor_named(state: Mapping[str, Tensor], key: str, path: Path, layout: str) -> Tensor:
    """Return one tensor of a checkpoint.

    Raises:
        ModelError: there is none of that name, so the file belongs to another architecture.
    """
    if key not in state:
        raise ModelError(f"{path} has no '{key}'; expected {layout}. Save the network's state_dict() again.")
    return state[key]


def check_shapes(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], path: Path, layout: str) -> None:
    """Refuse a checkpoint whose tensors are not exactly those in `shapes`.

    Args:
        shapes: by name in the checkpoint, the expected shape.
        path: of the checkpoint, for messages.
        layout: the expected architecture in words, for messages.

    Raises:
        ModelError: a tensor is missing, unexpected or of another shape; the message names up to three.
    """
    wrong = [f"{k} is missing" for k in shapes if k not in state]
    wrong += [f"{k} is not part of it" for k in state if k not in shapes]
    wrong += [
        f"{k} has the shape {tuple(state[k].shape)} for {shape}"
        for k, shape in shapes.items()
        if k in state and tuple(state[k].shape) != shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ModelError(
            f"{path} is not {layout}: {', '.join(wrong[:3])}{more}. Save the network's state_dict() again."
        )


def load_classifier(architecture: Any, config: Any, state: Mapping[str, Tensor], path: Path) -> Network:
    """Return an image classifier of transformers in evaluation mode, (B, 3, H, W) pixels to (B, labels) logits.

    Args:
        architecture: the class in transformers.
        config: its configuration.
        state: the weights under the names of the model's files on the hub, which transformers maps to its modules.
        path: of the checkpoint, for messages.

    Raises:
        ModelError: the installed transformers does not accept these names.
    """
    with quiet():
        model, report = architecture.from_pretrained(
            None, config=config, state_dict=dict(state), output_loading_info=True, dtype=torch.float32
        )
    odd = sorted(str(k) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for k in report[kind])
    if odd:  # transformers would leave these weights random
        raise ModelError(
            f"this version of transformers cannot hold the weights of {path} ({', '.join(odd[:3])}); "
            "install the version in constraints.txt."
        )
    model.eval().requires_grad_(False).to(device())
    return lambda x: model(x).logits


def told_apart(name: str, state: Mapping[str, Tensor], labels: Sequence[str]) -> str:
    """Return the name of a judge with a short digest of its weights and labels, so that another has another name."""
    return f"{name} {short_digest([weights_key(state), list(labels)], size=4)}"


def check_head(outputs: int, labels: Sequence[str], path: Path, who: str) -> None:
    """Refuse a classifier whose number of outputs differs from the number of labels.

    Raises:
        ModelError: the message gives both numbers.
    """
    if outputs != len(labels):
        raise ModelError(
            f"{path} tells {outputs} labels apart; {who} has {len(labels)}. Use the checkpoint made for these labels."
        )


def import_optional(module: str, extra: str, who: str) -> Any:
    """Import and return a module of an optional dependency.

    Args:
        module: its dotted name.
        extra: the extra of this package that installs it, for messages.
        who: name of the judge or feature space, for messages.

    Raises:
        ModelError: the module is not installed, or was built for another torch.
    """
    try:
        return import_module(module)
    except (ImportError, RuntimeError, OSError) as error:  # torchvision built for another torch: RuntimeError
        package = module.split(".")[0]
        raise ModelError(
            f"{who} needs {package}, which cannot be imported ({str(error).splitlines()[0]}); run: "
            f"pip install 'excise[{extra}]', with a torchvision of the same source as torch {torch.__version__}."
        ) from error


def _normalised(images: Sequence[Image.Image], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    pixels = torch.from_numpy(np.stack([np.asarray(i) for i in images])).permute(0, 3, 1, 2).float() / 255
    centre, spread = (torch.tensor(v).view(1, 3, 1, 1) for v in (mean, std))
    return (pixels - centre) / spread


def _listed(options: Sequence[Sequence[str]]) -> str:
    return ", ".join(" or ".join(names) for names in options)
