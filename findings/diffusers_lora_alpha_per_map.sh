#!/usr/bin/env bash
# Package: diffusers 0.42.1 (with peft 0.21.2).
#
# Expected: a LoRA in the kohya layout says of every map how strong it is, by its rank and its alpha. Where alpha equals the rank,
# the map's weight should change by up @ down, whatever ranks the other maps have.
#
# What happens: where the maps of a file have different ranks, and so different alphas, attention maps (to_q, to_k, to_v, to_out)
# whose alpha is not the most frequent one of the file are loaded at the most frequent alpha: here a map of rank 4 at half its
# strength and one of rank 1 at twice its strength. The only sign is a RuntimeWarning that alpha_pattern keys matched no module.
# Other maps, here proj_in and proj_out, are right.
#
# Why it matters: an edit of a diffusion model is often shipped as a LoRA, and one that spends its rank where it is needed has a
# different rank on each map. It loads without an error and is then too weak or too strong. A file with one rank and one alpha for
# all maps (padded with zeros) loads as it should.

set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

if [ -n "${FINDINGS_VENV:-}" ]; then
  python=$FINDINGS_VENV/bin/python
else
  python3 -m venv "$folder/venv"
  python=$folder/venv/bin/python
  "$python" -m pip install --quiet torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 accelerate==1.15.0 peft==0.21.2 safetensors==0.8.0 numpy==2.4.6
fi

HF_HUB_OFFLINE=1 "$python" - "$folder" <<'EOF'
import sys
import warnings

import diffusers
import peft
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

diffusers.utils.logging.set_verbosity_error()


def loaded(names):
    """Of each map: what is loaded of it, as a multiple of up @ down. And the warnings."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(32, 64),
        norm_num_groups=8,
        cross_attention_dim=16,
        attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    pipe = StableDiffusionPipeline(
        vae=None,
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    lora, wanted = {}, {}
    for name, rank in names.items():
        rows, columns = unet.get_submodule(name).weight.shape[:2]
        spatial = unet.get_submodule(name).weight.shape[2:]
        up, down = torch.randn(rows, rank), torch.randn(rank, columns)
        key = "lora_unet_" + name.replace(".", "_")
        lora[f"{key}.lora_up.weight"] = up.reshape(rows, rank, *spatial)
        lora[f"{key}.lora_down.weight"] = down.reshape(rank, columns, *spatial)
        lora[f"{key}.alpha"] = torch.tensor(float(rank))
        wanted[name] = up @ down
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipe.load_lora_weights(lora, adapter_name="edit")
    strengths = []
    for name, rank in names.items():
        delta = unet.get_submodule(name).get_delta_weight("edit").detach().flatten(1)
        strength = float((delta * wanted[name]).sum() / wanted[name].square().sum())
        assert torch.allclose(delta, strength * wanted[name], atol=1e-4)
        strengths.append(round(strength, 4))
        print(f"  {name.split('.', 3)[-1]}: rank {rank}, alpha {rank}, loaded as {strength:.4f} x (up @ down)")
    told = [str(each.message) for each in caught if "alpha_pattern" in str(each.message)]
    for each in told:
        print(f"  warned: {each}")
    return strengths, told


print(f"diffusers {diffusers.__version__}, peft {peft.__version__}, torch {torch.__version__}")
block = "down_blocks.0.attentions.0"
attention = f"{block}.transformer_blocks.0.attn2"
print("attention maps of one rank:")
same, _ = loaded({f"{attention}.to_k": 2, f"{attention}.to_v": 2})
print("other maps of two ranks:")
other, _ = loaded({f"{block}.proj_in": 1, f"{block}.proj_out": 2})
print("attention maps of three ranks, most often 2:")
ranks = {"to_q": 2, "to_k": 4, "to_v": 2, "to_out.0": 1}
found, told = loaded({f"{attention}.{name}": rank for name, rank in ranks.items()})
if same != [1, 1] or other != [1, 1] or found != [1, 0.5, 1, 2] or not told:
    sys.exit("The behaviour has changed.")
print("As described: the attention map of rank 4 is loaded at half its strength, that of rank 1 at twice its strength.")
EOF
