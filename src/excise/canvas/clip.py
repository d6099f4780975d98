"""The built-in CLIP: a byte-pair tokenizer, a `CLIPTextModel` and a small image tower, trained contrastively.

The text model is the text encoder of `canvas-sd` and `canvas-sdxl`. The image tower is a feature space for distances
between image sets (KID); no judge shares weights with it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel

from excise.canvas import world
from excise.canvas.data import Caption, Pool, caption, pixels
from excise.canvas.loop import Plan, Session, train
from excise.families.built_in import WEIGHTS
from excise.support.precision import fastest

WIDTH = 256
LENGTH = 32
MERGES = 640
BATCH = 160
START, END = "<|startoftext|>", "<|endoftext|>"
# Everyday words beyond the training templates, so that prompts with them do not split into single letters.
_FILLER = (
    "photo drawing painting of with and on at by near small big red green blue yellow black white bright dark "
    "there is here made person artist art old new two some very nice style"
)


def build_tokenizer() -> CLIPTokenizer:
    """Return a CLIP tokenizer with merges from the words of Canvas; rare words split, as in the real one."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=100_000,
        end_of_word_suffix="</w>",
        initial_alphabet=alphabet,
        # Declaring the final letters as special tokens fixes their ids, by which the trainer breaks ties.
        special_tokens=[c + "</w>" for c in alphabet],
        show_progress=False,
    )
    bpe.train_from_iterator(corpus(), trainer)
    merges = merges_of(bpe)[:MERGES]
    pieces = [*alphabet, *(c + "</w>" for c in alphabet), *(a + b for a, b in merges), START, END]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)


