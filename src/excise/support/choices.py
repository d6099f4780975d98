"""The allowed values of a setting in words, and a value as `--set` takes it."""

from __future__ import annotations

import json
import types
from collections.abc import Sequence
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt

_NOUNS: dict[Any, str] = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def choices(annotation: Any, bounds: Sequence[Any] = ()) -> str:
    """Return the values that a setting may have, in words.

    Args:
        annotation: the type of the setting.
        bounds: its limits, as pydantic keeps them (`FieldInfo.metadata`).

    >>> from typing import Literal
    >>> choices(Literal["k", "v"]), choices(float | None, [Gt(0)]), choices(bool)
    ('k or v', 'a number above 0, or null', 'true or false')
    """
    values, nouns, empty = [], [], False
    for part in _parts(annotation):
        if get_origin(part) is Literal:
            values += [written(value) for value in get_args(part)]
        elif part is type(None):
            empty = True
        else:
            nouns.append(_noun(part))
    limits = _limits(bounds)
    texts = [either(values)] if values else []
    texts += [f"{noun} {limits}".strip() for noun in nouns]
    return either(texts) + (", or null" if empty else "")


def written(value: Any) -> str:
    """Return a value as the option --set takes it; an empty text is shown as "".

    >>> written(None), written(True), written("anchor"), written(""), written(0.5)
    ('null', 'true', 'anchor', '""', '0.5')
    """
    if isinstance(value, str):
        return value or '""'
    return json.dumps(value, ensure_ascii=False)


def _parts(annotation: Any) -> list[Any]:
    """The alternatives of a type, those of nested unions too."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [part for each in get_args(annotation) for part in _parts(each)]
    return [annotation]


def _noun(part: Any) -> str:
    """One alternative in words; a list says of what."""
    origin, arguments = get_origin(part), [a for a in get_args(part) if a is not Ellipsis]
    if origin in (tuple, list) and arguments:
        return "a list of " + {int: "whole numbers", float: "numbers", str: "texts"}.get(arguments[0], "values")
    return _NOUNS.get(part, "a table" if origin is dict or part is dict else "a value")


def _limits(bounds: Sequence[Any]) -> str:
    """Limits in words."""
    words = []
    for bound in bounds:
        match bound:
            case Ge():
                words.append(f"from {bound.ge:g}")
            case Gt():
                words.append(f"above {bound.gt:g}")
            case Le():
                words.append(f"to {bound.le:g}")
            case Lt():
                words.append(f"below {bound.lt:g}")
    return " ".join(words)


def either(texts: Sequence[str]) -> str:
    """Return texts, at least one, as alternatives.

    >>> either(["k", "v", "kv"])
    'k, v or kv'
    """
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} or {texts[-1]}"
