"""Every attack runs on a tiny model of every family, within its budget, and leaves the model as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attack_runs import arena_of, run
from conftest import tiny_pipe
from dits import FIRST

from excise import erase
from excise.attacks import ATTACKS, SUITES
from excise.attacks.base import BACKWARD_COST, AttackError
from excise.attacks.plan import load_attack
from excise.attacks.unlearndiffatk import FINALISTS
from excise.errors import ExciseWarning
from excise.families import family_of

EVERY = [p.name for p in SUITES["standard"].attacks]


@pytest.mark.parametrize("kind", ["sd", "sdxl", "sana", *FIRST.values()])
def test_every_attack_on_every_family_within_its_budget(make, kind):
    pipe = make(kind)
    edit = erase(pipe, ["cat"], "uce", preserve=["dog"])
    found = run(pipe, edits=[edit])
    by_name = {r.name: r for r in found.results}
    assert list(by_name) == EVERY
    for result in found.results:
        if result.model is None:
            unknown = ("synonyms", "second language", "asked")
            assert result.name in (*unknown, "text encoder put back", "denoiser put back"), result.why
            assert result.why.endswith("."), result.why
            continue
        assert [len(row) for row in result.model.shown] == [2, 2]
        assert result.model.drawn == 4 == len(found.shots[result.name])
        assert result.model.any_of_n.value == 1.0
        assert result.gap.value == 0.0
    assert by_name["relearning, 5 pictures"].model.passes > 0
    assert set(by_name["latent inversion"].model.notes["nll"]) == {"target", "others"}


def test_every_attack_keeps_the_contract_and_describes_its_settings():
    for name in ATTACKS:
        for field, info in load_attack(name).Config.model_fields.items():
            assert info.description, (name, field)


def test_an_attack_cannot_overdraw(any_pipe):
    arena = arena_of(any_pipe, images=2)
    with pytest.raises(AttackError, match="asked for 3 pictures of one prompt; its budget is 2"):
        arena.draw_prompts([["a cat"] * 3, ["a cat"]])
    assert arena.drawn == 0


def test_words_that_push_the_target_out_of_the_prompt_are_refused(tokenizer):
    found = run(tiny_pipe(tokenizer), names=["random words"], settings={"words": 40})
    assert "the end, which may ask for the target, would be lost. Use shorter prompts" in found.results[0].why


def test_the_defended_model_is_attacked_and_left_as_it_was(tokenizer):
    """What the model ships is in force while it is attacked: the edit, and a hook that nobody told us of."""
    pipe = tiny_pipe(tokenizer)
    edit = erase(pipe, ["cat"], "uce", preserve=["dog"])
    before = {p.path: p.module.weight for p in family_of(pipe).projections()}
    edited: list[bool] = []
    pipe.unet.register_forward_hook(
        lambda *_: edited.append(any(p.module.weight is not before[p.path] for p in family_of(pipe).projections()))
    )
    with pytest.warns(ExciseWarning, match="ships hooks or a LoRA, which stay in force"):
        run(pipe, edits=[edit], names=["seeds"])
    drawing = edited.index(True)
    assert not any(edited[:drawing])  # the guides are the untouched model's
    assert all(edited[drawing:])  # every picture is the edited one's
    edited.clear()
    with pytest.warns(ExciseWarning):
        found = run(pipe, edits=[edit], names=["unlearndiffatk", "p4d"])
    first = edited.index(True)
    # Beside the guides only what P4D is to match comes from the untouched model: once a test prompt.
    assert edited[first:].count(False) == 2
    assert all(p.module.weight is before[p.path] for p in family_of(pipe).projections())
    # Steps with gradients, two pictures each, and the finalists; two test prompts.
    searched = found.results[0].model.passes
    assert 2 * BACKWARD_COST * 2 * 2 < searched <= (2 * BACKWARD_COST * 2 + FINALISTS * 2) * 2


def test_nothing_is_left_in_a_model_that_is_being_trained(tokenizer):
    """A pipeline whose weights want gradients gets none, and its flags stay."""
    pipe = tiny_pipe(tokenizer)
    for part in (pipe.unet, pipe.text_encoder):
        part.requires_grad_(True)
    run(pipe, names=["unlearndiffatk", "p4d", "inversion", "mma", "relearning, 5 pictures"])
    weights = [*pipe.unet.parameters(), *pipe.text_encoder.parameters()]
    assert all(w.requires_grad and w.grad is None for w in weights)


def test_what_relearning_trains_is_seen_also_in_half_precision(tokenizer):
    """Autocast keeps casts of weights for as long as its outermost context lasts; ours must not be among them."""
    pipe = tiny_pipe(tokenizer)
    arena = arena_of(pipe)
    drawn = {}
    for steps in (1, 20):
        with torch.autocast("cpu", torch.bfloat16):
            found = run(pipe, names=["relearning, 5 pictures"], settings={"steps": steps, "lr": 0.1, "batch": 2})
        drawn[steps] = [np.asarray(image, dtype=float) for image, _, _ in found.shots["relearning, 5 pictures"]]
    assert arena.family is not None
    assert np.abs(np.stack(drawn[1]) - np.stack(drawn[20])).mean() > 1


def test_prompts_of_ones_own_are_asked(tokenizer):
    one, two = "the one with whiskers", "it says meow"
    found = run(tiny_pipe(tokenizer), names=["asked"], prompts=[one, two])
    assert found.results[0].model.words == [[one, two], [two, one]]
