#!/usr/bin/env bash
# Package: diffusers 0.42.1 (with transformers 5.23.0).
#
# Expected: a pipeline that is called with a list of prompts leaves the caller's list alone, as other pipelines do, so that the same
# call twice draws the same picture.
#
# What happens: Z-Image's pipeline writes the rendered chat template into the list. A second call with that list renders a template
# around the template, and draws another picture from the same seed.
#
# Why it matters: a loop over seeds, or a comparison of a model before and after an edit, that holds its prompts in a list compares
# pictures of two different prompts. A copy of the list avoids it.

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
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from tokenizers import pre_tokenizers
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model

letters = sorted(pre_tokenizers.ByteLevel.alphabet())
special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
tokenizer = Qwen2Tokenizer(
    vocab={piece: i for i, piece in enumerate([*letters, *special])},
    merges=[],
    pad_token=special[0],
    eos_token=special[2],
    additional_special_tokens=special,
    chat_template="{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
)
torch.manual_seed(0)
text = Qwen3Model(
    Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
    )
)
transformer = ZImageTransformer2DModel(
    in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=32, axes_dims=[4, 4, 8]
)
vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4, layers_per_block=1, shift_factor=0.0)
with torch.no_grad():
    for part in (text, transformer):
        for p in part.parameters():
            p.copy_(torch.randn_like(p) / (p[0].numel() ** 0.5 if p.ndim > 1 else 5) + (p.ndim < 2))
pipe = ZImagePipeline(FlowMatchEulerDiscreteScheduler(), vae.eval(), text.eval(), tokenizer, transformer.eval())
pipe.set_progress_bar_config(disable=True)


def latents(prompts):
    seed = torch.Generator().manual_seed(0)
    call = {"height": 16, "width": 16, "num_inference_steps": 2, "guidance_scale": 0.0, "output_type": "latent"}
    return pipe(prompts, generator=seed, **call).images


print(f"diffusers {diffusers.__version__}, torch {torch.__version__}")
prompts = ["a cat"]
one = latents(prompts)
print(f"after one call the list holds {prompts!r}")
moved = float((latents(prompts) - one).abs().max())
same = float((latents(["a cat"]) - one).abs().max())
print(f"the same call again draws latents {moved:.4f} away; with a list of its own {same:.4f} away")
if prompts == ["a cat"] or moved < 1e-3 or same != 0:
    sys.exit("The behaviour has changed.")
print("As described: the caller's list is rewritten, and the second picture is of another prompt.")
PY
