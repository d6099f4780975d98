"""SANA-Sprint: SANA distilled into one to four steps; guidance is an input of the denoiser, and there is no other half.

Text is read as in SANA, but that keys are normed, so that only the direction of a key matters. The sampler works in
TrigFlow (arXiv 2410.11081): latents cos(a) x + sin(a) e at an angle a. The transformer below it is that of SANA, with
latents (1 - s) x + s e at s = sin(a) / (sin(a) + cos(a)) and the prediction e - x (arXiv 2503.09641, section 3.1).
`predict` and `noising` speak of this flow, with times 1000 s; what the sampler is given is a fixed function of it. At
every step the sampler draws fresh noise, from each picture's own generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from excise.errors import ModelError
from excise.families import capabilities as c
from excise.families.conditions import Condition, masked
from excise.families.noising import Noising
from excise.families.sana import Sana

EMBEDDED_GUIDANCE = 4.5  # the pipeline's default, an input of the distilled denoiser


class SanaSprint(Sana):
    """Adapter of a `SanaSprintPipeline` and its sibling for img2img."""

    name = "sana-sprint"
    provides = c.SEPARATE
    draws_with = "SanaSprintPipeline"

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        if not self.denoiser.config.guidance_embeds:
            raise ModelError(
                "the transformer of this SanaSprintPipeline takes no guidance (guidance_embeds is false), which the "
                "pipeline gives it; load a model of SANA-Sprint, or this transformer in a SanaPipeline."
            )

    @property
    def noising(self) -> Noising:
        config = self.pipe.scheduler.config
        if config.get("prediction_type") != "trigflow":
            raise ModelError(
                f"the scheduler predicts '{config.get('prediction_type')}'; expected the SCMScheduler that comes with "
                "SANA-Sprint, which predicts 'trigflow'; load the model with its own scheduler folder."
            )
        return Noising("flow", int(config.num_train_timesteps), torch.empty(0))

    def _predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        guidance = torch.full((len(latents),), EMBEDDED_GUIDANCE, device=latents.device)
        guidance = guidance.to(latents.dtype) * self.denoiser.config.guidance_embeds_scale
        share = timestep / self.noising.levels
        output: Tensor = self.denoiser(latents, timestep=share, guidance=guidance, **condition.inputs).sample
        return output[:, : latents.shape[1]]

    def unconditional(self) -> Condition:
        """The empty prompt as the pipeline encodes one; it draws without."""
        return self.condition([""])

    def _encoded(self, texts: Sequence[str], instruction: list[str] | None) -> Condition:
        return masked(
            *self.pipe.encode_prompt(
                list(texts),
                device=self.device,
                max_sequence_length=self.max_tokens,
                complex_human_instruction=instruction,
            )
        )

    def _call(self, condition: Condition, unconditional: Condition) -> dict[str, Any]:
        return {
            "prompt_embeds": condition.inputs["encoder_hidden_states"],
            "prompt_attention_mask": condition.inputs["encoder_attention_mask"],
            "height": self.image_size,
            "width": self.image_size,
            "use_resolution_binning": False,
        }

    def _guidance(self, scale: float) -> dict[str, Any]:
        return {"guidance_scale": EMBEDDED_GUIDANCE}

    def _steps(self, steps: int) -> dict[str, Any]:
        """The pipeline's own two steps, or steps of one length; it refuses its default for any number but two."""
        return {"num_inference_steps": steps, **({} if steps == 2 else {"intermediate_timesteps": None})}
