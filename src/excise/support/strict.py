"""Strict reading of files that people write (YAML, text): an unknown key is an error. Imports no torch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from excise.errors import ExciseError


class Strict(BaseModel):
    """Base class of immutable records that refuse unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def parse_yaml(text: str, what: str, error_class: type[ExciseError]) -> Any:
    """Return the content of a YAML text; `what` names the text in messages.

    Raises:
        error_class: the text is not valid YAML.
    """
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f"line {mark.line + 1}, " if mark else ""
        raise error_class(f"{what} is no YAML: {where}{problem or error}.") from error


def read_text(path: Path, what: str, error_class: type[ExciseError]) -> str:
    """Return the text of a UTF-8 file; `what` names the file in messages.

    Raises:
        error_class: the file cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise error_class(f"cannot read {what} {path}: {reason}. Expected a UTF-8 file.") from error


def explain(error: ValidationError, known: Iterable[str]) -> str:
    """Return the first validation error as a sentence; for an unknown key it suggests the closest of `known`."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(first["loc"][-1]), list(known), n=1)
        return f"unknown key '{where}'.{f' Did you mean {near[0]!r}?' if near else ''}"
    return f"'{where}': {first['msg'][0].lower() + first['msg'][1:]}."
