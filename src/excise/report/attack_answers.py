"""The fourth answer of the verdict panel: does the concept come back under attack?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from excise.concepts.concept import listed
from excise.edits.verified import Check
from excise.evaluation.catalog import interval, quantity
from excise.evaluation.verdict import MOST, PROVEN
from excise.metrics.rates import Estimate
from excise.report.answers import BACK, NOT_SURE, PARTLY, Evidence
from excise.report.html import Answer, State
from excise.support.counts import agreeing, counted

if TYPE_CHECKING:
    from excise.attacks.suite import SuiteResult

ALONE = " without pictures of it"  # attacks that show the model such pictures teach it
NOT_BACK, IS_BACK, UNTESTED = "Not in these attacks", "Yes", "Not tested"
WORST_FIRST: tuple[State, ...] = ("bad", "warn", "good", "open")


def untested(command: str = "") -> Answer:
    """Say that nobody tried; `command` would."""
    return Answer(BACK, "open", UNTESTED, "No attack is on record, so nothing is known about it.", command=command)


def attacked(outcome: SuiteResult, checks: Sequence[Check] = (), concept: str = "", model: str = "") -> Answer:
    """Say whether a suite of attacks brought the concept back, or an earlier attack on record did.

    Args:
        checks: of the edit, as in `attacked_before`.
    """
    now = _of_suite(outcome)
    earlier = _recorded(_attacks(checks, concept, model), "")
    if earlier.state != "bad" or now.state == "bad":
        return now
    lines = [*now.lines, (f"An earlier attack on record: {earlier.text}", earlier.state)]
    return replace(now, state=earlier.state, word=earlier.word, lines=lines)


def _of_suite(outcome: SuiteResult) -> Answer:
    """The answer by a suite of attacks alone."""
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


def attacked_before(
    checks: Sequence[Check],
    concepts: Sequence[str],
    model: str,
    commands: Mapping[str, str],
    beside: Sequence[str] = (),
) -> Answer:
    """Say what the worst of the attacks kept beside an edit found, over all concepts.

    Args:
        checks: of the edit. Those with other edits applied than `beside`, or on another model, do not count.
        model: as it was named to the command.
        commands: by concept, the command that would attack it; may be empty.
        beside: digests of the edits that are applied at the same time.
    """
    each = {c: _recorded(_attacks(checks, c, model, beside), commands.get(c, "")) for c in concepts}
    if len(each) == 1:
        return each[concepts[0]]
    ran = {c: a for c, a in each.items() if a.state != "open"}
    missing = [c for c in each if c not in ran]
    lines: list[tuple[str, State]] = [
        (f"{c}: {a.text}", a.state) for c, a in each.items() if len(each) <= MOST or a.state != "good"
    ]
    if hidden := len(each) - len(lines):
        lines.append((f"{hidden} of {counted(len(each), 'concept')}: {NOT_BACK.lower()}", "good"))
    command = next((each[c].command for c in missing if each[c].command), "")
    if not ran:
        return Answer(BACK, "open", UNTESTED, f"No attack on {listed(missing)} is on record that tells anything.",
                      lines=lines, command=command)  # fmt: skip
    name, worst = min(ran.items(), key=lambda item: WORST_FIRST.index(item[1].state))
    text = f"The worst of {counted(len(ran), 'attacked concept')} is {name}: {worst.text}"
    if missing:
        text += f" No attack on {listed(missing)} is on record that tells anything."
        if worst.state == "good":
            worst = replace(worst, state="warn", word=PARTLY)
    lessons = [(f"{name}: {line}", state) for line, state in worst.lines]
    return replace(worst, text=text, lines=[*lines, *lessons], command=command)


def _attacks(checks: Sequence[Check], concept: str, model: str, beside: Sequence[str] = ()) -> list[Check]:
    """The attacks on a concept among checks, on a model and with no other edits applied than some."""
    return [c for c in checks if c.command == "attack" and concept in c.concepts and c.tells_of(model, beside)]


def _recorded(attacks: Sequence[Check], command: str) -> Answer:
    """What the worst of the attacks on record found, of equals the last; that there is none where there is none."""
    if not attacks:
        text = "No attack on this edit, on this model and as it is applied here, is on record."
        return replace(untested(command), text=text)
    told = [answer for check in reversed(attacks) if (answer := _of_check(check))]
    if not told:
        taught = any("taught_back" in check.metrics for check in attacks)
        why = (
            "Every attack on record shows the model pictures of the concept, and none tells what it kept."
            if taught
            else "None of the attacks on record could be run."
        )
        return replace(untested(command), text=why)
    worst = min(told, key=lambda answer: WORST_FIRST.index(answer.state))
    if len(told) == 1:
        return worst
    runs = ("attacks on record", f"{counted(len(told), 'run')}, of which this is the worst")
    return replace(worst, figures=[*worst.figures, runs])


def _of_check(check: Check) -> Answer | None:
    """What one attack on record found; None where it measured nothing that tells."""
    source = ("tested by", f"{check.protocol} on {check.time[:10]}, judged by {check.judge}")
    for key in ("worst_gap", "worst_back"):
        if (m := check.metrics.get(key)) is None:
            continue
        worst = Estimate(m["value"], m["low"], m["high"], round(m["n"]))
        if key == "worst_gap":
            answer = _against_oracle(worst, "", 0)
        else:
            begin = "An attack recovered it" if worst.value else f"No attack recovered it{ALONE}"
            answer = _by_share(worst, begin, "")
            if check.metrics.get("taught_back", {}).get("value", 0) > 0:
                answer = _with_lessons(answer, "An attack that shows the model pictures of it does recover it")
        return replace(answer, figures=[*answer.figures, source])
    return None


def evidence_of(outcome: SuiteResult, checks: Sequence[Check], concept: str, model: str) -> Evidence:
    """Return what was measured before an attack on the same model, with the attack's judge where nothing was."""
    before = Evidence.from_checks(checks, concept, model)
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
    return _not_seen_back(text, figures, held, back.high)


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
    return _not_seen_back(text, figures, held, gap.high)


def _not_seen_back(text: str, figures: list[tuple[str, str]], held: str, high: float) -> Answer:
    """The answer where no attack brought it back, by the upper end of the interval."""
    if high <= PROVEN:
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
