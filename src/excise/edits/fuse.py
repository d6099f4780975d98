"""Several edits, each made alone, as one that disturbs each of them least: the last stage of MACE.

Paper:      Lu et al., "MACE: Mass Concept Erasure in Diffusion Models", CVPR 2024, arXiv 2403.06135, eq. 7
Provenance: written from the paper; the form used here, one d x d matrix an edit for the whole model, is ours

With S_i = sum c c^T over all token states of the prompts of edit i, R what is kept, D_i the edit's change of a
projection W, the fused weight minimises sum_i |W' C_i - (W + D_i) C_i|^2 + p |(W' - W) R^T|^2 + lambda |W' - W|^2:

    W' - W = sum_i D_i S_i A^-1,   A = sum_i S_i + p R^T R + lambda I

So every edit keeps its own shape, whatever it is: its right factor is multiplied with S_i A^-1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from excise.concepts.concept import TEMPLATES, Concept, check_preserve, fill, retain_prompts
from excise.concepts.vocabulary import Vocabulary, vocabulary_of
from excise.edits.bases import check_base
from excise.edits.deltas import Delta, Dense, LowRank, TextMap
from excise.edits.edit import Edit, stack
from excise.edits.hooks import refuse_hooks
from excise.errors import ConceptError
from excise.families.base import Family, split
from excise.families.load import as_family
from excise.linalg.solves import solve_spd
from excise.support.counts import counted
from excise.support.progress import Report, silent

BATCH = 256  # prompts


def fuse(
    model: Any,
    edits: Sequence[Edit],
    *,
    preserve: Sequence[str] = (),
    vocabulary: str | None = "auto",
    retain_scale: float = 1.0,
    ridge: float = 0.5,
    say: Report = silent,
) -> Edit:
    """One edit out of several for the same model. What they change beside keys and values of text is added up.

    Args:
        model: the one they were made for.
        preserve, vocabulary: what to keep, as `excise.erase` takes it.
        retain_scale: weight of what is kept (p). ridge: pull towards the original weights (lambda).
        say: receives progress.

    Raises:
        ConceptError: fewer than two edits, or a name is both erased and preserved.
        WrongBaseError: one was made for another model.
        ModelError: one has hooks.
    """
    if len(edits) < 2:
        raise ConceptError(f"{counted(len(edits), 'edit')} given; fusing needs at least two.")
    for edit in edits:
        refuse_hooks(edit.hooks, edit.record, "fusing joins changes of weights alone")
    family = as_family(model)
    for edit in edits:
        check_base(edit, family)
    concepts = [[c.concept() for c in e.record.concepts] for e in edits]
    every = [c for own in concepts for c in own]
    check_preserve(every, preserve)
    words = vocabulary_of(vocabulary, family, every)
    kept = [*retain_prompts(preserve, TEMPLATES[every[0].kind]), *words.prompts]
    asked = [[p for c in own for p in _prompts(c, words)] for own in concepts]
    paths = {p.path for p in family.projections("kv")}
    shares = shares_of(family, asked, kept, retain_scale, ridge, say)
    through = [_through(edit, M, paths) for edit, M in zip(edits, shares, strict=True)]
    fused = stack(through)
    settings = {"retain_scale": retain_scale, "ridge": ridge}
    names = tuple(dict.fromkeys((*fused.record.preserve, *preserve)))
    record = fused.record.model_copy(
        update={"method": "fusion", "settings": settings, "preserve": names, "vocabulary": words.name}
    )
    return replace(fused, record=record)


def shares_of(
    family: Family, asked: Sequence[Sequence[str]], kept: Sequence[str], retain_scale: float, ridge: float, say: Report
) -> list[Tensor]:
    """S_i A^-1, (d, d) in float64, of each group of prompts: what its edit is multiplied with from the right.

    Args:
        asked: by edit, the prompts whose states it is to change. kept: prompts to retain.
        retain_scale: p. ridge: lambda.
    """
    with torch.autocast(family.device.type, enabled=False, cache_enabled=False):
        *moments, retained = _moments(family, [*asked, kept], say)
        A = torch.stack(moments).sum(dim=0) + retain_scale * retained
    A.diagonal().add_(ridge)
    return [solve_spd(A, S).mT for S in moments]  # S A^-1 = (A^-1 S)^T, both symmetric


def times(delta: Delta, M: Tensor) -> Delta:
    """A change of a weight times M (d, d) from the right."""
    if isinstance(delta, LowRank):
        return LowRank(delta.b, (delta.a.to(M) @ M).to(delta.a.dtype))
    return Dense((delta.dw.to(M) @ M).to(delta.dw.dtype))


def _prompts(concept: Concept, words: Vocabulary) -> list[str]:
    """The prompts in which a concept is looked at, under each of its words."""
    return [p for word in concept.words for p in fill(words.templates[concept.kind], word)]


def _moments(family: Family, groups: Sequence[Sequence[str]], say: Report) -> list[Tensor]:
    """(d, d) second moment of every token state of each group of prompts, in float64, batch by batch."""
    d = family.projections("kv")[0].module.in_features
    distinct = [list(dict.fromkeys(prompts)) for prompts in groups]
    total, done, moments = sum(map(len, distinct)), 0, []
    for prompts in distinct:
        moment = torch.zeros(d, d, dtype=torch.float64, device=family.device)
        for part in split(prompts, BATCH):
            say("encoding prompts", done, total)
            states = family.encode(part)
            rows = states.gather(range(len(part)), states.chosen(range(len(part)), "all")).double()
            moment += rows.mT @ rows
            done += len(part)
        moments.append(moment)
    say("encoding prompts", total, total)
    return moments


def _through(edit: Edit, M: Tensor, paths: set[str]) -> Edit:
    """The edit with its change of keys and values times M (d, d)."""
    maps = tuple(
        TextMap(m.u, (m.v.to(M) @ M).to(m.v.dtype), m.modules) if paths.issuperset(m.modules) else m
        for m in edit.text_maps
    )
    return replace(
        edit, text_maps=maps, modules={path: times(d, M) if path in paths else d for path, d in edit.modules.items()}
    )
