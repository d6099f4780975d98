"""What an evaluation asks, and who judges: the protocol of a request, with its judges loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from excise.concepts.concept import Concept, as_concepts
from excise.concepts.vocabulary import guess_kind, naming_vocabulary
from excise.edits.edit import Edit
from excise.errors import ConceptError, JudgeError
from excise.families.base import Family
from excise.families.built_in import is_built_in, names_canvas
from excise.judges import JUDGES
from excise.judges.base import Judge, OpenJudge
from excise.judges.clip import ClipScore
from excise.judges.named import is_named, judge_named
from excise.judges.scored import Knowing, check_knows
from excise.protocols import FOR_A_REQUEST, PROTOCOLS, eraseeval
from excise.protocols.base import Protocol
from excise.protocols.concept import ATTRIBUTE, NAME, NO_JUDGE, OTHERS, Questions
from excise.training.pictures import CANVAS_SAMPLING, SAMPLING
from excise.training.scorers import as_judge, as_scorer

ON_CANVAS = "canvas-mini"
OPEN = "open"  # until a judge is there, whose name takes this place


def planned(
    protocol: str | Protocol | None,
    family: Family,
    concepts: Sequence[str | Concept],
    edits: Sequence[Edit],
    judge: object | None,
    weights: Path | None,
) -> tuple[Protocol, list[Judge | OpenJudge]]:
    """Return the protocol of a request and its judges, loaded before anything is drawn.

    Raises:
        UnknownNameError: no protocol of this name.
        ConceptError: the protocol `concept` has no concept to ask for.
        MissingFilesError: the judge's weights are missing.
    """
    if protocol is None:
        names = [c if isinstance(c, str) else c.name for c in concepts]
        protocol = default_protocol(names_canvas(family.pipe.config.get("_name_or_path")), names, edits)
    if isinstance(protocol, str) and protocol in FOR_A_REQUEST:
        judged = is_built_in(family) or judge is not None or weights is not None
        protocol = concept_plan(family, concepts, edits, judged=judged, protocol=protocol)
    plan: Protocol = PROTOCOLS.load(protocol)() if isinstance(protocol, str) else protocol
    if is_named(judge):
        judge = judge_named(judge, weights)
    if plan.score == NAME:
        judges = concept_judges(is_built_in(family), plan, judge if judge is not None else weights)
    else:
        judges = fixed_judges(plan, judge, weights)
    if plan.name == eraseeval.NAME and plan.features == "clip-image":
        plan, judges = with_embeddings(plan, judges, embedding_weights(judge, weights))
    if not judges:
        return plan, []
    if plan.score == NAME:
        plan = asking_only(plan, judges[0])
    # A judge's own name may be more specific than the protocol's: it tells which local weights it loaded.
    second = judges[1].name if len(judges) > 1 and plan.score != NAME else None
    return replace(plan, judge=judges[0].name, second=second), judges


def embedding_weights(judge: object | None, weights: Path | None) -> Path | None:
    """The folder of the CLIP model by whose embeddings sets of images are compared: the judge's, where it is one."""
    folder = judge if isinstance(judge, (str, Path)) and not is_named(judge) else None
    return weights or (Path(folder) if folder is not None else None)


def with_embeddings(
    plan: Protocol, judges: Sequence[Judge | OpenJudge], weights: Path | None
) -> tuple[Protocol, list[Judge | OpenJudge]]:
    """Add to a protocol that is nothing without embeddings the CLIP model that gives them, before anything is drawn.

    Raises:
        JudgeError: there is no folder of one.
        ModelError: the folder holds none.
    """
    if weights is None:
        raise JudgeError(
            "eraseeval compares images by a CLIP model; give its folder: --judge FOLDER, or --judge-weights FOLDER "
            "beside the name of a judge whose weights lie in a package, such as nudenet."
        )
    scores = [j for j in judges if isinstance(j, ClipScore)] or [ClipScore(weights)]
    named = replace(plan, notes={**plan.notes, "compared by": scores[0].clip.kind})
    return named, [*(j for j in judges if not isinstance(j, ClipScore)), *scores]


