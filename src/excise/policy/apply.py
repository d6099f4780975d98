"""A policy brought into force: only what changed is made again, every concept is verified, the ledger tells it all."""

from __future__ import annotations

import datetime
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from excise.concepts.concept import Concept, same
from excise.concepts.vocabulary import guess_kind, naming_vocabulary, vocabulary_of
from excise.edits.bases import base_of
from excise.edits.edit import Edit, stack
from excise.edits.record import Base
from excise.erasing.erase import erase
from excise.errors import EditFileError, ExciseWarning
from excise.families.base import Family
from excise.families.built_in import is_built_in
from excise.methods import METHODS, load_method
from excise.methods.base import Context
from excise.policy import ledger
from excise.policy.ledger import LedgerError
from excise.policy.policy import MethodChoice, Policy, PolicyError, Request
from excise.policy.verify import Verification, verify
from excise.support import digests
from excise.support.files import write_atomically
from excise.support.progress import Report
from excise.support.runs import EDIT_NAME, STATES
from excise.support.settings import configure
from excise.training.pictures import CANVAS_SAMPLING, SAMPLING
from excise.training.scorers import Scorer, as_scorer

EDITS = "edits"


@dataclass(frozen=True)
class Group:
    """Concepts that one edit removes: all of a kind for a closed form, each alone for a trained method."""

    method: MethodChoice
    concepts: tuple[Concept, ...]


@dataclass(frozen=True)
class AppliedPolicy:
    """The result of applying a policy.

    Attributes:
        changed: whether anything was done at all.
        made: how many edits were made anew, of `groups`.
        entry: of the ledger; the last one where nothing changed.
        verification: with its pictures; None where there is nothing to look with, or at.
    """

    changed: bool
    made: int
    groups: int
    entry: dict[str, Any]
    verification: Verification | None = None


def apply_policy(
    family: Family,
    policy: Policy,
    digest: str,
    out: Path,
    *,
    reread: Callable[[], str],
    cache: Path | None = None,
    say: Report = lambda *_: None,
) -> AppliedPolicy:
    """Make `out`/edit.safetensors what the policy asks for, verify it, and add an entry to the ledger of `out`.

    An edit that was made before, for the same request on the same model, is used again, so going back costs nothing.

    Args:
        digest: of what the policy asks for, as `policy.read` gives it. reread: gives that of the file as it is now;
            asked before anything is put in place.
        cache: folder of drawn images.

    Raises:
        LedgerError: the ledger was truncated or edited, or the edit is not the one it tells of.
        PolicyError: the policy changed meanwhile; nothing was put in place.
    """
    entries = ledger.read(out)
    last = entries[-1] if entries else None
    _check_in_force(out, last)
    base = base_of(family, policy.model, policy.revision)
    asked = (digest, base.weights, base.text_encoder, version("excise"))
    if last and asked == (last["policy"], *_prints(last), last["excise"]):
        return AppliedPolicy(False, 0, len(last["groups"]), last)
    policy = _told(policy, naming_vocabulary(policy.vocabulary, family))
    groups = grouped(policy)
    for group in groups:  # a wrong setting of the last one must not be found after an hour
        config = load_method(group.method.name).Config
        configure(config, group.method.name, group.method.settings, group.concepts[0].kind)
    _check_anchors(groups)
    if policy.concepts:
        _scorer(family, policy)
    edits, made = [], 0
    for i, group in enumerate(groups):
        say("erasing", i, len(groups))
        path = out / EDITS / f"{_request_digest(base, policy, group)[:32]}.safetensors"
        edit = _known(path)
        if edit is None:
            _make(family, policy, group, out, say).save(path)
            made += 1
            edit = Edit.load(path)
        edits.append(edit)
    say("erasing", len(groups), len(groups))
    whole = None if not edits else edits[0] if len(edits) == 1 else stack(edits)
    verification = _verified(family, policy, whole, cache, say) if whole else None
    if reread() != digest:
        raise PolicyError("the policy changed while it was being applied; nothing was put in place. Apply it again.")
    entry = _entry(policy, digest, base, list(zip(groups, edits, strict=True)), verification, last)
    return AppliedPolicy(True, made, len(groups), _commit(out, whole, entry), verification)


