"""A sparse LoRA: whole blocks at exactly zero, which the edit leaves out and the record names."""

from __future__ import annotations

import pytest
import torch

from excise import erase
from excise.errors import SettingError, TrainingError
from excise.families import family_of
from excise.training.sparsity import SparseAdapter

SMALL = {"steps": 6, "lr": 1e-2, "batch": 2, "sampler_steps": 3, "vocabulary": None, "preserve": ["dog"]}


def test_the_proximal_step_by_hand(make):
    family = family_of(make("sd"))
    paths = [m.path for m in family.maps("cross_kv")]
    with SparseAdapter(family, paths, 2, 0, sparsity=0.5) as weights:
        before = {name: p.detach().clone() for name, p in weights.parameters.items()}
        weights.settle(0.1)
        blocks = {m.path: m.block for m in family.attention_maps()}
        for block in {blocks[p] for p in paths}:
            group = [f"{p}.{part}" for p in paths if blocks[p] == block for part in "ab"]
            norm = sum(float(before[name].square().sum()) for name in group) ** 0.5
            for name in group:
                expected = before[name] * max(0.0, 1 - 0.1 * 0.5 / norm)
                torch.testing.assert_close(weights.parameters[name].detach(), expected)


def test_whole_blocks_end_at_exactly_zero_and_the_record_names_them(make):
    pipe = make("sd")
    plain = erase(pipe, ["cat"], "esd", **SMALL)
    low, high, edit = 30.0, 120.0, None  # at which no block is emptied, and all of them are
    for _ in range(12):
        middle = (low + high) / 2
        try:
            edit = erase(pipe, ["cat"], "esd", **SMALL, sparsity=middle)
        except TrainingError:
            high = middle
            continue
        if edit.record.measured["silent_blocks"]:
            break
        low = middle
    assert edit is not None
    silent = edit.record.measured["silent_blocks"]
    assert silent
    blocks = {m.path: m.block for m in family_of(pipe).attention_maps()}
    assert set(edit.paths) == {p for p in plain.paths if blocks[p] not in silent}


def test_more_than_there_is_empties_all_of_them(make):
    with pytest.raises(TrainingError, match="every block of the LoRA ended at zero"):
        erase(make("sd"), ["cat"], "esd", **SMALL, sparsity=1e4)
    with pytest.raises(
        SettingError, match="'sparsity' is read with weights=lora and .*leave sparsity out, or set weights=lora"
    ):
        erase(make("sd"), ["cat"], "esd", **SMALL, sparsity=1.0, weights="full")
