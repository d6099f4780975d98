"""Drawing in bfloat16: what multiplies matrices computes in it, everything else stays in single precision.

Denoiser and decoder compute in bfloat16, as `torch.autocast` does it, and return single precision. Text, guidance,
sampler and latents are as before, since guidance multiplies a small difference of two predictions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from excise.families.attached import Attaching, attached
from excise.families.base import Family
from excise.families.drawing import own_ways
from excise.support.processor import multiplies_bfloat16

DIGEST = "computes in bfloat16, returns float32"  # by which the cache of images knows such pictures


def gains(family: Family) -> bool:
    """Return whether drawing with a model gains time in bfloat16, and nothing else on its modules stands in the way.

    It depends on the model and the processor alone, so the same request on one machine gives the same pictures.
    """
    plain = family.denoiser is getattr(family.pipe, family.denoiser_name)  # not compiled, no peft around it
    weights = [weight for part in _parts(family) for weight in part.parameters()]
    return (
        multiplies_bfloat16()
        and plain
        and not own_ways(family)
        and not any(True for part in _parts(family) for _ in attached(part))
        and all(weight.dtype == torch.float32 and weight.device.type == "cpu" for weight in weights)
        and not torch.is_autocast_enabled("cpu")  # otherwise the caller has chosen
    )


@contextmanager
def in_bfloat16(family: Family) -> Iterator[None]:
    """Let denoiser and decoder compute in bfloat16 inside the block, in which no weight may change."""
    device = family.device.type
    attaching = Attaching(DIGEST)

    def begin(module: Any, args: Any, kwargs: Any) -> None:
        torch.set_autocast_enabled(device, True)

    def end(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        torch.set_autocast_enabled(device, False)
        return _single(output)

    # The outer block keeps the cast weights from one step to the next, and puts everything back after an error.
    with torch.autocast(device, torch.bfloat16, enabled=False):
        try:
            for part in _parts(family):
                attaching.before(part, begin)
                attaching.after(part, end)
            yield
        finally:
            attaching.detach()


def _parts(family: Family) -> list[nn.Module]:
    """The denoiser and the decoder, which do nearly all the work of drawing."""
    return [family.denoiser, family.pipe.vae.decoder]


def _single(output: Any) -> Any:
    """An output of a module, a tensor or a tuple of tensors, in single precision."""
    if isinstance(output, tuple):
        return tuple(map(_single, output))
    return output.float() if isinstance(output, Tensor) else output
