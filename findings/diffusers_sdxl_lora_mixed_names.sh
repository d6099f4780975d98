#!/usr/bin/env bash
# Package: diffusers 0.42.1.
#
# Expected: a LoRA for Stable Diffusion XL may name a U-Net's maps as the original checkpoint does (input_blocks, middle_block,
# output_blocks) or as diffusers does (down_blocks, mid_block, up_blocks). StableDiffusionXLPipeline.lora_state_dict reads either.
# Of a file with some maps named the one way and others the other way it should read all, or say what it leaves out.
#
# What happens: as soon as one key has a diffusers name, every key with an original name is dropped, even where no diffusers key
# stands for the same map. There is no error and no warning. (The code treats such keys as duplicates.)
#
# Why it matters: whoever merges two LoRAs, or adds an edit to one, can make such a file. It loads, and part of the edit is missing.

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
import io
import logging
import sys
import warnings
from types import SimpleNamespace

import diffusers
import torch
from diffusers import StableDiffusionXLPipeline


def one_map(name):
    return {
        f"{name}.lora_up.weight": torch.ones(4, 1),
        f"{name}.lora_down.weight": torch.ones(1, 4),
        f"{name}.alpha": torch.tensor(1.0),
    }


log = io.StringIO()
diffusers.utils.logging.set_verbosity_warning()
logging.getLogger("diffusers").addHandler(logging.StreamHandler(log))


def maps(lora):
    """The U-Net's maps that come back, and all that was said meanwhile."""
    log.truncate(log.seek(0))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        state, _ = StableDiffusionXLPipeline.lora_state_dict(dict(lora), unet_config=SimpleNamespace(layers_per_block=2))
    found = sorted({key.partition(".lora.")[0] for key in state})
    said = log.getvalue() + "".join(str(each.message) for each in caught)
    print(f"  read: {', '.join(found)}")
    print(f"  said: {said or 'nothing'}")
    return found, said


original = one_map("lora_unet_input_blocks_4_1_proj_in")
renamed = one_map("lora_unet_mid_block_attentions_0_proj_in")
print(f"diffusers {diffusers.__version__}, torch {torch.__version__}")
print("one map by its original name:")
first, _ = maps(original)
print("another by its diffusers name:")
second, _ = maps(renamed)
print("both in one LoRA:")
both, said = maps(original | renamed)
down, mid = "unet.down_blocks.1.attentions.0.proj_in", "unet.mid_block.attentions.0.proj_in"
if first != [down] or second != [mid] or both != [mid] or said:
    sys.exit("The behaviour has changed.")
print("As described: of the two maps one is dropped, and nothing says so.")
EOF
