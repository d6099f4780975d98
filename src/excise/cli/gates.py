"""Gates such as `ua>=0.95`: a metric, a comparison, a number."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass

from excise.errors import SettingError, unknown

_OPERATORS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_FORM = re.compile(r"\s*(\w+)\s*(>=|<=|>|<)\s*([0-9.eE+-]+)\s*")


@dataclass(frozen=True)
class Gate:
    """One condition on one metric."""

    metric: str
    sign: str
    bound: float

    def holds(self, metrics: Mapping[str, Mapping[str, float]]) -> bool:
        """Whether the metric's value meets the bound.

        Raises:
            UnknownNameError: the protocol did not yield the metric.
        """
        if self.metric not in metrics:
            raise unknown("metric", self.metric, metrics)
        return bool(_OPERATORS[self.sign](metrics[self.metric]["value"], self.bound))

    def explain(self, metrics: Mapping[str, Mapping[str, float]]) -> str:
        return f"{self.metric} is {metrics[self.metric]['value']:.4f}, required {self.sign} {self.bound:g}"


def parse(text: str) -> Gate:
    """A gate from its text.

    Raises:
        SettingError: not of the form metric, comparison, number.

    >>> parse("ua>=0.95")
    Gate(metric='ua', sign='>=', bound=0.95)
    """
    match = _FORM.fullmatch(text)
    try:
        if match:
            return Gate(match[1], match[2], float(match[3]))
    except ValueError:
        pass
    raise SettingError(f"--require got '{text}'; expected for example: --require 'ua>=0.95'")
