"""Capabilities: what a model family offers and what a method or an attack may need. Nothing here imports torch."""

from __future__ import annotations

STATIC_TEXT = "static_text"
TEXT_KV = "text_kv"
POOLED = "pooled"
TEXT_MLP = "text_mlp"
ATTENTION = "attention"
TEXT_ENCODER = "text_encoder"
GUIDANCE = "guidance"
GUIDED_CALL = "guided_call"
CROSS_ATTENTION = "cross_attention"
CLIP_TEXT = "clip_text"
DUAL_STREAM = "dual_stream"
SINGLE_STREAM = "single_stream"
TOLD_BEHIND = "told_behind"

CAPABILITIES = {
    TEXT_KV: "keys and values of every block that read the prompt alone",
    STATIC_TEXT: "linear maps that read the prompt alone and not the picture, so that closed forms are exact",
    POOLED: "a linear map that reads the pooled prompt",
    TEXT_MLP: "text encoders that add the output of their MLPs without normalising it",
    ATTENTION: "attention maps that can be trained",
    TEXT_ENCODER: "a text encoder through which gradients flow",
    GUIDANCE: "classifier-free guidance with a conditional and an unconditional half",
    GUIDED_CALL: "both halves of guidance in one call of the denoiser, the unconditional one first",
    CROSS_ATTENTION: "cross-attention layers whose to_v reads text",
    CLIP_TEXT: "CLIP text encoders",
    DUAL_STREAM: "attention over text and picture together, each by its own maps, whose weights can be computed",
    SINGLE_STREAM: "the same maps for text and picture in every block, behind maps that read the text alone",
    TOLD_BEHIND: "tokens behind a subject that are read and tell it as it does, such as filled padding",
}
"""Every capability and its meaning. `Record.provides` and `Record.needs` are sets of these words."""
STREAMS = frozenset({DUAL_STREAM, SINGLE_STREAM})
"""Of transformers that mix text and picture in attention; what has cross-attention has neither."""
MIXED = frozenset({STATIC_TEXT, ATTENTION, TEXT_ENCODER, GUIDANCE, TOLD_BEHIND})
"""Of every transformer that mixes text and picture in attention."""
SEPARATE = frozenset({STATIC_TEXT, TEXT_KV, ATTENTION, TEXT_ENCODER, CROSS_ATTENTION})
"""Of every denoiser whose cross-attention reads the text as it enters."""