def default_protocol(of_canvas: bool, names: Sequence[str], edits: Sequence[Edit]) -> str:
    """The protocol of a request that names none.

    Args:
        of_canvas: whether the model draws the built-in world.
    """
    asked = names or [c.name for e in edits for c in e.record.concepts]
    if of_canvas:
        canvas: Protocol = PROTOCOLS.load(ON_CANVAS)()
        if all(map(canvas.knows, asked)):
            return ON_CANVAS
    return NAME if asked else ON_CANVAS


def concept_plan(
    family: Family,
    concepts: Sequence[str | Concept],
    edits: Sequence[Edit] = (),
    *,
    preserve: Sequence[str] = (),
    own: Sequence[str] = (),
    pictures: int | None = None,
    others: int = OTHERS,
    vocabulary: str | None = "auto",
    judged: bool = True,
    protocol: str = NAME,
) -> Protocol:
    """Return a protocol for a request: kinds, synonyms and names to retain come from the edits' records.

    Args:
        concepts: names or concepts; without any, those of the edits.
        preserve: further names to retain. own: prompts of the user's that ask for a concept.
        pictures: of each concept, by default the protocol's own number. others: fewest pictures of other names.
        vocabulary: gives prompts and further names, as for `excise.erase`.
        judged: whether there is a judge.
        protocol: one of `excise.protocols.FOR_A_REQUEST`.

    Raises:
        ConceptError: there is no concept, or the protocol lacks its files or what they say of the concept.
    """
    recorded = {t.name: t.concept() for e in edits for t in e.record.concepts}
    wanted = as_concepts(concepts) if concepts else list(recorded.values())
    if not wanted:
        raise ConceptError(f"the protocol '{protocol}' asks for concepts; name one with --concept, or give an edit.")
    names_from = naming_vocabulary(vocabulary, family)
    of_edits = [recorded.get(c.name, guess_kind(c, None, names_from)) if c == Concept(c.name) else c for c in wanted]
    retained = dict.fromkeys([*preserve, *(name for e in edits for name in e.record.preserve)])
    questions = Questions(of_edits, tuple(retained), vocabulary, own, pictures, others)
    sampling = CANVAS_SAMPLING if is_built_in(family) else SAMPLING
    make = FOR_A_REQUEST[protocol].load()
    plan: Protocol = make(questions, family, sampling.steps, sampling.guidance, OPEN if judged else NO_JUDGE)
    return plan


def concept_judges(built_in: bool, plan: Protocol, judge: object | None) -> list[Judge | OpenJudge]:
    """The judge of the protocol `concept`; with a CLIP folder also its score of image and prompt.

    Args:
        built_in: whether the pictures are those of a built-in model, which has a judge of its own.
    """
    names = list(plan.labels[ATTRIBUTE])
    scorer = as_scorer(judge, built_in, names, letter="a")
    if scorer is None:
        return []
    if isinstance(judge, (str, Path)):
        return [scorer, ClipScore(Path(judge))]
    return [scorer]


def asking_only(plan: Protocol, judge: object) -> Protocol:
    """The protocol `concept` for a judge with a vocabulary: other names are drawn, and judged where it knows them.

    Raises:
        JudgeError: the judge does not know a concept.
    """
    check_knows(judge, plan.fixed_targets)
    if not isinstance(judge, Knowing):
        return plan
    items = [i if judge.knows(i.asked.get(ATTRIBUTE, "")) else replace(i, asked={}) for i in plan.items]
    return replace(plan, items=tuple(items))


def fixed_judges(plan: Protocol, judge: object | None, weights: Path | None) -> list[Judge | OpenJudge]:
    """The judges of a protocol with labels of its own."""
    if judge is not None and {*plan.labels} == {ATTRIBUTE}:
        scorer = as_scorer(judge, False, list(plan.labels[ATTRIBUTE]))
        check_knows(scorer, plan.fixed_targets)
        return [scorer] if scorer else []
    if judge is not None:
        return [as_judge(judge, plan.labels)]
    return [JUDGES.load(name)(weights) for name in (plan.judge, plan.second) if name]
