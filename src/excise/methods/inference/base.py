"""Base class of inference-time methods: a request in, hooks out that act while the model draws."""

from __future__ import annotations

import time
from abc import abstractmethod
from typing import ClassVar, TypeVar

from excise.edits.hooks import Hook
from excise.errors import WrongBaseError
from excise.families.base import Family
from excise.families.conditions import Condition
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


def check_condition(condition: Condition, family: Family) -> None:
    """Refuse a condition that is not for this model, as far as its loaded text encoders tell.

    Raises:
        WrongBaseError: it has other inputs than the model's, or of other widths.
    """
    if len(family.text_encoders) < len(family.encoder_names):
        return
    own = family.unconditional().inputs
    for name in {*own, *condition.inputs}:
        if name not in own or name not in condition.inputs:
            raise WrongBaseError(f"the edit and the model differ in what the denoiser reads ('{name}'); erase again.")
        seen, wanted = condition.inputs[name].shape, own[name].shape
        if name != "encoder_attention_mask" and seen[-1] != wanted[-1]:
            raise WrongBaseError(
                f"the edit holds a prompt of width {seen[-1]} ('{name}'), the model reads {wanted[-1]}; erase again."
            )
