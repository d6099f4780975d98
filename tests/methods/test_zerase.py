"""zerase: maps that see no picture, the losses beside the formula, and a LoRA file that the stock pipeline loads."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.testing import assert_close

from excise import erase, export
from excise.families import family_of
from excise.families.reading import first_inputs
from excise.methods.trained.zerase import ZErase
from excise.methods.trained.zerase_config import ZEraseConfig
from excise.training.adapters import Adapter
from excise.training.blocks import empty_prompt, prompts_of
from excise.training.sources import Kept, Trajectories

SMALL = {"steps": 2, "lr": 1e-2, "sampler_steps": 3, "vocabulary": None}
CONFIG = ZEraseConfig(batch=2, sampler_steps=3, retain_weight=0.7)


@pytest.fixture(params=["zimage", "lumina2", "krea2"])
def pipe(request, make):
    return make(request.param)


def latents_of(family, seed: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, *family.latent_shape, generator=torch.Generator().manual_seed(seed))


def test_the_trained_maps_see_no_picture_and_no_time(pipe):
    family = family_of(pipe)
    paths = ZErase().targets(family, CONFIG)
    assert {m.path for m in family.maps("door")} <= set(paths)
    assert len(paths) > len(family.maps("door"))  # the refiners too
    condition = family.condition(["a cat"] * 2)
    inputs: list[dict[str, torch.Tensor]] = []
    for seed, t in ((0, 300), (1, 800)):
        with first_inputs({path: family.module(path) for path in paths}) as seen:
            family.predict(latents_of(family, seed), torch.full((2,), t), condition)
        inputs.append(seen)
    assert set(inputs[0]) == set(paths)
    for path in paths:
        assert torch.equal(inputs[0][path], inputs[1][path]), path


@pytest.mark.parametrize("combine", ["project", "sum"])
def test_the_losses_are_those_of_the_formula(pipe, combine):
    frozen, family = family_of(copy.deepcopy(pipe)), family_of(pipe)
    config = CONFIG.model_copy(update={"combine": combine})
    with Adapter(family, ZErase().targets(family, config), 2, 0) as weights:
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for p in weights.parameters.values():
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
        prompts = [prompts_of(weights, texts) for texts in (["a cat"], ["a dog"], ["a tree"])]
        source = Trajectories(
            weights, prompts[:1], prompts[1:2], empty_prompt(weights), Kept(prompts[2]), 2, "student", 3, 1.0
        )
        batch = source.batch(torch.Generator().manual_seed(0))
        losses = ZErase().losses(batch, config)
        x, t = batch.x_t, batch.t
        student = [family.predict(x, t, family.condition([text] * 2)) for text in ("a cat", "a tree")]
        teacher = [frozen.predict(x, t, frozen.condition([text] * 2)) for text in ("a dog", "a tree")]
        erased, retained = ((s - v).square().mean() for s, v in zip(student, teacher, strict=True))
        trained = [*weights.parameters.values()]
        g_e, g_r = (
            torch.cat([g.flatten() for g in torch.autograd.grad(part, trained, retain_graph=True)])
            for part in (erased, 0.7 * retained)
        )
        conflict = min(0.0, float(g_e @ g_r)) / float(g_r @ g_r) if combine == "project" else 0.0
        wanted = g_e - conflict * g_r + g_r
        got = torch.cat([g.flatten() for g in torch.autograd.grad(losses["loss"], trained)])
        assert_close(losses["retain"], retained, rtol=1e-4, atol=1e-7)
        assert_close(got, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


def test_training_takes_the_concept_towards_its_anchor(make):
    pipe = make("zimage")
    family = family_of(pipe)
    x, t = latents_of(family, 0, 4), torch.full((4,), 500)
    goal = family.predict(x, t, family.condition(["a photo of a dog"] * 4))

    def left() -> float:
        return float((family.predict(x, t, family.condition(["a photo of a cat"] * 4)) - goal).norm())

    before = left()
    settings = {**SMALL, "steps": 16, "anchor": "dog", "retain_weight": 0.0}
    with erase(pipe, ["cat"], "zerase", **settings).apply(pipe):
        assert left() < 0.9 * before


def test_without_names_to_keep_the_empty_prompt_is_retained(make):
    edit = erase(make("zimage"), ["cat"], "zerase", **SMALL)
    first, last = edit.record.measured["losses"]
    assert first["retain"] == 0 < last["retain"]
    assert all(0 < line["gradient"] < math.inf for line in (first, last))
    (line, *_) = erase(make("zimage"), ["cat"], "zerase", **SMALL, retain_weight=0.0).record.measured["losses"]
    assert "retain" not in line


def test_the_stock_pipeline_loads_the_lora(make, tmp_path):
    pipe = make("zimage")
    family = family_of(pipe)
    x, t = latents_of(family, 0), torch.tensor([300, 700])
    edit = erase(pipe, ["cat"], "zerase", **{**SMALL, "steps": 4})
    with edit.apply(pipe):
        wanted = family.predict(x, t, family.condition(["a cat"] * 2))
    done = export(edit, pipe, tmp_path, "diffusers-lora")
    stock = make("zimage")
    base = family.predict(x, t, family.condition(["a cat"] * 2))
    stock.load_lora_weights(str(done.path.parent), weight_name=done.path.name)
    loaded = family_of(stock)
    effect = float((wanted - base).abs().max())
    assert effect > 1e-4
    miss = (loaded.predict(x, t, loaded.condition(["a cat"] * 2)) - wanted).abs().max().detach()
    assert float(miss) < 1e-3 * effect


def test_a_model_in_half_precision_is_trained(make):
    edit = erase(make("zimage").to(torch.bfloat16), ["cat"], "zerase", **SMALL, preserve=["dog"])
    assert all(0 < line["gradient"] < math.inf for line in edit.record.measured["losses"])
