"""Random text problems for hypothesis, in float64."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from excise.methods.closed_form.text_problem import TextProblem


@st.composite
def text_problems(
    draw, max_width: int = 16, max_tokens: int = 6, min_retain: int = 0, max_concepts: int = 3
) -> TextProblem:
    d = draw(st.integers(4, max_width))
    tokens, retain = draw(st.integers(1, max_tokens)), draw(st.integers(min_retain, 2 * max_width))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def rows(n: int) -> torch.Tensor:
        return torch.randn((n, d), generator=generator, dtype=torch.float64)

    null = rows(1) + 0.1 * rows(5)
    concepts = draw(st.integers(1, min(tokens, max_concepts)))
    return problem(rows(tokens), rows(tokens), rows(retain), rows(1)[0], null, torch.arange(tokens) % concepts)


def problem(targets, anchors, retain, start, null, owner=None) -> TextProblem:
    """A problem whose target rows are of one concept, or of those that `owner` tells; subjects are their means."""
    owner = torch.zeros(len(targets), dtype=torch.long) if owner is None else owner
    subjects = torch.stack([targets[owner == k].mean(dim=0) for k in range(int(owner.max()) + 1)])
    return TextProblem(targets, anchors, retain, start, null, owner, subjects)


def weights_for(problem: TextProblem, seed: int, sizes: tuple[int, ...] = (3, 7, 20)) -> dict[str, torch.Tensor]:
    """Weights narrower and wider than the text."""
    generator = torch.Generator().manual_seed(seed)
    d = problem.targets.shape[1]
    return {f"layer{n}": torch.randn((n, d), generator=generator, dtype=torch.float64) for n in sizes}