def build_text_model(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return an untrained text encoder with 4 causal layers of width 256."""
    return CLIPTextModel(_text_config(tokenizer, WIDTH))


def build_projected_text_model(tokenizer: CLIPTokenizer, width: int) -> CLIPTextModelWithProjection:
    """Return an untrained text encoder with a pooled output, as the second one of Stable Diffusion XL has."""
    return CLIPTextModelWithProjection(_text_config(tokenizer, width))


def _text_config(tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


class ImageTower(nn.Module):
    """Image encoder: pixels (B, 3, 64, 64) in -1..1 to unit features (B, width)."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        widths = (3, 32, 64, 128, 256)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(a, b, 3, stride=2, padding=1),
                    nn.GroupNorm(b // 16, b),
                    nn.SiLU(),
                    nn.Conv2d(b, b, 3, padding=1, groups=1 if b < 128 else b // 16),
                    nn.SiLU(),
                )
                for a, b in itertools.pairwise(widths)
            )
        )
        self.head = nn.Linear(256 * 4, width)

    def forward(self, images: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(self.blocks(images), 2).flatten(1)
        return F.normalize(self.head(pooled).float(), dim=-1)


@lru_cache(maxsize=1)
def shipped_image_tower() -> ImageTower:
    """Return the image tower of the text encoder of `canvas-sd`; its weights ship with the package."""
    state = load_file(WEIGHTS / "image-tower.safetensors")
    tower = ImageTower()
    tower.load_state_dict({k.removeprefix("image."): v.float() for k, v in state.items() if k.startswith("image.")})
    return tower.eval().requires_grad_(False)


class PocketCLIP(nn.Module):
    """Both towers, a text projection (unless the text model has one) and the temperature.

    Without an image tower, the text model is trained towards features of images that stay as they are.

    The feature of a text model without pooling is its state at the last token of each prompt (Gemma, Qwen), or, where
    every token sees all others (T5), the mean of its states.
    """

    def __init__(self, text: Any, *, tower: bool = True) -> None:
        super().__init__()
        width = text.config.hidden_size
        self.text = text
        self.image = ImageTower(width) if tower else nn.Identity()
        self.projected = isinstance(text, CLIPTextModelWithProjection)
        if not self.projected:
            self.projection = nn.Linear(width, width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(2.5))

    def text_features(self, token_ids: Tensor) -> Tensor:
        """Return unit features (B, width) of token ids (B, L)."""
        if self.projected:
            return F.normalize(self.text(token_ids).text_embeds.float(), dim=-1)
        if isinstance(self.text, CLIPTextModel):
            pooled = self.text(token_ids).pooler_output
        else:
            pooled = self._pooled(token_ids, token_ids != self.text.config.pad_token_id)
        return F.normalize(self.projection(pooled).float(), dim=-1)

    def _pooled(self, token_ids: Tensor, mask: Tensor) -> Tensor:
        """Return one state (B, width) a prompt of a text model without pooling."""
        if isinstance(self.text, T5EncoderModel):  # without a mask, as FLUX calls it
            states = self.text(token_ids).last_hidden_state
            return (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        ends = mask.sum(dim=1) - 1
        longest = int(ends.max()) + 1  # pads follow, and nothing sees them
        states = self.text(token_ids[:, :longest], attention_mask=mask[:, :longest]).last_hidden_state
        return states[torch.arange(len(mask)), ends]


def train_clip(
    pool: Pool,
    tokenizer: Any,
    build_text: Callable[[Any], nn.Module],
    session: Session,
    steps: int,
    features: Tensor | None = None,
) -> tuple[PocketCLIP, float]:
    """Train a text model and an image tower contrastively; all images that match a prompt are its positives.

    Args:
        pool: images with their cells, for captions.
        tokenizer: of the text model.
        build_text: returns the untrained text model, given the tokenizer.
        session: where and how to train.
        steps: optimiser steps in total.
        features: (N, width) unit features of the pool's images, towards which the text model is trained alone
            (locked-image tuning, arXiv 2111.07991); None trains an image tower too.

    Returns:
        The towers, and seconds spent, earlier runs included.
    """
    torch.manual_seed(session.seed)
    device = session.device
    model = PocketCLIP(build_text(tokenizer), tower=features is None).to(device)
    model.image.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss_of(rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        chosen = rng.integers(len(pool.cells), size=BATCH)
        captions = [caption(pool.cells[c], rng) for c in chosen]
        ids = tokenize(tokenizer, [c.text for c in captions]).to(device)
        images = pool.pick(chosen, rng)
        with fastest(device):
            if features is None:
                image = model.image(pixels(pool.images[images]).to(device))
            else:
                image = features[torch.from_numpy(images)].to(device)
            text = model.text_features(ids)
        logits = model.log_scale.exp().clamp(max=100) * text @ image.mT
        right = _matches(captions, [pool.cells[c] for c in chosen]).to(device)
        return (_soft_cross_entropy(logits, right) + _soft_cross_entropy(logits.mT, right.mT)) / 2

    plan = Plan("clip", steps, lr=1e-3, ema=0.995, weight_decay=0.05)
    seconds = train(model, loss_of, plan, session.work, session.seed, session.report)
    return model, seconds


@torch.no_grad()
def image_features(tower: nn.Module, images: np.ndarray, batch: int = 500) -> Tensor:
    """Return unit features (N, width) of images (N, 64, 64, 3), uint8, of a trained image tower."""
    with fastest("cpu"):
        return torch.cat([tower(pixels(images[i : i + batch])) for i in range(0, len(images), batch)])


def tokenize(tokenizer: Any, texts: list[str]) -> Tensor:
    """Return token ids (B, L) of B texts as the pipelines pad and cut them, in a chat template if there is one."""
    if getattr(tokenizer, "chat_template", None):
        turns = [[{"role": "user", "content": text}] for text in texts]
        texts = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    length = tokenizer.model_max_length
    return tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt").input_ids


def _matches(captions: list[Caption], cells: list[tuple[str, str]]) -> Tensor:
    return torch.tensor([[c.matches(cell) for cell in cells] for c in captions], dtype=torch.float32)


def _soft_cross_entropy(logits: Tensor, right: Tensor) -> Tensor:
    target = right / right.sum(dim=-1, keepdim=True)
    return -(target * logits.log_softmax(dim=-1)).sum(dim=-1).mean()


def corpus() -> Iterator[str]:
    """Yield texts from which a tokenizer learns merges: all words of Canvas and its templates, common ones often."""
    words = [*world.OBJECTS, *world.NAMES, *world.STYLES, *world.STYLE_ALIASES.values()]
    words += [a for both in world.OBJECT_ALIASES.values() for a in both]
    templates = world.STYLED_TEMPLATES + world.OBJECT_TEMPLATES + world.STYLE_TEMPLATES
    yield from words
    for template in templates:
        yield from [template.format(o="", s="")] * 20
    yield from [_FILLER] * 10
    # Words of the grid are common, so they become whole tokens; the 200 further names may split.
    yield from [" ".join([*world.OBJECTS, *world.STYLES])] * 10


def merges_of(bpe: Tokenizer) -> list[tuple[str, str]]:
    """Return the merges of a byte-pair tokenizer, in the order in which they were learnt."""
    return [
        tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in json.loads(bpe.to_str())["model"]["merges"]
    ]