def _prints(entry: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The fingerprints of the model that an entry of the ledger tells of."""
    return entry["model"]["weights"], entry["model"].get("text_encoder")


def _check_anchors(groups: Sequence[Group]) -> None:
    """No concept may be read as one that another edit of the policy removes.

    Raises:
        PolicyError: one is.
    """
    gone = {same(w) for group in groups for c in group.concepts for w in c.words}
    for group in groups:
        for concept in group.concepts:
            anchor = concept.anchor if concept.anchor is not None else group.method.settings.get("anchor")
            if anchor and same(str(anchor)) in gone:
                raise PolicyError(
                    f"the policy reads '{concept.name}' as '{anchor}', which it removes as well; name another anchor."
                )


def _known(path: Path) -> Edit | None:
    """An edit that was made before, if it can be read."""
    try:
        return Edit.load(path) if path.exists() else None
    except EditFileError:
        return None


def grouped(policy: Policy) -> list[Group]:
    """The concepts by what is to be made of them together, in the order of the policy.

    Raises:
        PolicyError: no method for a kind.
    """
    together: dict[str, Group] = {}
    for request in policy.concepts:
        concept = request.concept()
        choice = policy.method_of(concept.kind)
        trained = METHODS.record(choice.name).shape != "closed-form"
        key = f"{concept.kind}\x00{concept.name}" if trained else concept.kind
        group = together.get(key, Group(choice, ()))
        together[key] = replace(group, concepts=(*group.concepts, concept))
    return list(together.values())


def _told(policy: Policy, vocabulary: str | None) -> Policy:
    """The policy with every concept's kind; where it gives none, the kind that the name has in a vocabulary."""
    kinds = [guess_kind(r.concept(), r.kind, vocabulary).kind for r in policy.concepts]
    told = [r.model_copy(update={"kind": kind}) for r, kind in zip(policy.concepts, kinds, strict=True)]
    return policy.model_copy(update={"concepts": tuple(told)})


def _make(family: Family, policy: Policy, group: Group, out: Path, say: Report) -> Edit:
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
        context=Context(policy.judge, out / "training", states=out / STATES, say=say),
        **group.method.settings,
    )


def _request_digest(base: Base, policy: Policy, group: Group) -> str:
    """Everything that an edit depends on."""
    about = {
        "excise": version("excise"),
        "weights": base.weights,
        "text_encoder": base.text_encoder,
        "method": group.method.model_dump(mode="json"),
        "concepts": [[c.name, c.kind, c.anchor, list(c.synonyms)] for c in group.concepts],
        "preserve": list(policy.preserve),
        "vocabulary": policy.vocabulary,
        "seed": policy.seed,
        "judge": str(policy.judge),
    }
    return digests.digest(about)


def _verified(family: Family, policy: Policy, edit: Edit, cache: Path | None, say: Report) -> Verification | None:
    concepts = [r.concept() for r in policy.concepts]
    scorer = _scorer(family, policy)
    if scorer is None:
        return None
    return verify(
        family,
        [edit],
        concepts,
        vocabulary_of(policy.vocabulary, family, concepts),
        scorer,
        CANVAS_SAMPLING if is_built_in(family) else SAMPLING,
        kept=policy.preserve,
        pictures=policy.pictures,
        cache=cache,
        progress=lambda done, total: say("verifying", done, total),
    )


def _scorer(family: Family, policy: Policy) -> Scorer | None:
    """Who looks at what the policy did; None where there is nobody."""
    names = [*(r.name for r in policy.concepts), *policy.preserve]
    return as_scorer(policy.judge, is_built_in(family), names, letter="a")


