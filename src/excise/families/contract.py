"""The check that a class of another package keeps the contract of a model family."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from excise.errors import PluginError
from excise.families.base import Family
from excise.families.pipeline import PipelineFamily
from excise.registry import Record


def contract(name: str, record: Record, loaded: Any) -> type[Family]:
    """The `Contract` of families in the registry.

    Raises:
        PluginError: it is no class of a family, lacks a member, or its record says something else.
    """
    where = f"the family '{name}' ({record.target})"
    if not (inspect.isclass(loaded) and issubclass(loaded, Family)):
        raise PluginError(f"{where} is no class derived from PipelineFamily; derive it from that.")
    if missing := sorted(loaded.__abstractmethods__):
        raise PluginError(f"{where} has no `{missing[0]}`, which excise.families.pipeline.PipelineFamily asks for.")
    provides = getattr(loaded, "provides", None)
    if provides is None or set(provides) != record.provides:
        raise PluginError(
            f"{where} has provides={sorted(provides or ())}, but its record {sorted(record.provides)}; make them equal."
        )
    if not record.pipelines:
        raise PluginError(f"{where} names no pipeline class; name them in `pipelines` of its record.")
    return loaded


def facts(loaded: Any) -> Mapping[str, Any]:
    """What a class that is registered without a record tells about itself: capabilities and its pipeline's name."""
    if not (inspect.isclass(loaded) and issubclass(loaded, Family)):
        return {}
    pipeline = getattr(loaded, "draws_with", "") if issubclass(loaded, PipelineFamily) else ""
    return {
        "provides": getattr(loaded, "provides", frozenset()),
        "pipelines": (pipeline.removesuffix("Pipeline"),) if pipeline else (),
    }
