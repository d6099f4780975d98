"""Base class of inference-time methods: a request in, hooks out that act while the model draws."""

from __future__ import annotations

import time
from abc import abstractmethod
from typing import ClassVar, TypeVar

from excise.edits.hooks import Hook
from excise.methods.base import Context, Made, Method, Request
from excise.support.settings import Settings

ConfigT = TypeVar("ConfigT", bound=Settings)


class Inference(Method[ConfigT]):
    """A method that changes no weight: its hooks act on every picture that the model draws."""

    shape: ClassVar[str] = "inference-time"

    @abstractmethod
    def hooks(self, request: Request, config: ConfigT, context: Context) -> tuple[Hook, ...]:
        """Make the hooks; every text state that they need is computed here and held by them.

        Raises:
            ConceptError: a name does not fit the text encoder.
        """

    def make(self, request: Request, config: ConfigT, context: Context) -> Made:
        """Make the hooks. What is to be retained plays no part: these methods hold nothing fixed."""
        began = time.perf_counter()
        hooks = self.hooks(request, config, context)
        return Made(hooks=hooks, seconds={"encode": time.perf_counter() - began})


def words_of(request: Request) -> list[str]:
    """Every name and synonym that is to be erased."""
    return list(dict.fromkeys(word for concept in request.concepts for word in concept.words))
