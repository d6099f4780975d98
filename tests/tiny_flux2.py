"""Tiny random FLUX.2 pipelines: dev with Mistral 3, klein with Qwen 3; pictures of 16 pixels."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
from tiny_parts import byte_level, decoder, lively, quiet, qwen3_text, qwen_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers

CHAT = (
    "<s>{% for m in messages %}{% set text = m['content'] if m['content'] is string else m['content'][0]['text'] %}"
    "{% if m['role'] == 'system' %}{{ '[SYSTEM_PROMPT]' + text + '[/SYSTEM_PROMPT]' }}"
    "{% else %}{{ '[INST]' + text + '[/INST]' }}{% endif %}{% endfor %}"
)


def tokenizer_of_dev(side: str) -> Any:
    """dev ships a processor of text and pictures, of which text meets the tokenizer and its chat template alone."""
    marks = ["[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]
    vocab, merges = byte_level(["<unk>", "<s>", "</s>", "<pad>", *marks], [SYSTEM_MESSAGE])
    core = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side=side,
        model_max_length=64,
        additional_special_tokens=marks,
    )
    tokenizer.chat_template = CHAT
    return tokenizer


def mistral3(tokenizer: Any) -> Any:
    """As many layers as it takes to read the thirtieth, behind a vision tower that nothing looks through."""
    config = transformers.Mistral3Config(
        text_config={"model_type": "mistral", **decoder(tokenizer, 16, 31)},
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "head_dim": 8,
            "patch_size": 4,
            "image_size": 16,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
    )
    return lively(transformers.Mistral3ForConditionalGeneration(config), 3)


def parts(guidance: bool, seed: int) -> dict[str, Any]:
    """What dev and klein have in common."""
    vae = diffusers.AutoencoderKLFlux2(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
    )
    lively(vae, 7)
    vae.bn.running_mean.copy_(torch.linspace(-0.5, 0.5, 16))
    vae.bn.running_var.copy_(torch.linspace(0.5, 2, 16))
    transformer = diffusers.Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,  # three layers of 16
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance,
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return {"vae": vae, "transformer": lively(transformer, seed), "scheduler": scheduler}


def dev(side: str = "left", seed: int = 13) -> Any:
    tokenizer = tokenizer_of_dev(side)
    encoder = mistral3(tokenizer)
    return quiet(diffusers.Flux2Pipeline(tokenizer=tokenizer, text_encoder=encoder, **parts(guidance=True, seed=seed)))


def klein(distilled: bool = False, seed: int = 13) -> Any:
    tokenizer = qwen_tokenizer()
    encoder = qwen3_text(tokenizer, 16, 28, transformers.Qwen3ForCausalLM)  # up to the layer that is read last
    return quiet(
        diffusers.Flux2KleinPipeline(
            tokenizer=tokenizer, text_encoder=encoder, is_distilled=distilled, **parts(guidance=False, seed=seed)
        )
    )


def distilled() -> Any:
    return klein(distilled=True)


def call(guidance: float) -> dict[str, Any]:
    """Arguments of klein's own call for guidance of a scale; 1 is none."""
    return {"max_sequence_length": 64, "guidance_scale": guidance}


def call_of_dev(guidance: float) -> dict[str, Any]:
    """Guidance is an input of dev, which has no halves of any scale."""
    return {"max_sequence_length": 64}
