"""Whether a picture shows a thing: what picks distractor pictures, blocks, checkpoints and strengths.

On the built-in models the second, differently built Canvas judge serves for that, and the first, whose verdict counts,
stays out of it; a policy is verified with the first. Elsewhere a CLIP model of the user's, zero-shot, or any callable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from excise.errors import JudgeError
from excise.families.drawing import weights_key
from excise.judges.base import Judge, LabelJudge, Measuring, NamingJudge, OpenJudge
from excise.judges.named import is_named, judge_named
from excise.judges.scored import ScoredJudge
from excise.support.counts import counted

if TYPE_CHECKING:
    from excise.judges.canvas import CanvasJudge


class CanvasScorer(LabelJudge):
    """A Canvas judge, by default the second; knows objects, styles, their aliases, and pairs ("cat in neon style")."""

    judge: CanvasJudge

    def __init__(self, letter: str = "b") -> None:
        from excise.judges.canvas import CanvasJudge

        super().__init__(CanvasJudge(letter), _labels)

    def likelihood(self, images: Sequence[Image.Image], name: str) -> list[float]:
        """How likely each picture shows the thing named; of a pair, its less likely half."""
        heads = self.judge.scores(images)
        columns = [p[:, self.judge.labels[h].index(x)] for x in _labels(name) for h, p in heads.items()
                   if x in self.judge.labels[h]]  # fmt: skip
        likelihoods: list[float] = torch.stack(columns).amin(dim=0).tolist()
        return likelihoods


@cache
def _labels(name: str) -> frozenset[str]:
    """The labels of a Canvas judge that a name asks for."""
    from excise.canvas import world

    label_of = {a: label for label in (*world.OBJECTS, *world.STYLES) for a in world.aliases(label)}
    return frozenset(world.pair(name) or (label_of.get(name, name),))


class ClipScorer:
    """Zero-shot CLIP from a local folder: the named thing among the others, and more likely than not.

    Args:
        others: what else a picture may show, the same for every picture: what other pictures are asked for in one call
            has no part in a verdict.
    """

    def __init__(self, folder: Path, others: Sequence[str] = ()) -> None:
        from excise.judges.clip import Clip

        self.clip, self.others = Clip("clip-zero-shot", folder), [*dict.fromkeys([*others, "something else"])]
        self.name = f"clip-zero-shot {self.clip.kind}"

    @cached_property
    def key(self) -> str:
        """What tells this judge from another of the same make; read from all weights, so only where it is asked for."""
        return weights_key(self.clip.model)

    def sees(self, images: Sequence[Image.Image], names: Sequence[str]) -> list[bool]:
        labels = list(dict.fromkeys([*names, *self.others]))
        texts = self.clip.embed_texts([f"a photo of {label}" for label in labels])
        return [
            self._likeliest(self.clip.embed_images(self.clip.prepare([image])), name, labels, texts)
            for image, name in zip(images, names, strict=True)
        ]

    def sees_each(self, images: Sequence[Image.Image], names: Sequence[str]) -> list[list[bool]]:
        """Whether each picture shows each name, one row a picture."""
        labels = list(dict.fromkeys([*names, *self.others]))
        texts = self.clip.embed_texts([f"a photo of {label}" for label in labels])
        pictures = (self.clip.embed_images(self.clip.prepare([image])) for image in images)
        return [[self._likeliest(picture, name, labels, texts) for name in names] for picture in pictures]

    def _likeliest(self, picture: Tensor, name: str, labels: Sequence[str], texts: Tensor) -> bool:
        """Whether a name is the likeliest of what a picture (1, d) may show, by the texts (n, d) of labels."""
        among = texts[[labels.index(label) for label in dict.fromkeys([name, *self.others])]]
        p = (100 * picture @ among.mT).softmax(dim=-1)[0]
        return bool(p[0] >= p.max())


class CallableScorer:
    """A function of the user's: (images, names) to one boolean an image."""

    def __init__(self, function: Callable[[Sequence[Image.Image], Sequence[str]], Sequence[bool]]) -> None:
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__)

    def sees(self, images: Sequence[Image.Image], names: Sequence[str]) -> list[bool]:
        """Return the function's answers.

        Raises:
            JudgeError: they are not one an image.
        """
        answers = self.function(images, names)
        try:
            verdicts = [bool(answer) for answer in answers]
        except (TypeError, ValueError, RuntimeError) as error:
            raise JudgeError(
                f"the judge '{self.name}' returned a {type(answers).__name__}; expected one boolean for each image."
            ) from error
        if len(verdicts) != len(images):
            answered, asked = counted(len(verdicts), "answer"), counted(len(images), "image")
            raise JudgeError(
                f"the judge '{self.name}' gave {answered} for {asked}; expected one boolean for each image."
            )
        return verdicts


def as_scorer(given: Any, built_in: bool, names: Sequence[str] = (), letter: str = "b") -> OpenJudge | None:
    """What the caller gave, as a scorer; on a built-in model its own; None where there is nothing to look with.

    Args:
        given: the name of a judge, a folder of a CLIP model, a function (images, names) to booleans, or an object with
            `sees` or `verdicts`.
        names: that a zero-shot model has to choose among. letter: of the built-in judge.

    Raises:
        JudgeError: it is none of these.
    """
    if given is None:
        return CanvasScorer(letter) if built_in else None
    if is_named(given):
        given = judge_named(given)
    if isinstance(given, (str, Path)):
        return ClipScorer(Path(given), names)
    if callable(getattr(given, "sees", None)):
        judge: OpenJudge = given
        return judge
    if callable(getattr(given, "verdicts", None)):
        labelled: Judge = given
        if isinstance(given, Measuring) and not labelled.verdicts([]):
            raise JudgeError(
                f"the judge '{labelled.name}' scores images and has no labels, so it cannot say what one shows; take "
                "another (excise doctor --judges), or give the folder of a CLIP model itself."
            )
        return LabelJudge(labelled)
    if callable(given):
        return CallableScorer(given)
    raise JudgeError(
        f"a {type(given).__name__} is no judge; expected the name of one, the folder of a CLIP model, a function of "
        "images and names that returns booleans, or an object with `sees` or `verdicts`."
    )


def as_judge(given: Any, labels: Mapping[str, Sequence[str]]) -> Judge:
    """What the caller gave, as a judge of a protocol's labels.

    Args:
        given: an object with `verdicts`, or what `as_scorer` takes.
        labels: of the protocol, by attribute.

    Raises:
        JudgeError: it is no judge, or the protocol has no labels to ask it for.
    """
    of_other_labels = isinstance(given, ScoredJudge) and not {*labels} <= {*given.labels}
    if callable(getattr(given, "verdicts", None)) and not of_other_labels:
        judge: Judge = given
        return judge
    names = [label for values in labels.values() for label in values]
    scorer = as_scorer(given, False, names)
    if scorer is None or not names:
        raise JudgeError("this protocol asks no judge for names; leave `judge` out, or give one that has `verdicts`.")
    return NamingJudge(scorer, labels)
