"""Which settings are read beside which values of others: declared on a field, decided, and told in words.

eta: float = Field(1.0, description="Strength of negation.", json_schema_extra=read_with(target="negate"))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from excise.support.choices import either, written

READ_WITH = "read_with"
POSITIVE = "above 0"  # in the place of a value: any number above 0
Way = Mapping[str, tuple[Any, ...]]
"""Values of other settings, by name; a setting is read where each of them has one of its values."""


def read_with(*ways: Mapping[str, Any], **others: Any) -> dict[str, Any]:
    """Return the `json_schema_extra` of a setting that is read only beside certain values of other settings.

    Args:
        ways: several of them, each enough by itself.
        others: the only one. A tuple is any of its values, POSITIVE any number above 0, and a text that ends in ":n",
            as in "worst:n", any text that begins so.

    >>> read_with(by="images")
    {'read_with': ({'by': ('images',)},)}
    """
    every = [*ways, others] if others else ways
    return {READ_WITH: tuple({k: v if isinstance(v, tuple) else (v,) for k, v in way.items()} for way in every)}


READ_ALWAYS = read_with()
"""`json_schema_extra` of a setting that is always read, where a base class declares otherwise."""


def declared(extra: Any) -> tuple[Way, ...] | None:
    """Return the ways that a field's `json_schema_extra` declares; none for always, None where it declares nothing."""
    ways: tuple[Way, ...] | None = extra.get(READ_WITH) if isinstance(extra, dict) else None
    return ways


def open_ways(ways: Sequence[Way], fixed: Mapping[str, Any]) -> tuple[Way, ...]:
    """Return the ways that remain where some settings have one value only, without these; none for always.

    Args:
        fixed: these settings, and their values.

    >>> open_ways(read_with({"weights": "lora", "by": "images"}, {"weights": "full"})[READ_WITH], {"weights": "lora"})
    ({'by': ('images',)},)
    """
    left = [
        {name: values for name, values in way.items() if name not in fixed}
        for way in ways
        if all(any(_is(fixed[name], v) for v in values) for name, values in way.items() if name in fixed)
    ]
    return tuple(left) if all(left) else ()


def unmet(ways: Sequence[Way], settings: object) -> Way:
    """Return what is missing for a setting to be read, by the way that lacks least; nothing where it is read."""
    missing = [
        {name: values for name, values in way.items() if not any(_is(getattr(settings, name), v) for v in values)}
        for way in ways
    ]
    return min(missing, key=len, default={})


def ways_in_words(ways: Sequence[Way]) -> str:
    """Return the ways in words.

    >>> ways_in_words(read_with({"by": "images"}, {"retain_weight": POSITIVE, "tie": ("early", "late")})[READ_WITH])
    'by=images, or with retain_weight above 0 and tie=early or late'
    """
    return ", or with ".join(" and ".join(_wanted(name, values) for name, values in way.items()) for way in ways)


def why_idle(name: str, ways: Sequence[Way], settings: object) -> str:
    """Return a sentence on a setting that is not read, without its full stop: when it is, what is, and what to do."""
    others = dict.fromkeys(other for way in ways for other in way)
    seen = [f"{other} is {_shown(getattr(settings, other))}" for other in others]
    seen_in_words = " and ".join([", ".join(seen[:-1]), seen[-1]] if seen[1:] else seen)
    missing = " and ".join(_wanted(other, values[:1]) for other, values in unmet(ways, settings).items())
    return (
        f"setting '{name}' is read with {ways_in_words(ways)}, and {seen_in_words}; leave {name} out, or set {missing}"
    )


def _is(value: Any, wanted: Any) -> bool:
    if wanted == POSITIVE:
        return value is not None and value > 0
    if isinstance(wanted, str) and wanted.endswith(":n"):
        return str(value).startswith(wanted.removesuffix("n"))
    return bool(value == wanted)


def _wanted(name: str, values: Sequence[Any]) -> str:
    return f"{name} {POSITIVE}" if POSITIVE in values else f"{name}={either([written(value) for value in values])}"


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str) else written(value)
