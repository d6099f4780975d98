"""An edit is a file, not a model: module paths mapped to deltas, and a record.

Applying keeps the original parameters aside and `remove` puts those very tensors back, so it is exact bit for bit.
Several edits add up: the order in which they are applied or removed does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary, proxy

import torch
from torch import Tensor, nn

from excise.errors import WrongBaseError
from excise.families import Family, family_of
from excise.families.base import fingerprint, in_encoder, parameter_at, text_encoder_print
from excise.record import Base, EditRecord


@dataclass(frozen=True)
class TextMap:
    """One low-rank map of the text, shared by many projections: W' = W + (W u) v.

    Attributes:
        u: (d, r). v: (r, d). d is the text width.
        modules: paths of the projections it is for.
    """

    u: Tensor
    v: Tensor
    modules: tuple[str, ...]

    def delta(self, weight: Tensor) -> Tensor:
        """(out, d) change of `weight`, in its dtype but at least single precision."""
        w = _at_least_single(weight)
        return (w @ self.u.to(w)) @ self.v.to(w)

    def low_rank(self, weight: Tensor) -> LowRank:
        """The same change of one projection as two factors."""
        w = _at_least_single(weight)
        return LowRank(w @ self.u.to(w), self.v.to(w))


@dataclass(frozen=True)
class LowRank:
    """W' = W + b a, with b (out, r) and a (r, in)."""

    b: Tensor
    a: Tensor

    def delta(self, weight: Tensor) -> Tensor:
        """(out, in) change; `weight` only tells dtype and device."""
        w = _at_least_single(weight)
        return self.b.to(w) @ self.a.to(w)


@dataclass(frozen=True)
class Dense:
    """W' = W + dw; of any shape, for what other tools change may be a convolution or a bias too."""

    dw: Tensor

    def delta(self, weight: Tensor) -> Tensor:
        """The change, of the shape of the weight; `weight` only tells dtype and device."""
        return self.dw.to(_at_least_single(weight))


Delta = LowRank | Dense


@dataclass(frozen=True, eq=False)
class Edit:
    """What a method made: deltas by module path, and the record.

    A path names a module of the denoiser, whose weight changes, or a parameter of another name ("...to_out.0.bias");
    one that begins with the name of a text encoder in the pipeline ("text_encoder.", "text_encoder_2.") is of that.

    >>> edit = Edit.load("edit.safetensors")  # doctest: +SKIP
    >>> with edit.apply(pipe):  # doctest: +SKIP
    ...     pipe("a cat")
    """

    record: EditRecord
    text_maps: tuple[TextMap, ...] = ()
    modules: Mapping[str, Delta] = field(default_factory=dict)

    @property
    def paths(self) -> list[str]:
        """Every module path that the edit changes, sorted."""
        return sorted({*self.modules, *(path for m in self.text_maps for path in m.modules)})

    def delta(self, path: str, weight: Tensor) -> Tensor:
        """The change of one weight (out, in): the sum over everything the edit has for that path."""
        parts = [m.delta(weight) for m in self.text_maps if path in m.modules]
        if path in self.modules:
            parts.append(self.modules[path].delta(weight))
        return torch.stack(parts).sum(dim=0) if len(parts) > 1 else parts[0]

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by the name it has in the file."""
        found: dict[str, Tensor] = {}
        for i, m in enumerate(self.text_maps):
            found |= {f"text_map.{i}.u": m.u, f"text_map.{i}.v": m.v}
        for path, d in self.modules.items():
            found |= {f"{path}.b": d.b, f"{path}.a": d.a} if isinstance(d, LowRank) else {f"{path}.dw": d.dw}
        return found

    def apply(self, model: Any, strength: float = 1.0, *, allow_other_base: bool = False) -> Applied:
        """Change a loaded pipeline (or family adapter) in place until the result is removed.

        Args:
            model: a pipeline, or what `excise.load` returned.
            strength: 0 changes nothing, 1 is the edit; values between and beyond scale the change.
            allow_other_base: use it on another model with the same text encoder and shapes (a fine-tune).

        Raises:
            WrongBaseError: the model is not the one the edit was made for.
        """
        family = as_family(model)
        stack = _stack_of(family)
        check_base(self, family, allow_other_base)
        stack.layers.append((self, strength))
        try:
            stack.refresh()
        except BaseException:
            stack.layers.pop()
            raise
        return Applied(self, family.denoiser)

    def remove(self, model: Any) -> None:
        """Take the edit off again; the original tensors are back when nothing else is applied.

        Raises:
            WrongBaseError: it is not applied to this model.
        """
        _remove(self, as_family(model).denoiser)

    def scaled(self, strength: float) -> Edit:
        """The same edit at another strength."""
        return replace(
            self,
            text_maps=tuple(replace(m, u=m.u * strength) for m in self.text_maps),
            modules={
                p: LowRank(d.b * strength, d.a) if isinstance(d, LowRank) else Dense(d.dw * strength)
                for p, d in self.modules.items()
            },
            record=self.record.model_copy(update={"settings": {**self.record.settings, "strength": strength}}),
        )

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file with the record in its metadata, atomically."""
        from excise.edit_file import save

        return save(self, Path(path))

    @staticmethod
    def load(path: str | Path) -> Edit:
        """Read an edit file.

        Raises:
            EditFileError: it is missing, cut short, a pickle, or no edit.
        """
        from excise.edit_file import load

        return load(Path(path))


