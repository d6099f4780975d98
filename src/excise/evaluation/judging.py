"""Judging pictures: which of them show a thing, and how often."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from excise.canvas import world
from excise.errors import JudgeError
from excise.judges.base import OpenJudge
from excise.metrics.rates import Estimate, rate
from excise.support.counts import agreeing, counted
from excise.support.display import Card, Picture, Showing
from excise.training.scorers import as_scorer

CANVAS_SIDE = 64  # of the pictures that the built-in models draw, in pixels


@dataclass(frozen=True, repr=False)
class Judged(Showing):
    """What a judge said of some pictures.

    Attributes:
        name: what was looked for.
        images: the pictures.
        shows: whether each picture shows it.
        judge: the judge's name.
    """

    name: str
    images: Sequence[Image.Image]
    shows: list[bool]
    judge: str

    @property
    def rate(self) -> Estimate:
        """The share of pictures that show it, with its 95 % interval."""
        return rate(self.shows)

    def card(self) -> Card:
        """What the verdicts show of themselves, with the pictures."""
        share = self.rate
        facts = [
            ("share", f"{share.value:.1%}, 95 % interval {share.low:.1%} to {share.high:.1%}"),
            ("judged by", self.judge),
        ]
        pictures = [Picture(i, "seen" if s else "not seen", s) for i, s in zip(self.images, self.shows, strict=True)]
        verb = agreeing(len(self.shows), "shows", "show")
        title = f"Judged: {sum(self.shows)} of {counted(len(self.shows), 'picture')} {verb} {self.name}"
        return Card(title, facts, pictures=[("pictures", pictures)])


def judge(
    images: Sequence[Image.Image | str | Path], concept: str, judge: object | None = None, *, others: Sequence[str] = ()
) -> Judged:
    """Ask a judge which pictures show a concept.

    Args:
        images: pictures, or paths of picture files.
        concept: the name to look for.
        judge: the folder of a CLIP model, a function (images, names) to one boolean an image, or an object with `sees`
            or `verdicts`; None takes the judge of the built-in models, which knows their names and pictures alone.
        others: other names that a CLIP model chooses among.

    Raises:
        JudgeError: no pictures, no judge for them, or an unreadable file.

    >>> judge(pictures, "cat", lambda images, names: [True] * len(images)).rate.value  # doctest: +SKIP
    1.0
    """
    pictures = [_opened(image) for image in images]
    if not pictures:
        raise JudgeError("there are no pictures to judge; give at least one.")
    scorer = as_scorer(judge, of_canvas([concept], (p.size for p in pictures)), [concept, *others], letter="a")
    if scorer is None:
        raise JudgeError(
            f"the judge of the built-in models knows '{concept}' in their own pictures only; give `judge`: the folder "
            "of a CLIP model, or a function of images and names."
        )
    return Judged(concept, pictures, _asked(scorer, pictures, concept), scorer.name)


def _asked(scorer: OpenJudge, pictures: Sequence[Image.Image], concept: str) -> list[bool]:
    return [bool(seen) for seen in scorer.sees(pictures, [concept] * len(pictures))]


def of_canvas(names: Iterable[str], sizes: Iterable[tuple[int, int] | None]) -> bool:
    """Whether the judge of the built-in models can answer: names that it knows, and pictures of their size."""
    known = {word for label in (*world.OBJECTS, *world.STYLES) for word in (label, *world.aliases(label))}
    return all(n in known or world.pair(n) is not None for n in names) and {*sizes} == {(CANVAS_SIDE, CANVAS_SIDE)}


def _opened(image: Image.Image | str | Path) -> Image.Image:
    """A picture, read from its file where a path is given.

    Raises:
        JudgeError: the file cannot be read.
    """
    if isinstance(image, Image.Image):
        return image
    try:
        with Image.open(image) as picture:
            return picture.convert("RGB")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise JudgeError(f"{image!s:.80} is no readable picture; expected a PIL image or the path of one.") from error
