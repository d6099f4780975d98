#!/usr/bin/env bash
# Package: diffusers 0.42.1 (with peft 0.21.2).
#
# Expected: fuse_qkv_projections, which diffusers calls experimental, makes attention faster and leaves the results alone. A LoRA
# that is added to to_k and to_v afterwards should change the output as it does without fusing, or be refused; and
# unfuse_qkv_projections should leave the model as it was.
#
# What happens: a fused attention layer computes with a joint copy of the maps (to_qkv, to_kv) and no longer looks at to_k and
# to_v. The LoRA is added without an error or a warning and the output stays the same to the bit. After unfuse_qkv_projections
# the copies are still in the state dict, and save_pretrained writes them to disk. (from_pretrained passes over them and says so.)
#
# Why it matters: an edit of the cross-attention maps seems to be loaded and does nothing. A model that was fused, unfused, edited
# and saved holds the maps from before the edit beside the edited ones. Unfusing before an edit is added, and dropping the copies
# before saving, avoids both.

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

import diffusers
import peft
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from safetensors import safe_open

folder = sys.argv[1]
log = io.StringIO()
logging.getLogger("diffusers").addHandler(logging.StreamHandler(log))


def tiny():
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(32, 64),
        norm_num_groups=8,
        cross_attention_dim=16,
        attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()


@torch.no_grad()
def output(unet):
    draw = torch.Generator().manual_seed(1)
    return unet(torch.randn(1, 4, 8, 8, generator=draw), 5, torch.randn(1, 3, 16, generator=draw)).sample


def change(unet):
    """How far a random LoRA on to_k and to_v moves the output, at most, and what was said meanwhile."""
    before = output(unet)
    log.truncate(log.seek(0))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_k", "to_v"], init_lora_weights=False))
        moved = float((output(unet) - before).abs().max())
    return moved, log.getvalue() + "".join(str(each.message) for each in caught)


print(f"diffusers {diffusers.__version__}, peft {peft.__version__}, torch {torch.__version__}")
plain, _ = change(tiny())
print(f"a LoRA on to_k and to_v moves the output by {plain:.4f}")
fused = tiny()
fused.fuse_qkv_projections()
moved, said = change(fused)
print(f"after fuse_qkv_projections by {moved:.4f}; said: {said or 'nothing'}")

unet = tiny()
names = set(unet.state_dict())
unet.fuse_qkv_projections()
unet.unfuse_qkv_projections()
left = sorted(set(unet.state_dict()) - names)
print(f"after unfuse_qkv_projections the state dict has {len(left)} more weights than before fusing, such as {left[0]}")
unet.save_pretrained(f"{folder}/unet")
with safe_open(f"{folder}/unet/diffusion_pytorch_model.safetensors", "pt") as file:
    saved = sorted(set(file.keys()) - names)
print(f"save_pretrained wrote {len(saved)} of them")
copies = bool(left) and all(name.endswith((".to_qkv.weight", ".to_kv.weight")) for name in left)
if plain < 1e-3 or moved != 0 or said or not copies or saved != left:
    sys.exit("The behaviour has changed.")
print("As described: the LoRA has no effect on the fused model, and the copies outlive unfusing.")
EOF
