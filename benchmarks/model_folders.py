"""Write diffusers folders of real models' shapes with random weights, for whole commands to be timed on.

    python -m benchmarks.model_folders flux1|zimage|sana|sdxl|sd15 FOLDER [--blocks 0.2]

The folders have the layout, the names of tensors and the precision of the published ones: Stable Diffusion 1.5 in
single precision, SDXL in half precision, SANA 1.6B in bfloat16 shards with its Gemma 2 of 2.6B parameters, FLUX.1 with
T5-XXL and Z-Image with its Qwen 3 of 4B parameters in bfloat16 shards. Tokenizers have as many entries as the real
ones, but for T5's and Qwen's, which have those of tests' words; their merges are learned here from the words of the
requests and made-up words. Weights are drawn tensor by tensor, scaled by their fan-in; in the two largest models one
draw of four million numbers stands again and again. Where the disk cannot hold a transformer, it gets the share of its
blocks that fits (`--blocks` sets one), and the program says so.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.made_up_words import (
    clip_tokenizer,
    gemma_tokenizer,
    qwen_tokenizer,
    t5_tokenizer,
)
from benchmarks.model_parts import (
    FLUX_AUTOENCODER,
    FLUX_DENOISER,
    SCHEDULE,
    SD15_DENOISER,
    SDXL_DENOISER,
    ZIMAGE_DENOISER,
    autoencoder,
    clip,
    dc_autoencoder,
    gemma,
    qwen,
    sana,
    t5,
    unet,
)

if TYPE_CHECKING:
    from torch import Tensor, dtype, nn

SHARD = 2 * 10**9  # bytes of a shard at most
RESERVE = 8 * 10**9  # bytes of the disk that are left free
TILE = 1 << 22  # numbers that are drawn where a draw is repeated


@dataclass(frozen=True)
class Part:
    """One network of a pipeline.

    Attributes:
        make: builds it, on the device of the caller's context.
        prefix: what the published file puts before the names that do not begin with it or with `apart`.
        apart: beginnings of names that get no prefix.
    """

    make: Callable[[], nn.Module]
    prefix: str = ""
    apart: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shape:
    """A pipeline to be written.

    Attributes:
        pipeline: its class in diffusers.
        dtype: the precision of its files, as torch names it.
        parts: its networks.
        scheduler: class and settings.
        tokenizers: by name, the functions that make them.
        more: further entries of the index.
        files: the largest size of a weight file; None for one file a network.
        blocks: makes its transformer with a share of its blocks; None where it is always whole.
        repeats: whether large weights repeat one draw.
    """

    pipeline: str
    dtype: str
    parts: Mapping[str, Part]
    scheduler: tuple[str, Mapping[str, Any]]
    tokenizers: Mapping[str, Callable[[], Any]]
    more: Mapping[str, Any]
    files: int | None = None
    blocks: Callable[[float], Part] | None = None
    repeats: bool = False


def shapes() -> dict[str, Shape]:
    """Return the shapes by name."""
    more = {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    return {
        "sd15": Shape(
            "StableDiffusionPipeline",
            "float32",
            {
                "unet": Part(unet(SD15_DENOISER)),
                "vae": Part(autoencoder(0.18215)),
                "text_encoder": Part(clip(768, 12, 12, "quick_gelu"), "text_model."),
            },
            ("PNDMScheduler", {**SCHEDULE, "skip_prk_steps": True, "set_alpha_to_one": False}),
            {"tokenizer": clip_tokenizer},
            more,
        ),
        "sdxl": Shape(
            "StableDiffusionXLPipeline",
            "float16",
            {
                "unet": Part(unet(SDXL_DENOISER)),
                "vae": Part(autoencoder(0.13025)),
                "text_encoder": Part(clip(768, 12, 12, "quick_gelu"), "text_model."),
                "text_encoder_2": Part(clip(1280, 32, 20, "gelu", projected=True), "text_model.", ("text_projection",)),
            },
            ("EulerDiscreteScheduler", SCHEDULE),
            {"tokenizer": clip_tokenizer, "tokenizer_2": lambda: clip_tokenizer(pad="!")},
            {"force_zeros_for_empty_prompt": True},
        ),
        "sana": Shape(
            "SanaPipeline",
            "bfloat16",
            {"transformer": Part(sana), "vae": Part(dc_autoencoder), "text_encoder": Part(gemma)},
            (
                "DPMSolverMultistepScheduler",
                {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0},
            ),
            {"tokenizer": gemma_tokenizer},
            {},
            SHARD,
        ),
        "flux1": _flux(),
        "zimage": _zimage(),
    }


def _flux() -> Shape:
    def transformer(share: float) -> Part:
        def make() -> nn.Module:
            from diffusers import FluxTransformer2DModel

            return FluxTransformer2DModel(**_fewer(FLUX_DENOISER, share))

        return Part(make)

    parts = {
        "transformer": transformer(1.0),
        "vae": Part(autoencoder(**FLUX_AUTOENCODER)),
        "text_encoder": Part(clip(768, 12, 12, "quick_gelu"), "text_model."),
        "text_encoder_2": Part(t5),
    }
    scheduler = ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0, "use_dynamic_shifting": True})
    tokenizers = {"tokenizer": clip_tokenizer, "tokenizer_2": t5_tokenizer}
    return Shape("FluxPipeline", "bfloat16", parts, scheduler, tokenizers, {}, SHARD, transformer, True)


def _zimage() -> Shape:
    def transformer(share: float) -> Part:
        def make() -> nn.Module:
            from diffusers import ZImageTransformer2DModel

            return ZImageTransformer2DModel(**_fewer(ZIMAGE_DENOISER, share))

        return Part(make)

    parts = {
        "transformer": transformer(1.0),
        "vae": Part(autoencoder(**FLUX_AUTOENCODER)),
        "text_encoder": Part(qwen),
    }
    scheduler = ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0})
    tokenizers = {"tokenizer": qwen_tokenizer}
    return Shape("ZImagePipeline", "bfloat16", parts, scheduler, tokenizers, {}, SHARD, transformer, True)


def _fewer(settings: Mapping[str, Any], share: float) -> dict[str, Any]:
    """Settings with a share of the layers that they count, of each kind one at least."""
    return {
        k: max(1, int(v * share)) if isinstance(v, int) and k.endswith("layers") else v for k, v in settings.items()
    }


def share_that_fits(shape: Shape, free: int) -> float:
    """Return the share of a transformer's blocks with which a folder leaves `RESERVE` of the bytes that are free."""
    whole = {name: _size(part, shape) for name, part in shape.parts.items()}
    room = free - RESERVE - sum(size for name, size in whole.items() if name != "transformer")
    return min(1.0, max(0.0, room / whole["transformer"]))


