"""excise methods: list the methods, or show the settings of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from excise.cli import options as o

if TYPE_CHECKING:
    from excise.registry import Record
    from excise.support.settings import Settings

BROKEN = "broken"


def methods(
    name: Annotated[Optional[str], typer.Argument(help="The method to show; without it, all are listed.")] = None,
    as_json: o.JsonOption = False,
) -> None:
    """List the methods, or show one: its paper, cost, model families, and every setting with its default."""
    from excise.cli import show
    from excise.methods import METHODS, settings_of
    from excise.support.choices import written

    if name is None:
        _list(as_json)
        return
    config = settings_of(name)
    facts = _facts(name, METHODS.record(name))
    settings = _settings(config)
    presets = {preset: dict(values) for preset, values in config.presets.items()}
    if as_json:
        show.print_json({**facts, "settings": settings, "presets": presets})
        return
    show.table([(k, str(v)) for k, v in facts.items()], ("", name))
    print()
    show.table(
        [(s["name"], written(s["default"]), s["values"], _described(s)) for s in settings],
        ("setting", "default", "values", ""),
    )
    if presets:
        print()
        rows = [
            (preset, _applies(preset), ", ".join(f"{k}={written(v)}" for k, v in values.items()) or "the defaults")
            for preset, values in presets.items()
        ]
        show.table(rows, ("preset", "applies to", "sets"))


def _applies(preset: str) -> str:
    """When a preset is used.

    >>> _applies("canvas"), _applies("style"), _applies("official")
    ('built-in models, by default', 'this kind on other models, by default', '--set preset=official')
    """
    from excise.concepts.concept import KINDS
    from excise.families.built_in import BUILT_IN

    if preset == "canvas":
        return "built-in models, by default"
    if preset in BUILT_IN:
        return "this built-in model, by default"
    return "this kind on other models, by default" if preset in KINDS else f"--set preset={preset}"


def _list(as_json: bool) -> None:
    """Print every method; a warning names those of other packages that cannot be used, and JSON gives the reason."""
    from excise.cli import show
    from excise.methods import METHODS

    records = METHODS.records()
    if as_json:
        reasons = [{"name": name, BROKEN: str(error)} for name, error in METHODS.broken().items()]
        show.print_json([*(_facts(name, record) for name, record in records.items()), *reasons])
        return
    rows = [(name, record.shape, record.title, record.paper) for name, record in records.items()]
    show.table(rows, ("method", "shape", "", "paper"))


def _facts(name: str, record: Record) -> dict[str, Any]:
    """What the record of a method tells, and the model families that the method fits."""
    from excise.methods.fitting import families_for

    return {
        "name": name,
        "title": record.title,
        "paper": record.paper,
        "shape": record.shape,
        "needs": ", ".join(sorted(record.needs)),
        **_blocks(name),
        "families": ", ".join(families_for(record)),
        "cost": record.cost,
        "licence": record.licence,
    }


def _blocks(name: str) -> dict[str, str]:
    """The shared blocks that a trained method is made of, where it is made of them."""
    from excise.methods import settings_of
    from excise.training.config import DistilledConfig

    config = settings_of(name)
    return {"blocks": config.made_of()} if issubclass(config, DistilledConfig) else {}


def _settings(config: type[Settings]) -> list[dict[str, Any]]:
    """Name, default, allowed values and description of every setting, and when it is read."""
    from excise.support.choices import choices

    return [
        {
            "name": name,
            "default": field.default,
            "values": choices(field.annotation, field.metadata),
            "description": field.description or "",
            "read": config.when_read(name),
        }
        for name, field in config.model_fields.items()
    ]


def _described(setting: Mapping[str, Any]) -> str:
    """The description of a setting, and when it is read if that is not always.

    >>> _described({"description": "Strength of negation.", "read": "with target=negate"})
    'Strength of negation. Read with target=negate.'
    """
    when = setting["read"]
    return setting["description"] + ("" if when == "always" else f" Read {when}.".replace("Read never", "Never read"))
