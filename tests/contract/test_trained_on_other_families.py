"""Every trained method on the families in whose way text reaches a picture as in one of `WAYS`."""

from __future__ import annotations

import pytest
import torch
from conftest import WAYS
from test_every_method import FAMILIES, WITHOUT_LOOP, made

from excise.families import family_of
from excise.methods import METHODS

TRAINED = sorted(name for name, record in METHODS.records().items() if record.shape == "trained")


@pytest.fixture(params=[kind for kind in FAMILIES if kind not in WAYS])
def pipe(request, make):
    return make(request.param)


@pytest.mark.parametrize("method", TRAINED)
def test_it_trains_and_is_taken_off_again(pipe, method):
    edit = made(pipe, method, **({} if method in WITHOUT_LOOP else {"steps": 2}))
    family = family_of(pipe)
    before = {path: family.parameter(path).detach().clone() for path in edit.paths}
    assert any(bool(tensor.any()) for tensor in edit.tensors().values())
    with edit.apply(pipe):
        assert edit.hooks or any(not torch.equal(family.parameter(p), w) for p, w in before.items())
    assert all(torch.equal(family.parameter(p), w) for p, w in before.items())
