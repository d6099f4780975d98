"""Metadata of exported files: the fields of ModelSpec, the edit's record, and what was verified of the edit."""

from __future__ import annotations

import json
from typing import NamedTuple

from excise.edits.edit import Edit
from excise.edits.provenance import EXPORT, RECORD, Evidence
from excise.families.base import Family


class Architecture(NamedTuple):
    """A model architecture: `name` as in the tables of the exports ("sd", "sd2", "sdxl"), `spec` as in ModelSpec."""

    name: str
    spec: str


def architecture(family: Family) -> Architecture:
    """Return the architecture of a Stable Diffusion model, version 1, 2 or XL."""
    if family.name == "sdxl":
        return Architecture("sdxl", "stable-diffusion-xl-v1-base")
    if family.text_width == 1024:
        return Architecture("sd2", "stable-diffusion-v2")
    return Architecture("sd", "stable-diffusion-v1")


def model_spec(edit: Edit, spec: str, evidence: Evidence) -> dict[str, str]:
    """Return the fields of ModelSpec and the edit's record; `spec` is the architecture in ModelSpec's terms."""
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": spec,
        "modelspec.title": f"without {', '.join(c.name for c in edit.record.concepts)}",
        **our_record(edit, evidence),
    }


def our_record(edit: Edit, evidence: Evidence) -> dict[str, str]:
    """Return the edit's record, and the evidence where there is any, as metadata fields."""
    fields = {RECORD: json.dumps(edit.record.model_dump(mode="json"), ensure_ascii=False, sort_keys=True)}
    return fields if evidence.edit is None else {**fields, EXPORT: evidence.text()}
