"""From which checkpoints a training goes on, and from which it does not."""

from __future__ import annotations

import pytest
import torch
from situations import stopping_at

from excise import Edit, erase
from excise.errors import ExciseWarning
from excise.families import family_of
from excise.methods.base import Context
from excise.training.sparsity import SparseAdapter

FEW = {"steps": 4, "save_every": 2, "batch": 2, "vocabulary": None, "preserve": ["dog"]}
SMALL = {**FEW, "sampler_steps": 3}
BELOW = [("receler", {"sampler_steps": 3, "adversary_steps": 1}), ("few-shot", {"pictures": 2})]


def same(one: Edit, other: Edit) -> bool:
    tensors = other.tensors()
    return one.tensors().keys() == tensors.keys() and all(torch.equal(t, tensors[n]) for n, t in one.tensors().items())


@pytest.mark.parametrize(("method", "more"), BELOW)
def test_a_checkpoint_serves_on_top_of_the_same_edits_alone(make, tmp_path, method, more):
    """Those too that act while the model draws, or are in the text encoder, or have another strength."""
    pipe = make("sd")
    below = erase(pipe, ["house"], method, lr=0.05, **{**FEW, **more})

    def esd(folder=None, **context) -> Edit:
        return erase(pipe, ["cat"], "esd", context=Context(folder=folder, **context), lr=1e-2, **SMALL)

    with pytest.raises(KeyboardInterrupt):
        esd(tmp_path / "1", say=stopping_at(3))
    with below.apply(pipe):
        assert same(esd(tmp_path / "1"), esd())
        with pytest.raises(KeyboardInterrupt):
            esd(tmp_path / "2", say=stopping_at(3))
    with below.apply(pipe, strength=0.5):
        assert same(esd(tmp_path / "2"), esd())
    with below.apply(pipe):
        steps: list[int] = []
        whole = esd(tmp_path / "1", say=lambda what, done, total: steps.append(done))
    assert steps == []  # the first that was made on top of it had ended
    assert whole.record.measured["after"] == [f"{method}: house"]


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04", "a number"])
def test_a_checkpoint_that_cannot_be_read_is_said_and_begun_anew(make, tmp_path, content):
    pipe, file = make("sd"), tmp_path / "state.pt"
    whole = erase(pipe, ["cat"], "esd", context=Context(folder=tmp_path), **SMALL)
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(5, file)
    with pytest.warns(ExciseWarning, match=r"state\.pt is no checkpoint that can be read"):
        assert same(erase(pipe, ["cat"], "esd", context=Context(folder=tmp_path), **SMALL), whole)


def test_blocks_at_zero_stay_there_after_a_checkpoint(make):
    """The optimiser's momentum, which goes on from the checkpoint, would move them again."""
    family = family_of(make("sd"))
    paths = [m.path for m in family.maps("cross_kv")]
    with SparseAdapter(family, paths, 2, 0, sparsity=1e4) as weights:
        weights.settle(1.0)
        state = weights.state()
    assert not any(bool(t.any()) for t in state.values())
    with SparseAdapter(family, paths, 2, 0, sparsity=0.1) as weights, torch.no_grad():
        weights.load(state)
        for p in weights.parameters.values():
            p.add_(1.0)
        weights.settle(1e-3)
        assert not any(bool(p.any()) for p in weights.parameters.values())
