"""excise doctor: what works on this machine and with this model."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, Optional

import typer

from excise.cli import options as o

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "pydantic", "pillow")


@o.with_source
def doctor(
    model: Annotated[Optional[str], typer.Option("--model", "-m", help="Also load this model and look inside.")] = None,
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
        checks |= _computing()
    checks["cores"] = os.cpu_count()
    checks["free disk (GB)"] = round(shutil.disk_usage(".").free / 1e9, 1)
    checks["HF_HUB_OFFLINE"] = os.environ.get("HF_HUB_OFFLINE", "not set")
    for name in BUILT_IN:
        found = (WEIGHTS / name / "model_index.json").exists()
        checks[name] = "ready" if found else "not in this installation; run: excise canvas train"
    if model is not None:
        family = source.load(model)
        checks["model"] = _look_inside(family, model)
    if as_json:
        show.print_json(checks)
    else:
        flat = {**checks, **{f"model {k}": v for k, v in checks.pop("model", {}).items()}}
        flat.pop("model", None)
        show.table([(k, str(v)) for k, v in flat.items()], ("", "excise " + version("excise")))
    if missing:
        show.say(f"missing: {', '.join(missing)}; run: pip install excise")
        sys.exit(1)


def _computing() -> dict[str, str]:
    from excise.families.load import pick_device
    from excise.support.precision import has_bfloat16

    device = pick_device("auto")
    return {"device": device, "bfloat16": "fast" if has_bfloat16(device) else "slow here; leave float32"}


def _look_inside(family: Any, model: str) -> dict[str, Any]:
    from excise.errors import ModelError
    from excise.methods import METHODS

    records = {n: r for n, r in METHODS.records().items() if family.name in r.families}
    without = {}
    try:
        prediction = family.prediction
    except ModelError as error:  # closed forms and drawing do not ask how the scheduler noises
        prediction = "unknown"
        trained = ", ".join(n for n, r in records.items() if r.shape == "trained")
        records = {n: r for n, r in records.items() if r.shape != "trained"}
        without = {"not with this scheduler": f"{trained}, attacks that ask the denoiser, FADE: {error}"}
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
        "methods": ", ".join(records),
        **without,
    }
