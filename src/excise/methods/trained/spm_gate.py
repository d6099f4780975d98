"""SPM's facilitated transport at work: adapters that open only for prompts that are near their concept.

    gamma(p) = max( over(cos(E(p), E(c)), floor), over(|tokens of p and of c| / |tokens of c|, overlap) )

    over(x, f) = (x - f) / (1 - f), within 0 and 1

E is the pooled state of the first CLIP encoder. The two floors are the largest values of a prompt that is to be
retained, so that the gate is shut for all of these; the published program has none, and is never quite shut (ours).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from excise.edits.deltas import LowRank
from excise.edits.hooks import Hook, tensor_of
from excise.errors import WrongBaseError
from excise.families.attached import Attaching
from excise.families.base import Family
from excise.families.fingerprints import row_key

REMEMBERED = 65536  # prompts whose gate a hook knows
PAD = -1.0  # behind the tokens of a name


@dataclass(frozen=True, eq=False, kw_only=True)
class PromptGate(Hook):
    """Low-rank changes of maps, each scaled by the gate of the prompt that is drawn.

    Attributes:
        factors: by path.
        states: (n, d) pooled states of the concept's names. tokens: (n, k) their token numbers, `PAD` behind them.
        floor, overlap: cosine, and share of a name's tokens, up to which the gate is shut.
    """

    kind: ClassVar[str] = "spm"

    factors: Mapping[str, LowRank]
    states: Tensor
    tokens: Tensor
    floor: float
    overlap: float

    def tensors(self) -> dict[str, Tensor]:
        every = {f"{path}.{name}": getattr(f, name) for path, f in self.factors.items() for name in ("a", "b")}
        return {
            n: t.detach().float().cpu() for n, t in (every | {"states": self.states, "tokens": self.tokens}).items()
        }

    def settings(self) -> dict[str, Any]:
        return {"paths": sorted(self.factors), "floor": self.floor, "overlap": self.overlap}

    @classmethod
    def build(cls, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> PromptGate:
        if set(settings) != {"paths", "floor", "overlap"}:
            raise ValueError(
                f"the settings of the hook 'spm' are {sorted(settings)}, expected floor, overlap and paths"
            )
        for name in ("floor", "overlap"):
            value = settings[name]
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1 <= value < 1:
                raise ValueError(f"the {name} of the hook 'spm' is {value!r}, expected a number from -1 to below 1")
        factors = {}
        for path in map(str, settings["paths"]):
            a = tensor_of(tensors, f"{path}.a", (None, None))
            factors[path] = LowRank(tensor_of(tensors, f"{path}.b", (None, len(a))), a)
        states = tensor_of(tensors, "states", (None, None))
        return cls(
            factors=factors,
            states=states,
            tokens=tensor_of(tensors, "tokens", (len(states), None)),
            floor=float(settings["floor"]),
            overlap=float(settings["overlap"]),
        )

    def put_on(self, family: Family, strength: float, attaching: Attaching) -> None:
        family.check_encoders()
        first, *further = family.text_encoders.values()
        gate = _Gate(self, alone=not further)
        attaching.after(first, gate.remember)
        for encoder in further:
            attaching.after(encoder, gate.remember_words)
        attaching.before(family.denoiser, gate.open)
        for path, factor in self.factors.items():
            layer: Any = family.module(path)
            if tuple(layer.weight.shape) != (factor.b.shape[0], factor.a.shape[1]):
                raise WrongBaseError(
                    f"the edit's change of '{path}' is {factor.b.shape[0]} x {factor.a.shape[1]} and the map "
                    f"{tuple(layer.weight.shape)}; erase again on this model."
                )
            attaching.after(layer, partial(gate.add, factor, strength))

    def gates(self, pooled: Tensor, ids: Tensor) -> Tensor:
        """(B,) gamma of prompts, by their pooled states (B, d) and token numbers (B, L)."""
        states, tokens = self.states.to(pooled.device), self.tokens.to(pooled.device)
        return gate_of(pooled, ids.to(pooled.device), states, tokens, self.floor, self.overlap)

    def opened(self) -> Mapping[str, LowRank]:
        """The adapters."""
        return self.factors


def gate_of(pooled: Tensor, ids: Tensor, states: Tensor, tokens: Tensor, floor: float, overlap: float) -> Tensor:
    """(B,) gamma of prompts.

    Args:
        pooled: (B, d). ids: (B, L) token numbers. states, tokens, floor, overlap: as of `PromptGate`.
    """
    cosine = F.normalize(pooled.float(), dim=-1) @ F.normalize(states.float(), dim=-1).mT  # (B, n)
    near = (cosine.amax(dim=1) - floor) / (1 - floor)
    return torch.maximum(near, (shares_of(ids, tokens) - overlap) / (1 - overlap)).clamp(0, 1)


def shares_of(ids: Tensor, tokens: Tensor) -> Tensor:
    """(B,) the largest share of a name's tokens that stand in a prompt.

    Args:
        ids: (B, L) token numbers. tokens: (n, k), as of `PromptGate`.
    """
    own = tokens != PAD
    there = (ids.float()[:, None, :, None] == tokens[None, :, None, :]).any(dim=2)  # (B, n, k)
    return ((there & own).sum(dim=2) / own.sum(dim=1).clamp(min=1)).amax(dim=1)


class _Gate:
    """The gate at work on one model: it knows the prompts that the text encoder has read."""

    def __init__(self, hook: PromptGate, alone: bool) -> None:
        self._hook, self._alone = hook, alone
        self._known: dict[bytes, float] = {}
        self._scale: Tensor | None = None

    def remember(self, encoder: Any, args: Any, kwargs: Any, output: Any) -> None:
        """A hook on the first text encoder: the gate of every prompt that it reads."""
        ids = args[0] if args else kwargs.get("input_ids")
        if ids is None:
            return
        pooled = output.pooler_output if "pooler_output" in output else output.text_embeds
        self._keep(output, self._hook.gates(pooled, ids))

    def remember_words(self, encoder: Any, args: Any, kwargs: Any, output: Any) -> None:
        """A hook on a further text encoder, which may read another prompt: its gate by the name's tokens alone."""
        ids = args[0] if args else kwargs.get("input_ids")
        if ids is not None:
            tokens, overlap = self._hook.tokens.to(ids.device), self._hook.overlap
            self._keep(output, ((shares_of(ids, tokens) - overlap) / (1 - overlap)).clamp(0, 1))

    def _keep(self, output: Any, gates: Tensor) -> None:
        """Know the gates of prompts by their states: the last, or of any layer where several encoders are read."""
        layers = [output[0]] if self._alone else [*(output.hidden_states or ())]
        for states in layers:
            for row, gate in zip(states.detach(), gates.tolist(), strict=True):
                self._known[row_key(row)] = gate
        while len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]

    def open(self, denoiser: Any, args: Any, kwargs: Any) -> None:
        """A hook before the denoiser: the gate of each row; open where the prompt is unknown, as learnt states are."""
        states = kwargs.get("encoder_hidden_states")
        if states is None:
            self._scale = None
            return
        gates = [self._gate(row) for row in states.detach()]
        self._scale = torch.tensor(gates, device=states.device)

    def _gate(self, row: Tensor) -> float:
        """The gate of a prompt's states (L, d), the wider of what its encoders read; shut for zeros, which stand for no
        prompt at all (SDXL)."""
        if not bool(row.any()):
            return 0.0
        width = self._hook.states.shape[1]
        parts = [row] if self._alone else [row[:, :width], row[:, width:]]
        return max(self._known.get(row_key(part), 1.0) for part in parts)

    def add(self, factor: LowRank, strength: float, layer: Any, args: Any, kwargs: Any, output: Tensor) -> Tensor:
        """A map's output with its change, scaled row by row."""
        rows = args[0].float()
        change = F.linear(F.linear(rows, factor.a.to(rows)), factor.b.to(rows))
        scale = torch.ones(len(rows)) if self._scale is None else self._scale
        if len(scale) != len(rows):  # several rows of a picture, as of heads, one behind the other
            scale = scale.repeat_interleave(len(rows) // len(scale))
        return output + (strength * scale.to(change).view(-1, *(1,) * (change.dim() - 1)) * change).to(output)
