"""Whole pipelines, read by diffusers from a folder, a single file or the hub, with its errors in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from excise.errors import ModelError
from excise.families import architectures, quantised


def from_folder(path: Path, variant: str | None, options: dict[str, Any]) -> Any:
    """Load a diffusers folder."""
    from diffusers import DiffusionPipeline

    try:
        return DiffusionPipeline.from_pretrained(
            path, variant=variant, local_files_only=True, use_safetensors=True, **options, **absent_parts(path)
        )
    except Exception as error:
        why = quantised.told_by_config(path) or first_line(error)
        raise ModelError(f"cannot read the model in {path}: {why}") from error


def absent_parts(path: Path) -> dict[str, None]:
    """The components that a diffusers folder was saved without, as diffusers has to be told when it reads it."""
    index = json.loads((path / "model_index.json").read_text(encoding="utf-8"))
    return {name: None for name, classes in index.items() if classes == [None, None]}


def from_single_file(path: Path, config: str | Path | None, local_files_only: bool, options: dict[str, Any]) -> Any:
    """Load a single file of Stable Diffusion."""
    import diffusers

    sdxl = architectures.family_of_file(path) == "sdxl"
    try:
        pipeline = diffusers.StableDiffusionXLPipeline if sdxl else diffusers.StableDiffusionPipeline
        pipe = pipeline.from_single_file(
            str(path), config=None if config is None else str(config), local_files_only=local_files_only, **options
        )
        pipe.register_to_config(_name_or_path=str(path))  # as a folder's is
        return pipe
    except Exception as error:
        title = "Stable Diffusion XL" if sdxl else "Stable Diffusion"
        advice = (
            ""
            if config is not None
            else " Its configuration is fetched from the hub; offline, name a local diffusers folder of the same "
            "architecture with --config."
        )
        raise ModelError(f"cannot read {path} as a single-file {title} model: {first_line(error)}{advice}") from error


def from_hub(name: str, options: dict[str, Any], local_files_only: bool) -> Any:
    """Load a model from the hub or its local cache."""
    from diffusers import DiffusionPipeline

    try:
        return DiffusionPipeline.from_pretrained(
            name, local_files_only=local_files_only, use_safetensors=True, **options
        )
    except Exception as error:
        raise hub_error(name, error, local_files_only) from error


def cached(name: str, options: dict[str, Any], local_files_only: bool) -> Path:
    """The folder of the hub's local cache that holds a model, fetched where it does not yet."""
    from diffusers import DiffusionPipeline

    try:
        folder = DiffusionPipeline.download(name, local_files_only=local_files_only, use_safetensors=True, **options)
        return Path(folder)
    except Exception as error:
        raise hub_error(name, error, local_files_only) from error


def hub_error(name: str, error: Exception, local_files_only: bool) -> ModelError:
    """What went wrong with a hub id, with what to do."""
    text = str(error)
    reason = f": {first_line(error)}"
    if "401" in text or "403" in text or "gated" in text.lower():
        advice = "it may need an accepted licence: accept it on the model's page, then run: hf auth login"
    elif local_files_only:
        advice = "it is not in the local cache; run once without --local-files-only, or give a local folder."
    else:
        advice = "is there a network, and is the id right? A local folder or `canvas-sd` needs none."
    if "stacktrace" in text or "stack trace" in text:  # that of diffusers, which nobody sees here
        cause = error.__cause__ or error.__context__
        reason = f": {first_line(cause)}" if cause is not None else ";"
    return ModelError(f"cannot load '{name}' from the hub{reason} {advice}")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, as a sentence."""
    line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return line if line.endswith((".", "!", "?")) else line + "."
