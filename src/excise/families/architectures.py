"""Architectures of diffusion models by the names of their tensors and by their pipeline classes. No torch here."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from excise.errors import ModelError
from excise.support.headers import Header, read_header

# Names that occur in a single file of an architecture and in no file of one further down. A name may stand behind the
# prefix under which a checkpoint with several parts keeps its denoiser.
_KEYS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("a LoRA", (r".*(lora_down|lora_up|lora_A|lora_B)\..*", r"lora_(unet|te\d?|transformer)_.*", r".*\.lora\..*")),
    ("Chroma", (r"distilled_guidance_layer\..*",)),
    ("HunyuanVideo", (r"txt_in\.individual_token_refiner\..*",)),
    ("AuraFlow", (r"double_layers\.\d+\..*", r"register_tokens", r"joint_transformer_blocks\..*")),
    ("FLUX.2", (r"double_stream_modulation_img\..*",)),
    ("FLUX", (r"double_blocks\.\d+\.img_attn\..*", r"single_transformer_blocks\..*")),
    ("Stable Diffusion 3", (r"joint_blocks\.\d+\..*", r"transformer_blocks\.\d+\.ff_context\..*")),
    ("Krea 2", (r"text_fusion\..*", r"txtfusion\..*")),
    ("Qwen-Image", (r"transformer_blocks\.\d+\.(img|txt)_mlp\..*", r"transformer_blocks\.\d+\.(img|txt)_mod\..*")),
    ("Z-Image", (r"cap_pad_token", r"x_pad_token", r"all_x_embedder\..*")),
    ("Lumina-Image 2.0", (r"(noise|context)_refiner\.\d+\..*",)),
    ("Lumina-Next", (r"cap_embedder\..*",)),
    ("HiDream", (r"double_stream_blocks\.\d+\.block\..*",)),
    ("HunyuanDiT", (r"mlp_t5\..*", r"text_embedding_padding")),
    ("Stable Cascade", (r"clip_txt_mapper\..*", r"clip_txt_pooled_mapper\..*")),
    ("Wan", (r"blocks\.\d+\.self_attn\.norm_q\..*", r"blocks\.\d+\.ffn\.0\..*")),
    ("SANA", (r"blocks\.\d+\.mlp\.depth_conv\..*", r"transformer_blocks\.\d+\.ff\.conv_depth\..*")),
    ("PixArt-Alpha", (r"csize_embedder\..*", r"ar_embedder\..*")),
    ("PixArt", (r"blocks\.\d+\.cross_attn\.kv_linear\..*", r"t_block\.\d+\..*")),
)  # fmt: skip
_PREFIX = re.compile(r"^(model\.diffusion_model|diffusion_model|net|transformer|model)\.")
# The UNet of Stable Diffusion in the layout of the original program, in that of diffusers, and other parts alone.
_UNET = re.compile(r"(model\.diffusion_model\.)?(input_blocks\.0\.0|middle_block\.0)\..*")
_PARTS = {
    "the UNet alone, in the layout of diffusers": re.compile(r"(down_blocks|up_blocks)\.\d+\.(resnets|attentions)\..*"),
    "a text encoder alone": re.compile(r"(text_model|transformer\.text_model)\..*|text_projection.*|shared\.weight"),
    "an autoencoder (VAE) alone": re.compile(r"(first_stage_model\.)?(encoder|decoder)\.(conv_in|down|up|mid)\b.*"),
}
# By how the class name of a pipeline begins, the architecture's own name; the longest beginning wins.
_CLASSES = {
    "StableDiffusion3": "Stable Diffusion 3",
    "Flux": "FLUX",
    "Flux2": "FLUX.2",
    "Krea2": "Krea 2",
    "QwenImage": "Qwen-Image",
    "QwenImage21": "Qwen-Image 2.1",
    "QwenImageEdit": "Qwen-Image-Edit",
    "QwenImageLayered": "Qwen-Image-Layered",
    "ZImage": "Z-Image",
    "SanaVideo": "SANA-Video",
    "PixArt": "PixArt",
    "PixArtAlpha": "PixArt-Alpha",
    "HunyuanDiT": "HunyuanDiT",
    "AuraFlow": "AuraFlow",
    "StableCascade": "Stable Cascade",
    "Kandinsky": "Kandinsky",
    "Chroma": "Chroma",
    "HiDream": "HiDream",
    "Lumina": "Lumina-Next",
    "Lumina2": "Lumina-Image 2.0",
    "CogView": "CogView",
    "Wan": "Wan",
}
# Architectures whose transformer is read from a file, the other parts from a diffusers folder; each with its family.
_TRANSFORMERS = {
    "FLUX": "flux",
    "FLUX.2": "flux2",
    "Chroma": "chroma",
    "Stable Diffusion 3": "sd3",
    "Qwen-Image": "qwenimage",
    "Krea 2": "krea2",
    "Z-Image": "zimage",
    "Lumina-Image 2.0": "lumina2",
    "SANA": "sana",
}
# Architectures that are read as diffusers folders alone.
_FOLDERS = ("PixArt",)
_WEIGHTS = re.compile(
    r"(diffusion_pytorch_model|pytorch_model|model)(?P<before>\.\w+)?(-\d{5}-of-\d{5})?(?P<after>\.\w+)?\.safetensors"
)
_WORKS = (
    "excise reads whole models of Stable Diffusion 1.x, 2.x and XL in one file, the transformers of newer models in "
    "one file beside a folder, and every family as a diffusers folder"
)


def model_header(path: Path, purpose: str = "") -> Header:
    """The header of a file of weights.

    Args:
        purpose: what the file is read as, for the message.

    Raises:
        ModelError: the file is no safetensors file, or it is cut short.
    """
    try:
        return read_header(path)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot read {path}{purpose}: it is no safetensors file, or it is damaged or cut short ({error}); copy or "
            "download it again."
        ) from error


def family_of_file(path: Path) -> str:
    """Return the family of a single file, told by the names of its tensors.

    That is "sd" or "sdxl" for a whole model of Stable Diffusion; for a transformer, one of those of which
    `holds_transformer_alone` is true.

    Raises:
        ModelError: the file holds another architecture or another part of a model; the message names it.
    """
    header = model_header(path, " as a single-file model")
    names = list(header.tensors)
    if "excise" in header.metadata:
        raise ModelError(f"{path} is an edit, not a model; give it to --edit, and the model to --model.")
    parts = {name.split(".")[0] for name in names}
    whole = any(_UNET.fullmatch(name) for name in names)
    if whole and "conditioner" in parts:
        return "sdxl"
    if whole and "cond_stage_model" in parts:
        return "sd"
    if whole:
        raise ModelError(
            f"{path} holds the UNet of Stable Diffusion alone, without a text encoder; give the whole model: a "
            "checkpoint with all parts, or a diffusers folder."
        )
    title = _title(names)
    if title in _TRANSFORMERS:
        return _TRANSFORMERS[title]
    raise ModelError(f"{path} holds {_content(names, title)}; {_WORKS}.")


def holds_transformer_alone(family: str) -> bool:
    """Whether the single files of a family are read for their transformer alone."""
    return family in _TRANSFORMERS.values()


def title_of_family(family: str) -> str:
    """The architecture's own name of a family whose single files hold a transformer."""
    return next(title for title, own in _TRANSFORMERS.items() if own == family)


