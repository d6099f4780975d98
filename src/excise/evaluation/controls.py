"""The controls of a benchmark: a model without an edit, a destroyed one, and one never trained on the concept.

identity: an empty edit; every difference to the untouched model must be exactly zero.
noise: noise in every weight that reads text. UA is then near 1, so a score that calls this a success is worthless.
oracle: another model, trained without the concept, which a perfect erasure would resemble. It needs no edit.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

import torch

from excise.edits.bases import base_of
from excise.edits.deltas import Dense
from excise.edits.edit import Edit
from excise.edits.originals import original_weights
from excise.edits.record import EditRecord
from excise.families.base import Family

NOISE_SCALE = 30.0  # in standard deviations of the weights; no image survives this


def identity(family: Family, model_name: str, seed: int = 0) -> Edit:
    """Return an edit that changes nothing."""
    return Edit(_record(family, model_name, "identity", seed))


def noise(family: Family, model_name: str, seed: int = 0) -> Edit:
    """Return an edit that adds noise of 30 standard deviations to every weight that reads text."""
    generator = torch.Generator().manual_seed(seed)
    modules = {
        path: Dense(NOISE_SCALE * float(weight.float().std()) * torch.randn(weight.shape, generator=generator))
        for path, weight in original_weights(family).items()
    }
    return Edit(_record(family, model_name, "noise", seed), (), modules)


EDITS: dict[str, Callable[[Family, str, int], Edit]] = {"identity": identity, "noise": noise}


def _record(family: Family, model_name: str, method: str, seed: int) -> EditRecord:
    base = base_of(family, model_name)
    return EditRecord(excise=version("excise"), base=base, method=method, concepts=(), seed=seed)
