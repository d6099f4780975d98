"""Applying a policy from Python, as `excise apply` does."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from excise.families.load import as_family
from excise.policy.apply import AppliedPolicy
from excise.policy.apply import apply_policy as apply
from excise.policy.policy import Policy, read
from excise.support.progress import Report, silent
from excise.support.runs import run_folder


def apply_policy(
    model: Any,
    policy: str | Path | Policy,
    out: str | Path,
    *,
    judge: object | None = None,
    cache: Path | None = None,
    progress: Report = silent,
) -> AppliedPolicy:
    """Make `out`/edit.safetensors the edit that a policy asks for, verify it, and add an entry to the ledger of `out`.

    The model is unchanged afterwards; apply the edit to it. Only what changed since the last time is made again.

    Args:
        model: a pipeline, or the result of `excise.load`.
        policy: a policy file, or its content.
        out: folder of the edit in force and its ledger.
        judge: replaces the judge that the policy names: the folder of a CLIP model, a function (images, names) to
            booleans, or an object with `sees` or `verdicts`.
        cache: folder of drawn images.
        progress: receives stage, done and total.

    Raises:
        PolicyError, LedgerError, ConceptError, SettingError, UnknownNameError, ModelError, JudgeError: bad input, in
            one sentence.

    >>> apply_policy(pipe, "policy.yaml", "runs/policy")  # doctest: +SKIP
    """
    content, digest = _read(policy)
    folder = Path(out)
    with run_folder(folder):
        return apply(
            as_family(model),
            content,
            digest,
            folder,
            reread=lambda: _read(policy)[1],
            judge=judge,
            cache=cache,
            say=progress,
        )


def _read(policy: str | Path | Policy) -> tuple[Policy, str]:
    """A policy and the digest of its content."""
    if isinstance(policy, Policy):
        return policy, hashlib.sha256(policy.model_dump_json().encode()).hexdigest()
    return read(Path(policy))
