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
    CLIP_ENTRIES,
    GEMMA_ENTRIES,
    QWEN_ENTRIES,
    T5_ENTRIES,
    clip_tokenizer,
    gemma_tokenizer,
    qwen_tokenizer,
    t5_tokenizer,
)

if TYPE_CHECKING:
    from torch import Tensor, dtype, nn

SHARD = 2 * 10**9  # bytes of a shard at most
SD15_DENOISER = {
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "sample_size": 64,
}
SDXL_DENOISER = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
}
SANA_DENOISER = {
    "num_layers": 20,
    "num_attention_heads": 70,
    "attention_head_dim": 32,
    "num_cross_attention_heads": 20,
    "cross_attention_head_dim": 112,
    "cross_attention_dim": 2240,
    "caption_channels": 2304,
    "in_channels": 32,
    "out_channels": 32,
    "sample_size": 32,
}
AUTOENCODER = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
DC_AUTOENCODER = {
    "latent_channels": 32,
    "encoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
    "decoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
    "encoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "decoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
    "decoder_layers_per_block": (3, 3, 3, 3, 3, 3),
    "encoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
    "decoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
    "scaling_factor": 0.41407,
}
FLUX_DENOISER = {"num_layers": 19, "num_single_layers": 38, "guidance_embeds": True}
ZIMAGE_DENOISER = {"n_layers": 30, "n_refiner_layers": 2}
FLUX_AUTOENCODER = {"latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159, "sample_size": 1024}
RESERVE = 8 * 10**9  # bytes of the disk that are left free
TILE = 1 << 22  # numbers that are drawn where a draw is repeated
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


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
                "unet": Part(_unet(SD15_DENOISER)),
                "vae": Part(_autoencoder(0.18215)),
                "text_encoder": Part(_clip(768, 12, 12, "quick_gelu"), "text_model."),
            },
            ("PNDMScheduler", {**SCHEDULE, "skip_prk_steps": True, "set_alpha_to_one": False}),
            {"tokenizer": clip_tokenizer},
            more,
        ),
        "sdxl": Shape(
            "StableDiffusionXLPipeline",
            "float16",
            {
                "unet": Part(_unet(SDXL_DENOISER)),
                "vae": Part(_autoencoder(0.13025)),
                "text_encoder": Part(_clip(768, 12, 12, "quick_gelu"), "text_model."),
                "text_encoder_2": Part(
                    _clip(1280, 32, 20, "gelu", projected=True), "text_model.", ("text_projection",)
                ),
            },
            ("EulerDiscreteScheduler", SCHEDULE),
            {"tokenizer": clip_tokenizer, "tokenizer_2": lambda: clip_tokenizer(pad="!")},
            {"force_zeros_for_empty_prompt": True},
        ),
        "sana": Shape(
            "SanaPipeline",
            "bfloat16",
            {"transformer": Part(_sana), "vae": Part(_dc_autoencoder), "text_encoder": Part(_gemma)},
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
        "vae": Part(_autoencoder(**FLUX_AUTOENCODER)),
        "text_encoder": Part(_clip(768, 12, 12, "quick_gelu"), "text_model."),
        "text_encoder_2": Part(_t5),
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
        "vae": Part(_autoencoder(**FLUX_AUTOENCODER)),
        "text_encoder": Part(_qwen),
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


def _unet(settings: Mapping[str, Any]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from diffusers import UNet2DConditionModel

        return UNet2DConditionModel(**settings)

    return make


def _autoencoder(scaling_factor: float, **more: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from diffusers import AutoencoderKL

        return AutoencoderKL(**{**AUTOENCODER, **more}, scaling_factor=scaling_factor)

    return make


def _clip(width: int, layers: int, heads: int, act: str, projected: bool = False) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

        config = CLIPTextConfig(
            vocab_size=CLIP_ENTRIES,
            hidden_size=width,
            intermediate_size=4 * width,
            projection_dim=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=77,
            hidden_act=act,
            bos_token_id=CLIP_ENTRIES - 2,
            eos_token_id=CLIP_ENTRIES - 1,
            pad_token_id=CLIP_ENTRIES - 1,
        )
        return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)

    return make


def _sana() -> nn.Module:
    from diffusers import SanaTransformer2DModel

    return SanaTransformer2DModel(**SANA_DENOISER)


def _dc_autoencoder() -> nn.Module:
    from diffusers import AutoencoderDC

    return AutoencoderDC(**DC_AUTOENCODER)


def _gemma() -> nn.Module:
    from transformers import Gemma2Config, Gemma2Model

    return Gemma2Model(
        Gemma2Config(
            vocab_size=GEMMA_ENTRIES,
            hidden_size=2304,
            intermediate_size=9216,
            num_hidden_layers=26,
            num_attention_heads=8,
            num_key_value_heads=4,
            head_dim=256,
            query_pre_attn_scalar=256,
            sliding_window=4096,
            max_position_embeddings=8192,
        )
    )


def _t5() -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=T5_ENTRIES,
            d_model=4096,
            d_kv=64,
            d_ff=10240,
            num_layers=24,
            num_heads=64,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            dropout_rate=0.0,
        )
    )


def _qwen() -> nn.Module:
    from transformers import Qwen3Config, Qwen3Model

    return Qwen3Model(
        Qwen3Config(
            vocab_size=QWEN_ENTRIES,
            hidden_size=2560,
            intermediate_size=9728,
            num_hidden_layers=36,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=128,
            max_position_embeddings=40960,
        )
    )


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
