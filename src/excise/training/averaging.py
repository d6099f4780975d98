"""A running mean of what is trained, for a training that chases its own predictions (SDD, arXiv 2307.05977)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from excise.training.adapters import Weights


class Average:
    """m <- decay m + (1 - decay) theta after each step, from what the weights are before the first.

    Args:
        weights: what is trained, attached to the model before anything is asked of the mean.
    """

    def __init__(self, weights: Weights, decay: float) -> None:
        self._weights, self._decay = weights, decay
        self._mean: dict[str, Tensor] = {}

    @property
    def mean(self) -> dict[str, Tensor]:
        """The mean, by the names of the trained parameters."""
        if not self._mean:
            self._mean = {name: p.detach().clone() for name, p in self._weights.parameters.items()}
        return self._mean

    def begin(self) -> None:
        """Start from the weights as they are, where there is no mean yet."""
        _ = self.mean

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights as they are now into the mean."""
        mean = self.mean
        for name, p in self._weights.parameters.items():
            mean[name].lerp_(p.detach(), 1 - self._decay)

    def state(self) -> dict[str, Tensor]:
        """A copy of the mean on the CPU, as `Weights.state` gives one of the weights."""
        return {name: m.cpu().clone() for name, m in self.mean.items()}

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """The model with the mean in place of what is trained, inside a `with` block."""
        live = self._weights.state()
        self._weights.load(self.mean)
        try:
            yield
        finally:
            self._weights.load(live)

    def state_dict(self) -> dict[str, Any]:
        """The mean and the weights: a checkpoint itself holds the mean alone."""
        return {"mean": self.state(), "live": self._weights.state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with a mean and with weights."""
        self._weights.load(state["live"])
        self._mean = {name: state["mean"][name].to(p) for name, p in self._weights.parameters.items()}
