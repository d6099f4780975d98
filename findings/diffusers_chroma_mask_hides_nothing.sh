#!/usr/bin/env bash
# Package: diffusers 0.42.1.
#
# Expected: Chroma's pipeline hides the padding of a prompt from the transformer, all but one pad, by an attention mask,
# so that what stands in the hidden rows cannot reach the picture.
#
# What happens: the pipeline hands over a mask of ones and zeros in floating point. Attention takes such a mask as numbers to be
# added to its logits: rows that should be read gain one, and rows that should be hidden lose nothing and are read. New states in
# the hidden rows change the prediction; with the same mask as booleans they do not.
#
# Why it matters: an edit that is made of the rows that the mask shows misses most of the rows that are read. And whoever mends the
# mask (a sampler of another program, a trainer) draws other pictures from the same weights.

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
from diffusers import ChromaPipeline, ChromaTransformer2DModel

TEXT, PICTURE, SHOWN = 12, 16, 4

torch.manual_seed(0)
model = ChromaTransformer2DModel(
    in_channels=16,
    num_layers=1,
    num_single_layers=1,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=32,
    axes_dims_rope=(4, 4, 8),
    approximator_num_channels=8,
    approximator_hidden_dim=16,
    approximator_layers=1,
).eval()
with torch.no_grad():
    for p in model.parameters():
        p.copy_(torch.randn_like(p) * (0.3 if p.ndim > 1 else 0.1) + (p.ndim < 2) * p.mean().round())
latents, text = torch.randn(1, PICTURE, 16), torch.randn(1, TEXT, 32)
other = text.clone()
other[:, SHOWN:] = torch.randn(1, TEXT - SHOWN, 32)
of_prompt = (torch.arange(TEXT) < SHOWN)[None].to(text.dtype)  # as encode_prompt returns it
mask = ChromaPipeline._prepare_attention_mask(None, 1, PICTURE, latents.dtype, of_prompt)


@torch.no_grad()
def prediction(states, mask):
    return model(
        latents,
        encoder_hidden_states=states,
        timestep=torch.tensor([0.5]),
        img_ids=torch.zeros(PICTURE, 3),
        txt_ids=torch.zeros(TEXT, 3),
        attention_mask=mask,
    ).sample


print(f"diffusers {diffusers.__version__}, torch {torch.__version__}")
added = float((prediction(text, mask) - prediction(other, mask)).abs().max())
hidden = float((prediction(text, mask.bool()) - prediction(other, mask.bool())).abs().max())
print(f"the pipeline's mask: {mask.dtype}, values {sorted(set(mask.flatten().tolist()))}")
print(f"new states in the hidden rows change the prediction by {added:.4f} with it, by {hidden:.4f} with the same as booleans")
if mask.dtype != torch.float32 or added < 1e-3 or hidden != 0:
    sys.exit("The behaviour has changed.")
print("As described: the mask adds to the logits and hides nothing.")
PY
