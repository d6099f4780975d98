"""A protocol fixes everything a number depends on but the model: prompts, seeds, sampler, judge. It has a hash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Item:
    """One image to make: its prompt, what it should show (None: not asked), its group and its number."""

    group: str
    prompt: str
    object: str | None
    style: str | None
    index: int


@dataclass(frozen=True)
class Protocol:
    """Prompts and sampler under a name.

    Attributes:
        items: everything the protocol may ask for, by group.
        steps, guidance: of the sampler that ships with the model.
        judge: name of the judge whose verdict counts.
    """

    name: str
    items: tuple[Item, ...]
    steps: int
    guidance: float
    judge: str

    @property
    def hash(self) -> str:
        """SHA-256 over the content; two results may be compared only when it agrees."""
        content = json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()

    def seed(self, item: Item) -> int:
        """The seed of one image: a function of (protocol, prompt, index) alone, so batches do not matter."""
        text = f"{self.name}\x00{item.prompt}\x00{item.index}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    def group(self, *names: str) -> list[Item]:
        """The items of the named groups, in order."""
        return [i for i in self.items if i.group in names]
