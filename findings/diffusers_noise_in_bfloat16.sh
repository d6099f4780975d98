#!/usr/bin/env bash
# Package: diffusers 0.42.1.
#
# Expected: `scheduler.add_noise` noises latents by the level of each timestep, whatever precision the latents have: in bfloat16 the
# result is rounded, by less than one part in two hundred.
#
# What happens: the schedule itself is cast to the latents' precision first, and the share of noise is taken from one minus that. In
# bfloat16 the 1000 levels of Stable Diffusion's schedule become 192. The first two timesteps get no noise at all, while the others
# among the first hundred get up to a quarter too much or an eighth too little. `get_velocity`, the target of v-prediction, loses
# the picture's share at the same timesteps.
#
# Why it matters: a method that trains on noised pictures in bfloat16 asks at these timesteps for noise that is not there, and who
# compares losses by timestep between precisions compares different noise. Noising in float32 and casting the result is right.

set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

if [ -n "${FINDINGS_VENV:-}" ]; then
  python=$FINDINGS_VENV/bin/python
else
  python3 -m venv "$folder/venv"
  python=$folder/venv/bin/python
  "$python" -m pip install --quiet torch==2.13.0 diffusers==0.42.1 numpy==2.4.6
fi

HF_HUB_OFFLINE=1 "$python" - <<'EOF'
import sys

import diffusers
import torch
from diffusers import DDIMScheduler, DDPMScheduler

print(f"diffusers {diffusers.__version__}, torch {torch.__version__}")
STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
every = torch.arange(1000)
seen = []
for kind in (DDPMScheduler, DDIMScheduler):
    scheduler = kind(**STABLE_DIFFUSION)
    pictures, noise = torch.zeros(1000, 1), torch.ones(1000, 1)
    right = scheduler.add_noise(pictures, noise, every).flatten()
    halved = scheduler.add_noise(pictures.bfloat16(), noise.bfloat16(), every).flatten().float()
    off = halved / right - 1
    none = (halved == 0).nonzero().flatten().tolist()
    velocity = scheduler.get_velocity(noise.bfloat16(), pictures.bfloat16(), every).flatten()  # of a picture of ones
    unseen = (velocity == 0).nonzero().flatten().tolist()
    print(f"{kind.__name__}: {len(right.unique())} levels of noise in float32, {len(halved.unique())} in bfloat16")
    print(f"  no noise at timesteps {none}; at 2 to 99 off by {100 * off[2:100].min():+.0f} to {100 * off[2:100].max():+.0f} %")
    cast = right.bfloat16().float()
    print(f"  nothing of the picture in the velocity at timesteps {unseen}")
    print(f"  noised in float32 and then cast: {len(cast.unique())} levels, off by {100 * (cast / right - 1).abs().max():.1f} % at most")
    seen.append((none, unseen, len(right.unique()), len(halved.unique()), float(off[2:100].max()) > 0.2))
if seen != [([0, 1], [0, 1], 1000, 192, True)] * 2:
    sys.exit("The behaviour has changed.")
print("As described: in bfloat16 the first two timesteps get no noise.")
EOF
