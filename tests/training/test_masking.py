"""Masks over weights: the entries of largest summed gradient, exchanged by size, and everything else bit for bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from excise import erase
from excise.errors import SettingError
from excise.families import family_of
from excise.training.masking import Masked, exchanged, largest, saliency

SMALL = {"steps": 3, "lr": 1e-2, "batch": 2, "pictures": 2, "mask_passes": 2, "vocabulary": None, "preserve": ["dog"]}


@given(st.lists(st.integers(0, 50), min_size=4, max_size=40), st.floats(0.05, 1.0))
def test_the_largest_are_chosen_and_never_a_zero(values, share):
    numbers = torch.tensor(values, dtype=torch.float32)
    (mask,) = largest({"one": numbers}, share, "map").values()
    assert not bool(mask[numbers == 0].any())
    if bool(mask.any()):
        assert float(numbers[mask].min()) >= float(numbers[~mask].max() if bool((~mask).any()) else 0)
    # As many as the share, but for zeros, which are left out, and for equals of the last one, which are taken along.
    wanted = max(1, round(share * len(values)))
    bound = sorted(values)[-wanted]
    assert int(mask.sum()) == sum(v >= bound and v > 0 for v in values)


def test_of_all_maps_together_or_of_each():
    seen = {"big": torch.tensor([10.0, 9.0, 8.0, 7.0]), "small": torch.tensor([4.0, 3.0, 2.0, 1.0])}
    assert {k: m.tolist() for k, m in largest(seen, 0.5, "all").items()} == {"big": [True] * 4, "small": [False] * 4}
    assert {k: int(m.sum()) for k, m in largest(seen, 0.5, "map").items()} == {"big": 2, "small": 2}


def test_the_smallest_give_way_to_the_largest_others():
    mask = torch.tensor([True, True, True, True, False, False, False])
    gradient = torch.tensor([5.0, 1.0, 4.0, 3.0, 2.0, 9.0, 0.5])
    assert exchanged(mask, gradient, 0.25).tolist() == [True, False, True, True, False, True, False]
    assert exchanged(mask, gradient, 0.0).tolist() == mask.tolist()
    assert int(exchanged(mask, gradient, 1.0).sum()) == 4


def test_saliency_is_the_size_of_the_sum(make):
    """Two batches whose gradients are opposite leave nothing, however large they are."""
    family = family_of(make("sd"))
    path = family.maps("cross_kv")[0].path
    with Masked(family, [path]) as weights:
        (parameter,) = weights.parameters.values()
        signs = {0: 1.0, 1: -1.0}
        calls = iter(range(4))

        def loss(generator):
            return signs[next(calls) % 2] * (parameter * 2).sum()

        assert not bool(saliency(weights, loss, 2, 0)[path].any())
        assert bool((saliency(weights, lambda g: (parameter * 2).sum(), 2, 0)[path] == 4).all())


@pytest.mark.parametrize("settings", [{"mask": "saliency"}, {"mask": "dynamic", "refresh": 1, "turnover": 0.5}])
def test_entries_outside_the_mask_are_bit_equal(make, settings):
    """Momentum and weight decay move nothing there, which a mask on gradients alone would let them do."""
    pipe = make("sd")
    edit = erase(pipe, ["cat"], "salun", **SMALL, **settings, mask_share=0.3)
    changes = torch.cat([d.dw.flatten() for d in edit.modules.values()])
    moved = float((changes != 0).float().mean())
    assert 0 < moved < (0.31 if settings["mask"] == "saliency" else 0.8)
    free = erase(pipe, ["cat"], "salun", **{**SMALL, "mask_passes": 10}, mask="none")  # as it is by default
    assert float((torch.cat([d.dw.flatten() for d in free.modules.values()]) != 0).float().mean()) > 0.9


def test_a_mask_is_for_the_weights_themselves(make):
    with pytest.raises(SettingError, match="mask=saliency chooses entries of the weights themselves"):
        erase(make("sd"), ["cat"], "salun", weights="lora")


def test_a_mask_that_leaves_nothing_is_refused(make):
    family = family_of(make("sd"))
    with pytest.raises(SettingError, match="leaves nothing to train"):
        Masked(family, [family.maps("cross_kv")[0].path]).choose({"one": torch.zeros(4)}, 0.5, "all")
