"""What an exported file says of itself: ModelSpec's fields, and the edit's own record."""

from __future__ import annotations

import json
from typing import NamedTuple

from excise.edits.edit import Edit
from excise.families.base import Family

RECORD = "excise_record"  # the field of a file's metadata that holds ours


class Architecture(NamedTuple):
    """`name` as the exports tell models apart, `spec` as ModelSpec does."""

    name: str
    spec: str


def architecture(family: Family) -> Architecture:
    """Which Stable Diffusion this is."""
    if family.name == "sdxl":
        return Architecture("sdxl", "stable-diffusion-xl-v1-base")
    if family.text_width == 1024:
        return Architecture("sd2", "stable-diffusion-v2")
    return Architecture("sd", "stable-diffusion-v1")


def about(edit: Edit, spec: str) -> dict[str, str]:
    """ModelSpec's fields and our record."""
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": spec,
        "modelspec.title": f"without {', '.join(c.name for c in edit.record.concepts)}",
        **our_record(edit),
    }


def our_record(edit: Edit) -> dict[str, str]:
    """The record alone."""
    return {RECORD: json.dumps(edit.record.model_dump(mode="json"), ensure_ascii=False, sort_keys=True)}
