"""Tell from a model's name and files where it is and of which family, before anything is loaded; no torch here."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from pathlib import Path

from excise.errors import ModelError, closest, unknown
from excise.families import architectures, quantised
from excise.families import capabilities as c
from excise.families.built_in import BUILT_IN, WEIGHTS
from excise.registry import Record, Registry

FAMILIES = Registry(
    "family",
    "excise.families",
    {
        "sd": Record(
            "excise.families.sd:StableDiffusion",
            "Stable Diffusion 1.x and 2.x (StableDiffusionPipeline)",
            provides=frozenset(c.CAPABILITIES) - c.STREAMS - {c.POOLED, c.TOLD_BEHIND},
            pipelines=("StableDiffusion",),
        ),
        "sdxl": Record(
            "excise.families.sdxl:StableDiffusionXL",
            "Stable Diffusion XL (StableDiffusionXLPipeline)",
            provides=frozenset(c.CAPABILITIES) - c.STREAMS - {c.TOLD_BEHIND},
            pipelines=("StableDiffusionXL",),
        ),
        "sana": Record(
            "excise.families.sana:Sana",
            "SANA 0.6B to 4.8B (SanaPipeline)",
            provides=c.SEPARATE | {c.GUIDANCE, c.GUIDED_CALL},
            pipelines=("Sana",),
        ),
        "flux": Record(
            "excise.families.flux:Flux",
            "FLUX.1 dev and schnell (FluxPipeline)",
            provides=c.MIXED | {c.POOLED, c.TEXT_MLP, c.DUAL_STREAM},
            pipelines=("Flux",),
        ),
        "zimage": Record(
            "excise.families.zimage:ZImage",
            "Z-Image and Z-Image-Turbo (ZImagePipeline)",
            provides=c.MIXED | {c.TEXT_MLP, c.SINGLE_STREAM},
            pipelines=("ZImage",),
        ),
        "sd3": Record(
            "excise.families.sd3:StableDiffusion3",
            "Stable Diffusion 3 and 3.5 (StableDiffusion3Pipeline)",
            provides=c.MIXED | {c.POOLED, c.GUIDED_CALL, c.DUAL_STREAM},
            pipelines=("StableDiffusion3",),
        ),
        "chroma": Record(
            "excise.families.chroma:Chroma",
            "Chroma (ChromaPipeline)",
            provides=c.MIXED | {c.DUAL_STREAM},
            pipelines=("Chroma",),
        ),
        "pixart": Record(
            "excise.families.pixart:PixArt",
            "PixArt-Sigma (PixArtSigmaPipeline)",
            provides=c.SEPARATE | {c.GUIDANCE, c.GUIDED_CALL},
            pipelines=("PixArtSigma",),
        ),
        "sana-sprint": Record(
            "excise.families.sana_sprint:SanaSprint",
            "SANA-Sprint 0.6B and 1.6B (SanaSprintPipeline)",
            provides=c.SEPARATE,
            pipelines=("SanaSprint",),
        ),
        "kolors": Record(
            "excise.families.kolors:Kolors",
            "Kolors (KolorsPipeline), with sentencepiece",
            provides=c.SEPARATE | {c.POOLED, c.GUIDANCE, c.GUIDED_CALL, c.TOLD_BEHIND},
            pipelines=("Kolors",),
        ),
        "lumina2": Record(
            "excise.families.lumina2:Lumina2",
            "Lumina-Image 2.0 (Lumina2Pipeline)",
            provides=c.MIXED | {c.SINGLE_STREAM},
            pipelines=("Lumina2",),
        ),
        "flux2": Record(
            "excise.families.flux2:Flux2",
            "FLUX.2 dev and klein (Flux2Pipeline, Flux2KleinPipeline)",
            provides=c.MIXED,
            pipelines=("Flux2", "Flux2Klein"),
        ),
        "qwenimage": Record(
            "excise.families.qwenimage:QwenImage",
            "Qwen-Image (QwenImagePipeline)",
            provides=c.MIXED,
            pipelines=("QwenImage",),
        ),
        "krea2": Record(
            "excise.families.krea2:Krea2",
            "Krea 2 (Krea2Pipeline)",
            provides=c.MIXED | {c.SINGLE_STREAM},
            pipelines=("Krea2",),
        ),
    },
    contract="excise.families.contract:contract",
    facts="excise.families.contract:facts",
)
_PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def located(model: str | Path) -> Path:
    """The folder or file of a model; for a hub id, a path that is not there."""
    return WEIGHTS / str(model) if str(model) in BUILT_IN else Path(model)


def unsupported(pipeline: str, where: str = "") -> ModelError:
    """The error for a pipeline class that no family adapts; `where` begins its sentence."""
    names = list(_pipelines())
    own = pipeline.removesuffix("Pipeline")
    begins = sorted((name for name in names if own.startswith(name)), key=len)
    near = begins[-1] if begins else closest(own, names)
    nearest = f"; the nearest of them is {near}Pipeline" if near else ""
    supported = ", ".join(f"{name}Pipeline" for name in names)
    return ModelError(
        f"{where}{pipeline} is not supported yet; supported are {supported}, and their img2img, inpainting and "
        f"ControlNet siblings{nearest}."
    )


def family_name_of(model: str | Path) -> str | None:
    """The family of a model, told from its files alone: nothing is loaded, and torch is not imported.

    Args:
        model: as `load` takes it.

    Returns:
        None where only loading tells: for a hub id, and for files that cannot be read.
    """
    path = located(model)
    try:
        if path.is_dir():
            return family_of_class([pipeline_class(path)])
        if path.is_file() and path.suffix.lower() == ".safetensors":
            return architectures.family_of_file(path)
    except (OSError, ModelError):
        return None
    return None


def check_model(
    model: str | Path,
    *,
    variant: str | None = None,
    config: str | Path | None = None,
) -> None:
    """Refuse a model that cannot be loaded, as far as its name and its files tell; torch is not imported.

    Args:
        model, variant, config: as `load` takes them.

    Raises:
        UnknownNameError, ModelError: there is no such model here, it is of an architecture that no family adapts, or
            some of its files are missing; the message says what to do. A hub id is not looked up.
    """
    name, path = str(model), Path(model)
    if config is not None and (name in BUILT_IN or path.is_dir()):
        raise ModelError(f"--config is for models in one file, and {name} has configurations of its own; leave it out.")
    if name in BUILT_IN:
        if not (WEIGHTS / name / "model_index.json").exists():
            raise ModelError(f"{name} is not in this installation; run: excise canvas train --model {name}")
    elif path.suffix.lower() in _PICKLES and not path.is_dir():
        raise ModelError(f"{name} is a pickle, which can run code when it is read; convert it to .safetensors first.")
    elif path.is_dir():
        _check_folder(path, variant)
    elif path.is_file():
        if path.suffix.lower() == ".gguf":
            raise quantised.gguf(str(path))
        if path.suffix.lower() != ".safetensors":
            raise ModelError(f"{path} is no model; expected a .safetensors file, a diffusers folder or a hub id.")
        family = architectures.family_of_file(path)
        quantised.check_file(path)
        _check_config(config)
        if architectures.holds_transformer_alone(family):
            _check_beside(path, family, config)
    elif _is_path(name) or _is_below_a_folder(path):
        raise ModelError(
            f"there is no file or folder {name}{_nearest_path(path)}; expected a diffusers folder, a .safetensors file "
            "or a hub id (org/name)."
        )
    elif not _HUB_ID.fullmatch(name):
        raise unknown(
            "model", name, BUILT_IN, "Or give a hub id (org/name), a diffusers folder or a .safetensors file."
        )


def _check_folder(path: Path, variant: str | None) -> None:
    """Refuse a folder that is no pipeline of a family, or that lacks weights."""
    if not (path / "model_index.json").exists():
        raise ModelError(f"{path} has no model_index.json; {architectures.content_of_folder(path)}.")
    pipeline = pipeline_class(path)
    ours = family_of_class([pipeline]) is not None
    title = None if ours else architectures.title_of_class(pipeline)
    # A class of another name may derive from one that is supported, which only loading tells.
    if title is not None or not (ours or any(pipeline.startswith(name) for name in _pipelines())):
        raise unsupported(pipeline, f"{path} is a model of the architecture {title}: " if title else f"{path}: ")
    architectures.check_weights(path, variant)
    quantised.check_folder(path)


def _check_config(config: str | Path | None) -> None:
    """Refuse a folder of configurations that is none."""
    if config is None or (_HUB_ID.fullmatch(str(config)) and not _is_path(str(config)) and not Path(config).exists()):
        return
    if not (Path(config) / "model_index.json").exists():
        raise ModelError(
            f"--config {config} is no diffusers folder (it has no model_index.json); give a local folder of a model of "
            "the same architecture."
        )


def _check_beside(path: Path, family: str, config: str | Path | None) -> None:
    """Refuse a transformer of a single file without a folder for the other parts, or with one of another family."""
    title = architectures.title_of_family(family)
    if config is None:
        raise ModelError(
            f"{path} holds the transformer of {title} alone; name a diffusers folder of the same variant with "
            "--config, from which text encoders, autoencoder and configurations are read."
        )
    if Path(config).is_dir() and (own := family_of_class([pipeline_class(Path(config))])) != family:
        raise ModelError(
            f"{path} holds a transformer of {title}, and --config {config} is a model of "
            f"{f'the family {own}' if own else 'no family that excise knows'}; give a diffusers folder of {title}."
        )
    if Path(config).is_dir():
        quantised.check_folder(Path(config), without="transformer")


def pipeline_class(path: Path) -> str:
    """The pipeline class that a folder's index names.

    Raises:
        ModelError: the index cannot be read.
    """
    try:
        index = json.loads((path / "model_index.json").read_text(encoding="utf-8"))
        return str(index.get("_class_name"))
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{path / 'model_index.json'} cannot be read ({error}); copy the folder again.") from error


def _is_path(name: str) -> bool:
    """Whether a name that is no file here can only be meant as one: no hub id looks like it."""
    ending = name.lower().endswith((".safetensors", *_PICKLES))
    return ending or name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1 or "\\" in name


def _is_below_a_folder(path: Path) -> bool:
    """Whether the first part of a relative name of several parts is a folder here, which no hub id is meant by."""
    return not path.is_absolute() and len(path.parts) > 1 and Path(path.parts[0]).is_dir()


def _nearest_path(path: Path) -> str:
    """The entry beside a missing path that is named most like it, as the end of a clause, or empty."""
    try:
        names = [p.name for p in path.parent.iterdir() if not p.name.startswith(".")]
    except OSError:
        return f" (there is no folder {path.parent} either)"
    near = difflib.get_close_matches(path.name, names, n=1)
    return f" (did you mean {path.parent / near[0]}?)" if near else ""


def family_of_class(names: Iterable[str]) -> str | None:
    """The family of the first pipeline class that belongs to one.

    Siblings of a pipeline (img2img, inpainting, ControlNet) have its parts and encode text as it does.
    """
    pipelines = _pipelines()
    sibling = re.compile(
        rf"({'|'.join(map(re.escape, pipelines))})(ControlNet(Union)?)?(PAG)?(Img2Img|Inpaint)?Pipeline"
    )
    matches = (sibling.fullmatch(name) for name in names)
    return next((pipelines[match[1]] for match in matches if match), None)


def _pipelines() -> dict[str, str]:
    """Family by pipeline class (without the ending "Pipeline"), plug-in families included."""
    return {pipeline: name for name, record in FAMILIES.records().items() for pipeline in record.pipelines}
