"""Every preset of a trained method, the official ones too, on models narrower than the one that it was written for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from given import those_read
from situations import every_second

from excise import erase
from excise.families import family_of
from excise.methods import METHODS, settings_of
from excise.methods.base import Context

FEW: dict[str, Any] = {
    **{"steps": 2, "batch": 2, "pictures": 2, "sampler_steps": 3, "mask_passes": 1, "fisher_passes": 1},
    **{"adversary_steps": 1, "attack_steps": 1, "warmup_steps": 1, "warmup": 1, "candidates": 1, "bisections": 1},
    **{"unrelated": 1},
}
"""What makes a training short, as far as a method reads it."""
FURTHER: dict[str, dict[str, Any]] = {"rgd": {"bound": 100.0}, "few-shot": {"bound": 0.0}}
TRAINED = sorted(name for name, record in METHODS.records().items() if record.shape == "trained")
PRESETS = [(name, preset) for name in TRAINED if name != "surgun" for preset in settings_of(name).presets]


@pytest.mark.parametrize(("method", "preset"), PRESETS)
def test_every_preset_trains_a_narrow_model(make, method, preset):
    pipe = make("flux-dev" if method == "eraseanything" else "zimage" if method == "zerase" else "sd")
    short = those_read(method, FEW, preset=preset)
    context = Context(judge=every_second if method == "slug" else None)
    request = {"anchor": "car", "preserve": ["dog", "tree"], "vocabulary": None, "preset": preset}
    edit = erase(pipe, ["cat"], method, context=context, **request, **short, **FURTHER.get(method, {}))
    family = family_of(pipe)
    before = {path: family.parameter(path).detach().clone() for path in edit.paths}
    with edit.apply(pipe):
        assert edit.hooks or any(not torch.equal(family.parameter(p), w) for p, w in before.items())
        assert all(bool(family.parameter(p).isfinite().all()) for p in edit.paths)
    assert all(torch.equal(family.parameter(p), w) for p, w in before.items())