class Applied:
    """An edit in force; leave the `with` block, or call `remove`, to end it."""

    def __init__(self, edit: Edit, denoiser: nn.Module) -> None:
        self._edit, self._denoiser = edit, denoiser

    def remove(self) -> None:
        _remove(self._edit, self._denoiser)

    def __enter__(self) -> Applied:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.remove()


def stack(edits: Sequence[Edit]) -> Edit:
    """Join edits of one base into one: text maps side by side, low-rank factors along the rank, dense ones added.

    Raises:
        WrongBaseError: they were made for different models.
    """
    first = edits[0].record
    for edit in edits[1:]:
        if edit.record.base.weights != first.base.weights:
            raise WrongBaseError(
                f"these edits were made for different models ({first.base.model} and {edit.record.base.model}); "
                "stack edits of one model only."
            )
    joined: dict[str, Delta] = {}
    for edit in edits:
        for path, delta in edit.modules.items():
            joined[path] = add(joined[path], delta) if path in joined else delta
    record = first.model_copy(
        update={
            "method": "stack",
            "settings": {},
            "concepts": tuple(c for e in edits for c in e.record.concepts),
            "preserve": tuple(dict.fromkeys(p for e in edits for p in e.record.preserve)),
            "measured": {},
            "stack": tuple(e.record for e in edits),
        }
    )
    return Edit(record, tuple(m for e in edits for m in e.text_maps), joined)


def base_of(family: Family, model: str, revision: str | None = None) -> Base:
    """The record of a loaded model: its name and fingerprints, edits in force left aside."""
    weights = original_weights(family)
    return Base(
        model=model,
        family=family.name,
        revision=revision,
        weights=fingerprint(weights),
        weights_bfloat16=fingerprint(weights, torch.bfloat16),
        text_encoder=_original_text_print(family),
    )


def in_force(family: Family) -> list[tuple[Edit, float]]:
    """What is applied to a model now, in order: each edit and its strength."""
    return list(_stack_of(family).layers)


@contextmanager
def applied(
    model: Any, edits: Iterable[Edit], strength: float = 1.0, *, allow_other_base: bool = False
) -> Iterator[None]:
    """Several edits in force for a while, one on top of the other; see `Edit.apply`."""
    with ExitStack() as held:
        for edit in edits:
            held.enter_context(edit.apply(model, strength, allow_other_base=allow_other_base))
        yield


@contextmanager
def laid(family: Family, deltas: Mapping[str, Delta]) -> Iterator[None]:
    """What a method has made so far in force for a while, on top of whatever edits are."""
    modules = {path: family.denoiser.get_submodule(path) for path in deltas}
    before = {path: module.weight for path, module in modules.items()}
    try:
        for path, delta in deltas.items():
            w = before[path]
            assert isinstance(w, nn.Parameter)
            changed = (_at_least_single(w) + delta.delta(w)).to(w).detach()
            modules[path].weight = nn.Parameter(changed, requires_grad=w.requires_grad)
        yield
    finally:
        for path, module in modules.items():
            module.weight = before[path]