def prefix_of(names: Iterable[str]) -> str:
    """The prefix behind which a file keeps its transformer, by the names of its tensors; empty where they are bare."""
    for name in names:
        for _, patterns in _KEYS:
            match = _PREFIX.match(name)
            if match and any(re.fullmatch(pattern, name[match.end() :]) for pattern in patterns):
                return match[0]
    return ""


def _title(names: Collection[str]) -> str | None:
    """The architecture of a file by the names of its tensors, or "a LoRA"; None for one that is not listed."""
    bare = {_PREFIX.sub("", name) for name in names} | set(names)
    for title, patterns in _KEYS:
        if any(re.fullmatch(pattern, name) for pattern in patterns for name in bare):
            return title
    return None


def _content(names: Collection[str], title: str | None) -> str:
    """What a file holds that no family reads, in words."""
    if title == "a LoRA":
        return "a LoRA, not a model (excise import reads one as an edit)"
    if title in _FOLDERS:
        return f"a model of the architecture {title}, which is read as a diffusers folder only: give that"
    if title is not None:
        return f"a model of the architecture {title}, which is not supported yet"
    for title, pattern in _PARTS.items():
        if any(pattern.fullmatch(name) for name in names):
            return title
    first = ", ".join(sorted(names)[:2]) or "nothing"
    return f"no model that excise knows (its tensors: {first}, ...)"


