"""Pipelines whose weights stay in their files, in the precision that is wanted.

Each part is built from its configuration, of its own class, with weights on the device "meta" (`partial`); text
encoders read theirs as they run (`streaming`). A part of a class that only its own code knows is left to diffusers,
which loads it whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from excise.errors import ModelError
from excise.families.architectures import family_of_file
from excise.families.networks import parameters
from excise.families.original_names import unet_name
from excise.families.partial import Source, leave_unread, place_modules, source_of
from excise.families.streaming import check_fits
from excise.families.tensors import TensorFiles
from excise.families.transformer_files import weights_in
from excise.families.whole import absent_parts, first_line

_ORIGINAL = "model.diffusion_model."  # before the names of the UNet in a single file


@dataclass(frozen=True)
class Opening:
    """How a model is opened.

    Attributes:
        encoders: names of the components that are text encoders.
        denoiser: name of the denoiser's component.
        text_modules: modules of the denoiser that text passes before its projections.
        dtype: precision of the weights.
        device: where they belong.
        variant: of the weights' files.
    """

    encoders: tuple[str, ...]
    denoiser: str
    text_modules: tuple[str, ...]
    dtype: torch.dtype
    device: str
    variant: str | None = None

    def settled(self, network: nn.Module, name: str) -> nn.Module:
        """A whole component as `load` leaves it: on its device, the denoiser in the CPU's faster memory format."""
        network.to(self.device)
        if name == self.denoiser and self.device.startswith("cpu"):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network


def open_folder(path: Path, opening: Opening, name: str | None = None, transformer: Path | None = None) -> Any:
    """Open a diffusers folder.

    Args:
        name: of the model, where it is not the folder's.
        transformer: a single file that holds the denoiser's weights, instead of the folder.

    Raises:
        ModelError: files cannot be read, or the transformer's are of another architecture than the folder.
    """
    from diffusers import DiffusionPipeline

    parts: dict[str, Any] = dict(absent_parts(path))
    for part, classes in _components(path).items():
        kind = _class_of(*classes)
        if kind is None:
            continue
        if transformer is not None and part == opening.denoiser:
            parts[part] = _beside(kind, path / part, opening, transformer)
            continue
        make = _encoder if part in opening.encoders else _unread
        if (network := make(kind, path / part, opening)) is not None:
            parts[part] = network
    options = {"variant": opening.variant, "dtype": opening.dtype}
    pipe = DiffusionPipeline.from_pretrained(path, local_files_only=True, use_safetensors=True, **options, **parts)
    _settle(pipe, opening)
    if name is not None:
        pipe.register_to_config(_name_or_path=name)
    return pipe


def open_encoders(path: Path, opening: Opening) -> dict[str, nn.Module] | None:
    """Open the text encoders of a diffusers folder alone; None where only a whole pipeline can be loaded."""
    components, encoders = _components(path), dict[str, nn.Module]()
    for part in opening.encoders:
        library, name = components.get(part, ("", ""))
        kind = _class_of(library, name) if library == "transformers" else None
        network = None if kind is None else _encoder(kind, path / part, opening)
        if network is None:
            return None
        encoders[part] = network
    return encoders


def open_single_file(path: Path, config: Path, pipeline: str, opening: Opening) -> Any:
    """Open a single file of Stable Diffusion with a local folder of configurations.

    Args:
        pipeline: name of its pipeline's class.
    """
    import diffusers

    parts = {}
    for part, classes in _components(config).items():
        kind = _class_of(*classes)
        if kind is None or part in opening.encoders:
            continue

        def whole(kind: Any = kind, part: str = part) -> nn.Module:
            options = {"config": str(config), "subfolder": part, "torch_dtype": opening.dtype}
            return opening.settled(kind.from_single_file(str(path), local_files_only=True, **options), part)

        if part in ("unet", "vae"):
            network = _built(kind, config / part, opening.dtype)
            if network is None:
                continue
            leave_unread(network, Source(TensorFiles.of_file(path), _original_name(network), whole, _device(opening)))
            parts[part] = network
    pipe = getattr(diffusers, pipeline).from_single_file(
        str(path), config=str(config), local_files_only=True, dtype=opening.dtype, **parts
    )
    pipe.register_to_config(_name_or_path=str(path))
    _settle(pipe, opening)
    return pipe


def _settle(pipe: Any, opening: Opening) -> None:
    """Put on its device what diffusers loaded, and read the modules of the denoiser that text passes."""
    for part in pipe.components.values():
        if isinstance(part, nn.Module) and source_of(part) is None:
            part.to(opening.device)
    place_modules(getattr(pipe, opening.denoiser), opening.text_modules)


def _original_name(network: Any) -> Callable[[str], str]:
    return lambda name: _ORIGINAL + unet_name(name, network.config)


def _components(path: Path) -> dict[str, tuple[str, str]]:
    """The components of a pipeline that are there, each with its library and its class."""
    index = json.loads((path / "model_index.json").read_text(encoding="utf-8"))
    pairs = {name: value for name, value in index.items() if isinstance(value, list) and len(value) == 2}
    return {name: (str(value[0]), str(value[1])) for name, value in pairs.items() if value[0] is not None}


def _class_of(library: str, name: str) -> Any:
    """The class of a component that is a network of its library; None for others, and for those not known here.

    Networks of transformers that a pipeline of diffusers brings along (Kolors' ChatGLM, safety checkers) are others.
    """
    kind: Any = None
    base: type[nn.Module] = nn.Module
    if library == "transformers":
        import transformers

        kind = getattr(transformers, name, None)
    else:
        import diffusers

        place = diffusers if library == "diffusers" else getattr(diffusers.pipelines, library, None)
        kind, base = getattr(place, name, None), diffusers.ModelMixin
    return kind if isinstance(kind, type) and issubclass(kind, base) else None


