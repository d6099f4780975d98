#!/usr/bin/env bash
# Package: transformers 5.23.0.
#
# Expected: a frozen text encoder on which activation checkpointing is enabled and then disabled again is as it was before.
#
# What happens: enabling puts a forward hook on the token embeddings which makes their output require gradients, and disabling leaves it
# there (it takes it off only where an adapter of peft is loaded). From then on every output of the encoder requires gradients although
# none of its parameters does: the graph of each pass is kept until the output is dropped, and `.numpy()` of an output raises an error.
#
# Why it matters: methods that train the text encoder of a diffusion model turn checkpointing on for a while and hand the pipeline back.
# Who then encodes prompts outside of torch.no_grad() holds the activations of every layer. `disable_input_require_grads()` takes the
# hook off.

set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

if [ -n "${FINDINGS_VENV:-}" ]; then
  python=$FINDINGS_VENV/bin/python
else
  python3 -m venv "$folder/venv"
  python=$folder/venv/bin/python
  "$python" -m pip install --quiet torch==2.13.0 transformers==5.23.0 numpy==2.4.6
fi

HF_HUB_OFFLINE=1 "$python" - <<'EOF'
import sys

import torch
import transformers
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

print(f"transformers {transformers.__version__}, torch {torch.__version__}")
SIZES = {"vocab_size": 100, "num_hidden_layers": 4, "num_attention_heads": 2}
clip = CLIPTextConfig(**SIZES, hidden_size=16, intermediate_size=32, bos_token_id=98, eos_token_id=99)
t5 = T5Config(vocab_size=100, d_model=16, d_kv=8, d_ff=32, num_layers=4, num_heads=2)
ids = torch.tensor([[98, 5, 6, 99]])


def kept(encoder):
    """Whether the output of a pass requires gradients, and how many tensors autograd keeps for it."""
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        output = encoder(ids).last_hidden_state
    return output.requires_grad, len(saved)


seen = []
for encoder in (CLIPTextModel(clip), T5EncoderModel(t5)):
    encoder.requires_grad_(False).eval()
    before = kept(encoder)
    encoder.activation_checkpointing_enable({"use_reentrant": False})
    encoder.activation_checkpointing_disable()
    after = kept(encoder)
    try:
        encoder(ids).last_hidden_state.numpy()
        error = "none"
    except RuntimeError as raised:
        error = str(raised).split(".")[0]
    encoder.disable_input_require_grads()
    print(f"{type(encoder).__name__}, frozen:")
    print(f"  before:          requires gradients {before[0]}, {before[1]} tensors kept")
    print(f"  on and off again: requires gradients {after[0]}, {after[1]} tensors kept; numpy(): {error}")
    print(f"  hook taken off:  requires gradients {kept(encoder)[0]}")
    seen.append((before, after[0], after[1] > 20, "requires grad" in error, kept(encoder)))
if seen != [((False, 0), True, True, True, (False, 0))] * 2:
    sys.exit("The behaviour has changed.")
print("As described: after checkpointing was off again, passes of a frozen encoder keep their activations.")
EOF
