"""excise methods: what there is, and what each method can be told."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import typer

from excise.cli import options as o


def methods(
    name: Annotated[Optional[str], typer.Argument(help="One method; all of them by default.")] = None,
    as_json: o.JsonOption = False,
) -> None:
    """List the methods, or show one: paper, cost, model families, and every setting with its default."""
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
    facts = _facts(name, record)
    config = record.load().Config
    knobs = [
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
        show.print_json({**facts, "settings": knobs, "presets": presets})
        return
    show.table([(k, str(v)) for k, v in facts.items()], ("", name))
    print()
    show.table(
        [(k["name"], repr(k["default"]), k["values"], k["description"]) for k in knobs],
        ("setting", "default", "values", ""),
    )
    if presets:
        print()
        rows = [
            (kind, ", ".join(f"{k}={v}" for k, v in values.items()) or "the defaults")
            for kind, values in presets.items()
        ]
        show.table(rows, ("preset", "sets"))


def _facts(name: str, record: Any) -> dict[str, Any]:
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
    """The allowed values of a setting, in words."""
    choices = getattr(annotation, "__args__", None)
    return " | ".join(map(str, choices)) if choices else getattr(annotation, "__name__", str(annotation))
