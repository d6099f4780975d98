"""The untouched model that an attacked one came from, and its parts put back one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial

from torch import nn

from excise.attacks.base import AttackError
from excise.edits.edit import Edit, applied_edits
from excise.families.attached import attached
from excise.families.base import Family
from excise.families.fingerprints import fingerprint
from excise.families.networks import hooked, in_encoder

Open = Callable[[], AbstractContextManager[Family]]
"""Opens a context that yields a model."""
Swaps = Mapping[str, Callable[[], AbstractContextManager[None]]]
PARTS = ("text_encoder", "denoiser")


def untouched(family: Family, base: Family | None) -> Open:
    """Return what opens the untouched model: the base, or without one the attacked model with its edits removed."""
    if base is not None:
        return lambda: nullcontext(base)

    @contextmanager
    def without_edits() -> Iterator[Family]:
        with edits_removed(family, applied_edits(family)):
            yield family

    return without_edits


@contextmanager
def edits_removed(family: Family, edits: Sequence[tuple[Edit, float]]) -> Iterator[None]:
    """Remove edits inside the block; afterwards each is applied again, in the same order and at the same strength."""
    with ExitStack() as stack:
        for edit, strength in reversed(edits):  # the stack applies the last removed first
            edit.remove(family)
            stack.callback(edit.apply, family, strength, allow_other_base=True)
        yield


def swaps(family: Family, base: Family | None) -> Swaps:
    """Return, for each changed part of the model, what opens a context in which that part is the original one.

    Args:
        base: the untouched model; None removes what the edits in force change in that part.
    """
    if base is not None:
        return {p: partial(_networks_of_base, family, base, p) for p in PARTS if _differs(family, base, p)}
    edits = applied_edits(family)
    return {
        part: partial(_edits_limited_to, family, edits, other)
        for part, other in (PARTS, PARTS[::-1])
        if any(_acts(_part_of(edit, family, part)) for edit, _ in edits)
    }


@contextmanager
def _edits_limited_to(family: Family, edits: Sequence[tuple[Edit, float]], part: str) -> Iterator[None]:
    """Inside the block, the edits in force change one part alone."""
    with ExitStack() as stack:
        stack.enter_context(edits_removed(family, edits))
        for edit, strength in edits:
            limited = _part_of(edit, family, part)
            if _acts(limited):
                stack.enter_context(limited.apply(family, strength, allow_other_base=True))
        yield


def _part_of(edit: Edit, family: Family, part: str) -> Edit:
    """Return what an edit changes in one part; all but the weights of text encoders belongs to the denoiser."""
    in_encoders = {p: d for p, d in edit.modules.items() if in_encoder(p, family.text_encoders)}
    if part == "text_encoder":
        return Edit(edit.record, modules=in_encoders)
    return replace(edit, modules={p: d for p, d in edit.modules.items() if p not in in_encoders})


def _acts(edit: Edit) -> bool:
    """Return whether an edit changes a weight or has hooks."""
    return bool(edit.paths or edit.hooks)


@contextmanager
def _networks_of_base(family: Family, base: Family, part: str) -> Iterator[None]:
    """Inside the block, the networks of a part are the untouched model's.

    Raises:
        AttackError: the two models are on different devices, or of different precision.
    """
    own, other = (next(f.denoiser.parameters()) for f in (family, base))
    if (own.device, own.dtype) != (other.device, other.dtype):
        raise AttackError(
            f"the model is on {own.device} in {own.dtype}, the base on {other.device} in {other.dtype}; load both "
            "alike to put a part back."
        )
    before = {name: getattr(family.pipe, name) for name in _network_names(family, part)}
    try:
        for name in before:
            setattr(family.pipe, name, getattr(base.pipe, name))
        yield
    finally:
        for name, network in before.items():
            setattr(family.pipe, name, network)


def _network_names(family: Family, part: str) -> list[str]:
    """Return the pipeline's names of the networks of a part."""
    return list(family.text_encoders) if part == "text_encoder" else [family.denoiser_name]


def _differs(family: Family, base: Family, part: str) -> bool:
    """Return whether a part has hooks, or other weights than the base's by more than half-precision rounding."""
    pairs = [(getattr(family.pipe, n), getattr(base.pipe, n)) for n in _network_names(family, part)]
    return any(
        hooked(own) or any(attached(own)) or fingerprint(own.state_dict()) != fingerprint(o.state_dict())
        for own, o in pairs
    )


def networks(family: Family) -> list[nn.Module]:
    """Return the denoiser and the text encoders."""
    return [family.denoiser, *family.text_encoders.values()]
