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

from torch import Tensor

from excise.edits.hooks import Hook, settings_of, tensor_of
from excise.errors import WrongBaseError
from excise.families.attached import Attaching
from excise.families.base import Family
from excise.families.conditions import Condition
from excise.methods.base import Context, Request
from excise.methods.inference.base import Inference, check_condition, words_of
from excise.methods.inference.safree_config import SAFREEConfig
from excise.methods.inference.safree_filter import ActiveFilter, Filtering, Phrases


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
