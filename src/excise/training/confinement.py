"""Where in text space keys and values may change, so that what is kept stays as it is by construction.

R is the mean moment of all token states of the prompts to keep, T that of the targets' (their last word and all behind
it). With a LoRA dW = b a' Z^T only what a state has along the columns of Z (d, q) moves:

target   T z = mu (R + ridge tr(R) / d I) z,  mu >= 1 / share     what tells a target from the rest, scaled so that its
         states answer at their own size (learning rates are then those of any LoRA), kept ones at the square root of
         `share` of it or less
null     eigenvectors of R below a threshold, as in SPEED (arXiv 2503.07392)    what kept prompts do not use
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from excise.errors import SettingError
from excise.families.base import Family, TextStates
from excise.linalg.solves import null_space


def target_span(
    family: Family, targets: Sequence[Sequence[tuple[str, str]]], retain: Sequence[str], share: float, ridge: float
) -> Tensor:
    """(d, q) directions in which targets answer strongly and what is kept hardly does, strongest first.

    Args:
        targets: by target its prompts, each with the word in it that asks for the target.
        retain: prompts to keep, to which the empty prompt is added.
        share: largest kept energy beside a target's. ridge: of the kept moment, in units of its mean eigenvalue.

    Raises:
        SettingError: nothing to keep was given, or nothing tells the targets from it so clearly.
    """
    kept = retain_moment(family, retain).numpy()
    encoded = [family.encode([prompt for prompt, _ in asked], [word for _, word in asked]) for asked in targets]
    wanted = torch.stack([_moment(_rows(states, "from_last")) for states in encoded]).sum(dim=0).numpy()
    kept += ridge * np.trace(kept) / len(kept) * np.eye(len(kept))
    mu, z = scipy.linalg.eigh(wanted, kept, subset_by_value=(1 / share, np.inf))
    if not len(mu):
        raise SettingError(
            f"no direction of text space tells the targets from what is kept at share {share:g}; raise "
            "--set share=..., or keep less that means the same."
        )
    size = np.sqrt(np.trace(wanted) / len(targets))
    return torch.from_numpy((size * z / np.sqrt(mu))[:, ::-1].copy())


def null_span(family: Family, retain: Sequence[str], threshold: float) -> Tensor:
    """(d, q) orthonormal directions that hardly any retained prompt uses, the empty prompt among them.

    Raises:
        SettingError: nothing to keep was given, or nothing is left.
    """
    span = null_space(retain_moment(family, retain), threshold)
    if not span.shape[1]:
        raise SettingError(f"no direction of text space is free at threshold {threshold:g}; raise --set threshold=...")
    return span


def retain_moment(family: Family, retain: Sequence[str]) -> Tensor:
    """(d, d) mean moment of every token state of the prompts to keep and of the empty prompt, in float64.

    Raises:
        SettingError: nothing to keep was given.
    """
    if not retain:
        raise SettingError(
            "confine needs prompts to keep (a vocabulary, --preserve, or --preserve-file); name some, or use "
            "--set confine=false"
        )
    return _moment(_rows(family.encode(list(dict.fromkeys([*retain, ""]))), "all"))


def _rows(states: TextStates, tokens: str) -> Tensor:
    return torch.cat([states.span(i, tokens) for i in range(len(states.states))])


def _moment(rows: Tensor) -> Tensor:
    rows = rows.double().cpu()
    return rows.mT @ rows / len(rows)
