"""AdaVD: the part of each cross-attention value that points to a target is taken out, adaptively.

Paper:      Wang et al., "Precise, Fast, and Low-cost Concept Erasure in Value Space", CVPR 2025, arXiv 2412.06143
Provenance: written from the paper's description and public ports; the target's values are computed without a pass of
            the model, every row of a batch is treated by itself, several targets by their joint projection: ours

For a value v of a prompt and values t_j of the targets' last tokens, at every position but the start token's:

    v' = v - sum_j delta(cos(v, t_j)) a_j t_j,   sum_j a_j t_j = projection of v on the targets' span
    delta(c) = height / (1 + exp(-slope (c - centre)))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from excise.edits.hooks import Hook, settings_of, tensor_of
from excise.errors import WrongBaseError
from excise.families.attached import Attaching
from excise.families.base import Family
from excise.families.networks import check_plain
from excise.methods.base import Context, Request
from excise.methods.inference.adavd_config import AdaVDConfig
from excise.methods.inference.base import Inference, words_of

CUTOFF = 1e-5  # singular values of the targets, of the largest, below which a direction counts as repeated
START = 1  # tokens at the front that are left alone


@dataclass(frozen=True)
class Shift:
    """delta(c) = height / (1 + exp(-slope (c - centre))), the weight of what is taken out at a cosine c."""

    slope: float = 100.0
    centre: float = 0.93
    height: float = 2.0

    def __call__(self, cosine: Tensor) -> Tensor:
        """The weight for each cosine, of any shape."""
        return self.height * torch.sigmoid(self.slope * (cosine - self.centre))


def target_part(values: Tensor, targets: Tensor, shift: Shift) -> Tensor:
    """What is taken out of each value: sum_j delta(cos(v, t_j)) a_j t_j, zero at the start token.

    Args:
        values: (B, L, D). targets: (n, D). Both in single precision or wider.

    Returns:
        (B, L, D).
    """
    weights = values @ torch.linalg.pinv(targets, rtol=CUTOFF)  # (B, L, n): a
    weights = weights * shift(F.normalize(values, dim=-1) @ F.normalize(targets, dim=-1).mT)
    weights[:, :START] = 0.0
    return weights @ targets


@dataclass(frozen=True, eq=False, kw_only=True)
class ValueProjection(Hook):
    """Targets taken out of every value of cross-attention.

    Attributes:
        words: the targets. states: (n, d) what the projections read at the last token of each.
        shift: the weight of what is taken out.
    """

    kind: ClassVar[str] = "adavd"

    words: tuple[str, ...]
    states: Tensor
    shift: Shift

    def tensors(self) -> dict[str, Tensor]:
        return {"states": self.states.detach().float().cpu()}

    def settings(self) -> dict[str, Any]:
        return {"words": list(self.words), **asdict(self.shift)}

    @classmethod
    def build(cls, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> ValueProjection:
        numbers = dict(settings)
        words = tuple(map(str, numbers.pop("words")))
        return cls(
            words=words, states=tensor_of(tensors, "states", (len(words), None)), shift=settings_of(Shift, numbers)
        )

    def put_on(self, family: Family, strength: float, attaching: Attaching) -> None:
        for projection in family.projections("v"):
            check_plain(projection.module.weight, projection.path)
            if projection.module.in_features != self.states.shape[1]:
                raise WrongBaseError(
                    f"the edit holds text states of width {self.states.shape[1]}, '{projection.path}' reads "
                    f"{projection.module.in_features}; erase again on this model."
                )
            attaching.after(projection.module, _Taking(self, strength).take)


class _Taking:
    """The hook at work on one layer."""

    def __init__(self, hook: ValueProjection, strength: float) -> None:
        self._shift, self._strength, self._states = hook.shift, strength, hook.states

    def take(self, layer: Any, args: Any, kwargs: Any, output: Tensor) -> Tensor:
        """The layer's values without the targets' part; the targets are read by its weights as they are now."""
        with torch.autocast(output.device.type, enabled=False):  # the weight is steep in the cosine
            weight = layer.weight.detach().float()
            self._states = self._states.to(weight)
            targets = F.linear(self._states, weight, None if layer.bias is None else layer.bias.detach().float())
            part = target_part(output.float(), targets, self._shift)
            return (output.float() - self._strength * part).to(output.dtype)


class AdaVD(Inference[AdaVDConfig]):
    """Adaptive value decomposition."""

    Config = AdaVDConfig

    def hooks(self, request: Request, config: AdaVDConfig, context: Context) -> tuple[Hook, ...]:
        words = words_of(request)
        states = request.family.encode(words, words, until=["last"] * len(words))
        last = states.one_each(states.last)
        shift = Shift(config.slope, config.centre, config.height)
        return (ValueProjection(words=tuple(words), states=last, shift=shift),)
