"""A ledger entry: what was removed from which model, by which methods, on whose request, and how it was verified."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from excise.edits.edit import Edit
from excise.edits.record import Base
from excise.policy.groups import Group
from excise.policy.policy import Policy, RemovalRequest, Withdrawal
from excise.policy.verify import Verification


def is_current(entry: Mapping[str, Any], policy_digest: str, base: Base) -> bool:
    """Return whether an entry is of this policy, on this model, by this version of excise."""
    then = (entry["policy"], entry["model"]["weights"], entry["model"].get("text_encoder"), entry["excise"])
    return then == (policy_digest, base.weights, base.text_encoder, version("excise"))


def new_entry(
    policy: Policy,
    policy_digest: str,
    base: Base,
    edits: Sequence[tuple[Group, Edit]],
    verification: Verification | None,
    last: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the entry of a policy that is about to be put in force, without the digest of its edit.

    Args:
        last: the entry before, to tell what was added, removed and changed.
    """
    now = {r.name: _in_force(r) for r in policy.concepts}
    before = {c["name"]: c for c in last["in_force"]} if last else {}
    withdrawn = [_withdrawal(w) for w in policy.withdrawn]
    return {
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "excise": version("excise"),
        "policy": policy_digest,
        "model": {"name": policy.model, "weights": base.weights, "text_encoder": base.text_encoder},
        "groups": [
            {"method": e.record.method, "settings": e.record.settings, "concepts": [c.name for c in g.concepts]}
            for g, e in edits
        ],
        "in_force": list(now.values()),
        "added": [name for name in now if name not in before],
        "removed": [name for name in before if name not in now],
        "changed": [name for name in now if name in before and now[name] != before[name]],
        "verified": _verified(policy, verification),
        **({"withdrawn": withdrawn} if withdrawn else {}),
    }


def _in_force(request: RemovalRequest) -> dict[str, Any]:
    concept = request.concept()
    return {
        "name": concept.name,
        "kind": concept.kind,
        "synonyms": list(concept.synonyms),
        "anchor": concept.anchor,
        "requested_by": request.requested_by,
        "date": request.date.isoformat() if request.date else None,
        "reference": request.reference,
        **({"reason": request.reason} if request.reason else {}),
    }


def _withdrawal(withdrawal: Withdrawal) -> dict[str, Any]:
    return withdrawal.model_dump(mode="json")


def _verified(policy: Policy, verification: Verification | None) -> dict[str, Any] | None:
    """Return the verdicts, and whether the lower end of each interval passes its gate."""
    if verification is None:
        return None
    concepts = [
        {
            "name": v.concept.name,
            "erased": v.erased.as_dict() if v.erased else None,
            "passed": bool(v.erased and v.erased.low >= policy.gates.erased),
        }
        for v in verification.verdicts
    ]
    retained = verification.retained
    # Names that are never seen fail, since nothing shows that they were retained; without names there is nothing to
    # fail.
    retained_passed = retained.low >= policy.gates.retained if retained else not verification.others
    return {
        "judge": verification.judge,
        "pictures": policy.pictures,
        "gates": policy.gates.model_dump(),
        "concepts": concepts,
        "retained": retained.as_dict() if retained else None,
        "retained_passed": retained_passed,
        "passed": retained_passed and all(c["passed"] for c in concepts),
    }
