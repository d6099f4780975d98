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

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from excise.edits.hooks import Hook, settings_of, tensor_of
from excise.errors import ModelError, WrongBaseError
from excise.families.attached import Attaching
from excise.families.base import Condition, Family
from excise.families.fingerprints import raw_bytes
from excise.families.guidance import GuidedCalls, condition_of, rows_of, running_pipeline, with_condition
from excise.methods.base import Context, Request
from excise.methods.inference.base import Inference, check_condition, words_of
from excise.support.settings import Settings

CUTOFF = 1e-4  # singular values, of the largest, below which a direction counts as none
MASK = 0  # the token that stands in the place of one left out
WINDOW = 1  # half the side of the window of low frequencies
REMEMBERED = 65536  # prompts that a hook knows the tokens of
PLANNED = 512  # prompts whose filtering it keeps


@dataclass(frozen=True)
class Filtering:
    """The settings of the hook; `SAFREEConfig` explains them."""

    project: bool = True
    alpha: float = 0.01
    spread: bool = False
    validate: bool = True
    bound: int = 10
    midpoint: float = 5.333
    sharpness: float = 2.5
    negative: bool = True
    reattention: bool = True
    deep: float = 0.9
    shallow: float = 0.2
    pooled: bool = True


def row_space(rows: Tensor) -> Tensor:
    """Return an orthonormal basis (D, r) of the space that `rows` (K, D) span."""
    _, values, directions = torch.linalg.svd(rows.float(), full_matrices=False)
    return directions[values > CUTOFF * values.amax()].mT


def without(vectors: Tensor, basis: Tensor) -> Tensor:
    """(I - P) v for vectors (..., D) and an orthonormal basis (D, r)."""
    return vectors - (vectors @ basis) @ basis.mT


def triggers(masked: Tensor, concept: Tensor, alpha: float) -> Tensor:
    """(N,) whether the prompt without a token is farther from the concept than without the others (equations 2 to 4).

    Args:
        masked: (N, D) the prompt without token i. concept: (D, r) basis of the concept's phrases.
    """
    distance = without(masked, concept).norm(dim=-1)
    if len(distance) < 2:  # the official mean over nothing makes the only token a trigger
        return torch.ones_like(distance, dtype=torch.bool)
    others = (distance.sum() - distance) / (len(distance) - 1)
    return distance >= (1.0 + alpha) * others


def filtered(text: Tensor, prompt: Tensor, concept: Tensor) -> Tensor:
    """(I - P_C) P_I e for every state (L, D); the bases are those of the masked prompt and of the concept."""
    return without((text @ prompt) @ prompt.mT, concept)


def last_step(text: Tensor, changed: Tensor, numbers: Filtering) -> int:
    """The last step that reads the filtered prompt (equation 6).

    Args:
        text, changed: (n, D) states of start token, prompt and end token, each one filtered.
    """
    if not numbers.validate:
        return 2**31
    beta = 1.0 - F.cosine_similarity(text, changed, dim=-1).mean().double()
    share = torch.sigmoid(2.0 * numbers.sharpness * (10.0 * beta - numbers.midpoint))
    return round(numbers.bound * share.item())


