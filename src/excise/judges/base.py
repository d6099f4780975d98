"""What a judge is: images in, one label an attribute and image out, "none" where it abstains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from PIL import Image

CHUNK = 256  # images in memory at once


class Judge(Protocol):
    """Anything with a name and verdicts may judge: a shipped network, a local classifier, a callable of the user."""

    name: str

    def verdicts(self, images: Sequence[Image.Image]) -> dict[str, list[str]]:
        """By attribute, one label an image; `NONE` where the judge sees nothing it knows."""
        ...


@runtime_checkable
class Measuring(Protocol):
    """A judge that also gives numbers: a CLIP score, a distance."""

    def values(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> dict[str, list[float]]:
        """By name, one number an image."""
        ...


def chunks(images: Sequence[Image.Image], size: int = CHUNK) -> Iterator[Sequence[Image.Image]]:
    """Consecutive parts of a sequence of images, each opened when its turn comes."""
    for start in range(0, len(images), size):
        yield images[start : start + size]
