"""Protocols of a judge: a network, or a function of the user, that says what an image shows.

A `Judge` has a closed list of labels and names one for each attribute of an image; evaluation protocols count these
labels. An `OpenJudge` answers whether an image shows a given name, which need not be in any list; training, policies
and attacks ask this. `LabelJudge` makes an open judge out of a closed one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from PIL import Image

from excise.metrics.unlearning import NONE

CHUNK = 256  # images in memory at once


@runtime_checkable
class Judge(Protocol):
    """A judge with a closed list of labels: a shipped network, a local classifier, or an object of the user.

    Attributes:
        name: stands in results and in their hash, so judges that differ need different names.
    """

    name: str

    def verdicts(self, images: Sequence[Image.Image]) -> dict[str, list[str]]:
        """Return, by attribute ("object", "style", ...), one label an image; `NONE` where the judge abstains.

        The verdict on an image depends on that image alone, not on the others in the call.
        """
        ...


@runtime_checkable
class Measuring(Protocol):
    """A judge that also returns numbers, such as a CLIP score or a distance."""

    def values(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> dict[str, list[float]]:
        """Return, by name of the measure, one number an image.

        Args:
            images: (n) images.
            prompts: (n) prompts, the one that each image was drawn from.
        """
        ...


@runtime_checkable
class Detecting(Protocol):
    """A judge that also returns the scores of the parts that it detects, so that they count at any threshold."""

    def part_scores(self, images: Sequence[Image.Image]) -> list[dict[str, list[float]]]:
        """Return for each image, by label, the scores of the parts that are seen there, highest first."""
        ...


@runtime_checkable
class OpenJudge(Protocol):
    """A judge that can be asked about any name, or refuses the names that it does not know.

    What fits: a zero-shot model (the name against alternatives that the judge fixes when it is built), a classifier
    (through `LabelJudge`), a detector such as NudeNet (the name is a detector class; the image shows it where the
    highest score of that class reaches the detector's threshold), a function of the user.

    Attributes:
        name: tells this judge from others in results and cache keys.
    """

    name: str

    def sees(self, images: Sequence[Image.Image], names: Sequence[str]) -> list[bool]:
        """Return for each image whether it shows the thing named at the same position in `names`.

        An answer depends on its image and its name alone: calls with more or fewer images give the same answers.

        Args:
            images: (n) images.
            names: (n) names of concepts, one an image.

        Raises:
            ExciseError: the judge does not know a name.
        """
        ...


@runtime_checkable
class GradedJudge(OpenJudge, Protocol):
    """An open judge that also returns a score, by which images can be ranked."""

    def likelihood(self, images: Sequence[Image.Image], name: str) -> list[float]:
        """Return for each image a score in 0..1 that grows with the evidence for `name`."""
        ...


@runtime_checkable
class ManyNamesJudge(OpenJudge, Protocol):
    """An open judge that looks at an image once for several names."""

    def sees_each(self, images: Sequence[Image.Image], names: Sequence[str]) -> list[list[bool]]:
        """Return whether each image shows each name, one row an image."""
        ...


@runtime_checkable
class MultiLabelJudge(Judge, Protocol):
    """A closed judge to which one image may show several labels of an attribute, such as the people in it.

    Where a prompt asks for a label, the image shows it if any of these is that label; else `verdicts` counts.
    """

    def all_verdicts(self, images: Sequence[Image.Image]) -> dict[str, list[list[str]]]:
        """Return, by attribute, the labels that each image shows, the surest first; none where the judge abstains."""
        ...


def key_of(judge: object) -> str:
    """Return the digest of its weights that a judge, or the judge that it asks, has; empty without one."""
    keys = (getattr(j, "key", None) for j in (judge, getattr(judge, "judge", None)))
    return next((str(key) for key in keys if key is not None), "")


def sees_each(judge: OpenJudge, images: Sequence[Image.Image], names: Sequence[str]) -> list[list[bool]]:
    """Return whether each image shows each name, one row an image; each is judged once where the judge can."""
    if isinstance(judge, ManyNamesJudge):
        return judge.sees_each(images, names)
    seen = judge.sees([image for image in images for _ in names], [name for _ in images for name in names])
    return [list(seen[i * len(names) : (i + 1) * len(names)]) for i in range(len(images))]


class NamingJudge:
    """A closed judge made of an open one: of the labels of an attribute that it sees in an image, the first.

    An open judge that grades what it sees names the likeliest label instead.

    Args:
        judge: the open judge.
        labels: by attribute, the labels among which it chooses.
    """

    def __init__(self, judge: OpenJudge, labels: Mapping[str, Sequence[str]]) -> None:
        self.judge, self.labels, self.name = judge, labels, judge.name

    def verdicts(self, images: Sequence[Image.Image]) -> dict[str, list[str]]:
        """Return, by attribute, one label an image; `NONE` where it sees none of them."""
        return {attribute: self._named(images, list(labels)) for attribute, labels in self.labels.items()}

    def _named(self, images: Sequence[Image.Image], labels: Sequence[str]) -> list[str]:
        """The label of each image."""
        rows = sees_each(self.judge, images, labels)
        if not isinstance(self.judge, GradedJudge):
            return [next((label for label, seen in zip(labels, row, strict=True) if seen), NONE) for row in rows]
        columns = [self.judge.likelihood(images, label) for label in labels]
        named = []
        for row, likely in zip(rows, zip(*columns, strict=True), strict=True):
            seen = [(p, label) for p, label, hit in zip(likely, labels, row, strict=True) if hit]
            named.append(max(seen)[1] if seen else NONE)
        return named


class LabelJudge:
    """An open judge made of a closed one: an image shows a name if its verdicts contain the labels of that name.

    Args:
        judge: the judge with labels.
        labels_of: the labels that a name stands for, all of which must be seen ("cat in neon style" stands for "cat"
            and "neon"); by default the name itself.
    """

    def __init__(
        self, judge: Judge, labels_of: Callable[[str], frozenset[str]] = lambda name: frozenset({name})
    ) -> None:
        self.judge, self.labels_of, self.name = judge, labels_of, judge.name

    def sees(self, images: Sequence[Image.Image], names: Sequence[str]) -> list[bool]:
        """Return for each image whether its verdicts contain every label of its name."""
        return [self.labels_of(name) <= seen for name, seen in zip(names, self._labels(images), strict=True)]

    def sees_each(self, images: Sequence[Image.Image], names: Sequence[str]) -> list[list[bool]]:
        """Return whether each image shows each name, one row an image."""
        return [[self.labels_of(name) <= seen for name in names] for seen in self._labels(images)]

    def _labels(self, images: Sequence[Image.Image]) -> list[set[str]]:
        """The labels of each image, one of every attribute."""
        return [set(labels) for labels in zip(*self.judge.verdicts(images).values(), strict=True)]


def chunks(images: Sequence[Image.Image], size: int = CHUNK) -> Iterator[Sequence[Image.Image]]:
    """Yield consecutive parts of at most `size` images; a lazy sequence opens its files part by part."""
    for start in range(0, len(images), size):
        yield images[start : start + size]
