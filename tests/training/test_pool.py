"""Latents that serve several passes: beside sampling that stops where a pass stands, counted, resumed exactly."""

from __future__ import annotations

import pytest
import torch
from situations import stopping_at

from excise import erase
from excise.errors import SettingError
from excise.families import family_of
from excise.families.trajectories import partial_denoise
from excise.methods.base import Context
from excise.training.adapters import Adapter
from excise.training.blocks import empty_prompt, prompts_of
from excise.training.sources import Kept, Pool, Trajectories

STEPS, SIZE = 5, 3
SMALL = {"steps": 4, "lr": 1e-2, "batch": 2, "sampler_steps": 3, "vocabulary": None}


def source_of(weights, pool: Pool | None, window=(0.0, 1.0)) -> Trajectories:
    concept, anchor = prompts_of(weights, ["a cat", "cat"]), prompts_of(weights, ["a tree", "tree"])
    empty = empty_prompt(weights)
    return Trajectories(weights, [concept], [anchor], empty, Kept(), SIZE, "student", STEPS, 2.0, window, pool=pool)


def test_every_pass_stands_where_sampling_would_have_stopped(make):
    family = family_of(make("sd"))
    with Adapter(family, [m.path for m in family.maps("cross")], 2, 0) as weights:
        pool = Pool(6)
        batches = [source_of(weights, pool).batch(torch.Generator().manual_seed(i)) for i in range(6)]
    generator = torch.Generator().manual_seed(0)  # of the first pass, which drew the whole way
    torch.randint(1, (1,), generator=generator)
    rows = torch.randint(2, (SIZE,), generator=generator)
    noise = torch.randn(SIZE, *family.latent_shape, generator=generator)
    condition, empty = family.condition(["a cat", "cat"])[rows], family.unconditional()[[0] * SIZE]
    stops = set()
    for batch in batches:
        done = round(batch.progress * STEPS)
        stops.add(done)
        x, t = partial_denoise(family, condition, empty, noise, steps=STEPS, done=done, guidance=2.0)
        assert torch.equal(batch.x_t, x)
        assert torch.equal(batch.t, t)
        assert torch.equal(batch.concept.rows, rows)
    assert len(stops) > 1


def test_a_window_is_kept_and_a_way_serves_as_many_passes_as_asked(make, monkeypatch):
    family = family_of(make("sd"))
    calls, predict = [], family.predict
    monkeypatch.setattr(family, "predict", lambda *a, **k: calls.append(1) or predict(*a, **k))
    with Adapter(family, [m.path for m in family.maps("cross")], 2, 0) as weights:
        source = source_of(weights, Pool(4), window=(0.4, 0.8))
        progress = [source.batch(torch.Generator().manual_seed(i)).progress for i in range(8)]
    assert set(progress) == {0.4, 0.6}
    assert len(calls) == 2 * 2 * 3  # two ways of three steps up to the last stop, with guidance


def test_every_target_has_a_way_of_its_own_and_a_mask_does_without(make):
    family = family_of(make("sd"))
    with Adapter(family, [m.path for m in family.maps("cross")], 2, 0) as weights:
        names = [prompts_of(weights, [name]) for name in ("cat", "car", "house")]
        source = Trajectories(weights, names, names, empty_prompt(weights), Kept(), 1, "student", 3, 2.0, pool=Pool(9))
        passes = [source.batch(torch.Generator().manual_seed(i)) for i in range(12)]
    assert {batch.number for batch in passes} == {0, 1, 2}
    pipe = make("sd")
    masked = {**SMALL, "weights": "full", "mask": "saliency", "mask_passes": 3, "steps": 1, "lr": 1e-3}
    one, many = (erase(pipe, ["cat", "car"], "esd", **masked, reuse=reuse) for reuse in (1, 9))
    for path, delta in one.modules.items():
        assert torch.equal(delta.dw != 0, many.modules[path].dw != 0)  # the mask is of the same passes


@pytest.mark.parametrize("reuse", [1, 3])
def test_an_interrupted_training_goes_on_with_its_latents(make, tmp_path, reuse):
    settings = {**SMALL, "reuse": reuse, "save_every": 2}

    with pytest.raises(KeyboardInterrupt):
        erase(make("sd"), ["cat"], "esd", context=Context(folder=tmp_path, say=stopping_at(3)), **settings)
    resumed = erase(make("sd"), ["cat"], "esd", context=Context(folder=tmp_path), **settings)
    whole = erase(make("sd"), ["cat"], "esd", **settings)
    one, two = resumed.tensors(), whole.tensors()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("concept-ablation", "'reuse' is read with by=student, teacher or mean, and by is 'images'"),
        ("receler", "does not read 'reuse'"),
    ],
)
def test_what_denoises_nothing_or_reads_it_not_refuses_it(make, method, message):
    with pytest.raises(SettingError, match=message):
        erase(make("sd"), ["cat"], method, reuse=4, vocabulary=None, preserve=["dog"])
