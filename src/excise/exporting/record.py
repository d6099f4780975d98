"""Metadata of exported files: the fields of ModelSpec, the edit's record, and what was verified of the edit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from excise.edits.edit import Edit
from excise.edits.verified import CHECKS, Check, as_json, checks_of
from excise.families.base import Family
from excise.support.digests import file_digest

RECORD = "excise_record"  # metadata field of the edit's record
EXPORT = "excise_export"  # metadata field of the edit file's digest and checks
MARK = "excise_record.json"  # in a merged folder the record, which marks the folder as an export
MARK_EXPORT = "excise_export.json"  # in a merged folder the edit file's digest and checks


@dataclass(frozen=True)
class Evidence:
    """Where an export comes from: the SHA-256 of the edit file, if it has one, and what was verified of that file."""

    edit: str | None = None
    checks: tuple[Check, ...] = ()

    @staticmethod
    def of(file: str | Path | None) -> Evidence:
        """Return the evidence of an edit file; none without a file."""
        return Evidence() if file is None else Evidence(file_digest(Path(file)), checks_of(Path(file)))

    @staticmethod
    def read(text: str | None) -> Evidence:
        """Read what `text` wrote.

        Raises:
            ValueError: it is something else.
        """
        if not text:
            return Evidence()
        content = json.loads(text)
        return Evidence(content["edit"], CHECKS.validate_python(content["verified"]))

    def text(self) -> str:
        """Return the evidence as JSON."""
        content = {"edit": self.edit, "verified": as_json(self.checks)}
        return json.dumps(content, ensure_ascii=False, sort_keys=True)


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
