"""Edits whose changes of weights stand behind gates: what is left of them in a file that has no gates."""

from __future__ import annotations

from dataclasses import replace

from excise.edits.deltas import added_up, scaled
from excise.edits.edit import Edit

UNGATED = (
    "the edit opens for prompts near its targets alone, and this file cannot: its changes act on every prompt, also on "
    "those that the edit leaves as they were"
)
"""What an export says of an edit whose gates it lacks."""


def without_gates(edit: Edit) -> Edit:
    """The edit with its gates wide open, as changes of weights; as it is without gates, or beside another hook.

    Its record says so ("ungated").
    """
    changes = [edit.modules]
    for hook in edit.hooks:
        opened = hook.opened()
        if opened is None:
            return edit
        changes.append({path: scaled(delta, hook.strength) for path, delta in opened.items()})
    if not edit.hooks:
        return edit
    record = edit.record.model_copy(update={"measured": {**edit.record.measured, "ungated": True}})
    return replace(edit, record=record, modules=added_up(changes), hooks=())
