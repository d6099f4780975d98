"""ESD: the target by hand, latents and timesteps that belong together, and what each variant trains."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from diffusers import DDIMScheduler
from situations import stopping_at
from torch.testing import assert_close

from excise import Edit, erase
from excise.attacks.original import swaps
from excise.concepts.concept import Concept
from excise.edits.deltas import Dense, LowRank
from excise.edits.originals import original_weights
from excise.errors import SettingError
from excise.families import family_of
from excise.families.trajectories import partial_denoise
from excise.methods.base import Context
from excise.methods.closed_form.uce_config import UCEConfig
from excise.methods.trained.esd import ESD, goal
from excise.methods.trained.esd_config import ESDConfig
from excise.training.adapters import Adapter
from excise.training.blocks import empty_prompt, prompts_of
from excise.training.sources import Kept, Trajectories

SMALL = {"steps": 2, "lr": 1e-2, "batch": 2, "sampler_steps": 4}


@pytest.fixture
def family(any_pipe):
    return family_of(any_pipe)


class Said:
    """A batch whose teacher says known numbers."""

    concept, empty, anchor = 3.0, 1.0, 7.0

    @staticmethod
    def teacher(prompts: float) -> torch.Tensor:
        return torch.tensor([prompts])

    @staticmethod
    def originals(*prompts: float) -> list[torch.Tensor]:
        return [torch.tensor([p]) for p in prompts]


def test_the_target_by_hand_and_the_two_programs_apart_by_one():
    def target(**settings) -> float:
        return float(goal(Said(), ESDConfig(**settings)))

    assert target(eta=1.0) == 1 - (3 - 1)
    assert target(eta=2.0, base="concept") == target(eta=1.0)
    assert target(target="neutral") == 1
    assert target(target="anchor") == 7


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
    "settings",
    [
        {"by": "teacher"},
        {"target": "neutral"},
        {"target": "anchor", "anchor": "dog"},
        {"base": "concept"},
        {"eta": 2.0},
        {"guidance": 7.0},
        {"sampler_steps": 6},
        {"retain_weight": 10.0, "preserve": ["dog"]},
    ],
)
def test_every_setting_changes_what_is_trained(make, settings):
    def trained(**more):
        return erase(make("sd"), ["cat"], "esd", **{**SMALL, "steps": 3, "lr": 3e-2, "vocabulary": None, **more})

    plain, other = trained(), trained(**settings)
    assert all(0 < x["gradient"] < float("inf") for x in other.record.measured["losses"])
    assert plain.paths == other.paths
    assert any(not torch.equal(t, other.tensors()[name]) for name, t in plain.tensors().items())


def test_training_on_top_of_a_closed_form_is_one_edit_of_both(make):
    """At a learning rate of almost nothing, what is left is the closed form alone."""
    pipe, family = make("sd"), family_of(make("sd"))
    more = {"vocabulary": None, "preserve": ["dog", "tree"]}
    closed = erase(pipe, ["cat"], "uce", **more, **UCEConfig().model_dump())
    both = erase(pipe, ["cat"], "esd", **{**SMALL, "lr": 1e-12}, first="uce", **more)
    plain = erase(pipe, ["cat"], "esd", **{**SMALL, "lr": 1e-2}, **more)
    trained = erase(pipe, ["cat"], "esd", **{**SMALL, "lr": 1e-2}, first="uce", **more)
    assert set(trained.paths) == set(closed.paths) | set(plain.paths)
    for path, weight in original_weights(family, closed.paths).items():
        assert_close(both.delta(path, weight), closed.delta(path, weight), rtol=1e-4, atol=1e-6)
        assert not torch.allclose(trained.delta(path, weight), closed.delta(path, weight), rtol=1e-4, atol=1e-6)


def test_all_but_one_needs_no_anchor(any_pipe):
    assert erase(any_pipe, ["cat"], "esd", target="guidance", **SMALL).paths


def test_what_cannot_be_trained_is_refused(any_pipe):
    with pytest.raises(SettingError, match="needs something to read 'cat' as"):
        erase(any_pipe, ["cat"], "esd", target="anchor", **SMALL)
    with pytest.raises(SettingError, match="retain_weight needs prompts to keep"):
        erase(any_pipe, ["cat"], "esd", retain_weight=1.0, vocabulary=None, **SMALL)
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


@pytest.mark.parametrize(("maps", "weights"), [("mlp", "lora"), ("all", "full")])
def test_the_text_encoder_is_trained_alone(any_pipe, maps, weights, tmp_path):
    family = family_of(any_pipe)
    parts = [family.denoiser, *family.text_encoders.values()]
    before = [{k: v.clone() for k, v in part.state_dict().items()} for part in parts]
    modules = [dict(part.named_modules()) for part in parts]
    x, t = torch.randn(2, *family.latent_shape, generator=torch.Generator().manual_seed(0)), torch.tensor([300, 700])

    def predict():
        return family.predict(x, t, family.condition(["a cat", "a dog"]))

    untouched = predict()
    settings = {**SMALL, "train": "text_encoder", "encoder_maps": maps, "weights": weights}
    edit = erase(any_pipe, ["cat"], "esd", **settings)
    assert edit.paths == sorted(m.path for m in family.maps(f"text_{maps}"))
    assert all(path.startswith("text_encoder") for path in edit.paths)
    assert all(d["gradient"] > 0 for d in edit.record.measured["losses"])
    for part, state, names in zip(parts, before, modules, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in part.state_dict().items())
        assert dict(part.named_modules()) == names
    assert torch.equal(predict(), untouched)
    with Edit.load(edit.save(tmp_path / "edit.safetensors")).apply(any_pipe):
        assert not torch.equal(predict(), untouched)
        found = swaps(family, None)
        assert set(found) == {"text_encoder"}  # an attacker who puts the original encoder back has the whole model
        with found["text_encoder"]():
            assert torch.equal(predict(), untouched)
    assert torch.equal(predict(), untouched)


def test_the_text_encoders_loss_is_that_of_the_formula(any_pipe):
    """Beside a naive reference: the frozen encoder in the target, the trained one in prediction and sampler."""
    family = family_of(any_pipe)
    teacher = copy.deepcopy(any_pipe)
    frozen = family_of(teacher)
    config = ESDConfig(train="text_encoder", batch=2, sampler_steps=4, eta=0.7)
    with Adapter(family, ESD().targets(family, config), 2, 0) as weights:
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for p in weights.parameters.values():
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
        prompts = prompts_of(weights, ["a cat", "cat"])
        source = Trajectories(weights, [prompts], [prompts], empty_prompt(weights), Kept(), 2, "student", 4, 3.0)
        batch = source.batch(torch.Generator().manual_seed(0))
        loss = ESD().loss(batch, config)
        texts = [["a cat", "cat"][i] for i in batch.concept.rows]
        c, free = family.condition(texts), family.unconditional()[[0, 0]]
        prediction = family.predict(batch.x_t, batch.t, c)
        draws = torch.Generator().manual_seed(0)
        torch.randint(1, (1,), generator=draws), torch.randint(2, (2,), generator=draws)
        done = int(torch.randint(4, (1,), generator=draws))
        noise = torch.randn(2, *family.latent_shape, generator=draws)
        x_t, t = partial_denoise(family, c, free, noise, steps=4, done=done, guidance=3.0)
    assert_close(batch.x_t, x_t)
    assert torch.equal(batch.t, t)
    of_c, of_nothing = (
        frozen.predict(batch.x_t, batch.t, k) for k in (frozen.condition(texts), frozen.unconditional()[[0, 0]])
    )
    wanted = of_nothing - 0.7 * (of_c - of_nothing)
    assert_close(loss, (prediction - wanted).square().mean(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("family", ["sd", "sana"])
def test_an_interrupted_training_of_the_text_encoder_goes_on(make, family, tmp_path):
    settings = {**SMALL, "train": "text_encoder", "steps": 4, "save_every": 2}

    with pytest.raises(KeyboardInterrupt):
        erase(make(family), ["cat"], "esd", context=Context(folder=tmp_path, say=stopping_at(3)), **settings)
    steps: list[int] = []
    again = Context(folder=tmp_path, say=lambda what, done, total: steps.append(done))
    resumed = erase(make(family), ["cat"], "esd", context=again, **settings)
    assert steps == [3, 4]
    whole = erase(make(family), ["cat"], "esd", **settings)
    assert all(torch.equal(t, resumed.tensors()[name]) for name, t in whole.tensors().items())


def test_recomputing_in_the_text_encoder_changes_memory_alone(any_pipe):
    def losses(**more):
        edit = erase(any_pipe, ["cat"], "esd", train="text_encoder", **SMALL, **more)
        return [x["loss"] for x in edit.record.measured["losses"]]

    plain, calls = losses(), []
    (encoder, *_) = family_of(any_pipe).text_encoders.values()
    layer = next(m for n, m in encoder.named_modules() if n.endswith("layers.0"))
    hook = layer.mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    losses()
    once = len(calls)
    again = losses(checkpointing=True)
    hook.remove()
    assert again == pytest.approx(plain, rel=1e-5)
    assert len(calls) - once > once
    assert not any(getattr(m, "gradient_checkpointing", False) or m.training for m in encoder.modules())
    assert not encoder.get_input_embeddings()._forward_hooks  # nothing is left that asks for gradients


def test_settings_that_came_later_are_recorded_only_where_they_are_used(make):
    assert not {"train", "encoder_maps", "retain_weight"} & set(ESDConfig().model_dump(mode="json"))
    given = ESDConfig(train="text_encoder", retain_weight=2.0)
    assert given.model_dump(mode="json")["train"] == "text_encoder"
    assert ESDConfig.model_validate(given.model_dump(mode="json")) == given
