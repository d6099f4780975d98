"""Gates such as `ua>=0.95`: a metric, a comparison and a number.

The number is compared with the unfavourable end of the 95 % interval, not with the value. A gate passes only if the
images prove it: with too few images it fails even when all of them are right.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from excise.errors import GatesFailed, SettingError, unknown
from excise.evaluation.catalog import METRICS, gateable_keys
from excise.support.counts import counted

_OPERATORS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_FORM = re.compile(r"\s*(\w+)\s*(>=|<=|>|<)\s*([0-9.eE+-]+)\s*")

if TYPE_CHECKING:
    from excise.protocols import Protocol
    from excise.protocols.base import Target

Metrics = Mapping[str, Mapping[str, float]]
"""By metric key: value, low, high and n."""


@dataclass(frozen=True)
class Gate:
    """One condition on one metric."""

    metric: str
    sign: str
    bound: float

    def holds(self, metrics: Metrics) -> bool:
        """Whether the unfavourable end of the metric's interval meets the bound.

        Raises:
            UnknownNameError: the metric was not measured.
        """
        if self.metric not in metrics:
            raise unknown("metric", self.metric, metrics)
        return bool(_OPERATORS[self.sign](metrics[self.metric][self.end], self.bound))

    def explain(self, metrics: Metrics) -> str:
        """What was measured, by how much it misses the bound, and whether the value itself passes."""
        m = metrics[self.metric]
        short = abs(m[self.end] - self.bound)
        text = (
            f"{self.metric} is {m['value']:.4f} with {self.end} end {m[self.end]:.4f} (n = {m['n']:g}), required "
            f"{self.sign} {self.bound:g}: short by {short:.4f}"
        )
        if _OPERATORS[self.sign](m["value"], self.bound):
            text += "; the value itself passes, but so few images do not prove it"
        return text

    @property
    def text(self) -> str:
        """The condition as it is written, for example ua>=0.95."""
        return f"{self.metric}{self.sign}{self.bound:g}"

    @property
    def end(self) -> str:
        """The unfavourable end of the interval: low or high."""
        return "low" if self.sign in (">=", ">") else "high"


def check(gates: Sequence[Gate], metrics: Metrics, missing: str | None = None) -> None:
    """Print every gate that fails, and end the command with exit status 1 if any does.

    Args:
        missing: the reason why a metric was not measured, which fails its gates; None refuses such gates.

    Raises:
        UnknownNameError: a metric was not measured, and `missing` is None.
        GatesFailed: a gate failed.
    """
    from excise.cli import show

    failed = [gate for gate in gates if (missing is not None and gate.metric not in metrics) or not gate.holds(metrics)]
    for gate in failed:
        show.say(f"gate failed: {gate.explain(metrics) if gate.metric in metrics else missing}")
    if failed:
        raise GatesFailed


def check_possible(
    gates: Sequence[Gate], plan: Protocol, targets: Sequence[Target], groups: Sequence[str] | None = None
) -> None:
    """Refuse, before anything is drawn, a gate that fails even if every image is as wished.

    Metrics that are no rates of labels (drift, KID, CLIP score) are not looked at, nor gates for the worse.

    Raises:
        SettingError: the images of the protocol are too few for the gate, or there is no judge.
    """
    from excise.evaluation.proof import best_metrics
    from excise.metrics.rates import needed_count
    from excise.protocols.concept import NO_JUDGE

    best = {name: estimate.as_dict() for name, estimate in best_metrics(plan, targets, groups).items()}
    for gate in gates:
        check_asked(gate, plan, best)
        if plan.judge == NO_JUDGE and METRICS[gate.metric].unit == "rate":
            raise SettingError(
                f"nothing measures {gate.metric}: this model has no judge. Give --judge, the folder of a CLIP model."
            )
        against = METRICS[gate.metric].higher_is_better == (gate.end == "high")
        if gate.metric not in best or against or gate.holds(best):
            continue
        n, end = round(best[gate.metric]["n"]), best[gate.metric][gate.end]
        needed = needed_count(1.0, gate.bound if gate.end == "low" else 1 - gate.bound)
        more = _larger(plan, targets, gate)
        advice = f"It takes {needed}: {more}, or lower the gate." if needed else "No number can; lower the gate."
        images, verb = counted(n, "image"), "begins" if gate.end == "low" else "ends"
        raise SettingError(
            f"{gate.text} cannot pass: with {images}, all as wished, its interval {verb} at {end:.3f}. {advice}"
        )


def check_asked(gate: Gate, plan: Protocol, best: Metrics) -> None:
    """Refuse a gate on a rate that no image of a protocol made for a request goes into.

    Raises:
        SettingError: there is none.
    """
    from excise.protocols.concept import NAME, NO_JUDGE
    from excise.protocols.eraseeval import KEYS

    if plan.score != NAME or plan.judge == NO_JUDGE or gate.metric in best:
        return
    metric, of_eraseeval = METRICS[gate.metric], gate.metric in KEYS and plan.name == "eraseeval"
    if (metric.unit == "rate" or gate.metric in KEYS) and not of_eraseeval:
        raise SettingError(
            f"nothing measures {gate.metric}: no prompt of this request goes into it. Leave the gate out, take another "
            "--protocol, or name the --group that asks."
        )


def _larger(plan: Protocol, targets: Sequence[Target], gate: Gate) -> str:
    """The protocol of the same kind and labels whose images can pass a gate, in words."""
    from excise.evaluation.proof import best_metrics
    from excise.protocols import FOR_A_REQUEST, PROTOCOLS
    from excise.protocols.concept import NAME

    if plan.name in FOR_A_REQUEST:
        return "--pictures or --preserve-file" if plan.name == NAME else "--pictures"
    for name in PROTOCOLS.records():
        if name.partition("-")[0] == plan.name.partition("-")[0] and name != plan.name:
            other = PROTOCOLS.load(name)()
            if (other.score, other.labels) == (plan.score, plan.labels):
                best = {key: estimate.as_dict() for key, estimate in best_metrics(other, targets).items()}
                if gate.metric in best and gate.holds(best):
                    return f"--protocol {name}"
    return "a protocol with more images"


def pictures_for(gates: Sequence[Gate], metrics: Sequence[str], least: int, shared_by: int = 1) -> int:
    """Return how many images let the gates on some rates pass with a few wrong ones; at least `least`.

    Args:
        shared_by: concepts that share the rate, so that each needs its part of the images.
    """
    from excise.metrics.rates import needed_count

    counts = [needed_count(1.0, g.bound) or 0 for g in gates if g.metric in metrics and g.end == "low"]
    return max([least, *(-(-2 * count // shared_by) for count in counts)])


def parse_all(texts: Iterable[str], keys: Sequence[str] = gateable_keys("evaluate")) -> list[Gate]:
    """Parse gates from texts that may each hold several, separated by commas. `keys`: the metrics that may be named.

    >>> [g.metric for g in parse_all(["ua>=0.95,ira>=0.95"])]
    ['ua', 'ira']
    """
    return [parse(part, keys) for text in texts for part in text.split(",")]


def parse(text: str, keys: Sequence[str] = gateable_keys("evaluate")) -> Gate:
    """Parse one gate.

    Raises:
        SettingError: the text is not a metric, a comparison and a number.
        UnknownNameError: the metric is not among `keys`.

    >>> parse("ua>=0.95")
    Gate(metric='ua', sign='>=', bound=0.95)
    """
    match = _FORM.fullmatch(text)
    try:
        gate = Gate(match[1], match[2], float(match[3])) if match else None
    except ValueError:
        gate = None
    if gate is None:
        example = f"{keys[0]}>=0.95" if METRICS[keys[0]].higher_is_better else f"{keys[0]}<=0.3"
        raise SettingError(f"--require got '{text}'; expected for example: --require '{example}'")
    if gate.metric not in keys:
        raise unknown("metric", gate.metric, keys)
    return gate
