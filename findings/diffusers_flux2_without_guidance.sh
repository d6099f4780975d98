#!/usr/bin/env bash
# Package: diffusers 0.42.1.
#
# Expected: the transformer of FLUX.2 dev was distilled with guidance as an input. Without it, a prediction should be refused, as
# FLUX.1's transformer refuses it.
#
# What happens: FLUX.2's transformer predicts all the same, without an error or a warning: the embedding of guidance is left out of
# the modulation of every block. FLUX.1's raises a TypeError.
#
# Why it matters: a training loop or an evaluation that was written for FLUX.1 schnell or for FLUX.2 klein runs on dev and optimises
# or measures a network that nobody draws with.

set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

if [ -n "${FINDINGS_VENV:-}" ]; then
  python=$FINDINGS_VENV/bin/python
else
  python3 -m venv "$folder/venv"
  python=$folder/venv/bin/python
  "$python" -m pip install --quiet torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 accelerate==1.15.0 safetensors==0.8.0 numpy==2.4.6
fi

HF_HUB_OFFLINE=1 "$python" - <<'PY'
import sys

import diffusers
import torch
from diffusers import Flux2Transformer2DModel, FluxTransformer2DModel

PICTURE, TEXT = 16, 6
torch.manual_seed(0)
sizes = {"in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
first = FluxTransformer2DModel(
    **sizes, joint_attention_dim=32, pooled_projection_dim=8, guidance_embeds=True, axes_dims_rope=(4, 4, 8)
).eval()
second = Flux2Transformer2DModel(
    **sizes, joint_attention_dim=32, timestep_guidance_channels=16, guidance_embeds=True, axes_dims_rope=(4, 4, 4, 4)
).eval()
with torch.no_grad():
    for model in (first, second):
        for p in model.parameters():
            p.copy_(torch.randn_like(p) / (p[0].numel() ** 0.5 if p.ndim > 1 else 5) + (p.ndim < 2) * p.mean().round())
latents, text = torch.randn(1, PICTURE, 16), torch.randn(1, TEXT, 32)


@torch.no_grad()
def prediction(model, axes, guidance, **more):
    return model(
        latents,
        encoder_hidden_states=text,
        timestep=torch.tensor([0.5]),
        img_ids=torch.zeros(PICTURE, axes),
        txt_ids=torch.zeros(TEXT, axes),
        guidance=guidance,
        **more,
    ).sample


print(f"diffusers {diffusers.__version__}, torch {torch.__version__}")
try:
    prediction(first, 3, None, pooled_projections=torch.randn(1, 8))
    refused = False
except TypeError as error:
    refused = True
    print(f"FLUX.1 without guidance: TypeError ({str(error).splitlines()[0]})")
with_guidance = prediction(second, 4, torch.tensor([4.0]))
moved = float((with_guidance - prediction(second, 4, None)).abs().max())
print(f"FLUX.2 without guidance: no error; the prediction is {moved:.4f} from that at guidance 4, whose deviation is {with_guidance.std():.4f}")
if not refused or moved < 1e-3:
    sys.exit("The behaviour has changed.")
print("As described: FLUX.2 predicts without the guidance that it was distilled with.")
PY
