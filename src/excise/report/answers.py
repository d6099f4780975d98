"""The first three answers of the verdict panel: is it gone, is the rest kept, and how sure is that?

Each is a word, a sentence and the figures behind it, held to a threshold at the unfavourable end of its 95 % interval:
an interval that the threshold lies in gives "Not sure". Nothing is measured here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from excise.concepts.concept import listed
from excise.edits.verified import Check
from excise.evaluation.catalog import METRICS, interval, number, quantity
from excise.evaluation.result import Evaluation
from excise.evaluation.verdict import NEXT_STEP, PROVEN, ConceptVerdict, Status, told
from excise.metrics.rates import rate
from excise.protocols.concept import NO_JUDGE
from excise.report.html import Answer, State
from excise.support.counts import agreeing, counted

GONE, KEPT, SURE, BACK = "Is it gone?", "Is the rest kept?", "How sure is that?", "Does it come back under attack?"
YES, MOSTLY, NOT_SURE, NO, UNMEASURED = "Yes, in these pictures", "Mostly", "Not sure", "No", "Not measured"
UNMEASURABLE, PARTLY = "Not measurable", "In part"
RETAINED_GATE = 0.8
"""The rest counts as kept from this share of what the untouched model gets right; the default of policies too."""
MOST_DISAGREE = 0.1
"""Two judges that may differ, by the upper end, on more than this share of the pictures leave the answers open."""
RETAINING = ("ira", "cra", "acc_r", "sc", "oc", "up")  # metrics of what other prompts show
STATES: dict[Status, State] = {
    "verified": "good", "not proven": "warn", "not removed": "bad", "not verifiable": "open"
}  # fmt: skip
_CLEAN = re.compile(r"([\w ]+): (\d+) of (\d+) clean")
_UNSEEN = re.compile(r"not verifiable: .* none of ([\d,]+) picture")

Estimates = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Evidence:
    """What the answers rest on.

    Attributes:
        concepts: that should be gone. verdicts: on each, beside the untouched model.
        metrics, untouched: by key, of the edited and of the untouched model.
        judge, second: names of the judges; None where there is none.
        source: where the figures come from, if not from this very run.
        why: the reason why nothing was measured, where a judge looked for something else.
    """

    concepts: Sequence[str]
    verdicts: Sequence[ConceptVerdict] = ()
    metrics: Estimates = field(default_factory=dict)
    untouched: Estimates = field(default_factory=dict)
    judge: str | None = None
    second: str | None = None
    source: str = ""
    why: str = ""

    @classmethod
    def of(cls, result: Evaluation) -> Evidence:
        """Return what an evaluation measured."""
        plan = result.protocol_summary
        judge = None if plan["judge"] == NO_JUDGE else str(plan["judge"])
        untouched = result.untouched or {}
        return cls(
            result.concepts, result.verdicts, result.metrics, untouched, judge, plan["second"] if judge else None
        )

    @classmethod
    def from_checks(cls, checks: Sequence[Check], concept: str, model: str) -> Evidence:
        """Return what the last check beside an edit that looked at a concept found; empty without one.

        Checks with other edits applied too, on another model, or on one that the edit was not made for, do not count.
        """
        for check in reversed([c for c in checks if c.tells_of(model)]):
            verdict = read_verdict(concept, check.verdicts[concept]) if concept in check.verdicts else None
            if verdict is not None:
                source = f"excise {check.command} of {check.time[:10]}, protocol {check.protocol}, {check.hash[:12]}"
                return cls([concept], [verdict], check.metrics, {}, check.judge, source=source)
        return cls([concept])


def read_verdict(concept: str, sentence: str) -> ConceptVerdict | None:
    """Return a verdict from its sentence, as a check keeps it; None where it is another sentence.

    >>> read_verdict("cat", "verified: 10 of 10 clean (at least 72 %)").clean["n"]
    10.0
    """
    if match := _CLEAN.match(sentence):
        status, hits, n = match[1], int(match[2]), int(match[3])
        clean = rate([True] * hits + [False] * (n - hits)).as_dict()
        matches = (s for s in STATES if s == status)
        return next((ConceptVerdict(concept=concept, status=s, images=n, clean=clean) for s in matches), None)
    if match := _UNSEEN.match(sentence):
        return ConceptVerdict(
            concept=concept, status="not verifiable", images=int(match[1].replace(",", "")), clean=None
        )
    return None


def answers(evidence: Evidence, attacked: Answer, *, measure: str = "") -> list[Answer]:
    """Return the four answers.

    Args:
        attacked: the fourth.
        measure: the command that would measure what was not.
    """
    first, second = gone(evidence), kept(evidence)
    panel = [first, second, sure(evidence, first, second), attacked]
    return [replace(a, command=measure) if a.state == "open" and a is first and not a.advice else a for a in panel]


def gone(evidence: Evidence) -> Answer:
    """Say whether the concepts are gone."""
    if evidence.verdicts:
        return _by_verdicts(evidence)
    share = next((evidence.metrics[key] for key in ("ua", "acc_e") if key in evidence.metrics), None)
    if share is None:
        if evidence.judge is None:
            return Answer(GONE, "open", UNMEASURED, "Not verified: no judge looked for it.")
        return Answer(GONE, "open", UNMEASURED, evidence.why or "No judged picture asks for it by its name.")
    if "ua" not in evidence.metrics:
        share = {"value": 1 - share["value"], "low": 1 - share["high"], "high": 1 - share["low"], "n": share["n"]}
    left, n = _left(share), round(share["n"])
    text = (
        f"The judge sees {listed(list(evidence.concepts))} in {left or 'none'} of {counted(n, 'picture')} that ask for "
        "it. How often the untouched model shows it is not known here."
    )
    return Answer(GONE, *_at_most(share, PROVEN), text, _figures(share, "gone from", PROVEN))


def _by_verdicts(evidence: Evidence) -> Answer:
    """The answer from the verdicts on one concept or on several."""
    verdicts = evidence.verdicts
    graded = [_graded(v) for v in verdicts]
    if len(verdicts) == 1:
        (verdict,), ((state, word),) = verdicts, graded
        if verdict.clean is None:
            return Answer(GONE, state, word, f"{_unseen(verdict)}, so nothing shows that it has gone.",
                          [("pictures", str(verdict.images))], advice=f"To measure it, {NEXT_STEP}.")  # fmt: skip
        left, n = _left(verdict.clean), round(verdict.clean["n"])
        still = f"still sees {verdict.concept} in {left:,} of the" if left else f"sees {verdict.concept} in none of the"
        text = f"The judge {still} {counted(n, 'picture')} in which the untouched model shows it."
        if word == NOT_SURE:
            text += " So few pictures, or so mixed ones, cannot tell."
        return Answer(GONE, state, word, text, _figures(verdict.clean, "gone from", PROVEN))
    clear = sum(word == YES for _, word in graded)
    state, word = _together(graded)
    text = f"{clear} of {counted(len(verdicts), 'concept')} {agreeing(clear, 'is', 'are')} gone from every picture."
    overall = evidence.metrics.get("ua_relative")
    figures = _figures(overall, "gone from", PROVEN, every=True) if overall else []
    unseen = any(v.clean is None for v in verdicts)
    advice = f"To measure what is not verifiable, {NEXT_STEP}." if unseen else ""
    lines = [(line, STATES[status]) for line, status in told(verdicts)]
    return Answer(GONE, state, word, text, figures, lines, advice)


def _together(graded: Sequence[tuple[State, str]]) -> tuple[State, str]:
    """State and word of several concepts: those of the worst; where some could not be measured, that it is a part."""
    worst = sorted({*graded} - {("good", YES)}, key=lambda pair: (NO, NOT_SURE, MOSTLY, UNMEASURABLE).index(pair[1]))
    if worst and worst[0][0] == "open" and len({*graded}) > 1:
        return "warn", PARTLY
    return worst[0] if worst else ("good", YES)


def _graded(verdict: ConceptVerdict) -> tuple[State, str]:
    """State and word of one concept; green is for a threshold that holds with nothing left over."""
    clean = verdict.clean
    if clean is None:
        return "open", UNMEASURABLE
    if clean["low"] >= PROVEN:
        return ("good", YES) if clean["value"] == 1 else ("warn", MOSTLY)
    return _at_most(clean, PROVEN)


def _at_most(share: Mapping[str, float], bound: float) -> tuple[State, str]:
    """State and word of a share that may miss its threshold but cannot be said to hold it."""
    return ("bad", NO) if share["high"] < bound else ("warn", NOT_SURE)


def _unseen(verdict: ConceptVerdict) -> str:
    return f"The untouched model shows {verdict.concept} in none of {counted(verdict.images, 'picture')}"


def kept(evidence: Evidence) -> Answer:
    """Say whether other prompts still show what they ask for."""
    metrics = evidence.metrics
    near = _near(metrics)
    if share := metrics.get("ira_relative"):
        text = (
            f"Other names are still right in {_count(share)} of the {counted(round(share['n']), 'picture')} in which "
            "the untouched model shows them."
        )
        return _kept(share, RETAINED_GATE, text, near)
    keys = [key for key in RETAINING if key in metrics]
    if not keys:
        drift = metrics.get("drift")
        moved = (
            f" Pixels of other prompts' pictures moved by {number(drift['value'], 'number')} on average (0 is not at "
            f"all, 1 is all the way; {interval(drift, 'number')}; {counted(round(drift['n']), 'picture')})."
            if drift
            else ""
        )
        why = evidence.why or "No judged picture asks for another name."
        if evidence.judge is None:
            why = "No judge looked at other prompts."
        return Answer(KEPT, "open", UNMEASURED, why + moved)
    return _beside_untouched(evidence, keys, near)


def _beside_untouched(evidence: Evidence, keys: Sequence[str], near: list[tuple[str, str]]) -> Answer:
    """The answer by the worst of some shares beside those of the untouched model, whose intervals count too."""
    metrics, untouched = evidence.metrics, evidence.untouched
    unseen = [key for key in keys if key in untouched and untouched[key]["value"] == 0]
    lines: list[tuple[str, State]] = [
        (
            f"{METRICS[key].label}: the untouched model shows none in "
            f"{counted(round(untouched[key]['n']), 'picture')}, so nothing shows whether it is kept.",
            "open",
        )
        for key in unseen
    ]
    measured = [key for key in keys if key not in unseen]
    if not measured:
        text = "Of what other prompts ask for, the untouched model shows none, so nothing shows whether it is kept."
        return Answer(KEPT, "open", UNMEASURABLE, text, lines=lines)
    key = min(measured, key=lambda k: metrics[k]["low"] / (untouched[k]["high"] if k in untouched else 1.0))
    share, before = metrics[key], untouched.get(key)
    pictures = counted(round(share["n"]), "picture")
    text = f"Of other prompts, {_count(share)} of {pictures} show what they ask for ({METRICS[key].label})"
    if before is None:
        text += ". How many the untouched model gets right is not known here."
        figures = [
            *_figures(share, "kept in", RETAINED_GATE)[:-1],
            ("held to", f"{100 * RETAINED_GATE:.0f} % of the untouched model's, which are not known: undecided"),
        ]
        return Answer(KEPT, "warn", NOT_SURE, text, [*figures, *near], lines)
    text += f"; of the untouched model's, {_count(before)} of {round(before['n']):,}."
    answer = replace(_kept(share, RETAINED_GATE, text, near, before), lines=lines)
    return replace(answer, state="warn", word=PARTLY) if lines and answer.state == "good" else answer


def _kept(
    share: Mapping[str, float],
    gate: float,
    text: str,
    near: list[tuple[str, str]],
    before: Mapping[str, float] | None = None,
) -> Answer:
    """The answer for a share that is held to a bound.

    Args:
        before: the untouched model's share, of which the bound is a part: held beside its upper end, missed beside its
            lower one. None where the share itself is of pictures that were right before.
    """
    state: State
    low, high = (gate * before[end] if before else gate for end in ("low", "high"))
    if share["low"] >= high:
        state, word = "good", YES if share["value"] >= (before["value"] if before else 1) else MOSTLY
    elif share["high"] < low:
        state, word = "bad", NO
    else:
        state, word = "warn", NOT_SURE
        text += " So few pictures, or so mixed ones, cannot tell."
    of = f", {100 * gate:.0f} % of the untouched model's upper end" if before else ""
    return Answer(KEPT, state, word, text, [*_figures(share, "kept in", high, of=of, least=low), *near])


def _near(metrics: Estimates) -> list[tuple[str, str]]:
    """What became of the nearest names, where they were asked for."""
    near = metrics.get("ira_near")
    return [("nearest names", f"{_count(near)} of {round(near['n']):,} right, {_range(near)}")] if near else []


def sure(evidence: Evidence, first: Answer, second: Answer) -> Answer:
    """Say how sure the first two answers are: by their intervals, their pictures and their judges."""
    if evidence.judge is None:
        return Answer(SURE, "open", "Pictures only", "No judge looked: only the pictures below can be compared.")
    if (first.state, second.state) == ("open", "open"):
        return Answer(SURE, "open", UNMEASURED, "Neither question was measured.", _judges(evidence))
    most = f"{100 * MOST_DISAGREE:.0f} %"
    held = f"each interval on one side of its threshold; two judges that differ on at most {most}, by the upper end"
    figures = [*_judges(evidence), ("held to", held)]
    unsure = [a.question for a in (first, second) if a.word == NOT_SURE]
    apart = evidence.metrics.get("judges_disagree")
    if unsure:
        text = f"Not sure enough for: {' '.join(unsure)} More pictures make the interval narrower."
        return Answer(SURE, "warn", "Not very", text, figures)
    if unmeasured := [a.question for a in (first, second) if "open" in (a.state, *(state for _, state in a.lines))]:
        text = f"Not measured in full: {' '.join(unmeasured)} What was measured lies on one side of its threshold."
        return Answer(SURE, "warn", PARTLY, text, figures)
    if apart is not None and apart["value"] > MOST_DISAGREE:
        text = "The second judge sees something else in many pictures, so the answers depend on who looks."
        return Answer(SURE, "warn", "The judges disagree", text, figures)
    if apart is not None and apart["high"] > MOST_DISAGREE:
        text = "Both judges looked at too few pictures to tell how often they differ. More pictures would."
        return Answer(SURE, "warn", "Not very", text, figures)
    decided = "The interval of each answer lies on one side of its threshold"
    if apart is None:
        text = f"{decided}, but one judge alone looked, and its own errors are not in the intervals."
        return Answer(SURE, "warn", "One judge alone", text, figures)
    text = (
        f"{decided}, and a second judge sees the same in most pictures. Errors that both make are not in the intervals."
    )
    return Answer(SURE, "good", "Two judges agree", text, figures)


def _judges(evidence: Evidence) -> list[tuple[str, str]]:
    """The judges, and how often they abstain and differ."""
    figures = [("judge", evidence.judge or "none")]
    if evidence.second:
        figures.append(("second judge", evidence.second))
    for key, name in (("judges_disagree", "they differ"), ("abstain", "judge abstains")):
        if share := evidence.metrics.get(key):
            of = counted(round(share["n"]), "picture")
            figures.append((name, f"on {quantity(share['value'], 'rate')} of {of} ({_range(share)})"))
    seen = [v for v in evidence.verdicts if v.clean is not None and not evidence.source]
    if seen:
        hits, n = sum(round(v.clean["n"]) for v in seen if v.clean), sum(v.images for v in seen)
        figures.append(("seen before", f"in {hits:,} of {counted(n, 'picture')} without the edit"))
    if corrected := evidence.metrics.get("ua_corrected"):
        text = f"gone from {quantity(corrected['value'], 'rate')} ({_range(corrected)})"
        figures.append(("its errors corrected", text))
    if people := evidence.metrics.get("agreement"):
        figures.append(("agreement of raters", f"{quantity(people['value'], 'number')} ({interval(people, 'number')})"))
    if evidence.source:
        figures.append(("measured by", evidence.source))
    return figures


def _figures(
    share: Mapping[str, float],
    verb: str,
    bound: float,
    *,
    of: str = "",
    least: float | None = None,
    every: bool = False,
) -> list[tuple[str, str]]:
    """A share with its interval, its pictures and its threshold.

    Args:
        of: what the threshold is a part of.
        least: the threshold that it misses, where that is another.
        every: whether the threshold is that of each concept.
    """
    missed = share["high"] < (bound if least is None else least)
    result = "held" if share["low"] >= bound else "missed" if missed else "undecided"
    held = f"lower end at least {100 * bound:.0f} %{of}"
    return [
        (verb, f"{quantity(share['value'], 'rate')} of {counted(round(share['n']), 'picture')}"),
        ("95 % interval", _range(share)),
        ("held to", held + (" for each concept" if every else f": {result}")),
    ]


def _range(share: Mapping[str, float]) -> str:
    return f"{interval(share, 'rate')} %"


def _count(share: Mapping[str, float]) -> str:
    """How many of the pictures a share is."""
    return f"{round(share['value'] * round(share['n'])):,}"


def _left(share: Mapping[str, float]) -> int:
    """How many of the pictures a share leaves over."""
    return round(share["n"]) - round(share["value"] * round(share["n"]))
