"""The running mean of a training: beside one done by hand, kept in the place of the weights, resumed exactly."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from situations import stopping_at

from excise import erase
from excise.errors import SettingError
from excise.families import family_of
from excise.methods.base import Context
from excise.training.adapters import FullWeights
from excise.training.averaging import Average

SMALL = {"steps": 4, "lr": 1e-2, "batch": 2, "sampler_steps": 3, "vocabulary": None}


def test_the_mean_by_hand(make):
    family = family_of(make("sd"))
    path = family.maps("cross_kv")[0].path
    with FullWeights(family, [path]) as weights:
        (parameter,) = weights.parameters.values()
        average, expected = Average(weights, 0.75), parameter.detach().clone()
        assert torch.equal(average.state()[f"{path}.weight"], expected)
        for step in range(3):
            with torch.no_grad():
                parameter.add_(step + 1.0)
            average.update()
            expected = 0.75 * expected + 0.25 * parameter.detach()
        torch.testing.assert_close(average.state()[f"{path}.weight"], expected)
        live = parameter.detach().clone()
        with average.in_force():
            torch.testing.assert_close(parameter.detach(), expected)
        assert torch.equal(parameter.detach(), live)


def test_the_edit_is_the_mean_which_lags_behind(make):
    settings = {**SMALL, "target": "self", "weights": "full"}
    plain = erase(make("sd"), ["cat"], "esd", **settings)
    mean = erase(make("sd"), ["cat"], "esd", **settings, ema=0.9, by="mean")
    size = {name: sum(float(d.dw.norm()) for d in e.modules.values()) for name, e in (("plain", plain), ("mean", mean))}
    assert 0 < size["mean"] < size["plain"]
    with pytest.raises(SettingError, match="by=mean needs a running mean"):
        erase(make("sd"), ["cat"], "esd", **SMALL, by="mean")


def test_an_interrupted_training_goes_on_with_both(make, tmp_path):
    settings = {**SMALL, "target": "self", "weights": "full", "ema": 0.9, "by": "mean", "save_every": 2}

    with pytest.raises(KeyboardInterrupt):
        erase(make("sd"), ["cat"], "esd", context=Context(folder=tmp_path, say=stopping_at(3)), **settings)
    resumed = erase(make("sd"), ["cat"], "esd", context=Context(folder=tmp_path), **settings)
    whole = erase(make("sd"), ["cat"], "esd", **settings)
    assert all(torch.equal(d.dw, whole.modules[path].dw) for path, d in resumed.modules.items())


def test_a_mean_begins_before_the_first_step_without_assertions_too():
    program = """
import torch
from types import SimpleNamespace
from excise.training.averaging import Average
weight = torch.zeros(2)
average = Average(SimpleNamespace(parameters={"w": weight}), 0.5)
average.begin()
weight.add_(1)
print(average.state()["w"].tolist())
"""
    done = subprocess.run([sys.executable, "-O", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[0.0, 0.0]"
