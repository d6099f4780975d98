"""Every diffusion transformer that has an adapter: how to build a tiny one, and how its own pipeline is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tiny_chroma
import tiny_flux
import tiny_flux2
import tiny_kolors
import tiny_krea2
import tiny_lumina2
import tiny_pixart
import tiny_qwenimage
import tiny_sana_sprint
import tiny_sd3
import tiny_zimage
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """A family in tests.

    Attributes:
        family: its name in the registry.
        build: makes a tiny random pipeline, always the same.
        call: arguments of the pipeline's own call, besides prompt, size, steps and generator, by guidance's scale.
        guided: whether the pipeline has two halves of guidance at all.
        natural: from latents as the pipeline hands them to its scheduler to the (B, c, h, w) that `predict` takes,
            given (c, h, w).
        told: from output, times and latents as the scheduler is given them to those of `predict`, where the two speak
            of noise in other ways.
        rounding: how far a prediction may be from the pipeline's, where the adapter sums in another order.
    """

    family: str
    build: Callable[[], Any]
    call: Callable[[float], dict[str, Any]]
    guided: bool = True
    natural: Callable[[Tensor, tuple[int, int, int]], Tensor] = lambda x, shape: x
    told: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]] = lambda output, t, latents: (
        output,
        t,
        latents,
    )
    rounding: float = 1e-6


def patches(x: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Rows (B, h/2 w/2, 4c) of 2 x 2 patches, channels first in each row, one by one."""
    c, h, w = shape
    whole = x.new_zeros(len(x), c, h, w)
    for row in range(h // 2):
        for column in range(w // 2):
            patch = x[:, row * (w // 2) + column].reshape(len(x), c, 2, 2)
            whole[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = patch
    return whole


def grid(x: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Rows (B, h w, c) of a picture, one by one."""
    c, h, w = shape
    whole = x.new_zeros(len(x), c, h, w)
    for row in range(h):
        for column in range(w):
            whole[:, :, row, column] = x[:, row * w + column]
    return whole


CASES: dict[str, Case] = {
    "chroma": Case("chroma", tiny_chroma.build, tiny_chroma.call, natural=patches),
    "flux-dev": Case("flux", tiny_flux.build, tiny_flux.call_distilled, guided=False, natural=patches),
    "flux-schnell": Case("flux", tiny_flux.schnell, tiny_flux.call_distilled, guided=False, natural=patches),
    "flux-undistilled": Case("flux", tiny_flux.undistilled, tiny_flux.call, natural=patches),
    "pixart": Case("pixart", tiny_pixart.build, tiny_pixart.call),
    "sd3": Case("sd3", tiny_sd3.build, tiny_sd3.call),
    "sd3-without-t5": Case("sd3", tiny_sd3.without_t5, tiny_sd3.call_without_t5),
    "flux2-dev": Case("flux2", tiny_flux2.dev, tiny_flux2.call_of_dev, guided=False, natural=grid),
    "flux2-klein": Case("flux2", tiny_flux2.klein, tiny_flux2.call, natural=grid),
    "flux2-klein-distilled": Case("flux2", tiny_flux2.distilled, tiny_flux2.call, guided=False, natural=grid),
    "krea2": Case("krea2", tiny_krea2.build, tiny_krea2.call, natural=patches),
    "qwenimage": Case("qwenimage", tiny_qwenimage.build, tiny_qwenimage.call, natural=patches),
    "zimage": Case("zimage", tiny_zimage.build, tiny_zimage.call),
    "lumina2": Case("lumina2", tiny_lumina2.build, tiny_lumina2.call),
    "sana-sprint": Case(
        "sana-sprint", tiny_sana_sprint.build, tiny_sana_sprint.call, guided=False, told=tiny_sana_sprint.flow
    ),
    "kolors": Case("kolors", tiny_kolors.build, tiny_kolors.call, told=tiny_kolors.scaled, rounding=2e-5),
}
FIRST = {case.family: name for name, case in reversed(CASES.items())}
"""The first case of each family."""
