"""Which model an edit is for: fingerprints that say so in every precision, and the check before it is applied.

A model is loaded in single, half or bfloat16 precision, from files of one of them. Single and half are compared by the
fingerprint of the values in half. Rounding single to bfloat16 is not rounding half to bfloat16, so where bfloat16 is
on either side a print may differ though the model is the same; some of the values, which a record keeps beside its
prints, then decide: they must be as far apart as rounding takes them, and no farther.
"""

from __future__ import annotations

import base64

import numpy as np
import torch
from torch import Tensor

from excise.edits.accounts import COPIED, HOOKS_COPIED, copied, hooks_copied, networks
from excise.edits.deltas import EditLike
from excise.edits.originals import original_text_weights, original_weights
from excise.edits.record import Base
from excise.errors import EditFileError, ModelError, WrongBaseError
from excise.families.base import Family
from excise.families.built_in import is_built_in
from excise.families.fingerprints import each_of, fingerprint, fingerprints, text_encoder_prints
from excise.families.networks import check_read, fused_into, in_encoder
from excise.families.partial import Weights

ROUNDING = 2**-7  # of a value: bfloat16's step, which two ways of rounding to it may lie apart
SMALLEST = 2**-24  # half precision's steps near zero


def base_of(family: Family, model: str, revision: str | None = None) -> Base:
    """The record of a loaded model: its name and fingerprints, edits in force left aside.

    Raises:
        ModelError: its weights cannot be read (offloaded, quantised), or its text encoders are not loaded.
    """
    family.check_encoders()
    if hooks_copied(family):
        raise ModelError(HOOKS_COPIED)
    check_read(family.denoiser)
    weights, text = original_weights(family), original_text_weights(family)
    prints = fingerprints(weights, [torch.float16, torch.bfloat16], each_of(weights))
    text_prints = text_encoder_prints(family, text)
    # A built-in model is one file in half precision, so its prints say all.
    kept = {}
    if not is_built_in(family):
        kept = {"weights": _packed(prints.values), "text_encoder": _packed(text_prints.values)}
    return Base(
        model=model,
        family=family.name,
        revision=revision,
        weights=prints.digests[0],
        weights_bfloat16=prints.digests[1],
        text_encoder=text_prints.digests[0],
        values=kept,
    )


def same_base(one: Base, other: Base) -> bool:
    """Whether two records are of one model, in whatever precision it was loaded."""
    prints = one.weights == other.weights or one.weights_bfloat16 == other.weights_bfloat16
    return prints or _alike(_unpacked(one, "weights"), _unpacked(other, "weights"))


def check_base(edit: EditLike, family: Family, allow_other_base: bool = False) -> None:
    """Refuse a model the edit was not made for.

    Raises:
        WrongBaseError: other weights (unless allowed), another text encoder, or other shapes.
        ModelError: its weights cannot be read, or a text encoder that the edit changes is not loaded.
    """
    base = edit.record.base
    if family.name != base.family:
        raise WrongBaseError(
            f"this edit was made for a model of the family '{base.family}' ({base.model}); the model given is of the "
            f"family '{family.name}'. Erase again on this model."
        )
    if any(in_encoder(path, dict.fromkeys(family.encoder_names)) for path in edit.paths):
        family.check_encoders()
    check_read(family.denoiser)
    weights = original_weights(family)
    same = _same_weights(weights, base)
    if not same and not allow_other_base:
        raise WrongBaseError(
            f"this edit was made for {base.model} (weights {base.weights[:12]}), the model given has other weights "
            f"({fingerprint(weights)[:12]}). {_advice(family, torch.bfloat16 in weights.dtypes)}"
        )
    if (not same or any(in_encoder(path, family.text_encoders) for path in edit.paths)) and not _same_text(
        family, base
    ):
        raise WrongBaseError(
            f"this edit was made for {base.model}; the model given has another text encoder, so the edit would mean "
            "nothing to it. Erase again on this model."
        )
    weights = original_weights(family, edit.paths)
    for path in edit.paths:
        shape = edit.shape(path)
        if path not in weights or shape != tuple(weights.shape(path))[-len(shape) :]:
            raise WrongBaseError(
                f"this edit was made for {base.model}; the model given has no '{path}' of the same shape. "
                "Erase again on this model."
            )


def _advice(family: Family, in_bfloat16: bool) -> str:
    """What to do with a model of other weights."""
    if copied(networks(family)):
        return COPIED
    if fused_into(family.denoiser):
        return "A LoRA is fused into it: call pipe.unfuse_lora() first, or give --allow-other-base."
    if in_bfloat16:
        return (
            "If it is that model loaded in bfloat16, load it in float16 or float32; else use the model it was made "
            "for, or --allow-other-base for a fine-tune of it."
        )
    return "Use the model it was made for, or --allow-other-base for a fine-tune of it."


def _same_weights(weights: Weights, base: Base) -> bool:
    if torch.bfloat16 in weights.dtypes:
        prints = fingerprints(weights, [torch.bfloat16], each_of(weights))
        same = prints.digests[0] == base.weights_bfloat16
    else:
        prints = fingerprints(weights, [torch.float16], each_of(weights))
        same = prints.digests[0] == base.weights
        if not same:
            rounded = fingerprints(weights, [torch.bfloat16, (torch.float16, torch.bfloat16)])
            same = base.weights_bfloat16 in rounded.digests
    return same or _alike(_unpacked(base, "weights"), prints.values)


def _same_text(family: Family, base: Base) -> bool:
    family.check_encoders()
    weights = original_text_weights(family)
    prints = text_encoder_prints(family, weights)
    if prints.digests[0] == base.text_encoder:
        return True
    kept = _unpacked(base, "text_encoder")
    if kept is None:  # nothing in the record tells what bfloat16 would make of its model
        in_bfloat16 = torch.bfloat16 in weights.dtypes
        return in_bfloat16 or fingerprints(weights, [(torch.bfloat16, torch.float16)]).digests[0] == base.text_encoder
    return _alike(kept, prints.values)


def _alike(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether values, of which at least one side is of bfloat16, may be of one model."""
    if one is None or other is None or one.shape != other.shape:
        return False
    if not any(torch.equal(side, side.bfloat16().float()) for side in (one, other)):
        return False  # prints decide
    room = ROUNDING * torch.maximum(one.abs(), other.abs()) + SMALLEST
    return bool(((one - other).abs() <= room).all())


def _packed(some: Tensor) -> str:
    """Values as text: little-endian single precision in base 64."""
    return base64.b64encode(some.numpy().astype("<f4").tobytes()).decode()


def _unpacked(base: Base, what: str) -> Tensor | None:
    if what not in base.values:
        return None
    try:
        return torch.from_numpy(np.frombuffer(base64.b64decode(base.values[what]), "<f4").astype(np.float32))
    except ValueError as error:
        raise EditFileError(f"the record of this edit holds values that cannot be read ({error}).") from error
