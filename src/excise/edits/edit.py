"""An edit is a file, not a model: module paths mapped to deltas, and a record.

Applying keeps the original parameters aside and `remove` puts those very tensors back (`apply.py`), so it is exact
bit for bit. Several edits add up: the order in which they are applied or removed does not matter for weights. An edit
may also hold hooks (`hooks.py`), which act while the model draws, in the order of applying.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import torch
from torch import Tensor

from excise.edits import file
from excise.edits.accounts import layers, networks
from excise.edits.apply import put, take
from excise.edits.bases import check_base, same_base
from excise.edits.deltas import Delta, Dense, LowRank, TextMap, added_up, scaled, total_bytes
from excise.edits.hooks import Hook, check_one_guided
from excise.edits.record import EditRecord
from excise.edits.showing import edit_card
from excise.errors import SettingError, WrongBaseError
from excise.families.load import as_family
from excise.support.display import Card, Showing


@dataclass(frozen=True, eq=False, repr=False)
class Edit(Showing):
    """What a method made: deltas by module path, hooks, and the record.

    A path names a module of the denoiser, whose weight changes, or a parameter of another name ("...to_out.0.bias");
    one that begins with the name of a text encoder in the pipeline ("text_encoder.", "text_encoder_2.") is of that.

    >>> edit = Edit.load("edit.safetensors")  # doctest: +SKIP
    >>> with edit.apply(pipe):  # doctest: +SKIP
    ...     pipe("a cat")
    """

    record: EditRecord
    text_maps: tuple[TextMap, ...] = ()
    modules: Mapping[str, Delta] = field(default_factory=dict)
    hooks: tuple[Hook, ...] = ()

    def __post_init__(self) -> None:
        check_one_guided(self.hooks)
        format = 2 if self.hooks else 1
        if self.record.format != format:
            object.__setattr__(self, "record", self.record.model_copy(update={"format": format}))

    def card(self) -> Card:
        """What the edit shows of itself."""
        deltas = [*self.text_maps, *self.modules.values()]
        size = total_bytes(t.float() for t in self.tensors().values())
        return edit_card(self.record, self.paths, size, deltas, [h.kind for h in self.hooks])

    def shape(self, path: str) -> tuple[int, ...]:
        """Of the weight it changes there: (out, in) where the edit knows both, else (in,)."""
        if path in self.modules:
            delta = self.modules[path]
            return tuple(delta.dw.shape) if isinstance(delta, Dense) else (delta.b.shape[0], delta.a.shape[1])
        return (next(m for m in self.text_maps if path in m.modules).v.shape[1],)

    @property
    def paths(self) -> list[str]:
        """Every module path that the edit changes, sorted."""
        return sorted({*self.modules, *(path for m in self.text_maps for path in m.modules)})

    @property
    def strength(self) -> float:
        """The factor by which the edit was scaled since it was made."""
        return self.record.strength

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
        for i, hook in enumerate(self.hooks):
            found |= {f"hook.{i}.{name}": tensor for name, tensor in hook.tensors().items()}
        return found

    def apply(self, model: Any, strength: float = 1.0, *, allow_other_base: bool = False) -> Applied:
        """Change a loaded pipeline (or family adapter) in place until the result is removed.

        Args:
            model: a pipeline, or what `excise.load` returned.
            strength: 0 changes nothing, 1 is the edit; values between and beyond scale the change. It is finite.
            allow_other_base: use it on another model with the same text encoder and shapes (a fine-tune).

        Raises:
            SettingError: the strength is not finite.
            WrongBaseError: the model is not the one the edit was made for.
            ModelError: its weights cannot be replaced (offloaded, quantised), or both it and an edit that is applied
                change guidance; the model is as it was.
        """
        check_strength(strength)
        family = as_family(model)
        check_base(self, family, allow_other_base)
        put(self, family, strength)
        return Applied(self, networks(family))

    def remove(self, model: Any) -> None:
        """Take the edit off again; the original tensors are back when nothing else is applied.

        Raises:
            WrongBaseError: it is not applied to this model.
            ModelError: weights were quantised, offloaded or written to since; the edit stays in force.
        """
        take(self, networks(as_family(model)))

    def scaled(self, strength: float) -> Edit:
        """The same edit at another strength, which multiplies the one it has.

        Raises:
            SettingError: the strength is not finite.
        """
        check_strength(strength)
        return replace(
            self,
            text_maps=tuple(replace(m, u=m.u * strength) for m in self.text_maps),
            modules={path: scaled(delta, strength) for path, delta in self.modules.items()},
            hooks=tuple(hook.scaled(strength) for hook in self.hooks),
            record=self.record.scaled(strength),
        )

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file with the record in its metadata, atomically."""
        file.write(
            Path(path), file.Content(self.record, self.text_maps, dict(self.modules), self.hooks), self.tensors()
        )
        return Path(path)

    @staticmethod
    def load(path: str | Path) -> Edit:
        """Read an edit file, or the edit in the run folder of `excise erase`.

        Raises:
            EditFileError: it is missing, cut short, a pickle, or no edit.
        """
        content = file.read(Path(path))
        return Edit(content.record, content.text_maps, content.modules, content.hooks)


class Applied:
    """An edit in force; leave the `with` block, or call `remove`, to end it."""

    def __init__(self, edit: Edit, networks: Mapping[str, Any]) -> None:
        self._edit, self._networks = edit, networks

    def __repr__(self) -> str:
        return f"In force until remove() is called: {self._edit!r}"

    def remove(self) -> None:
        """End it, as `Edit.remove` does."""
        take(self._edit, self._networks)

    def __enter__(self) -> Applied:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.remove()


def stack(edits: Sequence[Edit]) -> Edit:
    """Join edits of one base into one: text maps side by side, low-rank factors along the rank, dense ones added.

    Hooks follow one another in the order of the edits.

    Raises:
        WrongBaseError: they were made for different models.
        ModelError: more than one of them changes guidance.
    """
    first = edits[0].record
    for edit in edits[1:]:
        if not same_base(edit.record.base, first.base):
            raise WrongBaseError(
                f"these edits were made for different models ({first.base.model} and {edit.record.base.model}); "
                "stack edits of one model only."
            )
    joined = added_up(edit.modules for edit in edits)
    record = first.model_copy(
        update={
            "method": "stack",
            "settings": {},
            "given": None,
            "concepts": tuple(c for e in edits for c in e.record.concepts),
            "preserve": tuple(dict.fromkeys(p for e in edits for p in e.record.preserve)),
            "measured": {},
            "stack": tuple(e.record for e in edits),
            "scale": None,
        }
    )
    return Edit(record, tuple(m for e in edits for m in e.text_maps), joined, tuple(h for e in edits for h in e.hooks))


@contextmanager
def applied(
    model: Any, edits: Iterable[Edit], strength: float = 1.0, *, allow_other_base: bool = False
) -> Iterator[None]:
    """Several edits in force for a while, one on top of the other; see `Edit.apply`."""
    with ExitStack() as held:
        for edit in edits:
            held.enter_context(edit.apply(model, strength, allow_other_base=allow_other_base))
        yield


def applied_edits(model: Any) -> list[tuple[Edit, float]]:
    """The edits that are applied to a model now, each with its strength, in the order of applying."""
    return [(cast(Edit, layer.edit), layer.strength) for layer in layers(as_family(model))]


def check_strength(strength: float) -> None:
    """Refuse a strength by which nothing can be scaled.

    Raises:
        SettingError: it is not finite.
    """
    if not math.isfinite(strength):
        raise SettingError(f"the strength is {strength}; expected a finite number, such as 0.5 or 1.")
