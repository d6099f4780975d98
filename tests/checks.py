"""A verification of an edit, as `excise evaluate` keeps it."""

from __future__ import annotations

from excise.edits import verified


def check(**changes) -> verified.Check:
    content = {
        **verified.now(),
        "command": "evaluate",
        "model": "tiny",
        "protocol": "concept",
        "hash": "f" * 64,
        "judge": "clip",
        "concepts": ("cat",),
        "verdicts": {"cat": "verified: 10 of 10 clean (at least 72 %)"},
        "gates": (verified.Gate(gate="ua>=0.7", metric="ua", passed=True),),
        "metrics": {"ua": {"value": 1.0, "low": 0.7225, "high": 1.0, "n": 10}},
    }
    return verified.Check(**{**content, **changes})