def calmed(features: Tensor, reference: Tensor, scale: float) -> Tensor:
    """Features whose low frequencies are scaled where they exceed the reference's (equations 7 and 8).

    Args:
        features, reference: (B, C, H, W) of the filtered and of the unfiltered prompt.
    """
    high = torch.promote_types(features.dtype, torch.float32)
    spectrum, other = (torch.fft.fftshift(torch.fft.fft2(x.to(high)), dim=(-2, -1)) for x in (features, reference))
    row, column = (side // 2 for side in features.shape[-2:])
    low = (..., slice(row - WINDOW, row + WINDOW), slice(column - WINDOW, column + WINDOW))
    exceeds = spectrum[low].abs() > other[low].abs()
    spectrum[low] = torch.where(exceeds, scale * spectrum[low], spectrum[low])
    return torch.fft.ifft2(torch.fft.ifftshift(spectrum, dim=(-2, -1))).real.to(features)


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
        guard = _Guard(self, family, strength)
        # Partial calls, where a closure would leave a deep copy of the model with this model's guard.
        for name in self.concepts:
            attaching.after(family.text_encoders[name], partial(guard.remember, name))
        attaching.before(family.denoiser, guard.swap)
        attaching.after(family.denoiser, guard.forget)
        if self.numbers.reattention and self.numbers.project:
            unet: Any = family.denoiser
            for i, block in enumerate(unet.up_blocks):
                attaching.before(block, partial(guard.reattend, i, unet.config.block_out_channels))


@dataclass(frozen=True)
class _Plan:
    """What is done to one prompt: its filtered states (L, d), whether any token is a trigger, until which step."""

    states: Tensor
    last: int


class _Guard:
    """The hook at work on one model."""

    def __init__(self, hook: PromptFilter, family: Family, strength: float) -> None:
        self._hook, self._family, self._strength = hook, family, strength
        self._numbers = hook.numbers
        self._calls = GuidedCalls()
        self._bases = {name: row_space(rows.cpu()) for name, rows in hook.concepts.items()}
        self._pooled = None if hook.pooled is None else row_space(hook.pooled.cpu())
        self._tokens: dict[str, dict[bytes, Tensor]] = {name: {} for name in hook.concepts}
        self._plans: dict[bytes, _Plan | None] = {}
        self._inside = False  # a call that the hook makes itself
        self._reference: dict[int, tuple[Tensor, ...]] | None = None  # skip features of the unfiltered prompts
        self._recording = False
        self._active: Tensor | None = None  # rows of a call whose skip features are filtered

    def remember(self, name: str, encoder: Any, args: Any, kwargs: Any, output: Any) -> None:
        """A hook on a text encoder: the tokens of every row of states it makes."""
        ids = args[0] if args else kwargs.get("input_ids")
        if self._inside or ids is None:
            return
        states = self._read(output)
        if states is None:
            return
        known = self._tokens[name]
        for row, own in zip(states.detach(), ids, strict=True):
            known[_key(row)] = own
            if len(known) > REMEMBERED:
                del known[next(iter(known))]

    def swap(self, denoiser: Any, args: Any, kwargs: Any) -> Any:
        """A hook before the denoiser: filtered prompts in the conditional rows of a guided call."""
        if self._inside:
            return None
        self._reference = self._active = None  # which a call that failed left behind
        call = self._calls.current(rows_of(args, kwargs))
        if call is None:
            return None
        self._check_encoders()
        own = condition_of(kwargs, self._hook.negative.inputs, call.conditional)
        plans = [self._plan(row) for row in own.inputs["encoder_hidden_states"]]
        active = [plan is not None and call.step <= plan.last for plan in plans]
        if any(active):
            if self._numbers.reattention:
                self._record(denoiser, args, kwargs)
                rows = [call.rows + i for i, on in enumerate(active) if on]
                self._active = torch.tensor(rows, device=own.inputs["encoder_hidden_states"].device)
            kwargs = with_condition(kwargs, self._changed(own, plans, active), call.conditional)
        if self._numbers.negative:
            empty = condition_of(kwargs, self._hook.negative.inputs, call.unconditional)
            kwargs = with_condition(kwargs, self._mixed(empty, self._hook.negative), call.unconditional)
        return args, kwargs

    def _check_encoders(self) -> None:
        """Refuse a pipeline that shares the denoiser alone: its prompts are read elsewhere and would pass unfiltered.

        Raises:
            ModelError: it does.
        """
        pipe = running_pipeline()
        for name in self._tokens:
            own = getattr(pipe, name, None)
            if own is not None and own is not self._family.text_encoders[name]:
                raise ModelError(
                    f"the pipeline that draws shares the denoiser of the one that the edit was applied to, and has a "
                    f"'{name}' of its own, whose prompts safree cannot read; apply the edit to that pipeline."
                )

    def forget(self, denoiser: Any, args: Any, kwargs: Any, output: Any) -> None:
        """A hook after the denoiser: its skip features are let go."""
        if not self._inside:
            self._reference = self._active = None

    def reattend(self, index: int, channels: Sequence[int], block: Any, args: Any, kwargs: Any) -> Any:
        """A hook before an up block: skip features of active rows, by the width of the features they are joined to."""
        scales = {channels[-1]: self._numbers.deep, channels[-2]: self._numbers.shallow}
        skips: tuple[Tensor, ...] = kwargs["res_hidden_states_tuple"]
        if self._recording and self._reference is not None:
            self._reference[index] = skips
        if self._active is None or self._reference is None or self._recording:
            return None
        changed = list(skips)
        widths = [kwargs["hidden_states"].shape[1], *(resnet.out_channels for resnet in block.resnets)]
        for i, width in enumerate(widths[:-1]):
            at = len(skips) - 1 - i  # the block takes them from the end
            if width in scales:
                rows, other = self._active, self._reference[index][at][self._active]
                new = calmed(skips[at][rows], other, scales[width])
                mixed = torch.lerp(skips[at][rows].float(), new.float(), self._strength).to(new)
                changed[at] = skips[at].index_copy(0, rows, mixed)
        return args, {**kwargs, "res_hidden_states_tuple": tuple(changed)}

    def _record(self, denoiser: Any, args: Any, kwargs: Any) -> None:
        """Let the denoiser read the unfiltered prompts, and keep its skip features.

        The batch is the whole one, so that features which no prompt has reached are equal to the last bit.
        """
        self._inside = self._recording = True
        self._reference = {}
        try:
            denoiser(*args, **kwargs)
        finally:
            self._inside = self._recording = False

    def _changed(self, own: Condition, plans: Sequence[_Plan | None], active: Sequence[bool]) -> Condition:
        """The conditions with filtered prompts where they are active."""
        inputs = dict(own.inputs)
        rows = zip(inputs["encoder_hidden_states"], plans, active, strict=True)
        inputs["encoder_hidden_states"] = torch.stack(
            [plan.states.to(row) if on and plan is not None else row for row, plan, on in rows]
        )
        if self._pooled is not None and self._numbers.pooled:
            before = inputs["text_embeds"]
            after = without(before.float(), self._pooled.to(before.device)).to(before)
            inputs["text_embeds"] = torch.where(torch.tensor(active, device=before.device)[:, None], after, before)
        return self._mixed(own, Condition(inputs))

    def _mixed(self, before: Condition, after: Condition) -> Condition:
        """From one condition towards another by the hook's strength."""
        if self._strength == 1:
            return after
        return Condition(
            {
                name: torch.lerp(old.float(), after.inputs[name].to(old.device).float(), self._strength).to(old)
                for name, old in before.inputs.items()
            }
        )

    def _plan(self, row: Tensor) -> _Plan | None:
        """What to do with a prompt (L, d): nothing where it is unknown, empty, or has no trigger."""
        if not self._numbers.project:
            return None
        key = _key(row)
        if key not in self._plans:
            if len(self._plans) >= PLANNED:
                self._plans.clear()
            with torch.autocast(row.device.type, enabled=False):
                self._plans[key] = self._planned(row.detach())
        return self._plans[key]

    def _planned(self, row: Tensor) -> _Plan | None:
        parts = dict(zip(self._bases, row.split([b.shape[0] for b in self._bases.values()], dim=-1), strict=True))
        every, fired = [], []
        for name, part in parts.items():
            ids = self._tokens[name].get(_key(part))
            masked = None if ids is None else self._masked(name, ids, part)
            if masked is None:
                return None
            # On the CPU: the number of directions decides, and must not depend on the device.
            states, concept = part.float().cpu(), self._bases[name]
            masked = masked.float().cpu()
            every.append(filtered(states, row_space(masked), concept))
            fired.append(triggers(masked, concept, self._numbers.alpha))
        length = min(len(f) for f in fired)
        hits = torch.stack([f[:length] for f in fired]).any(dim=0)
        if not bool(hits.any()):
            return None
        text, changed = row.float().cpu(), torch.cat(every, dim=-1)
        last = last_step(text[: length + 2], changed[: length + 2], self._numbers)
        chosen = torch.zeros(len(text), 1, dtype=torch.bool)
        chosen[1 : 1 + length, 0] = hits
        if self._numbers.spread:
            chosen[1 + int(hits.nonzero()[0]) :] = True
        return _Plan(torch.where(chosen, changed, text), last)

    def _masked(self, name: str, ids: Tensor, part: Tensor) -> Tensor | None:
        """(N, d) end tokens' states of a prompt without each of its tokens; None of an empty prompt.

        None as well where the tokens do not make these states, as where optimised embeddings stand in their place.
        """
        encoder = self._family.text_encoders[name]
        end = int((ids == self._family.tokenizers[name].eos_token_id).nonzero()[0])
        if end < 2:
            return None
        rows = ids.repeat(end, 1)
        places = torch.arange(1, end, device=ids.device)
        rows[places - 1, places] = MASK  # the last row stays whole
        self._inside = True
        try:
            with torch.no_grad():
                states = self._read(encoder(rows, output_hidden_states=len(self._bases) > 1))
        finally:
            self._inside = False
        if states is None or (states[-1] - part.to(states)).norm() > 1e-2 * part.norm():
            return None
        return states[:-1, end]

    def _read(self, output: Any) -> Tensor | None:
        """(B, L, d) the states that the denoiser reads of a text encoder's output: of two encoders the next to last."""
        if len(self._bases) == 1:
            states: Tensor = output[0]
            return states
        return None if output.hidden_states is None else output.hidden_states[-2]


def _widths(family: Family) -> dict[str, int]:
    """By text encoder, the width of its states."""
    encoders: dict[str, Any] = dict(family.text_encoders)
    return {name: int(encoder.config.hidden_size) for name, encoder in encoders.items()}


def _key(row: Tensor) -> bytes:
    return hashlib.blake2b(raw_bytes(row.detach().float().cpu()), digest_size=16).digest()


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
        states = family.encode(phrases)
        ends = torch.cat([states.states[i, end][None] for i, end in enumerate(states.end.tolist())])
        widths = list(_widths(family).values())
        joined = ", ".join(phrases)
        family.encode([joined])  # refuses what does not fit
        return (
            PromptFilter(
                phrases=phrases,
                concepts=dict(zip(family.text_encoders, ends.split(widths, dim=-1), strict=True)),
                pooled=states.pooled,
                negative=family.condition([joined]),
                numbers=config.filtering,
            ),
        )