def _size(part: Part, shape: Shape) -> int:
    """Return the bytes of a network's weights."""
    import torch

    with torch.device("meta"):
        network = part.make()
    width: int = getattr(torch, shape.dtype).itemsize
    return sum(p.numel() for p in network.parameters()) * width


def build(name: str, folder: Path, blocks: float | None = None) -> Path:
    """Write the model of a shape to `folder`/`name` where it is not there already, and return that folder.

    Args:
        blocks: share of a transformer's blocks that are written; None for as many as the disk holds.
    """
    shape, path, complete = shapes()[name], folder / name, folder / f"{name}.complete"
    if complete.exists():
        return path
    shutil.rmtree(path, ignore_errors=True)
    parts = dict(shape.parts)
    if shape.blocks is not None:
        folder.mkdir(parents=True, exist_ok=True)
        share = share_that_fits(shape, shutil.disk_usage(folder).free) if blocks is None else blocks
        parts["transformer"] = shape.blocks(share)
        if share < 1:
            print(f"{name}: the transformer has {share:.0%} of its blocks.", file=sys.stderr)
    index: dict[str, Any] = {"_class_name": shape.pipeline, "_diffusers_version": "0.30.0", **shape.more}
    for part, network in parts.items():
        index[part] = _write_network(network, path / part, shape)
    for part, make in shape.tokenizers.items():
        tokenizer = make()
        tokenizer.save_pretrained(path / part)
        index[part] = ["transformers", type(tokenizer).__name__]
    index["scheduler"] = _write_scheduler(*shape.scheduler, path / "scheduler")
    (path / "model_index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
    complete.touch()
    return path


def _write_scheduler(kind: str, settings: Mapping[str, Any], folder: Path) -> list[str]:
    import diffusers

    getattr(diffusers, kind)(**settings).save_pretrained(folder)
    return ["diffusers", kind]


def _write_network(part: Part, folder: Path, shape: Shape) -> list[str]:
    """Write a network's configuration and random weights, and return its entry of the index."""
    import torch

    with torch.device("meta"):
        network: Any = part.make()
    folder.mkdir(parents=True)
    library = type(network).__module__.split(".")[0]
    if library == "diffusers":
        network.save_config(folder)
        stem = "diffusion_pytorch_model"
    else:
        network.config.architectures, network.config.dtype = [type(network).__name__], shape.dtype
        network.config.save_pretrained(folder)
        stem = "model"
    sizes = {}
    for name, tensor in network.state_dict().items():
        bare = name.startswith((part.prefix, *part.apart)) if part.prefix else True
        sizes[name if bare else part.prefix + name] = tuple(tensor.shape)
    if library == "transformers":
        sizes = {
            n: size for n, size in sizes.items() if n != "encoder.embed_tokens.weight"
        }  # T5's files hold one of two
    _write_weights(sizes, folder / f"{stem}.safetensors", getattr(torch, shape.dtype), shape.files, shape.repeats)
    return [library, type(network).__name__]


def _write_weights(
    sizes: Mapping[str, tuple[int, ...]], path: Path, dtype: dtype, most: int | None, repeats: bool = False
) -> None:
    """Write random weights of some sizes to one file, or to shards of `most` bytes with their index."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(len(sizes))
    tile = torch.randn(TILE, generator=generator).to(dtype) if repeats else None

    def made(name: str) -> Tensor:
        size = sizes[name]
        if tile is None or torch.Size(size).numel() <= TILE:
            return _random(name, size, generator).to(dtype)
        count = torch.Size(size).numel()
        return (tile * _scale(name, size)).repeat(-(-count // TILE))[:count].view(size)

    shards: list[list[str]] = [[]]
    room = most
    for name, size in sizes.items():
        need = torch.Size(size).numel() * dtype.itemsize
        if room is not None and most is not None:
            if need > room and shards[-1]:
                shards.append([])
                room = most
            room -= need
        shards[-1].append(name)
    files: dict[str, str] = {}
    for i, held in enumerate(shards):
        part = path if most is None else path.with_name(f"{path.stem}-{i + 1:05}-of-{len(shards):05}.safetensors")
        save_file({name: made(name) for name in held}, part, {"format": "pt"})
        files |= dict.fromkeys(held, part.name)
    if most is not None:
        total = sum(torch.Size(size).numel() for size in sizes.values()) * dtype.itemsize
        index = {"metadata": {"total_size": total}, "weight_map": files}
        path.with_name(path.name + ".index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def _random(name: str, size: tuple[int, ...], generator: Any) -> Tensor:
    """Return a random tensor of the scale that its name and its size suggest."""
    import torch

    if len(size) < 2:
        return torch.zeros(size) if name.endswith("bias") else torch.ones(size)
    return torch.randn(size, generator=generator).mul_(_scale(name, size))


def _scale(name: str, size: tuple[int, ...]) -> float:
    """Return the deviation of a matrix's numbers."""
    import torch

    fan_in = torch.Size(size).numel() // size[0]
    return 0.02 if "embedding.weight" in name or "embed_tokens" in name else float(fan_in**-0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shape", choices=shapes())
    parser.add_argument("folder", type=Path)
    parser.add_argument("--blocks", type=float, help="share of a transformer's blocks; otherwise what the disk holds")
    options = parser.parse_args()
    build(options.shape, options.folder, options.blocks)


if __name__ == "__main__":
    main()