def _device(opening: Opening) -> torch.device:
    return torch.device(opening.device)


def _built(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    """A network of a class without any weight, from its configuration; None where its weights are quantised."""
    from accelerate import init_empty_weights

    if "quantization_config" in json.loads((folder / "config.json").read_text(encoding="utf-8")):
        return None
    with init_empty_weights(include_buffers=False):
        if kind.__module__.startswith("diffusers."):
            network = kind.from_config(kind.load_config(str(folder), local_files_only=True))
            network.register_to_config(_name_or_path=str(folder))
            _cast_buffers(network, dtype)
        else:
            network = kind._from_config(kind.config_class.from_pretrained(str(folder)), dtype=dtype)
    if not kind.__module__.startswith("diffusers."):
        network.tie_weights()  # not above, where every place would get a parameter of its own
    single = _single(kind, dtype)  # encoders that have such parts are not built here
    cast: dict[nn.Parameter, nn.Parameter] = {}
    for path, module in network.named_modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                wanted = torch.float32 if single & {*path.split("."), name} else dtype
                cast.setdefault(weight, nn.Parameter(weight.to(wanted), weight.requires_grad))
                module._parameters[name] = cast[weight]
    return network.eval()


def _single(kind: Any, dtype: torch.dtype) -> set[str]:
    """The parts of a network that its library keeps in single precision when the rest is in `dtype`.

    transformers does so for half precision, whose numbers end at 65,504; with bfloat16 (T5's) only where it must.
    """
    usual, always = (
        set(getattr(kind, name, None) or ()) for name in ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict")
    )
    return always if kind.__module__.startswith("transformers.") and dtype == torch.bfloat16 else usual | always


def _cast_buffers(network: nn.Module, dtype: torch.dtype) -> None:
    """Give buffers the precision in which diffusers would have made them."""
    for module in network.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_floating_point():
                module._buffers[name] = buffer.to(dtype)


def _unread(kind: Any, folder: Path, opening: Opening) -> Any:
    """A network whose weights stay in its folder; None where they are quantised."""
    network = _built(kind, folder, opening.dtype)
    if network is None:
        return None
    variant = opening.variant if any(folder.glob(f"*.{opening.variant}*")) else None

    def whole() -> nn.Module:
        options = {"variant": variant, "dtype": opening.dtype, "local_files_only": True, "use_safetensors": True}
        try:
            return opening.settled(kind.from_pretrained(str(folder), **options), folder.name)
        except Exception as error:
            raise ModelError(
                f"cannot read the '{folder.name}' in {folder.parent}: {str(error).splitlines()[0]}"
            ) from error

    leave_unread(network, Source(TensorFiles.of_folder(folder, variant), lambda name: name, whole, _device(opening)))
    return network


def _beside(kind: Any, folder: Path, opening: Opening, file: Path) -> Any:
    """A transformer of a single file, with its configuration in a folder; whole where diffusers alone can read it.

    Raises:
        ModelError: the file does not hold what the configuration asks for.
    """

    def whole() -> nn.Module:
        options = {"config": str(folder.parent), "subfolder": folder.name, "dtype": opening.dtype}
        try:
            network = kind.from_single_file(str(file), local_files_only=True, **options)
        except Exception as error:  # of a converter that looks for what is not there
            raise ModelError(
                f"{file} cannot be read as the transformer in {folder}: {first_line(error)} A weight may be missing; "
                "copy the file again, or give --config the folder of the same variant."
            ) from error
        missing = [name for name, weight in network.named_parameters() if weight.is_meta]
        if missing:
            raise ModelError(
                f"{file} lacks '{missing[0]}', which the transformer in {folder} has; give --config the folder of the "
                "same variant."
            )
        return opening.settled(network, folder.name)

    network = _built(kind, folder, opening.dtype)
    files = None if network is None else weights_in(file, family_of_file(file), network)
    if files is None:
        return whole()
    for name, weight in parameters(network).items():
        files.check(name, tuple(weight.shape))
    # The converter of diffusers takes FLUX.1's own widths for granted; the tables of names do not.
    read_by = whole if _saves_buffers(network) else None
    leave_unread(network, Source(files, lambda name: name, read_by, _device(opening)))
    return network


def _encoder(kind: Any, folder: Path, opening: Opening) -> Any:
    """A text encoder whose weights stay in its folder; None where only transformers knows how to read them.

    Raises:
        ModelError: it is such a one, and does not fit into memory.
    """
    network = _built(kind, folder, opening.dtype)
    if network is None:
        return None
    files = TensorFiles.of_folder(folder, opening.variant)
    names = _names_in(files, parameters(network))
    mixed = opening.dtype != torch.float32 and _single(kind, opening.dtype)
    if names is None or mixed or _saves_buffers(network):
        check_fits(network, f"the text encoder in {folder}", _device(opening))
        return None
    # Paths of edits leave out the level `text_model`.
    names |= {own.removeprefix("text_model."): name for own, name in names.items()}
    leave_unread(network, Source(files, lambda own: names[own], None, _device(opening)))
    return network


def _saves_buffers(network: nn.Module) -> bool:
    """Whether files of a network hold more than its parameters."""
    modules = network.modules()
    return any(b is not None and n not in m._non_persistent_buffers_set for m in modules for n, b in m._buffers.items())


def _names_in(files: TensorFiles, wanted: Mapping[str, Any]) -> dict[str, str] | None:
    """By parameter, its name in the files: its own, or with or without a level above; None where one has none."""
    for add, remove in (("", ""), ("text_model.", ""), ("model.", ""), ("", "text_model."), ("", "model.")):
        names = {own: add + own.removeprefix(remove) for own in wanted}
        if all(name in files for name in names.values()):
            return names
    return None
