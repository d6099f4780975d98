#!/usr/bin/env bash
# Package: diffusers 0.42.1.
#
# Expected: gradient checkpointing saves memory in training and changes no output.
#
# What happens: in Chroma's transformer the blocks with one stream are called without the attention mask as soon as gradient
# checkpointing is on and gradients are asked for; the blocks with two streams keep it. The same weights and inputs predict
# something else.
#
# Why it matters: a LoRA, or an edit that is trained to leave all other prompts as they are, is trained against another network than
# the one it will be used in. Without checkpointing, or with a call that binds the mask again, the two are one.

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
from diffusers import ChromaTransformer2DModel

TEXT, PICTURE = 12, 16


def tiny(single):
    torch.manual_seed(0)
    model = ChromaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=single,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 4, 8),
        approximator_num_channels=8,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * (0.3 if p.ndim > 1 else 0.1) + (p.ndim < 2) * p.mean().round())
    return model.train()


def prediction(model):
    draw = torch.Generator().manual_seed(1)
    return model(
        torch.randn(1, PICTURE, 16, generator=draw),
        encoder_hidden_states=torch.randn(1, TEXT, 32, generator=draw),
        timestep=torch.tensor([0.5]),
        img_ids=torch.zeros(PICTURE, 3),
        txt_ids=torch.zeros(TEXT, 3),
        attention_mask=(torch.arange(TEXT + PICTURE) >= 4)[None],
    ).sample


def change(single):
    """How far gradient checkpointing moves the prediction, at most."""
    model = tiny(single)
    before = prediction(model)
    model.enable_gradient_checkpointing()
    return float((prediction(model) - before).abs().max().detach())


print(f"diffusers {diffusers.__version__}, torch {torch.__version__}")
without, with_single = change(0), change(2)
print(f"without blocks of one stream checkpointing moves the prediction by {without:.2e}, with two of them by {with_single:.4f}")
if without > 1e-5 or with_single < 1e-3:
    sys.exit("The behaviour has changed.")
print("As described: under checkpointing the blocks with one stream have no mask.")
PY
