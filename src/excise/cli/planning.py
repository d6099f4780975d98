"""What a request would make, before it is made: checked and complete, without a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from excise.support.runs import EDIT_NAME, RUN_NAME

if TYPE_CHECKING:
    from excise.concepts.concept import Concept
    from excise.erasing.erase import Naming


@dataclass(frozen=True)
class Plan:
    """A request to erase with everything decided that no model is needed for.

    Attributes:
        model: its name.
        concepts: with their kinds and anchors.
        method: its name.
        settings: of the method, complete.
        seed: of the method.
        preserve: names that the caller gave.
        vocabulary: the vocabulary that is used, or None.
        edits: that are applied below.
    """

    model: str
    concepts: list[Concept]
    method: str
    settings: dict[str, Any]
    seed: int
    preserve: list[str]
    vocabulary: str | None
    edits: list[str]


def planned(
    model: str,
    concepts: list[Concept],
    method: str,
    settings: dict[str, Any],
    naming: Naming,
    *,
    seed: int = 0,
    edits: list[str] | None = None,
) -> Plan:
    """Return the plan of a request to `excise erase`. `excise.erase` explains the arguments.

    Raises:
        ConceptError, SettingError, UnknownNameError: bad input, in one sentence.
    """
    from excise.concepts.vocabulary import chosen_vocabulary
    from excise.erasing.cautions import vocabulary_name
    from excise.erasing.erase import decide
    from excise.families.usual import usual_of

    settings = settings if naming.anchor is None else {**settings, "anchor": naming.anchor}
    usual = usual_of(model)
    decided, config = decide(concepts, method, settings, naming, usual)
    vocabulary = chosen_vocabulary(vocabulary_name(naming.vocabulary, settings), bool(usual.presets))
    complete = config.model_dump(mode="json")
    return Plan(model, decided, method, complete, seed, list(naming.preserve), vocabulary, edits or [])


def show_plan(plan: Plan, out: Path, as_json: bool) -> None:
    """Print a plan; nothing is written.

    Args:
        out: the run folder that would be written.
        as_json: print one JSON document.
    """
    from excise.cli import show
    from excise.concepts.concept import listed
    from excise.families import family_name_of
    from excise.support.choices import written

    family = family_name_of(plan.model)
    files = [str(out / name) for name in (EDIT_NAME, RUN_NAME, "report.html")]
    if as_json:
        concepts = [
            {"name": c.name, "kind": c.kind, "anchor": c.anchor, "synonyms": list(c.synonyms)} for c in plan.concepts
        ]
        content = {**plan.__dict__, "dry_run": True, "family": family, "concepts": concepts, "files": files}
        show.print_json(content)
        return
    rows = [
        ("model", plan.model + (f" ({family})" if family else "")),
        *(("on top of", edit) for edit in plan.edits),
        *(("removes", _described(c)) for c in plan.concepts),
        ("method", f"{plan.method}, seed {plan.seed}"),
        ("settings", ", ".join(f"{k}={written(v)}" for k, v in plan.settings.items())),
        ("preserves", listed(plan.preserve, 8) or "-"),
        ("vocabulary", plan.vocabulary or "-"),
        *(("would write", file + (" (there already)" if Path(file).exists() else "")) for file in files),
    ]
    show.table(rows, ("", "dry run: nothing is written"))


def _described(concept: Concept) -> str:
    """A concept with its kind, what is read in its place, and its synonyms."""
    from excise.concepts.concept import read_as

    synonyms = f", also called {', '.join(concept.synonyms)}" if concept.synonyms else ""
    return f"{concept.name} ({concept.kind}, read as {read_as(concept.anchor)}{synonyms})"
