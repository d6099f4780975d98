"""Bring a policy into force: make only the edits that changed, verify every concept, add an entry to the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from excise.concepts.concept import listed
from excise.concepts.vocabulary import guess_kind, naming_vocabulary, naming_vocabulary_for
from excise.edits.bases import base_of
from excise.edits.edit import Edit, stack
from excise.edits.record import Base
from excise.erasing.erase import erase
from excise.errors import EditFileError
from excise.evaluation.cost import drawing_cost
from excise.evaluation.plan import asking_only, concept_plan
from excise.families.base import Family
from excise.families.built_in import is_built_in, names_built_in
from excise.families.usual import usual_for, usual_of
from excise.judges.base import OpenJudge
from excise.methods.base import Context
from excise.metrics.rates import needed_count, wilson
from excise.policy import ledger
from excise.policy.entry import is_current, new_entry
from excise.policy.groups import Group, check_groups, group_digest, grouped
from excise.policy.in_force import EDITS, check_in_force, commit
from excise.policy.policy import Policy, PolicyError
from excise.policy.showing import policy_card
from excise.policy.verify import Verification, verify
from excise.protocols.base import Protocol
from excise.protocols.concept import ATTRIBUTE, OTHERS, RETAINED
from excise.support.counts import agreeing, counted
from excise.support.display import Card, Showing
from excise.support.progress import Report, silent
from excise.support.runs import STATES
from excise.training.scorers import as_scorer


@dataclass(frozen=True, repr=False)
class AppliedPolicy(Showing):
    """The result of applying a policy.

    Attributes:
        changed: whether anything was done at all.
        made: number of edits that were made, of `groups`; the others were known.
        groups: number of edits that the policy consists of.
        entry: of the ledger; the last one where nothing changed.
        verification: with its pictures; None without a judge, or without concepts.
    """

    changed: bool
    made: int
    groups: int
    entry: dict[str, Any]
    verification: Verification | None = None

    def card(self) -> Card:
        """What the result shows of itself, with a picture of each concept before and after."""
        return policy_card(self.entry, self.changed, self.verification)


def apply_policy(
    family: Family,
    policy: Policy,
    digest: str,
    out: Path,
    *,
    reread: Callable[[], str],
    judge: object | None = None,
    cache: Path | None = None,
    say: Report = silent,
    tell: Callable[[str], None] | None = None,
) -> AppliedPolicy:
    """Make `out`/edit.safetensors the edit that a policy asks for, verify it, and add an entry to the ledger of `out`.

    An edit that was made before, for the same request on the same model, is used again, so reverting a policy costs
    nothing.

    Args:
        family: the model.
        digest: of the policy's content, from `policy.read`.
        out: folder of the policy's results.
        reread: returns the digest of the policy file as it is now; called before anything is put in force.
        judge: replaces the judge that the policy names, as `as_scorer` takes one.
        cache: folder of drawn images.
        say: receives progress.
        tell: receives a sentence on what the verification will take, where that is much, before any work.

    Raises:
        LedgerError: the ledger was truncated or edited, or the edit in force is not the ledger's.
        PolicyError: the policy changed meanwhile, and nothing was put in force; or its groups cannot be made.
        SettingError: a method has no such setting.
    """
    entries = ledger.read(out)
    last = entries[-1] if entries else None
    check_in_force(out, last)
    base = base_of(family, policy.model, policy.revision)
    if last and is_current(last, digest, base):
        return AppliedPolicy(False, 0, len(last["groups"]), last)
    policy = _with_enough_pictures(_with_kinds(policy, naming_vocabulary(policy.vocabulary, family)))
    groups = grouped(policy)
    check_groups(groups, usual_for(family))
    given = policy.judge if judge is None else judge
    plan = _plan(family, policy) if groups else None
    # Loaded before the work begins: its folder may be wrong.
    scorer = _scorer(family, given, plan) if plan is not None else None
    if plan is not None and scorer is not None:
        plan = asking_only(plan, scorer)
    if tell is not None and plan is not None and scorer is not None:
        targets = [plan.target_of(name) for name in plan.fixed_targets]
        if sentence := drawing_cost(family, plan, targets):
            tell(f"verifying: {sentence}")
    context = Context(given, out / "training", states=out / STATES, say=say)
    edits, made = _edits(family, policy, base, groups, out, context)
    whole = None if not edits else edits[0] if len(edits) == 1 else stack(edits)
    verification = None
    if whole is not None and plan is not None and scorer is not None:
        concepts = [r.concept() for r in policy.concepts]
        verification = verify(
            family, [whole], concepts, plan, scorer, cache=cache, progress=lambda done, n: say("verifying", done, n)
        )
    if reread() != digest:
        raise PolicyError("the policy changed while it was being applied; nothing was put in force. Apply it again.")
    entry = new_entry(policy, digest, base, list(zip(groups, edits, strict=True)), verification, last)
    return AppliedPolicy(True, made, len(groups), commit(out, whole, entry), verification)


def preview(policy: Policy, last: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what applying a policy would change and draw, by what it says alone; no model is read.

    Args:
        last: the last entry of the ledger, if there is one.

    Raises:
        PolicyError: no number of pictures, or not the one that it says, can pass a gate; or its groups cannot be made.
    """
    naming = naming_vocabulary_for(policy.vocabulary, names_built_in(policy.model))
    policy = _with_enough_pictures(_with_kinds(policy, naming))
    groups = grouped(policy)
    check_groups(groups, usual_of(policy.model))
    before = {c["name"] for c in last["in_force"]} if last else set()
    names = [request.name for request in policy.concepts]
    return {
        "model": policy.model,
        "to remove": [name for name in names if name not in before],
        "to give back": sorted(before - set(names)),
        "in force already": [name for name in names if name in before],
        "methods": [f"{g.method.name}: {listed([c.name for c in g.concepts])}" for g in groups],
        "pictures of each concept": policy.pictures,
        "gates": [f"erased>={policy.gates.erased:g}", f"retained>={policy.gates.retained:g}"],
    }


