"""Judges by name, with their settings: "nudenet", or "nudenet:threshold=0.45,classes=intimate"."""

from __future__ import annotations

import inspect
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeGuard

from excise.errors import JudgeError, UnknownNameError
from excise.judges import JUDGES, PACKAGES


def is_named(given: object) -> TypeGuard[str | Path]:
    """Return whether what a caller gave as judge is the name of one, with or without settings, and no folder."""
    return isinstance(given, (str, Path)) and str(given).split(":")[0] in JUDGES and not Path(given).is_dir()


def judge_named(given: str | Path, weights: Path | None = None) -> Any:
    """Return a judge by its name.

    Args:
        given: a name, and after a colon settings as key=value, separated by commas.
        weights: folder of its weights, where they do not lie in a package.

    Raises:
        UnknownNameError: there is no judge of that name.
        JudgeError: the judge has no such setting, or does not take the value.
        ModelError: its weights or its package are missing.
    """
    name, _, rest = str(given).partition(":")
    make = JUDGES.load(name)
    known = [p for p in inspect.signature(make).parameters if p != "weights"]
    settings: dict[str, str] = {}
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        if key not in known or not equals:
            takes = f"it takes {', '.join(f'{k}=...' for k in known)}" if known else "it has no settings"
            raise JudgeError(f"the judge '{name}' has no setting '{pair}'; {takes}.")
        settings[key] = value
    try:
        return make(weights, **settings)
    except ValueError as error:
        raise JudgeError(f"the judge '{name}' does not take {rest}: {error}.") from error


def judge_key(given: str | Path | None) -> str:
    """Return what tells results of one judge from those of another: what was asked for, and its package's version."""
    package = PACKAGES.get(str(given).split(":")[0])
    try:
        return f"{given} {version(package)}" if package else str(given)
    except PackageNotFoundError:  # said where the judge is loaded
        return str(given)


def check_named(given: str | Path) -> None:
    """Refuse a text that is neither a folder nor the name of a judge; imports no judge.

    Raises:
        JudgeError: it is none, with the nearest name.
    """
    if Path(given).is_dir() or is_named(given):
        return
    seen = f"{given} is a file" if Path(given).exists() else f"there is no folder and no judge {given}"
    try:
        JUDGES.record(str(given).split(":")[0])
    except UnknownNameError as error:
        raise JudgeError(
            f"{seen}; --judge takes the folder of a CLIP model, or a judge by name. {str(error).split('. ', 1)[-1]}"
        ) from error
