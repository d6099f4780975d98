"""The untouched model that an attacked one came from, and its parts put back one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial

from torch import nn

from excise.attacks.base import AttackError
from excise.edits.edit import Edit, applied_edits
from excise.families.base import Family
from excise.families.fingerprints import fingerprint
from excise.families.networks import hooked, in_encoder

Standing = Callable[[], AbstractContextManager[Family]]
Swaps = Mapping[str, Callable[[], AbstractContextManager[None]]]
PARTS = ("text_encoder", "denoiser")


def untouched(family: Family, base: Family | None) -> Standing:
    """A context in which the untouched model stands: another model, or this one with its edits taken off."""
    if base is not None:
        return lambda: nullcontext(base)

    @contextmanager
    def without() -> Iterator[Family]:
        with taken_off(family, applied_edits(family)):
            yield family

    return without


@contextmanager
def taken_off(family: Family, edits: Sequence[tuple[Edit, float]]) -> Iterator[None]:
    """Some of the edits in force taken off for a while; each is back whatever happens."""
    with ExitStack() as held:
        for edit, strength in reversed(edits):  # so that they come back in the order they have
            edit.remove(family)
            held.callback(edit.apply, family, strength, allow_other_base=True)
        yield


def swaps(family: Family, base: Family | None) -> Swaps:
    """By part of the model that was changed (text_encoder: all of them), a context in which it is the original one.

    Args:
        base: the untouched model; None takes what edits in force change in that part off.
    """
    if base is not None:
        return {p: partial(_lent, family, base, p) for p in PARTS if _changed(family, base, p)}
    edits = applied_edits(family)
    return {
        part: partial(_only, family, edits, other)
        for part, other in (PARTS, PARTS[::-1])
        if any(_half(edit, family, part).paths for edit, _ in edits)
    }


@contextmanager
def _only(family: Family, edits: Sequence[tuple[Edit, float]], part: str) -> Iterator[None]:
    """The edits in force with what they change in one part alone."""
    with ExitStack() as held:
        held.enter_context(taken_off(family, edits))
        for edit, strength in edits:
            half = _half(edit, family, part)
            if half.paths:
                held.enter_context(half.apply(family, strength, allow_other_base=True))
        yield


def _half(edit: Edit, family: Family, part: str) -> Edit:
    """What an edit changes in one part."""
    of_encoder = part == "text_encoder"
    modules = {p: d for p, d in edit.modules.items() if in_encoder(p, family.text_encoders) == of_encoder}
    return Edit(edit.record, () if of_encoder else edit.text_maps, modules)


@contextmanager
def _lent(family: Family, base: Family, part: str) -> Iterator[None]:
    """The untouched model's networks in the place of the model's own.

    Raises:
        AttackError: they are elsewhere, or of another precision.
    """
    own, lent = (next(f.denoiser.parameters()) for f in (family, base))
    if (own.device, own.dtype) != (lent.device, lent.dtype):
        raise AttackError(
            f"the model is on {own.device} in {own.dtype}, the base on {lent.device} in {lent.dtype}; load both alike "
            "to put a part back."
        )
    before = {name: getattr(family.pipe, name) for name in _names(family, part)}
    try:
        for name in before:
            setattr(family.pipe, name, getattr(base.pipe, name))
        yield
    finally:
        for name, network in before.items():
            setattr(family.pipe, name, network)


def _names(family: Family, part: str) -> list[str]:
    """What the networks of a part are called in the pipeline."""
    return list(family.text_encoders) if part == "text_encoder" else [family.denoiser_name]


def _changed(family: Family, base: Family, part: str) -> bool:
    """Whether a part has other weights than the untouched model's, beyond half precision, or hooks."""
    pairs = [(getattr(family.pipe, n), getattr(base.pipe, n)) for n in _names(family, part)]
    return any(hooked(own) or fingerprint(own.state_dict()) != fingerprint(its.state_dict()) for own, its in pairs)


def networks(family: Family) -> list[nn.Module]:
    """The denoiser and the text encoders."""
    return [family.denoiser, *family.text_encoders.values()]
