"""Judges that give labels a score: what an image shows follows from the scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from excise.errors import JudgeError, closest
from excise.metrics.unlearning import NONE


@runtime_checkable
class Knowing(Protocol):
    """A judge that can be asked for some names alone."""

    name: str

    @property
    def vocabulary(self) -> Sequence[str]:
        """Every name that the judge can be asked for."""
        ...

    def knows(self, name: str) -> bool:
        """Return whether the judge can be asked for a name."""
        ...


def check_knows(judge: object, names: Sequence[str], why: str = "") -> None:
    """Refuse names that a judge with a vocabulary cannot be asked for.

    Args:
        why: what else to say of them.

    Raises:
        JudgeError: it does not know one, with the nearest that it knows.
    """
    if not isinstance(judge, Knowing):
        return
    for name in names:
        if judge.knows(name):
            continue
        known = judge.vocabulary
        near = closest(name, known)
        shown = f"{', '.join(known[:20])}{' ...' if len(known) > 20 else ''}"
        raise JudgeError(
            f"{judge.name} cannot see '{name}'{why}; it knows {shown}. "
            + (f"Did you mean '{near}'? " if near else "")
            + "Ask for one of these, or take another judge."
        )


class ScoredJudge(ABC):
    """A judge with a closed vocabulary: for each attribute its labels, and for each label of an image a score.

    It is a `Judge` and a `GradedJudge` at once.

    Attributes:
        name: stands in results and in their hash; two judges whose verdicts may differ have two names.
        labels: by attribute, in the order of the scores.
        threshold: the least score of a label that is seen, in 0..1.
        exclusive: whether an image shows at most one label of an attribute, the likeliest, as a classifier says; where
            not, each label that reaches the threshold is seen, as a detector says.
        groups: names that stand for any of some labels.
    """

    name: str
    labels: Mapping[str, Sequence[str]]
    threshold: float
    exclusive: bool = True
    groups: Mapping[str, Sequence[str]] = MappingProxyType({})

    @abstractmethod
    def scores(self, images: Sequence[Image.Image]) -> Mapping[str, Tensor]:
        """Return, by attribute, the scores (n, labels) of n images in 0..1.

        The scores of an image depend on that image alone, not on the others in the call.
        """

    def verdicts(self, images: Sequence[Image.Image]) -> dict[str, list[str]]:
        """Return, by attribute, the likeliest label of each image; `NONE` where none reaches the threshold."""
        verdicts = {}
        for attribute, scores in self.scores(images).items():
            top, index = scores.max(dim=-1)
            sure = (top >= self.threshold).tolist()  # a NaN is never sure
            names = self.labels[attribute]
            verdicts[attribute] = [names[i] if s else NONE for i, s in zip(index.tolist(), sure, strict=True)]
        return verdicts

    @property
    def vocabulary(self) -> list[str]:
        """Every name that the judge can be asked for."""
        return [*self.groups, *self._places]

    def knows(self, name: str) -> bool:
        """Return whether the judge can be asked for a name."""
        return name in self.groups or name in self._places

    def sees(self, images: Sequence[Image.Image], names: Sequence[str]) -> list[bool]:
        """Return for each image whether it shows the name at the same position.

        Raises:
            JudgeError: the judge does not know a name.
        """
        different = list(dict.fromkeys(names))
        rows = self.sees_each(images, different)
        return [row[different.index(name)] for row, name in zip(rows, names, strict=True)]

    def sees_each(self, images: Sequence[Image.Image], names: Sequence[str]) -> list[list[bool]]:
        """Return whether each image shows each name, one row an image.

        Raises:
            JudgeError: the judge does not know a name.
        """
        places = [self._where(name) for name in names]
        if not images:
            return []
        seen = {attribute: self._seen(scores) for attribute, scores in self.scores(images).items()}
        columns = [torch.stack([seen[a][:, i] for a, i in there]).any(dim=0) for there in places]
        rows: list[list[bool]] = torch.stack(columns, dim=1).tolist() if columns else [[] for _ in images]
        return rows

    def likelihood(self, images: Sequence[Image.Image], name: str) -> list[float]:
        """Return the score of a name in each image.

        Of a group: the sum of its labels', where they exclude one another, else the highest.

        Raises:
            JudgeError: the judge does not know the name.
        """
        there = self._where(name)
        if not images:
            return []
        scores = self.scores(images)
        columns = torch.stack([scores[a][:, i] for a, i in there])
        likely: list[float] = (columns.sum(dim=0) if self.exclusive else columns.amax(dim=0)).tolist()
        return likely

    def _seen(self, scores: Tensor) -> Tensor:
        """Which labels (n, labels) are seen."""
        enough = scores >= self.threshold
        return enough & (scores == scores.amax(dim=-1, keepdim=True)) if self.exclusive else enough

    @cached_property
    def _places(self) -> dict[str, tuple[str, int]]:
        """Where each label stands: its attribute and its column."""
        return {label: (attribute, i) for attribute, names in self.labels.items() for i, label in enumerate(names)}

    def _where(self, name: str) -> list[tuple[str, int]]:
        """The places of the labels that a name stands for."""
        check_knows(self, [name])
        return [self._places[label] for label in self.groups.get(name, (name,))]
