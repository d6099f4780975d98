"""Words and vectors in prompts."""

from __future__ import annotations

import pytest
import torch
from attack_runs import arena_of
from dits import FIRST
from peft import LoraConfig
from torch.testing import assert_close

from excise.attacks.tokens import condition_on, lexicon, mixed_embeddings, one_hot
from excise.attacks.unlearndiffatk import to_simplex
from excise.families import family_of


@pytest.mark.parametrize("kind", ["sd", "sdxl", "sana", *FIRST.values()])
def test_vectors_in_a_prompt_are_the_words_they_stand_for(make, kind):
    check_words(family_of(make(kind)))


def test_words_are_embedded_by_the_table_with_what_is_trained_on_it(make):
    """A model may ship a LoRA on its token table; a vector stands in place of what comes out behind it."""
    pipe = make("sd")
    torch.manual_seed(0)
    pipe.text_encoder.add_adapter(LoraConfig(r=2, target_modules=["token_embedding"], init_lora_weights=False))
    check_words(family_of(pipe))


def check_words(family) -> None:
    known = lexicon(family, ["cat"], ["a cat"])
    assert "cat" not in known.words
    assert known.placeholder not in known.words
    chosen = torch.tensor([3, 7])
    words = known.text(chosen.tolist())
    with torch.no_grad():
        wanted = family.condition([known.prompt(words, "a cat")])
        found = condition_on(
            family, known, [known.with_placeholders(2, "a cat")], mixed_embeddings(known, one_hot(known, chosen))
        )
    for name, tensor in wanted.inputs.items():
        assert_close(found.inputs[name], tensor, rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_words_through_denoiser_and_text_encoder(any_pipe):
    arena = arena_of(any_pipe)
    known = lexicon(arena.family, ["cat"])
    weights = one_hot(known, torch.tensor([3, 7])).requires_grad_()
    _, clean, noise, t = arena.noised(arena.generator("x"), 2)
    prompts = [known.with_placeholders(2, p) for p in arena.guides.prompts]
    arena.errors(
        clean, noise, t, condition_on(arena.family, known, prompts, mixed_embeddings(known, weights))
    ).mean().backward()
    assert float(weights.grad.abs().max()) > 0
    assert torch.isfinite(weights.grad).all()


def test_the_nearest_point_of_the_simplex():
    rows = torch.tensor([[0.2, 0.3, 0.5], [2.0, 0.0, 0.0], [0.5, 0.5, 0.6]], dtype=torch.float64)
    found = to_simplex(rows)
    assert_close(found.sum(dim=-1), torch.ones(3, dtype=torch.float64))
    assert_close(found[0], rows[0])
    assert_close(found[1], torch.tensor([1.0, 0, 0], dtype=torch.float64))
    # By brute force over a fine grid of the simplex.
    steps = torch.linspace(0, 1, 201, dtype=torch.float64)
    a, b = torch.meshgrid(steps, steps, indexing="ij")
    grid = torch.stack([a, b, 1 - a - b], dim=-1)[a + b <= 1]
    nearest = grid[(grid - rows[2]).square().sum(dim=-1).argmin()]
    assert_close(found[2], nearest, rtol=0, atol=0.01)
