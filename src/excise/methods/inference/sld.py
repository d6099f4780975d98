"""SLD: guidance away from the concept's own prompt, step by step while the model draws.

Paper:      Schramowski et al., "Safe Latent Diffusion", CVPR 2023, arXiv 2211.05105, equations 3 to 8
Provenance: written from the paper; what the safe pipeline of diffusers (Apache-2.0) computes was read, not copied

With u, p, s the predictions without a prompt, under the prompt and under the concept's prompt, and nu = 0 at first:

    mu    = min(1, s_S |p - s|)  where  p - s < lambda,  else 0        (5, 6)
    gamma = mu (s - u) + s_m nu                                          (4, 7)
    nu   <- beta_m nu + (1 - beta_m) gamma                               (8)
    eps   = u + s_g (p - u - gamma), gamma left out during the warm-up   (3)

So the pipeline's own guidance yields eps when the hook hands it p - gamma in the place of p.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from excise.edits.hooks import Hook, settings_of, tensor_of
from excise.families.attached import Attaching
from excise.families.base import Family
from excise.families.conditions import Condition
from excise.families.guidance import GuidedCalls, rows_of, with_rows
from excise.methods.base import Context, Request
from excise.methods.inference.base import Inference, check_condition, words_of
from excise.methods.inference.sld_config import SafetyTerm, SLDConfig


def safety_term(
    empty: Tensor, prompt: Tensor, concept: Tensor, momentum: Tensor, term: SafetyTerm
) -> tuple[Tensor, Tensor]:
    """Return gamma and the next momentum nu (equations 4 to 8).

    Args:
        empty, prompt, concept: (B, C, H, W) predictions u, p and s. momentum: nu of the step before, 0 at first.
    """
    difference = prompt - concept
    weight = torch.where(difference < term.threshold, (term.scale * difference.abs()).clamp(max=1.0), 0.0)
    gamma = weight * (concept - empty) + term.momentum_scale * momentum
    return gamma, term.momentum_decay * momentum + (1.0 - term.momentum_decay) * gamma


@dataclass(frozen=True, eq=False, kw_only=True)
class SafetyGuidance(Hook):
    """Guidance away from one prompt.

    Attributes:
        prompt: the concept's prompt. condition: the same as the denoiser takes it, one row.
        term: the numbers of the safety term.
    """

    kind: ClassVar[str] = "sld"
    guided: ClassVar[bool] = True

    prompt: str
    condition: Condition
    term: SafetyTerm

    def tensors(self) -> dict[str, Tensor]:
        return {name: tensor.detach().float().cpu() for name, tensor in self.condition.inputs.items()}

    def settings(self) -> dict[str, Any]:
        return {"prompt": self.prompt, **asdict(self.term)}

    @classmethod
    def build(cls, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> SafetyGuidance:
        numbers = dict(settings)
        prompt = str(numbers.pop("prompt"))
        tensor_of(tensors, "encoder_hidden_states", (1, None, None))
        further = ("text_embeds", "pooled_projections", "encoder_attention_mask")
        for name in further:
            if name in tensors:
                tensor_of(tensors, name, (1, None))
        inputs = {name: tensors[name] for name in ("encoder_hidden_states", *further) if name in tensors}
        return cls(prompt=prompt, condition=Condition(inputs), term=settings_of(SafetyTerm, numbers))

    def put_on(self, family: Family, strength: float, attaching: Attaching) -> None:
        check_condition(self.condition, family)
        attaching.after(family.denoiser, _Guiding(self, strength).guide)


class _Guiding:
    """The hook at work on one denoiser: its momentum, and whether it is asking for the third prediction."""

    def __init__(self, hook: SafetyGuidance, strength: float) -> None:
        self._hook, self._strength = hook, strength
        self._calls = GuidedCalls()
        self._momentum: Tensor | None = None
        self._asking = False

    def guide(self, denoiser: Any, args: Any, kwargs: Any, output: Any) -> Any:
        """The output of a guided call with p - gamma in the place of p."""
        if self._asking:
            return None
        call = self._calls.current(rows_of(args, kwargs))
        if call is None:
            return None
        self._asking = True
        try:
            args, kwargs = with_rows(args, kwargs, call, self._hook.condition)
            concept = denoiser(*args, **kwargs)[0].float()
        finally:
            self._asking = False
        whole: Tensor = output[0]
        empty, prompt = whole[call.unconditional].float(), whole[call.conditional].float()
        if call.step == 0 or self._momentum is None or self._momentum.shape != prompt.shape:
            self._momentum = torch.zeros_like(prompt)
        gamma, self._momentum = safety_term(empty, prompt, concept, self._momentum, self._hook.term)
        if call.step < self._hook.term.warmup:
            return None
        safe = prompt - self._strength * gamma
        changed = torch.cat([whole[call.unconditional], safe.to(whole.dtype)])
        return (changed, *output[1:]) if isinstance(output, tuple) else type(output)(sample=changed)


class SLD(Inference[SLDConfig]):
    """Safe Latent Diffusion with the concept's own words."""

    Config = SLDConfig

    def hooks(self, request: Request, config: SLDConfig, context: Context) -> tuple[Hook, ...]:
        prompt = config.prompt or ", ".join(words_of(request))
        request.family.encode([prompt], until=["last"])  # refuses one that does not fit
        condition = request.family.condition([prompt])
        return (SafetyGuidance(prompt=prompt, condition=condition, term=config.term),)