def _with_kinds(policy: Policy, vocabulary: str | None) -> Policy:
    """Return the policy with the kind of every concept; a missing one is looked up in the vocabulary."""
    kinds = [guess_kind(r.concept(), r.kind, vocabulary).kind for r in policy.concepts]
    requests = [r.model_copy(update={"kind": kind}) for r, kind in zip(policy.concepts, kinds, strict=True)]
    return policy.model_copy(update={"concepts": tuple(requests)})


def _edits(
    family: Family, policy: Policy, base: Base, groups: Sequence[Group], out: Path, context: Context
) -> tuple[list[Edit], int]:
    """Return the edit of every group, and how many of them had to be made."""
    edits, made = [], 0
    for i, group in enumerate(groups):
        context.say("erasing", i, len(groups))
        path = out / EDITS / f"{group_digest(base, policy, group)[:32]}.safetensors"
        edit = _load_if_intact(path)
        if edit is None:
            _erase(family, policy, group, context).save(path)
            made += 1
            edit = Edit.load(path)
        edits.append(edit)
    context.say("erasing", len(groups), len(groups))
    return edits, made


def _load_if_intact(path: Path) -> Edit | None:
    try:
        return Edit.load(path) if path.exists() else None
    except EditFileError:
        return None


def _erase(family: Family, policy: Policy, group: Group, context: Context) -> Edit:
    """Make the edit of one group."""
    return erase(
        family,
        list(group.concepts),
        group.method.name,
        preserve=policy.preserve,
        vocabulary=policy.vocabulary,
        kind=group.concepts[0].kind,
        seed=policy.seed,
        model_name=policy.model,
        revision=policy.revision,
        context=context,
        **group.method.settings,
    )


def _with_enough_pictures(policy: Policy) -> Policy:
    """Return the policy with as many pictures of each concept as its gate needs, unless it says how many.

    Raises:
        PolicyError: the pictures that it says cannot pass the gate, were they all clean.
    """
    gate, needed = policy.gates.erased, needed_count(1.0, policy.gates.erased)
    if needed is None:
        raise PolicyError(
            f"no number of pictures proves a share of {100 * gate:.0f} %; lower the gate `erased` of the policy."
        )
    if "pictures" in policy.model_fields_set and policy.pictures < needed:
        proven = 100 * wilson(1.0, policy.pictures)[0]
        prove = agreeing(policy.pictures, "proves", "prove")
        raise PolicyError(
            f"{counted(policy.pictures, 'picture')} of a concept, all clean, {prove} {proven:.0f} % or more; the gate "
            f"`erased` is {100 * gate:.0f} %. Set `pictures: {needed}` or more, or lower the gate."
        )
    return policy.model_copy(update={"pictures": max(policy.pictures, needed)})


def _plan(family: Family, policy: Policy) -> Protocol:
    """Return the protocol by which the policy is verified.

    Raises:
        PolicyError: the names to retain are too few for the gate, were they all right.
    """
    gate, needed = policy.gates.retained, needed_count(1.0, policy.gates.retained)
    plan = concept_plan(
        family,
        [r.concept() for r in policy.concepts],
        preserve=policy.preserve,
        pictures=policy.pictures,
        others=max(OTHERS, 2 * (needed or 0)),
        vocabulary=policy.vocabulary,
    )
    count = sum(i.group in RETAINED for i in plan.items)
    if count and wilson(1.0, count)[0] < gate:
        advice = f"It takes {needed}: add names to `preserve`, or lower the gate." if needed else "Lower the gate."
        proven = 100 * wilson(1.0, count)[0]
        raise PolicyError(
            f"{counted(count, 'picture')} of names to retain, all right, {agreeing(count, 'proves', 'prove')} "
            f"{proven:.0f} % or more, and the gate "
            f"`retained` is {100 * gate:.0f} %. {advice}"
        )
    return plan


def _scorer(family: Family, judge: object | None, plan: Protocol) -> OpenJudge | None:
    """Return the judge of the verification; None if there is none."""
    return as_scorer(judge, is_built_in(family), list(plan.labels[ATTRIBUTE]), letter="a")
