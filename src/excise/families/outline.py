"""Outlines of models: what their folders tell of them, without the programs that run them.

Importing diffusers and transformers takes seconds and hundreds of megabytes; work that looks at names, shapes and
single weights needs neither. An outline of a denoiser has its layers by their paths, as their tensors in the files show
them, with weights that stay there (`partial`). It draws nothing, and encodes where text encoders are put into it.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from excise.errors import ModelError
from excise.families.base import Family
from excise.families.partial import Source, leave_unread
from excise.families.tensors import TensorFiles

_TABLES = re.compile(r".*(embedding|embeddings|embed_tokens|shared)")  # matrices that are no maps


class Config(dict[str, Any]):
    """The content of a configuration file, by key and by attribute."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Outline(nn.Module):
    """A part of a network: its children and its parameters, and of a whole network its configuration."""

    config: Config
    is_cross_attention = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse to run."""
        raise ModelError("this model was outlined from its files and cannot run; load it (excise.load).")


class OutlinedPipe:
    """The components of a pipeline; those that are no networks are loaded when they are asked for.

    Attributes:
        config: what the pipeline's index says.
        components: the outlines of its networks.
    """

    def __init__(self, folder: Path, config: Config, components: dict[str, Any]) -> None:
        self.config, self.components = config, components
        self._folder = folder
        for name, part in components.items():
            setattr(self, name, part)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("tokenizer") or name not in self.__dict__.get("config", {}):
            raise AttributeError(name)
        import transformers

        tokenizer = getattr(transformers, self.config[name][1]).from_pretrained(str(self._folder / name))
        setattr(self, name, tokenizer)
        return tokenizer

    @property
    def vae_scale_factor(self) -> int:
        """Pixels of a picture along one side of a latent: the autoencoder halves it from level to level."""
        levels: int = len(self.components["vae"].config.block_out_channels)
        return 2 ** (levels - 1)

    @staticmethod
    def maybe_convert_prompt(prompt: Any, tokenizer: Any) -> Any:
        """The prompt itself: textual inversions are loaded into pipelines alone."""
        return prompt


def outline(
    folder: Path,
    denoiser: str,
    dtype: torch.dtype,
    device: str,
    variant: str | None = None,
    encoders: Mapping[str, nn.Module] | None = None,
) -> OutlinedPipe:
    """Outline the model in a diffusers folder.

    Args:
        denoiser: name of the denoiser's component.
        dtype, device: precision and place of weights that are read.
        variant: of the denoiser's files.
        encoders: text encoders that can run, to stand in the place of their outlines.

    Raises:
        ModelError: a file is missing or damaged.
    """
    index = Config(_read(folder / "model_index.json"))
    components: dict[str, Any] = {}
    for part, value in index.items():
        if not isinstance(value, list) or value[0] is None or part.startswith(("tokenizer", "feature_extractor")):
            continue
        file = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
        if part == "scheduler":
            components[part] = _scheduler(str(value[1]), _read(file))
            continue
        if encoders is not None and part in encoders:
            components[part] = encoders[part]
            continue
        components[part] = network = Outline()
        network.config = Config(_read(file))
        files = TensorFiles.of_folder(folder / part, variant)  # refuses what is damaged
        if part == denoiser:
            _fill(network, files, dtype)
            _check_blocks(network, files)
        leave_unread(network, Source(files, str, _cannot_run, torch.device(device)))
    kind = type(str(index["_class_name"]), (OutlinedPipe,), {})
    index["_name_or_path"] = str(folder)
    return kind(folder, index, components)


def is_outline(family: Family) -> bool:
    """Whether a model was outlined and not loaded."""
    return isinstance(family.pipe, OutlinedPipe)


def _cannot_run() -> nn.Module:
    raise ModelError("this model was outlined from its files and cannot run; load it (excise.load).")


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read ({error}); copy the folder again.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} holds no JSON object; copy the folder again.")
    return content


def _scheduler(name: str, content: dict[str, Any]) -> Any:
    """A scheduler that has its class's name and its configuration, and says whether it has a schedule of alphas."""
    members: dict[str, Any] = {"config": Config({"prediction_type": "epsilon", "num_train_timesteps": 1000, **content})}
    if "EDM" not in name:
        members["alphas_cumprod"] = torch.empty(0)
    return type(name, (), members)()


def _fill(network: Outline, files: TensorFiles, dtype: torch.dtype) -> None:
    """Give a network the layers that its tensors show."""
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for name in sorted(files, key=_in_order):
        path, _, own = name.rpartition(".")
        shapes.setdefault(path, {})[own] = files.shape(name)
    for path, parameters in shapes.items():
        parent: Any = network
        levels = path.split(".") if path else []
        for level, below in itertools.pairwise(levels):
            if level not in parent._modules:
                parent.add_module(level, nn.ModuleList() if below.isdigit() else Outline())
            parent = parent._modules[level]
        layer = _layer(path, parameters, dtype)
        place = parent._modules.get(levels[-1]) if levels else network
        if place is None:
            parent.add_module(levels[-1], layer)
            continue
        for name, parameter in layer._parameters.items():
            place.register_parameter(name, parameter)
    for path, module in network.named_modules():
        keys = module._modules.get("to_k")
        if path.endswith("attn2") and isinstance(keys, nn.Linear):
            module.is_cross_attention = keys.in_features == network.config.get("cross_attention_dim")


def _check_blocks(network: Outline, files: TensorFiles) -> None:
    """Refuse files that lack a map of text in a block of attention, or hold one that is not as wide as the text.

    Raises:
        ModelError: as `TensorFiles.check`.
    """
    width = network.config.get("cross_attention_dim")
    for path, block in network.named_modules():
        if not block._modules.keys() & {"attn1", "attn2"} or not isinstance(width, int):
            continue
        rows = files.shape(f"{path}.attn2.to_q.weight")[0]
        for name in ("to_k", "to_v"):
            files.check(f"{path}.attn2.{name}.weight", (rows, width))


def _layer(path: str, own: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> nn.Module:
    """A linear map, a convolution, or anything else that has these parameters."""
    weight, bias = own.get("weight", ()), "bias" in own
    place: Any = {"device": "meta", "dtype": dtype}
    if set(own) <= {"weight", "bias"} and not _TABLES.fullmatch(path):
        if len(weight) == 2:
            return nn.Linear(weight[1], weight[0], bias=bias, **place)
        if len(weight) == 4:
            return nn.Conv2d(weight[1], weight[0], weight[2:], bias=bias, **place)
    layer = Outline()
    for name, shape in own.items():
        layer.register_parameter(name, nn.Parameter(torch.empty(shape, **place)))
    return layer


def _in_order(name: str) -> tuple[bool, list[tuple[int, str]]]:
    """A key that puts 2 before 10, and what lies in the middle of a UNet last, where its class has it.

    Layers that draw random numbers draw them in this order.
    """
    natural = [(int(level), "") if level.isdigit() else (-1, level) for level in name.split(".")]
    return name.startswith("mid_block."), natural
