"""Half precision where the device computes in it, float32 where it does not."""

from __future__ import annotations

import logging
from functools import cache

import torch

log = logging.getLogger(__name__)


def has_bfloat16(device: str) -> bool:
    """Whether bfloat16 saves time on a device ("cpu", "cuda:0", ...).

    A CPU without AVX-512 computes in it without instructions for it: a convolution takes tens of times as long as in
    float32.
    """
    return not device.startswith("cpu") or torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def fastest(device: str) -> torch.autocast:
    """Autocast to bfloat16 where that saves time; nothing else."""
    return torch.autocast(device, torch.bfloat16, enabled=has_bfloat16(device))


def bfloat16(device: str, asked: bool) -> torch.autocast:
    """Autocast to bfloat16 where it is asked for; says once where that costs time."""
    if asked:
        check("bfloat16", device)
    return torch.autocast(device, torch.bfloat16, enabled=asked)


def check(precision: str, device: str) -> None:
    """Say once if a half precision that was asked for costs time on a device."""
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
