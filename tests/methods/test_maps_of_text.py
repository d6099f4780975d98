"""Closed forms on maps that read more than the prompt: which there are, what they read, and what may become of keys."""

from __future__ import annotations

import pytest
import tiny_flux
import tiny_zimage
import torch
from torch.testing import assert_close

from excise import erase
from excise.edits.deltas import Dense, LowRank, TextMap
from excise.errors import ModelError, SettingError
from excise.families import family_of
from excise.families.maps import Projection
from excise.families.networks import module_in
from excise.families.trajectories import plain_scheduler
from excise.methods.solution import Solution, in_rows

FEW = {"preserve": ["dog"], "vocabulary": None}


@pytest.fixture
def flux():
    return tiny_flux.build()


def paths(family, order: str, params: str = "kv") -> list[str]:
    return [p.path for p in family.text_maps(order, params)]


def test_maps_by_what_they_read(flux, make):
    family = family_of(flux)
    assert paths(family, "static") == ["context_embedder"]
    assert paths(family, "joint") == [f"transformer_blocks.{i}.attn.add_{x}_proj" for i in range(2) for x in "kv"]
    assert paths(family, "shared", "v") == [f"single_transformer_blocks.{i}.attn.to_v" for i in range(2)]
    assert [p.normed for p in family.text_maps("joint")] == [True, False] * 2
    zimage = family_of(tiny_zimage.build())
    assert paths(zimage, "refined", "k") == [f"context_refiner.{i}.attention.to_k" for i in range(2)]
    assert paths(zimage, "shared", "k") == [f"layers.{i}.attention.to_k" for i in range(2)]
    with pytest.raises(ModelError, match="'flux' has no maps of the order 'refined'; it has: static, joint, shared"):
        family.text_maps("refined")
    with pytest.raises(ModelError, match="'sd' has no maps of the order 'joint'; it has: static"):
        family_of(make("sd")).text_maps("joint")


@pytest.mark.parametrize("build", [tiny_flux.build, tiny_zimage.build])
def test_captured_states_are_what_the_maps_read_while_drawing(build):
    """Drawing one prompt step by step, with the rows of the text and of the picture apart."""
    family = family_of(build())
    text, tokens = "a photo of a cat", family.latent_shape[1] * family.latent_shape[2] // 4
    order = "shared"
    path = paths(family, order)[0]
    moments = family.captured([path], ["a dog", text], 2, seed=5)
    scheduler = plain_scheduler(family)
    scheduler.set_timesteps(4)
    x = torch.randn(1, *family.latent_shape, generator=torch.Generator().manual_seed(5))
    condition, seen = family.condition([text]), []
    hook = module_in(family.denoiser, path).register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    for t in scheduler.timesteps:
        x = scheduler.step(family.predict(x, t.reshape(1), condition), t, x).prev_sample
    hook.remove()
    length = int(family.encode([text]).read[0].sum())
    for at, rows in zip(moments, seen[::2], strict=True):
        own = at[path]
        text_first = family.name == "flux"
        picture = rows[-tokens:] if text_first else rows[:tokens]
        own_text = rows[:length] if text_first else rows[32 : 32 + length]
        assert_close(own.picture[1], picture, rtol=1e-4, atol=1e-4)
        assert_close(own.rows[1][own.read[1]], own_text, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["uce", "speed"])
@pytest.mark.parametrize("order", ["joint", "shared"])
def test_targets_read_as_their_anchors_in_every_layer(flux, method, order):
    family = family_of(flux)
    settings = {"threshold": 5.0} if method == "speed" else {}
    edit = erase(
        flux, ["cat"], method, anchor="dog", maps=order, params="kv", tokens="last", pooled=False, **FEW, **settings
    )
    assert edit.paths == sorted(paths(family, order))
    texts, subjects = ["a photo of cat", "a photo of dog"], ["cat", "dog"]
    place = family.encode(texts, subjects).last
    for path in paths(family, order, "v"):
        rows = family.captured([path], texts, 3, seed=0)[1][path].rows[range(2), place]
        weight = family.parameter(path).double()
        before = weight @ (rows[0] - rows[1]).double()
        after = before + edit.delta(path, weight) @ rows[0].double()
        assert after.norm() < before.norm()


def test_nothing_is_no_key(flux):
    family = family_of(flux)
    edit = erase(flux, ["cat"], "uce", maps="joint", pooled=False, **FEW)
    assert edit.paths == sorted(paths(family, "joint", "v"))
    with pytest.raises(SettingError, match="params=k changes keys alone, which this model norms"):
        erase(flux, ["cat"], "uce", maps="joint", params="k", **FEW)
    assert erase(flux, ["cat"], "uce", anchor="dog", maps="joint", params="k", pooled=False, **FEW).paths


def test_the_default_is_not_recorded(flux):
    assert "maps" not in erase(flux, ["cat"], "uce", **FEW).record.settings
    assert erase(flux, ["cat"], "uce", maps="joint", **FEW).record.settings["maps"] == "joint"


@pytest.mark.parametrize("kind", ["text_map", "low_rank", "dense"])
def test_only_the_rows_of_a_fused_map_change(kind):
    torch.manual_seed(0)
    weight, rows = torch.randn(8, 3), slice(2, 6)
    u, v, b = torch.randn(3, 1), torch.randn(1, 3), torch.randn(4, 1)
    part = {
        "text_map": Solution((TextMap(u, v, ("fused", "plain")),)),
        "low_rank": Solution(modules={"fused": LowRank(b, v)}),
        "dense": Solution(modules={"fused": Dense(b @ v)}),
    }[kind]
    fused = Projection("fused", "k", torch.nn.Linear(3, 8), rows)
    whole = in_rows(part, [fused, Projection("plain", "k", torch.nn.Linear(3, 8))], {"fused": weight})
    wanted = (weight[rows] @ u @ v) if kind == "text_map" else b @ v
    delta = whole.modules["fused"].delta(weight)
    assert_close(delta[rows], wanted)
    assert not delta[:2].any()
    assert not delta[6:].any()
    assert [m.modules for m in whole.text_maps] == ([("plain",)] if kind == "text_map" else [])
