"""excise doctor: check what works on this machine and with a model."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from excise.cli import options as o

if TYPE_CHECKING:
    from excise.families.base import Family

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "pydantic", "pillow")


@o.with_source
def doctor(
    model: Annotated[Optional[str], typer.Option("--model", "-m", help="Also load this model and describe it.")] = None,
    as_json: o.JsonOption = False,
    *,
    source: o.Source,
) -> None:
    """Check versions, memory, disk, the built-in models and, with --model, whether a model can be erased from."""
    from excise.cli import show
    from excise.families.built_in import BUILT_IN, WEIGHTS

    checks: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    missing = []
    for package in PACKAGES:
        try:
            checks[package] = version(package)
        except PackageNotFoundError:
            checks[package] = "missing"
            missing.append(package)
    if "torch" not in missing:
        checks |= _hardware()
    checks["cores"] = os.cpu_count()
    checks["free disk (GB)"] = round(shutil.disk_usage(".").free / 1e9, 1)
    checks["HF_HUB_OFFLINE"] = os.environ.get("HF_HUB_OFFLINE", "not set")
    for name in BUILT_IN:
        installed = (WEIGHTS / name / "model_index.json").exists()
        checks[name] = "ready" if installed else "not in this installation; run: excise canvas train"
    if model is not None:
        family = source.load(model)
        checks["model"] = _about_model(family, model)
    if as_json:
        show.print_json(checks)
    else:
        flat = {**checks, **{f"model {k}": v for k, v in checks.pop("model", {}).items()}}
        flat.pop("model", None)
        show.table([(k, str(v)) for k, v in flat.items()], ("", "excise " + version("excise")))
    if missing:
        show.say(f"missing: {', '.join(missing)}; run: pip install excise")
        sys.exit(1)


def _hardware() -> dict[str, str]:
    """The device that "auto" picks, and whether it computes in bfloat16."""
    from excise.families.load import pick_device
    from excise.support.precision import has_bfloat16

    device = pick_device("auto")
    return {"device": device, "bfloat16": "fast" if has_bfloat16(device) else "slow here; leave float32"}


def _about_model(family: Family, model: str) -> dict[str, Any]:
    """What a loaded model is, and which methods can be used on it."""
    from excise.errors import ModelError
    from excise.methods import METHODS
    from excise.methods.fitting import methods_for

    usable = methods_for(family.provides)
    unusable = {}
    try:
        prediction = family.prediction
    except ModelError as error:  # only what asks the denoiser needs to know how the scheduler noises
        prediction = "unknown"
        trained = [name for name in usable if METHODS.record(name).shape == "trained"]
        usable = [name for name in usable if name not in trained]
        unusable = {"not with this scheduler": f"{', '.join(trained)}, attacks that ask the denoiser, FADE: {error}"}
    projections = family.projections()
    states = family.encode(["a cat"], ["cat"])
    return {
        "name": model,
        "family": family.name,
        "pipeline": type(family.pipe).__name__,
        "text-reading projections": len(projections),
        "text width": projections[0].module.in_features,
        "prompt tokens": family.max_tokens,
        "subject token of 'a cat'": int(states.last[0]),
        "scheduler": type(family.pipe.scheduler).__name__,
        "prediction": prediction,
        "dtype": str(projections[0].module.weight.dtype).removeprefix("torch."),
        "device": str(projections[0].module.weight.device),
        "methods": ", ".join(usable),
        **unusable,
    }
