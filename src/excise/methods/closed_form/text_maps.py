"""The maps that a closed form edits, and the problem of each: what it reads of targets, anchors and retained prompts.

Maps that read the prompt alone share one problem, which is exact. All others read states that depend on latents and
timestep; they are fitted to what they read at a few moments of drawing the prompts, each layer by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from excise.errors import SettingError
from excise.families.base import Family
from excise.families.maps import MapInput, Projection
from excise.methods.closed_form.config import MethodConfig
from excise.methods.closed_form.text_problem import Encoded, TextProblem, token_problem

MOMENTS = 3  # of drawing each prompt
ROWS = 8  # rows of pictures to retain for each dimension, at most


def edited_maps(family: Family, config: MethodConfig, *, nothing: bool) -> list[Projection]:
    """The maps that settings ask for.

    A norm behind keys leaves their direction alone, so that a key has no nothing to become: there, targets that read as
    nothing are taken out of values.

    Args:
        nothing: whether some target reads as nothing afterwards.

    Raises:
        SettingError: keys alone are to read a target as nothing, and they are normed.
        ModelError: the family has no such maps.
    """
    params: str = config.params
    if nothing and config.maps != "static" and any(p.normed for p in family.text_maps(config.maps, "k")):
        params = params.replace("k", "")
    if not params:
        raise SettingError(
            "params=k changes keys alone, which this model norms, so that they cannot read a target as nothing; name "
            "what it should read as (--anchor), or change values too (--set params=kv)."
        )
    return family.text_maps(config.maps, params)


def map_problems(
    family: Family, encoded: Encoded, config: MethodConfig, maps: Sequence[Projection], seed: int
) -> Iterator[tuple[TextProblem, list[Projection]]]:
    """The problem of each group of maps that read the same.

    Args:
        encoded: the prompts of the request.
        maps: as `edited_maps` gives them.
        seed: of the noise that prompts are drawn from, and of the choice among rows of pictures.
    """
    if config.maps == "static":
        yield token_problem(encoded, config), list(maps)
        return
    layers: dict[str, list[Projection]] = {}
    for projection in maps:
        layers.setdefault(projection.path.rpartition(".")[0], []).append(projection)
    first = [group[0].path for group in layers.values()]
    moments = family.captured(first, encoded.texts, MOMENTS, seed)
    for path, group in zip(first, layers.values(), strict=True):
        yield _together([_problem(encoded, config, at[path], seed) for at in moments]), group


def _problem(encoded: Encoded, config: MethodConfig, seen: MapInput, seed: int) -> TextProblem:
    """The problem of a map at one moment; rows of pictures of retained prompts are retained as well."""
    states = encoded.states
    length = states.read.shape[1]
    problem = token_problem(replace(encoded, states=states.reading(seen.rows[:, :length])), config)
    if seen.picture is None:
        return problem
    retained = encoded.rows[2 * encoded.pairs :]
    rows = seen.picture[retained].flatten(0, 1)
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[: ROWS * rows.shape[1]]
    return _retaining(problem, rows[chosen.to(rows.device)].double())


def _retaining(problem: TextProblem, rows: Tensor) -> TextProblem:
    """The problem with further rows (n, d) to retain, also in its later steps."""
    later = problem.later and _retaining(problem.later, rows)
    return replace(problem, retain=torch.cat([problem.retain, rows]), later=later)


def _together(moments: Sequence[TextProblem]) -> TextProblem:
    """The problem of all moments at once; the start token and subjects are means over them."""

    def rows(name: str) -> Tensor:
        return torch.cat([getattr(problem, name) for problem in moments])

    later = [problem.later for problem in moments if problem.later is not None]
    return TextProblem(
        targets=rows("targets"),
        anchors=rows("anchors"),
        retain=rows("retain"),
        start=torch.stack([problem.start for problem in moments]).mean(dim=0),
        null=rows("null"),
        owner=rows("owner"),
        subjects=torch.stack([problem.subjects for problem in moments]).mean(dim=0),
        prompts=sum(problem.prompts or 0 for problem in moments),
        later=_together(later) if later else None,
    )
