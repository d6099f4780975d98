#!/usr/bin/env bash
# Package: accelerate 1.15.0.
#
# Expected: disk_offload(model, folder) writes the model's weights into the folder and has the model read them from there, so the
# model answers as before.
#
# What happens: where the folder holds an index.json from an earlier run, nothing is written and the model answers with the weights
# that lie there. Its documentation allows a folder "where the model weights are already offloaded", but nothing compares the two:
# a different model whose weights have the same names and shapes answers as the earlier one, without an error or a warning.
#
# Why it matters: an edited model has the names and shapes of the original. Offloaded into the folder that the original was
# offloaded into, it draws what the original draws, and the edit seems to do nothing (or one that was taken off still works).
# A new folder for every model avoids it.

set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

if [ -n "${FINDINGS_VENV:-}" ]; then
  python=$FINDINGS_VENV/bin/python
else
  python3 -m venv "$folder/venv"
  python=$folder/venv/bin/python
  "$python" -m pip install --quiet torch==2.13.0 accelerate==1.15.0 safetensors==0.8.0 numpy==2.4.6
fi

HF_HUB_OFFLINE=1 "$python" - "$folder" <<'EOF'
import io
import logging
import sys
import warnings

import accelerate
import torch
from accelerate import disk_offload

folder = sys.argv[1]
log = io.StringIO()
logging.getLogger().addHandler(logging.StreamHandler(log))


def tiny(seed):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))


@torch.no_grad()
def answer(model):
    return model(torch.ones(1, 4))


first, second = answer(tiny(1)), answer(tiny(2))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    into_new = answer(disk_offload(tiny(2), f"{folder}/new"))
    into_used_first = answer(disk_offload(tiny(1), f"{folder}/used"))
    into_used_second = answer(disk_offload(tiny(2), f"{folder}/used"))
said = log.getvalue() + "".join(str(each.message) for each in caught)

print(f"accelerate {accelerate.__version__}, torch {torch.__version__}")
print(f"first model:                                   {first.tolist()}")
print(f"second model:                                  {second.tolist()}")
print(f"second, offloaded into a new folder:           {into_new.tolist()}")
print(f"second, offloaded into the first one's folder: {into_used_second.tolist()}")
print(f"said: {said or 'nothing'}")
as_expected = torch.equal(into_new, second) and torch.equal(into_used_first, first) and not torch.equal(first, second)
if not as_expected or not torch.equal(into_used_second, first) or said:
    sys.exit("The behaviour has changed.")
print("As described: in a used folder the second model answers as the first.")
EOF
