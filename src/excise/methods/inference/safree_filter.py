"""What SAFREE does to a prompt and to skip features, and the filter at work on one model.

Equations 2 to 8 of arXiv 2410.12761, as the module `safree` gives them. `ActiveFilter` follows the text encoders, so
that it knows the tokens of every prompt that the denoiser reads, and changes what it reads in guided calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from excise.errors import ModelError
from excise.families.base import Family
from excise.families.conditions import Condition
from excise.families.fingerprints import row_key
from excise.families.guidance import GuidedCalls, condition_of, rows_of, running_pipeline, with_condition

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


@dataclass(frozen=True)
class Phrases:
    """What a model's text encoders make of the phrases that span a concept.

    Attributes:
        concepts: by text encoder (K, d), the states of their end tokens.
        pooled: (K, p) their pooled states, where the model reads such.
        negative: the prompt that takes the unconditional one's place; one row.
    """

    concepts: Mapping[str, Tensor]
    pooled: Tensor | None
    negative: Condition


@dataclass(frozen=True)
class _Plan:
    """What is done to one prompt: its filtered states (L, d), whether any token is a trigger, until which step."""

    states: Tensor
    last: int


class ActiveFilter:
    """The filter at work on one model.

    Args:
        phrases: what the concept's phrases are read as. numbers: settings. strength: 0 changes nothing, 1 all.
    """

    def __init__(self, phrases: Phrases, numbers: Filtering, family: Family, strength: float) -> None:
        self._phrases, self._numbers, self._family, self._strength = phrases, numbers, family, strength
        self._calls = GuidedCalls()
        self._bases = {name: row_space(rows.cpu()) for name, rows in phrases.concepts.items()}
        self._pooled = None if phrases.pooled is None else row_space(phrases.pooled.cpu())
        self._tokens: dict[str, dict[bytes, Tensor]] = {name: {} for name in phrases.concepts}
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
            known[row_key(row)] = own
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
        own = condition_of(kwargs, self._phrases.negative.inputs, call.conditional)
        plans = [self._plan(row) for row in own.inputs["encoder_hidden_states"]]
        active = [plan is not None and call.step <= plan.last for plan in plans]
        if any(active):
            if self._numbers.reattention:
                self._record(denoiser, args, kwargs)
                rows = [call.rows + i for i, on in enumerate(active) if on]
                self._active = torch.tensor(rows, device=own.inputs["encoder_hidden_states"].device)
            kwargs = with_condition(kwargs, self._changed(own, plans, active), call.conditional)
        if self._numbers.negative:
            empty = condition_of(kwargs, self._phrases.negative.inputs, call.unconditional)
            kwargs = with_condition(kwargs, self._mixed(empty, self._phrases.negative), call.unconditional)
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
        key = row_key(row)
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
            ids = self._tokens[name].get(row_key(part))
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
