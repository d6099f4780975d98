"""excise doctor: check the installation, the machine and, if one is named, a model."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from excise.cli import options as o
from excise.support.counts import counted

if TYPE_CHECKING:
    from excise.families.base import Family

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "pydantic", "pillow")
SUBJECT = "subject token of 'a cat'"


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """The options of `excise doctor`."""

    model: Annotated[Optional[str], typer.Option("--model", "-m", help="A model to load and examine as well.")] = None
    judges: Annotated[bool, typer.Option("--judges", help="Say which judges can be used here, instead.")] = False
    as_json: o.JsonOption = False
    source: o.Source


@o.command
def doctor(options: DoctorOptions) -> None:
    """Check versions, memory, disk, the built-in models and, with --model, which methods work on that model."""
    from excise.cli import show
    from excise.errors import ExciseError, SettingError

    if options.judges:
        if options.model is not None:
            raise SettingError("--judges says which judges can be used on any model; leave --model out.")
        states = _judges()
        show.print_json(states) if options.as_json else show.table(
            [(name, state["title"], state["state"]) for name, state in states.items()], ("judge", "what it is", "here")
        )
        return
    options.source.check(options.model)
    checks: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    checks |= {package: _version(package) for package in PACKAGES}
    missing = [package for package in PACKAGES if checks[package] == "missing"]
    checks |= _machine(with_torch="torch" not in missing)
    if options.model is not None:
        checks["model"] = _look_inside(options.source.outline(options.model), options.model)
    if options.as_json:
        show.print_json(checks)
    else:
        inside = checks.pop("model", {})
        position = {SUBJECT: f"token {inside[SUBJECT]}, counted from 0"} if inside else {}
        model = {f"model {k}": v for k, v in {**inside, **position}.items()}
        show.table([(k, str(v)) for k, v in {**checks, **model}.items()], ("", "excise " + version("excise")))
        if inside and not missing:
            number = counted(len(inside["methods"].split(", ")), "method")
            words = f"--model {shlex.quote(inside['name'])}{options.source.given()}"
            show.say(f"{inside['name']} can be edited, with {number}.")
            show.say(f"erase:  excise erase {words} --concept NAME --out runs/NAME")
    if missing:
        raise ExciseError(f"missing: {', '.join(missing)}; run: pip install excise")


def _judges() -> dict[str, dict[str, str]]:
    """Of each judge what it is, and whether it can be used here; nothing is fetched."""
    from excise.errors import ModelError
    from excise.judges import JUDGES
    from excise.judges.local import MissingFilesError

    states = {}
    for name, record in JUDGES.records().items():
        try:
            JUDGES.load(name)(None)
            state = "ready"
        except MissingFilesError as error:
            state = f"with --judge-weights FOLDER, which holds {error.files}"
        except ModelError as error:
            state = str(error)
        states[name] = {"title": record.title, "state": state}
    return states


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _machine(with_torch: bool) -> dict[str, Any]:
    """Device, cores, disk, network setting, and which built-in models are installed."""
    from excise.families.built_in import BUILT_IN, WEIGHTS

    checks: dict[str, Any] = _computing() if with_torch else {}
    checks["cores"] = os.cpu_count()
    checks["free disk (GB)"] = round(shutil.disk_usage(".").free / 1e9, 1)
    checks["HF_HUB_OFFLINE"] = os.environ.get("HF_HUB_OFFLINE", "not set")
    for name in BUILT_IN:
        installed = (WEIGHTS / name / "model_index.json").exists()
        checks[name] = "ready" if installed else "not in this installation; run: excise canvas train"
    return checks


def _computing() -> dict[str, str]:
    """The device, and whether it computes in bfloat16."""
    from excise.families.load import pick_device
    from excise.support.precision import has_bfloat16

    device = pick_device("auto")
    return {"device": device, "bfloat16": "fast" if has_bfloat16(device) else "slow here; leave float32"}


def _look_inside(family: Family, model: str) -> dict[str, Any]:
    """The architecture of a loaded model, and the methods that work on it."""
    from excise.errors import ModelError
    from excise.methods import METHODS
    from excise.methods.fitting import methods_for

    usable = methods_for(family.provides)
    unusable = {}
    try:
        prediction = family.prediction
    except ModelError as error:  # closed forms and drawing do not depend on it
        prediction = "unknown"
        trained = [name for name in usable if METHODS.record(name).shape == "trained"]
        usable = [name for name in usable if name not in trained]
        unusable = {"not with this scheduler": f"{', '.join(trained)}, attacks that ask the denoiser, FADE: {error}"}
    projections = family.projections()
    return {
        "name": model,
        "family": family.name,
        "pipeline": type(family.pipe).__name__,
        "text-reading projections": len(projections),
        "text width": projections[0].module.in_features,
        "prompt tokens": family.max_tokens,
        SUBJECT: family.last_token("a cat", "cat"),
        "scheduler": type(family.pipe.scheduler).__name__,
        "prediction": prediction,
        "dtype": str(projections[0].module.weight.dtype).removeprefix("torch."),
        "guidance": "any scale" if family.guides else "changes nothing (distilled)",
        "device": str(family.device),
        "methods": ", ".join(usable),
        **unusable,
    }
