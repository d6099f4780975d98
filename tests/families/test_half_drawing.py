"""Drawing in bfloat16: near to single precision, the same bytes each time, known to the cache, gone afterwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from excise.families import family_of
from excise.families.drawing import draw, model_key
from excise.families.half_drawing import gains, in_bfloat16

ASKED = [(prompt, seed) for seed in range(2) for prompt in ("a cat", "a dog")]


@pytest.fixture
def family(any_pipe):
    return family_of(any_pipe)


@pytest.fixture
def matrix_units(monkeypatch):
    monkeypatch.setattr("excise.families.half_drawing.multiplies_bfloat16", lambda: True)


def pixels(family, cache=None):
    images = draw(family, ASKED, steps=3, guidance=2.0, batch=2, cache=cache)
    return np.stack([np.asarray(image) for image in images]).astype(int)


def in_half(family, cache=None):
    with in_bfloat16(family):
        return pixels(family, cache)


def test_pictures_differ_by_rounding_alone_and_are_the_same_each_time(family):
    plain, half = pixels(family), in_half(family)
    assert 0 < np.abs(half - plain).mean() < 1.5  # of 255 levels
    assert (in_half(family) == half).all()
    assert (pixels(family) == plain).all()


def test_matrices_are_multiplied_in_bfloat16_and_nothing_else_is(family):
    seen = {}

    def note(name):
        def hook(module, args, output):
            seen.setdefault(name, set()).add((output[0] if isinstance(output, tuple) else output).dtype)

        return hook

    inner = next(m for m in family.denoiser.modules() if isinstance(m, torch.nn.Conv2d))
    handles = [inner.register_forward_hook(note("inside"))]
    with in_bfloat16(family):
        handles.append(family.denoiser.register_forward_hook(note("denoiser")))
        handles.append(family.pipe.vae.decoder.register_forward_hook(note("decoder")))
        condition = family.condition(["a cat"])
        family.render(condition, family.unconditional(), [0], steps=2, guidance=2.0)
    for handle in handles:
        handle.remove()
    assert seen == {"inside": {torch.bfloat16}, "denoiser": {torch.float32}, "decoder": {torch.float32}}
    plain = family.condition(["a cat"])
    assert all(torch.equal(condition.inputs[name], plain.inputs[name]) for name in plain.inputs)


def test_each_precision_has_pictures_of_its_own_in_the_cache(family, tmp_path):
    plain, half = pixels(family, tmp_path), in_half(family, tmp_path)
    assert len(list(tmp_path.rglob("*.png"))) == 2 * len(ASKED)
    assert (pixels(family, tmp_path) == plain).all()
    assert (in_half(family, tmp_path) == half).all()
    assert len(list(tmp_path.rglob("*.png"))) == 2 * len(ASKED)


def test_an_error_while_drawing_leaves_nothing_behind(family):
    key = model_key(family)

    def fail(*_):
        raise RuntimeError("stopped")

    handle = next(iter(family.denoiser.children())).register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="stopped"):
        in_half(family)
    handle.remove()
    assert not torch.is_autocast_enabled("cpu")
    assert model_key(family) == key


def test_weights_that_change_between_two_blocks_are_read_anew(family):
    first = in_half(family)
    path = family.attention_maps()[0].path
    with torch.no_grad():
        family.parameter(path).mul_(-3)
    assert (in_half(family) != first).any()


def test_it_gains_on_plain_models_in_single_precision(family, matrix_units, monkeypatch):
    assert gains(family)
    handle = family.denoiser.register_forward_hook(lambda *_: None)
    assert not gains(family)
    handle.remove()
    with torch.autocast("cpu", torch.bfloat16):
        assert not gains(family)
    with in_bfloat16(family):
        assert not gains(family)
    assert gains(family)
    family.denoiser.to(torch.float16)
    assert not gains(family)
    family.denoiser.to(torch.float32)
    monkeypatch.setattr("excise.families.half_drawing.multiplies_bfloat16", lambda: False)
    assert not gains(family)
