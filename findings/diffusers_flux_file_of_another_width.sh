#!/usr/bin/env bash
# Package: diffusers 0.42.1.
#
# Expected: a checkpoint of FLUX.1's architecture in its original layout is read by FluxTransformer2DModel.from_single_file with the
# `config` of that very transformer, whatever its width is. Z-Image's, in the same situation, is.
#
# What happens: the converter of FLUX.1 splits the fused maps of single blocks at 3072 and 12288 rows, whatever the configuration and
# the tensors say, and raises a RuntimeError about split sizes for any other width.
#
# Why it matters: pruned or distilled models of FLUX.1's architecture that are narrower cannot be read from the one file that their
# users have; nothing in the message names the width or the configuration.

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

cd "$folder"
HF_HUB_OFFLINE=1 "$python" - <<'PY'
import sys

import diffusers
import torch
from diffusers import FluxTransformer2DModel, ZImageTransformer2DModel
from safetensors.torch import save_file

torch.manual_seed(0)
flux = FluxTransformer2DModel(
    in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
    joint_attention_dim=32, pooled_projection_dim=8, axes_dims_rope=(4, 4, 8),
)
zimage = ZImageTransformer2DModel(
    in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=32,
    axes_dims=[4, 4, 8], axes_lens=[64, 16, 16],
)
PARTS = {
    "txt_in": ["context_embedder"], "img_in": ["x_embedder"], "final_layer.linear": ["proj_out"],
    **{f"{a}_in.{c}_layer": [f"time_text_embed.{b}_embedder.linear_{n}"] for a, b in (("time", "timestep"), ("vector", "text"))
       for c, n in (("in", 1), ("out", 2))},
    "double_blocks.0.img_mod.lin": ["transformer_blocks.0.norm1.linear"],
    "double_blocks.0.txt_mod.lin": ["transformer_blocks.0.norm1_context.linear"],
    "double_blocks.0.img_attn.qkv": [f"transformer_blocks.0.attn.to_{p}" for p in "qkv"],
    "double_blocks.0.txt_attn.qkv": [f"transformer_blocks.0.attn.add_{p}_proj" for p in "qkv"],
    "double_blocks.0.img_attn.proj": ["transformer_blocks.0.attn.to_out.0"],
    "double_blocks.0.txt_attn.proj": ["transformer_blocks.0.attn.to_add_out"],
    **{f"double_blocks.0.{a}_mlp.{i}": [f"transformer_blocks.0.{b}.net.{j}"] for a, b in (("img", "ff"), ("txt", "ff_context"))
       for i, j in ((0, "0.proj"), (2, "2"))},
    "single_blocks.0.modulation.lin": ["single_transformer_blocks.0.norm.linear"],
    "single_blocks.0.linear1": [*(f"single_transformer_blocks.0.attn.to_{p}" for p in "qkv"), "single_transformer_blocks.0.proj_mlp"],
    "single_blocks.0.linear2": ["single_transformer_blocks.0.proj_out"],
}
own = flux.state_dict()
state = {f"{name}.{end}": torch.cat([own[f"{p}.{end}"] for p in parts]) for name, parts in PARTS.items() for end in ("weight", "bias")}
for end in ("weight", "bias"):
    scale, shift = own[f"norm_out.linear.{end}"].chunk(2)
    state[f"final_layer.adaLN_modulation.1.{end}"] = torch.cat([shift, scale])
for block, ours in (("double_blocks.0.img_attn", "transformer_blocks.0.attn.norm_"), ("double_blocks.0.txt_attn", "transformer_blocks.0.attn.norm_added_"),
                    ("single_blocks.0", "single_transformer_blocks.0.attn.norm_")):
    for name in ("query", "key"):
        state[f"{block}.norm.{name}_norm.scale"] = own[f"{ours}{name[0]}.weight"]
save_file({k: v.clone().contiguous() for k, v in state.items()}, "flux.safetensors")
flux.save_config("flux")

state, own = {}, zimage.state_dict()
for name, tensor in own.items():
    for ours, theirs in (("all_x_embedder.2-1", "x_embedder"), ("all_final_layer.2-1", "final_layer"), ("to_out.0", "out"),
                         ("norm_q", "q_norm"), ("norm_k", "k_norm")):
        name = name.replace(ours, theirs)
    if ".to_q." in name:
        stem = name.replace("to_q", "{}")
        tensor = torch.cat([own[stem.format(f"to_{p}")] for p in "qkv"])
        name = stem.format("qkv")
    if ".to_k." not in name and ".to_v." not in name:
        state[name] = tensor.clone().contiguous()
save_file(state, "zimage.safetensors")
zimage.save_config("zimage")

print(f"diffusers {diffusers.__version__}, torch {torch.__version__}")
read = ZImageTransformer2DModel.from_single_file("zimage.safetensors", config="zimage", local_files_only=True)
same = all(torch.equal(t, own[n]) for n, t in read.state_dict().items())
print(f"Z-Image, 32 wide: read, weights equal: {same}")
try:
    FluxTransformer2DModel.from_single_file("flux.safetensors", config="flux", local_files_only=True)
    raised = None
except RuntimeError as error:
    raised = str(error).splitlines()[0]
    print(f"FLUX.1, 32 wide: RuntimeError ({raised})")
if not same or raised is None or "3072" not in raised:
    sys.exit("The behaviour has changed.")
print("As described: FLUX.1's converter takes one width for granted.")
PY
