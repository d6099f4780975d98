"""What every table is read against: a model without any edit, a destroyed one, and one that never knew the concept.

identity: nothing is done; every difference to the untouched model must be exactly zero.
noise: what reads text is drowned in noise; UA is then near 1, and a score that calls this a success is worthless.
oracle: another model, trained without the concept; what a perfect erasure would come close to.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

import torch

from excise.edits.apply import original_weights
from excise.edits.bases import base_of
from excise.edits.deltas import Dense
from excise.edits.edit import Edit
from excise.edits.record import EditRecord
from excise.families.base import Family

LOUDNESS = 30.0  # times the spread of the weights: enough that no picture survives


def identity(family: Family, model_name: str, seed: int = 0) -> Edit:
    """An edit that changes nothing."""
    return Edit(_record(family, model_name, "identity", seed))


def noise(family: Family, model_name: str, seed: int = 0) -> Edit:
    """An edit that replaces every text-reading weight by noise of thirty times its spread. Not meant to be shipped."""
    generator = torch.Generator().manual_seed(seed)
    modules = {
        path: Dense(LOUDNESS * float(weight.float().std()) * torch.randn(weight.shape, generator=generator))
        for path, weight in original_weights(family).items()
    }
    return Edit(_record(family, model_name, "noise", seed), (), modules)


EDITS: dict[str, Callable[[Family, str, int], Edit]] = {"identity": identity, "noise": noise}


def _record(family: Family, model_name: str, method: str, seed: int) -> EditRecord:
    base = base_of(family, model_name)
    return EditRecord(excise=version("excise"), base=base, method=method, concepts=(), seed=seed)
