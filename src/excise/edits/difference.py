"""Two edits compared: what their records say, and how far apart their changes of weights are.

The change of a weight by a `TextMap` depends on the weight, so text maps are compared as maps of the text (u v), and
everything else as changes of weights. Factors are never multiplied out: norms come from QR decompositions of the
factors. Equal tensors differ by exactly zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from excise.edits.deltas import Dense, LowRank
from excise.edits.edit import Edit
from excise.edits.record import EditRecord

Parts = list[LowRank | Dense]
WEIGHT, TEXT = "weight", "text map"


@dataclass(frozen=True)
class PathDifference:
    """How two edits change one weight.

    Attributes:
        path: of the weight.
        part: "weight" for a change of the weight itself, "text map" for a map of the text before it.
        norms: Frobenius norm of the change in each edit; 0 where the edit does not change it.
        cosine: between the two changes; None where one of them is zero or they have different shapes.
        difference: norm of the difference; None where they have different shapes.
    """

    path: str
    part: str
    norms: tuple[float, float]
    cosine: float | None
    difference: float | None


@dataclass(frozen=True)
class EditDifference:
    """The comparison of two edits.

    Attributes:
        record: by name of the field, its value in each record, where they differ.
        paths: every weight that an edit changes.
        hooks: the kind of every hook, and whether both edits have the same one.
    """

    record: dict[str, tuple[Any, Any]]
    paths: list[PathDifference]
    hooks: dict[str, bool]

    @property
    def norms(self) -> tuple[float, float]:
        """Norm of all changes together, in each edit."""
        return math.hypot(*(p.norms[0] for p in self.paths)), math.hypot(*(p.norms[1] for p in self.paths))

    @property
    def difference(self) -> float | None:
        """Norm of the difference over all weights; None where some have different shapes."""
        parts = [p.difference for p in self.paths]
        return None if any(d is None for d in parts) else math.hypot(*(d for d in parts if d is not None))

    @property
    def cosine(self) -> float | None:
        """Cosine between all changes together; None where it is undefined."""
        one, two = self.norms
        if not one or not two or self.difference is None:
            return None
        return sum((p.cosine or 0.0) * p.norms[0] * p.norms[1] for p in self.paths) / (one * two)

    @property
    def same(self) -> bool:
        """Whether both edits have the same tensors."""
        return self.difference == 0 and all(self.hooks.values())


def compared(one: Edit, two: Edit) -> EditDifference:
    """Compare two edits; neither a model nor its weights are needed."""
    first, second = _parts(one), _parts(two)
    known: dict[tuple[int, ...], Any] = {}
    paths = []
    for key in sorted({*first, *second}):
        here, there = first.get(key, []), second.get(key, [])
        # Projections that share text maps have the same parts, which are compared once.
        parts = tuple(id(p) for p in (*here, None, *there))
        if parts not in known:
            known[parts] = _numbers(here, there)
        paths.append(PathDifference(*key, *known[parts]))
    return EditDifference(_record_difference(one.record, two.record), paths, _hooks(one, two))


def _parts(edit: Edit) -> dict[tuple[str, str], Parts]:
    """The changes of an edit by path and by what they change."""
    parts: dict[tuple[str, str], Parts] = {}
    for text_map in edit.text_maps:
        factors = LowRank(text_map.u, text_map.v)
        for path in text_map.modules:
            parts.setdefault((path, TEXT), []).append(factors)
    for path, delta in edit.modules.items():
        parts.setdefault((path, WEIGHT), []).append(delta)
    return parts


def _numbers(one: Parts, two: Parts) -> tuple[tuple[float, float], float | None, float | None]:
    """Norms, cosine and norm of the difference of two changes."""
    norms = _norm(one), _norm(two)
    shapes = {_shape(p) for p in (*one, *two)}
    if len(shapes) > 1:
        return norms, None, None
    difference = 0.0 if _equal(one, two) else _norm([*one, *map(_negative, two)])
    if not all(norms):
        return norms, None, difference
    cosine = (norms[0] ** 2 + norms[1] ** 2 - difference**2) / (2 * norms[0] * norms[1])
    return norms, max(-1.0, min(1.0, cosine)), difference


def _norm(parts: Parts) -> float:
    """Frobenius norm of a sum of changes, in double precision."""
    if not parts:
        return 0.0
    if any(isinstance(p, Dense) for p in parts):
        total = sum(p.dw.double() if isinstance(p, Dense) else p.b.double() @ p.a.double() for p in parts)
        return float(torch.linalg.vector_norm(torch.as_tensor(total)))
    b = torch.cat([p.b.double() for p in parts if isinstance(p, LowRank)], dim=1)
    a = torch.cat([p.a.double() for p in parts if isinstance(p, LowRank)], dim=0)
    return float(torch.linalg.matrix_norm(_triangle(b) @ _triangle(a.mT).mT))


def _triangle(factor: Tensor) -> Tensor:
    """The triangular factor of a QR decomposition."""
    return torch.linalg.qr(factor, mode="r").R


def _equal(one: Parts, two: Parts) -> bool:
    """Whether two changes consist of the same tensors."""
    return len(one) == len(two) and all(
        len(_tensors(p)) == len(_tensors(q))
        and all(s.shape == t.shape and torch.equal(s, t) for s, t in zip(_tensors(p), _tensors(q), strict=True))
        for p, q in zip(one, two, strict=True)
    )


def _tensors(part: LowRank | Dense) -> tuple[Tensor, ...]:
    return (part.dw,) if isinstance(part, Dense) else (part.b, part.a)


def _negative(part: LowRank | Dense) -> LowRank | Dense:
    return Dense(-part.dw) if isinstance(part, Dense) else LowRank(-part.b, part.a)


def _shape(part: LowRank | Dense) -> tuple[int, ...]:
    return tuple(part.dw.shape) if isinstance(part, Dense) else (part.b.shape[0], part.a.shape[1])


def _record_difference(one: EditRecord, two: EditRecord) -> dict[str, tuple[Any, Any]]:
    """The fields in which two records differ; concepts by name, settings and measurements each by itself."""
    left, right = _flat(one), _flat(two)
    keys = list(dict.fromkeys([*left, *right]))
    return {key: (left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)}


def _flat(record: EditRecord) -> dict[str, Any]:
    content = record.model_dump(mode="json")
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if name == "concepts":
            flat |= {f"concept {c['name']}": _without_name(c) for c in value}
        elif name in ("settings", "measured", "versions", "base") and isinstance(value, Mapping):
            flat |= {f"{name}.{key}": part for key, part in value.items()}
        else:
            flat[name] = value
    return flat


def _without_name(concept: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in concept.items() if key != "name"}


def _hooks(one: Edit, two: Edit) -> dict[str, bool]:
    """By kind of hook, whether both edits have such hooks that do the same, in the same order."""
    every = sorted({h.kind for edit in (one, two) for h in edit.hooks})

    def digests(edit: Edit, kind: str) -> list[str]:
        return [h.digest(h.strength) for h in edit.hooks if h.kind == kind]

    return {kind: digests(one, kind) == digests(two, kind) for kind in every}
