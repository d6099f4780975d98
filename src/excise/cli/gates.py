"""Gates such as `ua>=0.95`: a metric, a comparison, a number.

The unfavourable end of the 95 % interval is held against the number, not the value: a gate is passed only by what the
images show, so too few images fail it even when all of them are right.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from excise.errors import SettingError, unknown

METRICS = (
    *("ua", "ua_relative", "ua_corrected", "ira", "ira_worst", "cra", "cra_uc", "h", "selective_alignment"),
    *("object_accuracy", "style_accuracy", "names_accuracy", "accuracy", "acc_e", "acc_r", "h_o", "sc", "oc", "up"),
    *("alias_rate", "synonym_rate", "spanish_rate", "paraphrase_rate", "abstain", "judges_disagree"),
    *("kid", "drift", "clip_score"),
)
_OPERATORS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_FORM = re.compile(r"\s*(\w+)\s*(>=|<=|>|<)\s*([0-9.eE+-]+)\s*")


@dataclass(frozen=True)
class Gate:
    """One condition on one metric."""

    metric: str
    sign: str
    bound: float

    def holds(self, metrics: Mapping[str, Mapping[str, float]]) -> bool:
        """Whether the metric meets the bound with the unfavourable end of its interval.

        Raises:
            UnknownNameError: the protocol did not yield the metric.
        """
        if self.metric not in metrics:
            raise unknown("metric", self.metric, metrics)
        return bool(_OPERATORS[self.sign](metrics[self.metric][self._end], self.bound))

    def explain(self, metrics: Mapping[str, Mapping[str, float]]) -> str:
        """What was measured, by how much it falls short, and whether more images could mend it."""
        m = metrics[self.metric]
        short = abs(m[self._end] - self.bound)
        text = (
            f"{self.metric} is {m['value']:.4f} with {self._end} end {m[self._end]:.4f} (n = {m['n']:g}), required "
            f"{self.sign} {self.bound:g}: short by {short:.4f}"
        )
        if _OPERATORS[self.sign](m["value"], self.bound):
            text += "; the value itself passes, so a protocol with more images may settle it"
        return text

    @property
    def _end(self) -> str:
        return "low" if self.sign in (">=", ">") else "high"


def parse_all(texts: Iterable[str], known: Sequence[str] = METRICS) -> list[Gate]:
    """Gates from texts that may each hold several, separated by commas; `known` metrics alone.

    >>> [g.metric for g in parse_all(["ua>=0.95,ira>=0.95"])]
    ['ua', 'ira']
    """
    return [parse(part, known) for text in texts for part in text.split(",")]


def parse(text: str, known: Sequence[str] = METRICS) -> Gate:
    """A gate from its text.

    Raises:
        SettingError: not of the form metric, comparison, number.
        UnknownNameError: no protocol yields such a metric.

    >>> parse("ua>=0.95")
    Gate(metric='ua', sign='>=', bound=0.95)
    """
    match = _FORM.fullmatch(text)
    try:
        gate = Gate(match[1], match[2], float(match[3])) if match else None
    except ValueError:
        gate = None
    if gate is not None:
        if gate.metric not in known:
            raise unknown("metric", gate.metric, known)
        return gate
    raise SettingError(f"--require got '{text}'; expected for example: --require '{known[0]}>=0.95'")
