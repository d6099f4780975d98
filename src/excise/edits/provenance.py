"""What an export says about the edit that it holds: its record, the digest of its file, and what was verified of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from excise.edits.record import EditRecord
from excise.edits.verified import CHECKS, Check, as_json, checks_of, public
from excise.errors import EditFileError
from excise.support.digests import file_digest
from excise.support.runs import edit_path

RECORD = "excise_record"  # metadata field of the edit's record
FORMAT = "excise_format"  # metadata field of the format, where the keys of a file do not tell it
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
        """Return the evidence of an edit file, or of the edit in a run folder; none without a file."""
        if file is None:
            return Evidence()
        path = edit_path(file)
        return Evidence(file_digest(path), checks_of(path))

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
        """Return the evidence as JSON, as it goes to strangers: models that are paths by their last part."""
        content = {"edit": self.edit, "verified": as_json([public(check) for check in self.checks])}
        return json.dumps(content, ensure_ascii=False, sort_keys=True)


def parse(path: Path, record: str, evidence: str | None) -> tuple[EditRecord, Evidence]:
    """Read the record and the evidence of an export.

    Args:
        path: of the export, for the message.

    Raises:
        EditFileError: they are not what this version, or an older one, writes.
    """
    try:
        return EditRecord.model_validate(json.loads(record)), Evidence.read(evidence)
    except (ValueError, TypeError, KeyError, ValidationError) as error:
        raise EditFileError(
            f"{path} carries a record of excise that cannot be read; it was changed, or a newer version wrote it. "
            "Export the edit again, or upgrade excise."
        ) from error