def original_weights(family: Family, paths: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Weights by module path as they are without any edit; by default those that read text."""
    kept = _stack_of(family).originals
    if paths is None:
        return {p.path: kept.get(p.path, p.module.weight).detach() for p in family.projections()}
    return {path: kept.get(path, now).detach() for path, now in _parameters(family, paths).items()}


def _parameters(family: Family, paths: Iterable[str]) -> dict[str, nn.Parameter]:
    """The parameters at `paths`; what the model does not have is left out."""
    found = {}
    for path in paths:
        with suppress(AttributeError):
            found[path] = getattr(*parameter_at(family.denoiser, family.text_encoders, path))
    return found


def _original_text_print(family: Family) -> str:
    """The fingerprint of the text encoder as it is without any edit."""
    stack_ = _stack_of(family)
    replaced = {id(getattr(*stack_.parameter(path))): original for path, original in stack_.originals.items()}
    weights = {name: replaced.get(id(w), w) for name, w in family.text_encoder_weights.items()}
    return text_encoder_print(family, weights)


def check_base(edit: Edit, family: Family, allow_other_base: bool = False) -> None:
    """Refuse a model the edit was not made for.

    Raises:
        WrongBaseError: other weights (unless allowed), another text encoder, or other shapes.
    """
    base, weights = edit.record.base, original_weights(family)
    if family.name != base.family:
        raise WrongBaseError(
            f"this edit was made for a model of the family '{base.family}' ({base.model}); the model given is of the "
            f"family '{family.name}'. Erase again on this model."
        )
    dtype = next(iter(weights.values())).dtype
    print_ = fingerprint(weights, torch.bfloat16 if dtype == torch.bfloat16 else torch.float16)
    same = print_ == (base.weights_bfloat16 if dtype == torch.bfloat16 else base.weights)
    if not same and not allow_other_base:
        raise WrongBaseError(
            f"this edit was made for {base.model} (weights {base.weights[:12]}), the model given has other weights "
            f"({print_[:12]}). Use the model it was made for, or --allow-other-base for a fine-tune of it."
        )
    reads = not same or any(in_encoder(path, family.text_encoders) for path in edit.paths)
    if reads and dtype != torch.bfloat16 and _original_text_print(family) != base.text_encoder:
        raise WrongBaseError(
            f"this edit was made for {base.model}; the model given has another text encoder, so the edit would mean "
            "nothing to it. Erase again on this model."
        )
    weights = original_weights(family, edit.paths)
    for path in edit.paths:
        shape = _shape(edit, path)
        if path not in weights or shape != tuple(weights[path].shape)[-len(shape) :]:
            raise WrongBaseError(
                f"this edit was made for {base.model}; the model given has no '{path}' of the same shape. "
                "Erase again on this model."
            )


@dataclass
class _Stack:
    """The edits in force on one denoiser and its text encoders, and the parameters they replaced."""

    denoiser: Any  # weak proxies, so that the stack does not keep the model alive
    encoders: Mapping[str, Any]
    originals: dict[str, nn.Parameter] = field(default_factory=dict)
    layers: list[tuple[Edit, float]] = field(default_factory=list)

    def parameter(self, path: str) -> tuple[Any, str]:
        """The module that an edit goes into, and which of its parameters."""
        return parameter_at(self.denoiser, self.encoders, path)

    @torch.no_grad()
    def refresh(self) -> None:
        """Rebuild every touched weight from its original and the edits in force."""
        wanted = {path for edit, strength in self.layers if strength != 0 for path in edit.paths}
        for path in sorted(wanted | set(self.originals)):
            module, name = self.parameter(path)
            if path not in wanted:
                setattr(module, name, self.originals.pop(path))
                continue
            original = self.originals.setdefault(path, getattr(module, name))
            weight = _at_least_single(original.detach())
            for edit, strength in self.layers:
                if strength != 0 and path in edit.paths:
                    weight = weight + strength * edit.delta(path, original.detach())
            setattr(module, name, nn.Parameter(weight.to(original.dtype), requires_grad=original.requires_grad))


_stacks: WeakKeyDictionary[nn.Module, _Stack] = WeakKeyDictionary()


def _stack_of(family: Family) -> _Stack:
    if family.denoiser not in _stacks:
        encoders = {name: proxy(encoder) for name, encoder in family.text_encoders.items()}
        _stacks[family.denoiser] = _Stack(proxy(family.denoiser), encoders)
    return _stacks[family.denoiser]


def _remove(edit: Edit, denoiser: nn.Module) -> None:
    stack_ = _stacks.get(denoiser)
    here = [i for i, (one, _) in enumerate(stack_.layers) if one is edit] if stack_ else []
    if stack_ is None or not here:
        raise WrongBaseError("this edit is not applied to this model, so there is nothing to remove.")
    del stack_.layers[here[-1]]
    stack_.refresh()


def as_family(model: Any) -> Family:
    """A pipeline or an adapter to its adapter."""
    return model if hasattr(model, "projections") else family_of(model)


def add(one: Delta, two: Delta) -> Delta:
    """Both changes of one weight as one; of low rank where both are."""
    if isinstance(one, LowRank) and isinstance(two, LowRank):
        return LowRank(torch.cat([one.b, two.b], dim=1), torch.cat([one.a, two.a], dim=0))
    return Dense(_dense(one) + _dense(two))


def _dense(delta: Delta) -> Tensor:
    return delta.dw if isinstance(delta, Dense) else delta.b @ delta.a


def _shape(edit: Edit, path: str) -> tuple[int, ...]:
    """(out, in) where the edit knows both, else (in,)."""
    if path in edit.modules:
        delta = edit.modules[path]
        return tuple(delta.dw.shape) if isinstance(delta, Dense) else (delta.b.shape[0], delta.a.shape[1])
    return (next(m for m in edit.text_maps if path in m.modules).v.shape[1],)


def _at_least_single(weight: Tensor) -> Tensor:
    return weight if weight.dtype == torch.float64 else weight.float()


def total_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes that the tensors take."""
    return sum(t.numel() * t.element_size() for t in tensors)