def _entry(
    policy: Policy,
    digest: str,
    base: Base,
    groups: Sequence[tuple[Group, Edit]],
    verification: Verification | None,
    last: dict[str, Any] | None,
) -> dict[str, Any]:
    """What the ledger is told: what was removed from which model, by what, on whose request, how it was verified."""
    now = {r.name: _request(r.concept(), r) for r in policy.concepts}
    before = {c["name"]: c for c in last["in_force"]} if last else {}
    return {
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "excise": version("excise"),
        "policy": digest,
        "model": {"name": policy.model, "weights": base.weights, "text_encoder": base.text_encoder},
        "groups": [
            {"method": e.record.method, "settings": e.record.settings, "concepts": [c.name for c in g.concepts]}
            for g, e in groups
        ],
        "in_force": list(now.values()),
        "added": [name for name in now if name not in before],
        "removed": [name for name in before if name not in now],
        "changed": [name for name in now if name in before and now[name] != before[name]],
        "verified": _verdict(policy, verification),
    }


def _commit(out: Path, edit: Edit | None, entry: dict[str, Any]) -> dict[str, Any]:
    """A copy of the edit by its content, the ledger, and then the edit itself: a stop at any point can be mended."""
    if edit is None:
        told = ledger.append(out, {**entry, "edit": None})
        (out / EDIT_NAME).unlink(missing_ok=True)
        return told
    written = edit.save(out / EDITS / "new.safetensors")
    digest = _sha256(written)
    os.replace(written, _copy(out, digest))
    told = ledger.append(out, {**entry, "edit": digest})
    _put_in_place(out, digest)
    return told


def _request(concept: Concept, request: Request) -> dict[str, Any]:
    return {
        "name": concept.name,
        "kind": concept.kind,
        "synonyms": list(concept.synonyms),
        "anchor": concept.anchor,
        "requested_by": request.requested_by,
        "date": request.date.isoformat() if request.date else None,
        "reference": request.reference,
    }


def _verdict(policy: Policy, verification: Verification | None) -> dict[str, Any] | None:
    """What was seen, and whether it passes the gates with the unfavourable end of each interval."""
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
    kept = verification.retained
    retained = kept.low >= policy.gates.retained if kept else not verification.kept
    return {
        "judge": verification.judge,
        "pictures": policy.pictures,
        "gates": policy.gates.model_dump(),
        "concepts": concepts,
        "retained": kept.as_dict() if kept else None,
        # Names that are never seen cannot be told to be kept; with none to look for there is nothing to tell.
        "retained_passed": retained,
        "passed": retained and all(c["passed"] for c in concepts),
    }


def _check_in_force(out: Path, last: dict[str, Any] | None) -> None:
    """Make sure that the edit that lies there is the one the ledger tells of; if not, put that one back from its copy.

    The other one is kept beside it.

    Raises:
        LedgerError: there is no copy either.
    """
    path, wanted = out / EDIT_NAME, last["edit"] if last else None
    found = _sha256(path) if path.exists() else None
    if found == wanted:
        return
    if last is None or (wanted and (not _copy(out, wanted).exists() or _sha256(_copy(out, wanted)) != wanted)):
        what = "is missing" if found is None else "is not one that the ledger tells of"
        raise LedgerError(f"{path} {what}. Restore it from a copy, or choose another --out.")
    aside = ""
    if found:
        kept = path.with_name(f"found-{found[:16]}.safetensors")
        os.replace(path, kept)
        aside = f" and the other one kept as {kept.name}"
    if wanted:
        _put_in_place(out, wanted)
    warnings.warn(
        f"{path} was not the edit that the ledger tells of; it was put right{aside}.", ExciseWarning, stacklevel=3
    )


def _put_in_place(out: Path, digest: str) -> None:
    content = _copy(out, digest).read_bytes()
    write_atomically(out / EDIT_NAME, lambda p: _write(p, content))


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _copy(out: Path, digest: str) -> Path:
    """Where an edit that was in force is kept, by its content."""
    return out / EDITS / f"in-force-{digest[:32]}.safetensors"


def _sha256(path: Path) -> str:
    return digests.file_digest(path)
