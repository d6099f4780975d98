"""The second road of text into SDXL: the pooled prompt, which closed forms edit as well."""

from __future__ import annotations

import pytest
import torch
from conftest import tiny_sdxl
from torch.testing import assert_close

from excise import erase, export
from excise.families import family_of
from excise.methods.solution import Solution, widened

PATH = "add_embedding.linear_1"


@pytest.fixture
def pipe(tokenizer):
    return tiny_sdxl(tokenizer)


@pytest.mark.parametrize("method", ["uce", "speed"])
def test_the_pooled_target_is_read_as_its_anchor(pipe, method):
    settings = {"threshold": 5.0} if method == "speed" else {"ridge": 1e-3}
    edit = erase(pipe, ["cat"], method, anchor="car", preserve=["dog"], vocabulary=None, **settings)
    cat, car = family_of(pipe).encode(["cat", "car"]).pooled
    weight = pipe.unet.add_embedding.linear_1.weight
    reads = weight[:, : len(cat)]
    delta = edit.delta(PATH, weight)
    assert (delta[:, len(cat) :] == 0).all()  # what reads sizes and crops stays
    before, after = (reads @ (cat - car)).norm(), ((reads + delta[:, : len(cat)]) @ cat - reads @ car).norm()
    assert after < (0.9 if method == "speed" else 0.7) * before


def test_it_can_be_left_alone(pipe):
    assert PATH not in erase(pipe, ["cat"], "uce", preserve=["dog"], pooled=False).paths


def test_its_targets_have_a_weight_of_their_own(pipe):
    """UCE weighs targets by `erase_scale`, so a lower weight of the pooled ones is a lower scale there alone."""
    given = {"method": "uce", "anchor": "car", "preserve": ["dog"], "vocabulary": None}
    whole, scaled = (erase(pipe, ["cat"], **given, **s) for s in ({}, {"erase_scale": 0.1}))
    weighed = erase(pipe, ["cat"], **given, pooled_weight=0.1)
    modules = dict(pipe.unet.named_modules())
    for path in weighed.paths:
        like = scaled if path == PATH else whole
        assert_close(weighed.delta(path, modules[path].weight), like.delta(path, modules[path].weight))
    assert not torch.equal(weighed.delta(PATH, modules[PATH].weight), whole.delta(PATH, modules[PATH].weight))


def test_the_empty_prompt_stays(pipe):
    edit = erase(pipe, ["cat"], "uce", anchor="car", preserve=["dog"])
    (empty,) = family_of(pipe).encode([""]).pooled
    delta = edit.delta(PATH, pipe.unet.add_embedding.linear_1.weight)[:, : len(empty)]
    assert (delta @ empty).abs().max() < 1e-4


@pytest.mark.parametrize("format", ["diffusers-lora", "kohya-lora"])
def test_it_travels_in_the_exported_lora(pipe, tmp_path, format):
    family = family_of(pipe)
    edit = erase(pipe, ["cat"], "uce", anchor="car", preserve=["dog"], ridge=1e-3)
    assert PATH in edit.paths
    latents, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500])

    def predict() -> torch.Tensor:
        return family.predict(latents, t, family.condition(["a cat"]))

    base = predict()
    with edit.apply(pipe):
        wanted = predict()
    done = export(edit, pipe, tmp_path, format)
    pipe.load_lora_weights(str(done.path.parent), weight_name=done.path.name)
    assert (predict() - wanted).abs().max() < 1e-3 * (wanted - base).abs().max()


def test_widening_pads_with_zeros():
    from excise.edits.deltas import Dense, LowRank, TextMap

    g = torch.Generator().manual_seed(0)
    u, v, b, a, dw = (torch.randn(*s, generator=g) for s in ((3, 2), (2, 3), (4, 2), (2, 3), (4, 3)))
    solution = Solution((TextMap(u, v, ("m", "n")),), {"x": LowRank(b, a), "y": Dense(dw)})
    wide = widened(solution, {"m": 5, "n": 6, "x": 5, "y": 5})
    weight = torch.randn(4, 6, generator=g)
    for m, width in zip(wide.text_maps, (5, 6), strict=True):
        expected = torch.nn.functional.pad(weight[:, :3] @ u @ v, (0, width - 3))
        assert_close(m.delta(weight[:, :width]), expected)
    assert_close(wide.modules["x"].delta(weight), torch.nn.functional.pad(b @ a, (0, 2)))
    assert_close(wide.modules["y"].delta(weight), torch.nn.functional.pad(dw, (0, 2)))
