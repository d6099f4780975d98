"""ESD: the target by hand, latents and timesteps that belong together, and what each variant trains."""

from __future__ import annotations

import itertools

import pytest
import torch
from diffusers import DDIMScheduler
from torch.testing import assert_close

from excise import erase
from excise.concepts.concept import Concept
from excise.edits.deltas import Dense, LowRank
from excise.errors import SettingError
from excise.families import family_of
from excise.families.trajectories import partial_denoise
from excise.methods.trained.esd import ESDConfig, wanted

SMALL = {"steps": 2, "lr": 1e-2, "batch": 2, "sampler_steps": 4}


@pytest.fixture
def family(any_pipe):
    return family_of(any_pipe)


def test_the_target_by_hand_and_the_two_programs_apart_by_one():
    says = {"c": torch.tensor([3.0]), "": torch.tensor([1.0]), "a": torch.tensor([7.0])}

    def goal(**settings) -> float:
        return float(wanted(ESDConfig(**settings), says.__getitem__, "c", "", "a"))

    assert goal(eta=1.0) == 1 - (3 - 1)
    assert goal(eta=2.0, base="concept") == goal(eta=1.0)
    assert goal(target="neutral") == 1
    assert goal(target="anchor") == 7


def test_latents_stand_at_the_timestep_they_are_given(family):
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    c, free = family.condition(["a cat", "a dog"]), family.unconditional()[[0, 0]]

    def at(done: int):
        return partial_denoise(family, c, free, noise, steps=5, done=done, guidance=2.0)

    x, t = at(0)
    assert torch.equal(x, noise)
    times = [float(at(k)[1][0]) for k in range(5)]
    assert times == sorted(times, reverse=True)
    assert len(set(times)) == 5
    # One more step from the latents of step 2, done by hand, gives those of step 3.
    (x, t), (after, next_t) = at(2), at(3)
    out = [family.predict(x, t, part) for part in (free, c)]
    guess = out[0] + 2.0 * (out[1] - out[0])
    if family.name == "sana":
        s, r = t[0] / 1000, next_t[0] / 1000
        assert_close(after, x + (r - s) * guess, rtol=1e-4, atol=1e-5)
    else:
        scheduler = DDIMScheduler.from_config(family.pipe.scheduler.config, clip_sample=False, set_alpha_to_one=False)
        a, b = (scheduler.alphas_cumprod[int(v[0])] for v in (t, next_t))
        if family.name == "sd":
            x0, e = (x - (1 - a).sqrt() * guess) / a.sqrt(), guess
        else:
            x0, e = a.sqrt() * x - (1 - a).sqrt() * guess, a.sqrt() * guess + (1 - a).sqrt() * x
        assert_close(after, b.sqrt() * x0 + (1 - b).sqrt() * e, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weights", ["lora", "full"])
@pytest.mark.parametrize("variant", ["x", "strict", "u"])
def test_each_variant_trains_its_own_maps(any_pipe, variant, weights):
    family = family_of(any_pipe)
    before = {k: v.clone() for k, v in family.denoiser.state_dict().items()}
    edit = erase(any_pipe, ["cat"], "esd", variant=variant, weights=weights, **SMALL)
    cross = {m.path for m in family.attention_maps() if m.source == "cross"}
    if variant == "u":
        assert not cross & set(edit.paths)
        assert {m.path for m in family.attention_maps() if m.source == "self"} < set(edit.paths)
    else:
        kv = {m.path for m in family.attention_maps() if m.source == "cross" and m.part in "kv"}
        assert set(edit.paths) == (cross if variant == "x" else kv)
    assert {type(d) for d in edit.modules.values()} == {LowRank if weights == "lora" else Dense}
    assert all(torch.equal(v, before[k]) for k, v in family.denoiser.state_dict().items())


@pytest.mark.parametrize(
    "settings", [{"by": "teacher"}, {"target": "neutral"}, {"target": "anchor", "anchor": "dog"}, {"base": "concept"}]
)
def test_every_setting_trains(any_pipe, settings):
    losses = erase(any_pipe, ["cat", "car"], "esd", **settings, **SMALL).record.measured["losses"]
    assert len(losses) == 2
    assert all(0 < x["gradient"] < float("inf") for x in losses)


def test_what_cannot_be_trained_is_refused(any_pipe):
    with pytest.raises(SettingError, match="needs something to read 'cat' as"):
        erase(any_pipe, ["cat"], "esd", target="anchor", **SMALL)
    any_pipe.to(torch.bfloat16)
    with pytest.raises(SettingError, match="weights=full trains the weights in single precision"):
        erase(any_pipe, ["cat"], "esd", weights="full", **SMALL)


def test_every_word_is_trained_towards_the_anchor(any_pipe, monkeypatch):
    kind = type(family_of(any_pipe))
    asked: list[list[str]] = []
    condition = kind.condition
    monkeypatch.setattr(kind, "condition", lambda self, texts: asked.append(list(texts)) or condition(self, texts))
    concept = Concept("cat", synonyms=("kitty",), anchor="dog")
    erase(any_pipe, [concept], "esd", target="anchor", **SMALL)
    target, anchor = next((a, b) for a, b in itertools.pairwise(asked) if any("kitty" in p for p in a))
    assert anchor == [p.replace("kitty", "dog").replace("cat", "dog") for p in target]


def test_training_takes_the_prediction_towards_the_target(any_pipe):
    """With the neutral target the concept's prediction comes nearer to that of no prompt at all."""
    family = family_of(any_pipe)
    x, t = torch.randn(4, *family.latent_shape, generator=torch.Generator().manual_seed(0)), torch.full((4,), 500)
    own, free = family.condition(["cat"] * 4), family.unconditional()[[0] * 4]
    goal = family.predict(x, t, free)
    before = (family.predict(x, t, own) - goal).norm()
    settings = {**SMALL, "steps": 30, "batch": 4, "lr": 5e-3, "target": "neutral"}
    with erase(any_pipe, ["cat"], "esd", **settings).apply(any_pipe):
        assert (family.predict(x, t, own) - goal).norm() < 0.9 * before
