"""Half precision on devices with instructions for it, float32 on others."""

from __future__ import annotations

import logging
from functools import cache

import torch

log = logging.getLogger(__name__)


def has_bfloat16(device: str) -> bool:
    """Return whether bfloat16 saves time on a device ("cpu", "cuda:0", ...).

    A CPU without AVX-512 emulates it: a convolution takes tens of times as long as in float32.
    """
    return not device.startswith("cpu") or torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def fastest(device: str) -> torch.autocast:
    """Return an autocast to bfloat16, disabled where that would cost time."""
    return torch.autocast(device, torch.bfloat16, enabled=has_bfloat16(device))


def bfloat16(device: str, enabled: bool) -> torch.autocast:
    """Return an autocast to bfloat16 if the user enabled it; log a warning, once, where that costs time."""
    if enabled:
        check("bfloat16", device)
    return torch.autocast(device, torch.bfloat16, enabled=enabled)


def check(precision: str, device: str) -> None:
    """Log a warning, once, if the requested precision ("float16", "bfloat16") is slow on a device."""
    if precision != "float32" and not has_bfloat16(device):
        _warn_of_slowness(precision)


@cache
def _warn_of_slowness(precision: str) -> None:
    log.warning(
        "this CPU (%s) has no instructions for %s: it takes many times as long as float32 here. Leave dtype and "
        "precision at their defaults, or use a CPU with AVX-512 or a GPU.",
        torch.backends.cpu.get_cpu_capability(),
        precision,
    )
