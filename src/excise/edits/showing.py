"""What an edit shows of itself in a terminal and in a notebook."""

from __future__ import annotations

from collections.abc import Sequence

from excise.concepts.concept import NOTHING
from excise.edits.deltas import Delta, Dense, TextMap
from excise.edits.record import EditRecord, Target
from excise.support.choices import written
from excise.support.counts import counted, size_text
from excise.support.display import Card, some


def edit_card(
    record: EditRecord, paths: Sequence[str], size: int, deltas: Sequence[TextMap | Delta], hooks: Sequence[str]
) -> Card:
    """Describe an edit.

    Args:
        record: of the edit.
        paths: of the weights that it changes.
        size: bytes of its tensors.
        deltas: its text maps and deltas. hooks: the kinds of its hooks.
    """
    rank = max(map(_rank, deltas), default=0)
    changes = [counted(len(paths), "weight")] if paths else []
    changes += [f"rank up to {rank}"] if rank else []
    changes += [size_text(size)]
    changes += [f"while drawing: {', '.join(hooks)}"] if hooks else []
    changes += [f"strength {record.strength:g}"] if record.is_scaled else []
    keeps = some(record.preserve) or "no names of the caller's"
    facts = [
        ("from", f"{record.base.model} ({record.base.family})"),
        ("keeps", f"{keeps}; vocabulary {record.vocabulary or 'none'}"),
        ("changes", ", ".join(changes)),
        ("settings", ", ".join(f"{key}={written(value)}" for key, value in record.settings.items())),
        ("seed", str(record.seed)),
        ("stack of", "; ".join(f"{part.method}: {some([c.name for c in part.concepts])}" for part in record.stack)),
        ("made with", f"excise {record.excise}"),
    ]
    names = some([c.name for c in record.concepts])
    rows = [_target_row(c) for c in record.concepts]
    return Card(f"Edit: {record.method} removes {names}", facts, ("concept", "kind", "read as", "synonyms"), rows)


def _rank(delta: TextMap | Delta) -> int:
    """The rank of a factored change; 0 for a whole difference, which has no rank of its own."""
    if isinstance(delta, Dense):
        return 0
    return int(delta.v.shape[0] if isinstance(delta, TextMap) else delta.a.shape[0])


def _target_row(target: Target) -> tuple[str, ...]:
    return target.name, target.kind, target.anchor or NOTHING, ", ".join(target.synonyms)
