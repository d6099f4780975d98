"""Probes of a model in training: is the target gone, are near and far concepts still drawn?"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress, cycle
from math import ceil
from statistics import harmonic_mean
from typing import Literal

from PIL import Image

from excise.errors import ConceptError, ExciseWarning
from excise.families.base import Family, Progress
from excise.judges.base import OpenJudge, sees_each
from excise.training.pictures import Sampling, picture_seed

Role = Literal["target", "related", "unrelated", "gone"]
"""Role of a probe: the target, a retained name near to it or far from it, or a name that an earlier edit erased."""


@dataclass(frozen=True)
class Probe:
    """A prompt, the name that its picture should show, and its role.

    Attributes:
        partner: a second name that its picture should show, judged by `Preview.closer` alone.
    """

    prompt: str
    name: str
    role: Role
    partner: str = ""


@dataclass(frozen=True)
class Rates:
    """Rates of a model in training, each between 0 and 1.

    Attributes:
        erase: target pictures that no longer show the target, of the target that is least gone; where earlier edits
            are in force no more than the share of what they erased that is still gone.
        related, unrelated: of the pictures that were right before, the share still right, near to the target and far.
        instead: target pictures that show something else by name, not wreckage; 0 where no names may stand in.
    """

    erase: float
    related: float
    unrelated: float
    instead: float = 0.0

    @property
    def retain(self) -> float:
        """Mean of `related` and `unrelated`."""
        return (self.related + self.unrelated) / 2

    @property
    def least(self) -> float:
        """The smaller of `related` and `unrelated`."""
        return min(self.related, self.unrelated)

    @property
    def score(self) -> float:
        """Harmonic mean of `erase`, `related` and `unrelated`."""
        return harmonic_mean([self.erase, self.related, self.unrelated])


class Preview:
    """A fixed set of probes, drawn and judged with the model as it is now.

    Args:
        probes: what to draw. seed: of the pictures; neither is any protocol's.
        others: names that may stand in for the target.
        pooled: count all targets' pictures together, where there are too few of each to tell the least gone.
        close: of what is kept judge partners too, and let pictures that became right make up for others that no
            longer are, so that on average no harm is seen where there is none; for many pictures.
        telling: in place of target probes that the untouched model does not draw, which would tell nothing, further
            seeds of those that it draws.

    Raises:
        ConceptError: the scorer never sees a target in the untouched model's pictures (pooled: none of them).
    """

    def __init__(
        self,
        family: Family,
        probes: Sequence[Probe],
        scorer: OpenJudge,
        sampling: Sampling,
        seed: int,
        others: Sequence[str] = (),
        pooled: bool = False,
        close: bool = False,
        telling: bool = False,
    ) -> None:
        self.family, self.probes, self.scorer, self.sampling, self.seed = family, list(probes), scorer, sampling, seed
        self.others, self.pooled, self.close, self.telling = list(others), pooled, close, telling
        self.left = [False] * len(self.probes)
        self.seeds = [picture_seed(seed, "probe", i) for i in range(len(self.probes))]
        self.before = self.draw()
        self.right = self._sees(self.before)
        if telling:
            self._tell_more()
        rows = list(zip(self.right, self.probes, strict=True))
        for name in self._targets():
            if not any(right for right, p in rows if p.role == "target" and name in (None, p.name)):
                name = name or next(p.name for p in self.probes if p.role == "target")
                raise ConceptError(
                    f"{scorer.name} never sees '{name}' in what the untouched model draws of it, so erasing it could "
                    "not be told from leaving it. Check the name, or give another judge."
                )
        if not any(right for right, p in rows if p.role in ("related", "unrelated")):
            warnings.warn(
                f"{scorer.name} sees nothing of what is to be kept in what the untouched model draws, so what is kept "
                "counts as whole, whatever happens to it; name other things with --preserve.",
                ExciseWarning,
                stacklevel=2,
            )

    def closer(self, pictures: int) -> Preview:
        """A close preview at so many pictures or more on either side of what is kept, by more seeds of each prompt.

        Draws with the model as it is now.
        """
        probes = list(self.probes)
        for role in ("related", "unrelated"):
            own = [p for p in self.probes if p.role == role]
            probes += (ceil(pictures / max(1, len(own))) - 1) * own
        return Preview(
            self.family,
            probes,
            self.scorer,
            self.sampling,
            self.seed,
            self.others,
            self.pooled,
            close=True,
            telling=self.telling,
        )

    def _targets(self) -> list[str | None]:
        """The targets that are rated one by one; None stands for all of them together."""
        return [None] if self.pooled else list(dict.fromkeys(p.name for p in self.probes if p.role == "target"))

    def leave(self, untouched: Sequence[bool]) -> None:
        """Take the pictures of some probes as they were: what is trained will never act on their prompts."""
        self.left = list(untouched)

    def draw(self, progress: Progress | None = None) -> list[Image.Image]:
        """One picture for each probe, drawn where the model as it is now acts on it."""
        acted = [i for i, left in enumerate(self.left) if not left]
        prompts, seeds = [self.probes[i].prompt for i in acted], [self.seeds[i] for i in acted]
        drawn = dict(zip(acted, self.sampling.draw(self.family, prompts, seeds, progress), strict=True))
        return [drawn[i] if i in drawn else self.before[i] for i in range(len(self.probes))]

    def _tell_more(self) -> None:
        """Put further seeds of target probes that were right in the places of those that were not."""
        targets = [i for i, p in enumerate(self.probes) if p.role == "target"]
        turns = {
            name: cycle([self.probes[i] for i in own])
            for name in {self.probes[i].name for i in targets}
            if (own := [i for i in targets if self.right[i] and self.probes[i].name == name])
        }
        places = [i for i in targets if not self.right[i] and self.probes[i].name in turns]
        if not places:
            return
        probes = [next(turns[self.probes[i].name]) for i in places]
        seeds = [picture_seed(self.seed, "further probe", i) for i in places]
        images = self.sampling.draw(self.family, [p.prompt for p in probes], seeds)
        seen = self.scorer.sees(images, [p.name for p in probes])
        for i, probe, seed, image in compress(zip(places, probes, seeds, images, strict=True), seen):
            self.probes[i], self.seeds[i], self.before[i], self.right[i] = probe, seed, image, True

    def rates(self, images: Sequence[Image.Image]) -> Rates:
        """Rate pictures that `draw` returned, by the scorer."""
        now = self._sees(images)

        def share(role: Role, name: str | None = None) -> float:
            """Of the pictures of a role (and name) that showed what they should, those that still do."""
            rows = zip(now, self.right, self.probes, strict=True)
            still = [n for n, r, p in rows if r and p.role == role and name in (None, p.name)]
            return sum(still) / len(still) if still else 1.0

        def kept(role: Role) -> float:
            if not self.close:
                return share(role)
            rows = [(n, r) for n, r, p in zip(now, self.right, self.probes, strict=True) if p.role == role]
            before = sum(r for _, r in rows)
            return min(1.0, sum(n for n, _ in rows) / before) if before else 1.0

        erased = [1 - share("target", name) for name in self._targets()]
        back = [n for n, r, p in zip(now, self.right, self.probes, strict=True) if p.role == "gone" and not r]
        erased += [1 - sum(back) / len(back)] if back else []
        return Rates(min(erased), kept("related"), kept("unrelated"), self._instead(images))

    def _instead(self, images: Sequence[Image.Image]) -> float:
        """Share of the target's pictures in which one of the other names is seen."""
        shown = [image for image, p in zip(images, self.probes, strict=True) if p.role == "target"]
        if not self.others:
            return 0.0
        return sum(map(any, sees_each(self.scorer, shown, self.others))) / len(shown)

    def _sees(self, images: Sequence[Image.Image]) -> list[bool]:
        seen = list(self.scorer.sees(images, [p.name for p in self.probes]))
        pairs = [i for i, p in enumerate(self.probes) if self.close and p.partner]
        if pairs:
            also = self.scorer.sees([images[i] for i in pairs], [self.probes[i].partner for i in pairs])
            for i, partner in zip(pairs, also, strict=True):
                seen[i] = seen[i] and partner
        return seen
