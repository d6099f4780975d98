"""Every closed form against its literal form, on weights and texts of each family, and at Stable Diffusion's width.

At the widths of SDXL and SANA the literal forms take minutes: `python -m benchmarks.closed_form` compares them there.
"""

from __future__ import annotations

import pytest
from torch import Tensor

from benchmarks import closed_form
from excise import Concept, load
from excise.concepts.concept import retain_prompts
from excise.edits.originals import original_weights
from excise.families import BUILT_IN
from excise.methods.closed_form.text_problem import TextProblem, encode, token_problem

TOLERANCE = 1e-6  # relative (Frobenius) difference of the change, in float64
TEMPLATES = {"object": ["a picture of a {}", "a {} on grass"]}


@pytest.fixture(scope="module", params=[*BUILT_IN, "sd15"])
def shape(request):
    """What a model of a family has: the problem for a config, and some weights of keys and values."""
    if request.param in BUILT_IN:
        return built_in(request.param)
    rows, width = closed_form.SHAPES[request.param]

    def problem(config, roles):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(closed_form, "RETAINED", 60)
            return closed_form.problem_of(sorted(set(rows))[:2], width, 3, 4, roles)

    return problem


def built_in(name: str):
    family = load(name)
    concepts = [Concept(c, "object", anchor="sheep") for c in ("cat", "car", "apple")]
    encoded = encode(family, concepts, retain_prompts(["dog", "horse", "bus"], TEMPLATES["object"]), TEMPLATES)

    def problem(config, roles) -> tuple[TextProblem, dict[str, Tensor]]:
        paths = [p.path for p in family.projections(roles)]
        weights = original_weights(family, [paths[0], paths[-1]])
        return token_problem(encoded, config), {k: w.detach() for k, w in weights.items()}

    return problem


@pytest.mark.parametrize("method", closed_form.BENCHES)
def test_it_equals_its_literal_form(shape, method):
    b = closed_form.BENCHES[method]
    problem, weights = shape(b.config, b.roles)
    printed = b.literal(problem, weights, b.config)
    solution = b.solve(printed.problem or problem, weights)
    assert printed.new
    for path, wanted in printed.new.items():
        rows = printed.rows.get(path)
        assert closed_form.relative_difference(solution, path, weights[path].double(), wanted, rows) < TOLERANCE
