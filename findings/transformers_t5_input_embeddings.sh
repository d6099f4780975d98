#!/usr/bin/env bash
# Package: transformers 5.23.0.
#
# Expected: `get_input_embeddings()` of a text encoder returns the module by which it embeds tokens, as it does for CLIP and Qwen 3, so that
# a forward hook on it sees every token and may put another vector in its place.
#
# What happens: T5EncoderModel returns `shared`, which its forward pass never calls: the stack has an embedding of its own,
# `encoder.embed_tokens`, that holds the same weight. A hook on what is returned never runs.
#
# Why it matters: FLUX.1, Stable Diffusion 3, Chroma and PixArt read T5. A search for adversarial or new words that hooks the embedding
# layer moves nothing there: one by trial reports a model as robust, one by gradients finds none. Hook every embedding that shares the weight.

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

HF_HUB_OFFLINE=1 "$python" - <<'PY'
import sys

import torch
import transformers
from transformers import CLIPTextConfig, CLIPTextModel, Qwen3Config, Qwen3Model, T5Config, T5EncoderModel

torch.manual_seed(0)
small = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
encoders = {
    "CLIPTextModel": CLIPTextModel(CLIPTextConfig(**small)),
    "Qwen3Model": Qwen3Model(Qwen3Config(**small, num_key_value_heads=2, head_dim=8)),
    "T5EncoderModel": T5EncoderModel(T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)),
}
print(f"transformers {transformers.__version__}, torch {torch.__version__}")
calls = {}
tokens = torch.tensor([[1, 2, 3]])
for name, encoder in encoders.items():
    encoder.eval()
    table, seen = encoder.get_input_embeddings(), []

    def replace(module, inputs, output, seen=seen):
        seen.append(inputs)
        return torch.zeros_like(output)

    with torch.no_grad():
        before = encoder(tokens).last_hidden_state
        hook = table.register_forward_hook(replace)
        after = encoder(tokens).last_hidden_state
        hook.remove()
    calls[name] = len(seen)
    print(f"{name}: the hook ran {len(seen)} times, states moved by {float((after - before).abs().max()):.3f}")
t5 = encoders["T5EncoderModel"]
same = t5.get_input_embeddings().weight is t5.encoder.embed_tokens.weight
print(f"T5: the stack's own embedding holds the same weight: {same}")
if calls != {"CLIPTextModel": 1, "Qwen3Model": 1, "T5EncoderModel": 0} or not same:
    sys.exit("The behaviour has changed.")
print("As described: T5 embeds tokens by another module than the one that get_input_embeddings returns.")
PY
