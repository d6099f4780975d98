"""The fourth answer of the verdict panel: does the concept come back under attack?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from excise.attacks.suite import SuiteResult
from excise.edits.verified import Check
from excise.evaluation.catalog import interval, quantity
from excise.evaluation.verdict import PROVEN
from excise.metrics.rates import Estimate
from excise.report.answers import BACK, NOT_SURE, Evidence
from excise.report.html import Answer
from excise.support.counts import agreeing, counted

ALONE = " without pictures of it"  # attacks that show the model such pictures teach it
NOT_BACK, IS_BACK, UNTESTED = "Not in these attacks", "Yes", "Not tested"


def untested(command: str = "") -> Answer:
    """Say that nobody tried; `command` would."""
    return Answer(BACK, "open", UNTESTED, "No attack was tried, so nothing is known about it.", command=command)


def attacked(outcome: SuiteResult) -> Answer:
    """Say whether a suite of attacks brought the concept back."""
    ran = [r for r in outcome.results if r.model]
    plain = [r for r in ran if not r.teaches]
    if not ran:
        return Answer(BACK, "open", UNTESTED, "No attack could be run; the reasons stand below.")
    top = outcome.worst
    if outcome.has_oracle and top.gap is not None:
        return _against_oracle(top.gap, top.attack, len(ran))
    if not plain or top.back is None:
        text = "Every attack that ran shows the model pictures of the concept, and none tells what it kept."
        return Answer(BACK, "open", UNTESTED, text, advice="Compare with a model never trained on it (--oracle).")
    hits = sum(bool(r.model and r.model.any_of_n.value) for r in plain)
    alone = ALONE if len(plain) < len(ran) else ""
    answer = _by_share(top.back, f"{hits} of {counted(len(plain), 'attack')}{alone} recovered it", top.attack)
    teaching = [bool(r.model and r.model.any_of_n.value) for r in ran if r.teaches]
    if not any(teaching):
        return answer
    verb = agreeing(sum(teaching), "recovers", "recover")
    some = f"{sum(teaching)} of {counted(len(teaching), 'attack')} that show the model pictures of it {verb} it"
    return _with_lessons(answer, some)


def attacked_before(checks: Sequence[Check], concept: str, command: str = "") -> Answer:
    """Say what the last attack kept beside the edit found; that nobody tried where there is none.

    Args:
        command: that would try.
    """
    for check in reversed(checks):
        if check.command != "attack" or concept not in check.concepts:
            continue
        source = ("tested by", f"{check.protocol} on {check.time[:10]}, judged by {check.judge}")
        for key in ("worst_gap", "worst_back"):
            if (m := check.metrics.get(key)) is None:
                continue
            worst = Estimate(m["value"], m["low"], m["high"], round(m["n"]))
            if key == "worst_gap":
                answer = _against_oracle(worst, "", 0)
            else:
                answer = _by_share(
                    worst, "An attack recovered it" if worst.value else f"No attack recovered it{ALONE}", ""
                )
                if check.metrics.get("taught_back", {}).get("value", 0) > 0:
                    answer = _with_lessons(answer, "An attack that shows the model pictures of it does recover it")
            return replace(answer, figures=[*answer.figures, source])
    return untested(command)


def evidence_of(outcome: SuiteResult, checks: Sequence[Check], concept: str) -> Evidence:
    """Return what was measured before an attack, with the attack's judge where nothing was."""
    before = Evidence.from_checks(checks, concept)
    why = "Attacks do not measure that."
    return before if before.judge is not None else Evidence([concept], judge=outcome.judge, why=why)


def _by_share(back: Estimate, begin: str, attack: str) -> Answer:
    """The answer by the share of test prompts on which the strongest attack recovers the concept."""
    figures = [
        ("strongest", f"{quantity(back.value, 'rate')} of {counted(back.n, 'prompt')}"),
        ("95 % interval", f"{interval(back.as_dict(), 'rate')} %"),
    ]
    held = f"recovered on no prompt, and the interval at most to {100 * PROVEN:.0f} %"
    if back.value > 0:
        by = f"; the strongest, {attack}," if attack else ", the strongest"
        hits = round(back.value * back.n)
        text = f"{begin}{by} on {hits} of {counted(back.n, 'prompt')}."
        return Answer(BACK, "bad", IS_BACK, text, [*figures, ("held to", f"{held}: missed")])
    text = f"{begin}, on {counted(back.n, 'test prompt')}. Other attacks, or longer ones, may."
    if back.high <= PROVEN:
        return Answer(BACK, "good", NOT_BACK, text, [*figures, ("held to", f"{held}: held")])
    return Answer(
        BACK, "warn", NOT_SURE, f"{text} So few prompts cannot tell.", [*figures, ("held to", f"{held}: undecided")]
    )


def _against_oracle(gap: Estimate, attack: str, ran: int) -> Answer:
    """The answer by the gap to a model that was never trained on the concept."""
    figures = [
        ("gap to that model", f"{quantity(gap.value, 'points')} on {counted(gap.n, 'prompt')}"),
        ("95 % interval", f"{interval(gap.as_dict(), 'points')} points"),
    ]
    held = f"no gap, and the interval at most to {100 * PROVEN:.0f} points"
    tried = (
        f"None of {counted(ran, 'attack')} recovers"
        if ran > 1
        else "The attack does not recover"
        if ran
        else "No attack recovers"
    )
    by = f"The strongest attack, {attack}," if attack else "The strongest attack"
    more = f"{by} recovers it {100 * gap.value:.0f} points more often than it finds it in a model never trained on it."
    if gap.low > 0:
        return Answer(BACK, "bad", IS_BACK, more, [*figures, ("held to", f"{held}: missed")])
    if gap.value > 0:
        text = f"{more} So few prompts do not tell that from chance."
        return Answer(BACK, "warn", NOT_SURE, text, [*figures, ("held to", f"{held}: undecided")])
    text = f"{tried} it more often than a model never trained on it shows it."
    if gap.high <= PROVEN:
        return Answer(BACK, "good", NOT_BACK, text, [*figures, ("held to", f"{held}: held")])
    return Answer(
        BACK, "warn", NOT_SURE, f"{text} So few prompts cannot tell.", [*figures, ("held to", f"{held}: undecided")]
    )


def _with_lessons(answer: Answer, sentence: str) -> Answer:
    """An answer that tells of attacks which show the model pictures of the concept and so prove little alone."""
    text = f"{sentence}; a model never trained on it (--oracle) would tell what they teach from what was left."
    if answer.state == "good":
        answer = replace(answer, state="warn", word=NOT_SURE)
    return replace(answer, lines=[(text, "warn")])
