"""excise methods: list the methods, or show one with its settings."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import typer

from excise.cli import options as o


def methods(
    name: Annotated[Optional[str], typer.Argument(help="The method to show; without it, all are listed.")] = None,
    as_json: o.JsonOption = False,
) -> None:
    """List the methods, or show one: its paper, cost, model families, and every setting with its default."""
    from excise.cli import show
    from excise.methods import METHODS

    if name is None:
        records = METHODS.records()
        if as_json:
            show.print_json([_facts(n, r) for n, r in records.items()])
        else:
            show.table([(n, r.shape, r.title, r.paper) for n, r in records.items()], ("method", "shape", "", "paper"))
        return
    record = METHODS.record(name)
    config = record.load().Config
    settings = [
        {
            "name": key,
            "default": field.default,
            "values": _values(field.annotation),
            "description": field.description or "",
        }
        for key, field in config.model_fields.items()
    ]
    presets = {kind: dict(values) for kind, values in config.presets.items()}
    if as_json:
        show.print_json({**_facts(name, record), "settings": settings, "presets": presets})
    else:
        _print(name, _facts(name, record), settings, presets)


def _print(
    name: str, facts: dict[str, Any], settings: list[dict[str, Any]], presets: dict[str, dict[str, Any]]
) -> None:
    from excise.cli import show

    show.table([(k, str(v)) for k, v in facts.items()], ("", name))
    print()
    rows = [(s["name"], repr(s["default"]), s["values"], s["description"]) for s in settings]
    show.table(rows, ("setting", "default", "values", ""))
    if presets:
        print()
        kinds = [
            (kind, ", ".join(f"{k}={v}" for k, v in values.items()) or "the defaults")
            for kind, values in presets.items()
        ]
        show.table(kinds, ("preset", "sets"))


def _facts(name: str, record: Any) -> dict[str, Any]:
    """The registry record of a method for `--json`."""
    return {
        "name": name,
        "title": record.title,
        "paper": record.paper,
        "shape": record.shape,
        "families": ", ".join(record.families),
        "cost": record.cost,
        "licence": record.licence,
    }


def _values(annotation: Any) -> str:
    """The allowed values of a setting as text."""
    choices = getattr(annotation, "__args__", None)
    return " | ".join(map(str, choices)) if choices else getattr(annotation, "__name__", str(annotation))