def title_of_class(name: str) -> str | None:
    """Return the architecture's own name for a pipeline class that no family adapts, or None for a class not listed."""
    matches = [start for start in _CLASSES if name.startswith(start)]
    return _CLASSES[max(matches, key=len)] if matches else None


def check_weights(folder: Path, variant: str | None) -> None:
    """Refuse a diffusers folder whose weights are missing, are pickles, or exist only in another variant.

    Raises:
        ModelError: the message says which files there are, and which option reads them.
    """
    parts = [part for part in sorted(folder.iterdir()) if part.is_dir() and any(part.glob("*.safetensors"))]
    by_part = {part.name: _variants(part) for part in parts}
    if not by_part:
        raise ModelError(
            f"{folder} holds no .safetensors weights (pickles are not read); save it again with safetensors."
        )
    if variant is not None:
        if not any(variant in variants for variants in by_part.values()):
            others = sorted({v for variants in by_part.values() for v in variants if v})
            has = f"the variant {' and '.join(others)}" if others else "no variant, only the plain weights"
            raise ModelError(
                f"{folder} has no weights of the variant '{variant}'; it has {has}: "
                f"{f'use --variant {others[0]}' if others else 'leave --variant out'}."
            )
        return
    for part, variants in by_part.items():
        if variants and None not in variants:
            alone = sorted(v for v in variants if v)
            raise ModelError(
                f"{folder} holds the weights of '{part}' only as the variant {' and '.join(alone)}; add "
                f'--variant {alone[0]} (in Python: variant="{alone[0]}").'
            )


def _variants(part: Path) -> set[str | None]:
    """The variants in which a component's weights exist, None for the plain ones."""
    matches = [_WEIGHTS.fullmatch(file.name) for file in part.glob("*.safetensors")]
    names = [m["before"] or m["after"] for m in matches if m]
    return {name.removeprefix(".") if name else None for name in names}


def content_of_folder(folder: Path) -> str:
    """Say what a folder without a model_index.json seems to be, with what to do, as the end of a sentence."""
    names = {p.name for p in folder.iterdir()}
    if "edit.safetensors" in names:
        return "it is the folder of an edit: give it to --edit, and the model to --model"
    if (folder.parent / "model_index.json").exists():
        return f"it is one part of the model in {folder.parent}: give that folder"
    below = sorted(folder.glob("*/model_index.json")) + sorted(folder.glob("snapshots/*/model_index.json"))
    if below:
        return f"a model is in {below[0].parent}: give that folder"
    if "config.json" in names and "clip" in str(_json(folder / "config.json").get("model_type", "")):
        return "it is a CLIP model: --judge takes one"
    files = sorted(n for n in names if n.lower().endswith(".safetensors"))
    if files:
        return f"it holds {', '.join(files[:3])}: give one of these files if it is a whole model"
    return "expected a diffusers folder, as save_pretrained writes it"


def _json(path: Path) -> Mapping[str, Any]:
    """A JSON object in a file, empty where it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
