"""SAFREE: prompts are filtered before the model reads them, and its skip features while it draws.

Paper:      Yoon et al., "SAFREE: Training-Free and Adaptive Guard", ICLR 2025, arXiv 2410.12761, equations 2 to 8
Provenance: written from the paper and from accounts of the official program; on SDXL both text encoders are filtered,
            the pooled prompt as well, re-attention compares magnitudes, and the filter may spread: ours

With P_C and P_I the projections on the concept's phrases and on the prompt without one of its tokens each:

    trigger_i  iff  d_i >= (1 + alpha) mean_{j != i} d_j,  d_i = |(I - P_C) m_i|, m_i: prompt without token i  (2-4)
    a trigger's state e becomes (I - P_C) P_I e                                                                  (5)
    for the steps 0 .. round(bound sigmoid(2 k (10 beta - m))), beta = 1 - mean cosine of new and old states     (6)
    low frequencies of skip features are scaled where they exceed those of the unfiltered prompt               (7, 8)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from excise.edits.hooks import Hook, settings_of, tensor_of
from excise.errors import WrongBaseError
from excise.families.attached import Attaching
from excise.families.base import Condition, Family
from excise.methods.base import Context, Request
from excise.methods.inference.base import Inference, check_condition, words_of
from excise.methods.inference.safree_filter import ActiveFilter, Filtering, Phrases
from excise.support.settings import Settings


@dataclass(frozen=True, eq=False, kw_only=True)
class PromptFilter(Hook):
    """The filter of prompts and skip features.

    Attributes:
        phrases: that span the concept. concepts: by text encoder (K, d), their end tokens' states.
        pooled: (K, p) their pooled states, where the model reads such.
        negative: the prompt that takes the unconditional one's place; one row.
    """

    kind: ClassVar[str] = "safree"
    guided: ClassVar[bool] = True

    phrases: tuple[str, ...]
    concepts: Mapping[str, Tensor]
    pooled: Tensor | None
    negative: Condition
    numbers: Filtering

    def tensors(self) -> dict[str, Tensor]:
        every = {f"concepts.{name}": rows for name, rows in self.concepts.items()}
        every |= {f"negative.{name}": rows for name, rows in self.negative.inputs.items()}
        every |= {} if self.pooled is None else {"pooled": self.pooled}
        return {name: rows.detach().float().cpu() for name, rows in every.items()}

    def settings(self) -> dict[str, Any]:
        return {"phrases": list(self.phrases), "encoders": list(self.concepts), **asdict(self.numbers)}

    @classmethod
    def build(cls, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> PromptFilter:
        numbers = dict(settings)
        phrases, encoders = tuple(map(str, numbers.pop("phrases"))), list(map(str, numbers.pop("encoders")))
        count, negative = len(phrases), "negative.encoder_hidden_states"
        inputs = {"encoder_hidden_states": tensor_of(tensors, negative, (1, None, None))}
        if "pooled" in tensors:
            inputs["text_embeds"] = tensor_of(tensors, "negative.text_embeds", (1, None))
        return cls(
            phrases=phrases,
            concepts={name: tensor_of(tensors, f"concepts.{name}", (count, None)) for name in encoders},
            pooled=tensor_of(tensors, "pooled", (count, None)) if "pooled" in tensors else None,
            negative=Condition(inputs),
            numbers=settings_of(Filtering, numbers),
        )

    def put_on(self, family: Family, strength: float, attaching: Attaching) -> None:
        family.check_encoders()
        widths = _widths(family)
        if {name: rows.shape[1] for name, rows in self.concepts.items()} != widths:
            raise WrongBaseError(
                f"the edit was made for text encoders of other widths than this model's ({widths}); erase again."
            )
        check_condition(self.negative, family)
        active = ActiveFilter(Phrases(self.concepts, self.pooled, self.negative), self.numbers, family, strength)
        # Partial calls, where a closure would leave a deep copy of the model with this model's filter.
        for name in self.concepts:
            attaching.after(family.text_encoders[name], partial(active.remember, name))
        attaching.before(family.denoiser, active.swap)
        attaching.after(family.denoiser, active.forget)
        if self.numbers.reattention and self.numbers.project:
            unet: Any = family.denoiser
            for i, block in enumerate(unet.up_blocks):
                attaching.before(block, partial(active.reattend, i, unet.config.block_out_channels))


def _widths(family: Family) -> dict[str, int]:
    """By text encoder, the width of its states."""
    encoders: dict[str, Any] = dict(family.text_encoders)
    return {name: int(encoder.config.hidden_size) for name, encoder in encoders.items()}


class SAFREEConfig(Settings):
    """Settings of SAFREE."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "style": {"midpoint": 5.5, "sharpness": 3.5},
        # Chosen by hand on the built-in model: its padding names the target as loudly as the target's token does,
        # and it draws in twelve steps, of which the last bring a target back.
        "canvas": {"alpha": 0.05, "spread": True, "midpoint": 1.0, "bound": 12, "negative": False},
    }

    project: bool = Field(True, description="Project prompts' triggers; without it the negative prompt alone is left.")
    alpha: float = Field(0.01, description="How much farther from the concept a prompt must be without a trigger.")
    spread: bool = Field(False, description="Filter all that follows the first trigger, padding too, for it reads it.")
    validate_steps: bool = Field(True, description="Filter the first steps alone, as many as the filter changes much.")
    bound: int = Field(10, ge=0, description="The last step that can be filtered.")
    midpoint: float = Field(5.333, description="Tenfold change of the prompt at which half of the steps are filtered.")
    sharpness: float = Field(2.5, gt=0, description="How sharply the number of steps rises with that change.")
    negative: bool = Field(
        True, description="Put the concept in the place of the negative prompt, as the program does."
    )
    reattention: bool = Field(True, description="Scale low frequencies of skip features (a pass more in those steps).")
    deep: float = Field(0.9, ge=0, description="Their scale beside the widest features.")
    shallow: float = Field(0.2, ge=0, description="Their scale beside the next widest.")
    pooled: bool = Field(True, description="Where the model also reads the pooled prompt (SDXL), project that as well.")
    phrases: tuple[str, ...] = Field((), description="Phrases that span the concept; by default its names.")

    @property
    def filtering(self) -> Filtering:
        """The hook's settings."""
        given = self.model_dump(exclude={"anchor", "phrases", "validate_steps"})
        return Filtering(**given, validate=self.validate_steps)


class SAFREE(Inference[SAFREEConfig]):
    """Training-free filtering of prompts."""

    Config = SAFREEConfig

    def hooks(self, request: Request, config: SAFREEConfig, context: Context) -> tuple[Hook, ...]:
        """Make the hook.

        Raises:
            ConceptError: the phrases do not fit the text encoder, one by one or joined.
        """
        family = request.family
        phrases = config.phrases or tuple(words_of(request))
        states = family.encode(phrases, until=["end"] * len(phrases))
        ends = states.one_each(states.end)
        widths = list(_widths(family).values())
        joined = ", ".join(phrases)
        family.encode([joined], until=["last"])  # refuses what does not fit
        return (
            PromptFilter(
                phrases=phrases,
                concepts=dict(zip(family.text_encoders, ends.split(widths, dim=-1), strict=True)),
                pooled=states.pooled,
                negative=family.condition([joined]),
                numbers=config.filtering,
            ),
        )
