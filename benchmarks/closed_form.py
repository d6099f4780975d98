"""Time the closed forms at the shapes of real models, and compare them with the same formulas written literally.

    python -m benchmarks.closed_form --shape sd15 --concepts 100 [--method uce --method speed] [--out lines.jsonl]
    python -m benchmarks.closed_form --shape flux1 --shape zimage --concepts 100 --method uce
    python -m benchmarks.closed_form --table lines.jsonl

Weights are random (Gaussian rows); text states are synthetic, with a common mean and a decaying spectrum as CLIP's
have. The time is that of the edit after encoding, from the statistics of the text to the new weights; the CPU time of
the same run stands beside it, for machines that do other work too. Of diffusion transformers the doors of the text are
edited: one map (two in FLUX.1, with that of the pooled prompt), five target tokens a concept. The literal form
follows the published formulas, or the official program, matrix by matrix and row by row (`benchmarks/literal.py`). It
is timed on a stated part of the work and scaled up; above 100 concepts (or `--literal`) it is left out. Each line is
measured in a separate process, so that its memory is its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.timed_literal import Literal, literal_cure, literal_rece, literal_scapre, literal_speed, literal_uce
from benchmarks.timing import cold_and_warm
from excise.bench.tables import markdown
from excise.methods.closed_form.base import ClosedForm
from excise.methods.closed_form.config import MethodConfig
from excise.methods.closed_form.cure import CURE
from excise.methods.closed_form.cure_config import CUREConfig
from excise.methods.closed_form.mace import MACE
from excise.methods.closed_form.mace_config import MACEConfig
from excise.methods.closed_form.rece import RECE
from excise.methods.closed_form.rece_config import RECEConfig
from excise.methods.closed_form.scapre import ScaPre
from excise.methods.closed_form.scapre_config import ScaPreConfig
from excise.methods.closed_form.speed import SPEED
from excise.methods.closed_form.speed_config import SPEEDConfig
from excise.methods.closed_form.text_problem import TextProblem
from excise.methods.closed_form.uce import UCE
from excise.methods.closed_form.uce_config import UCEConfig
from excise.methods.solution import Solution

# Rows of each cross-attention's keys (and values), or of the one door of a transformer's text, and the text width.
SHAPES: dict[str, tuple[tuple[int, ...], int]] = {
    "sd15": ((320,) * 5 + (640,) * 5 + (1280,) * 6, 768),
    "sdxl": ((640,) * 10 + (1280,) * 60, 2048),
    "sana": ((2240,) * 20, 2240),
    "flux1": ((3072,), 4096),
    "zimage": ((3840,), 2560),
    "qwenimage": ((3072,), 3584),
    "krea2": ((6144,), 2560),
    "flux2": ((6144,), 15_360),
}
DOORS = {"flux1", "zimage", "qwenimage", "krea2", "flux2"}  # shapes whose text passes one map, keys and values in one
POOLED = {"flux1": ((3072,), 768)}  # the map of the pooled prompt, solved as well; each prompt is one state of it
RETAINED = 1000
# Target tokens of a concept: its last subject token, its context, or all from the last subject token on.
TOKENS = {
    "uce": 1, "speed": 1, "cure": 1, "mace": 75, "rece": 76, "scapre": 60, "scapre-small": 60, "scapre-paper": 60,
}  # fmt: skip
DOOR_TOKENS = 5  # the last subject token in each of five templates
LITERAL_CONCEPTS = 100


@dataclass(frozen=True)
class Row:
    """One line of the result; `naive_*` is of the literal form, `max_rel_diff` the largest difference between both."""

    shape: str
    method: str
    concepts: int
    tokens: int
    seconds: float
    naive_seconds: float | None
    ratio: float | None
    max_rel_diff: float | None
    peak_extra_mb: float
    projections_mb: float
    naive_part: str
    threads: int
    torch: str
    cpu_seconds: float | None = None


def text_states(n: int, d: int, generator: torch.Generator) -> Tensor:
    """Return states (n, d) with a common mean and a decaying spectrum, scaled to CLIP-L's norm of about 28."""
    spectrum = (1 + torch.arange(d, dtype=torch.float64)) ** -0.5
    if d > 4096:  # the axes are as good a basis for Gaussian weights, and a matrix of d x d would not be small
        rows = torch.randn((n, d), generator=generator, dtype=torch.float64) * spectrum
        rows[:, 0] += 2
    else:
        basis = torch.linalg.qr(torch.randn((d, d), generator=generator, dtype=torch.float64)).Q
        rows = torch.randn((n, d), generator=generator, dtype=torch.float64) * spectrum @ basis.mT
        rows = rows + 2 * basis[:, 0]
    return 28 * rows / rows.norm(dim=1, keepdim=True).mean()


def build(shape: str, concepts: int, tokens: int, roles: str) -> list[tuple[TextProblem, dict[str, Tensor]]]:
    """Return `problem_of` at the shape of a model, and of its map of the pooled prompt if it has one."""
    made = [problem_of(*SHAPES[shape], concepts, tokens, "e" if shape in DOORS else roles)]
    if shape in POOLED:
        made.append(problem_of(*POOLED[shape], concepts, tokens, "p"))
    return made


def problem_of(
    rows: Sequence[int], d: int, concepts: int, tokens: int, roles: str, seed: int = 0
) -> tuple[TextProblem, dict[str, Tensor]]:
    """Return a problem and weights (float32) by path.

    Args:
        rows: number of rows of each layer's projections.
        d: width of the text.
        concepts: number of concepts.
        tokens: target tokens of a concept; there are 1,000 retained tokens.
        roles: projections of a layer, a letter each.
    """
    generator = torch.Generator().manual_seed(seed)
    states = text_states(concepts * tokens + tokens + RETAINED + 1 + 76, d, generator)
    targets, anchor, retain, start, null = states.split([concepts * tokens, tokens, RETAINED, 1, 76])
    weights = {
        f"layer{i}.to_{role}": torch.randn((n, d), generator=generator) / d**0.5
        for i, n in enumerate(rows)
        for role in roles
    }
    owner = torch.arange(concepts).repeat_interleave(tokens)
    null = 0.1 * null + null[:1]
    problem = TextProblem(targets, anchor.repeat(concepts, 1), retain, start[0], null, owner, targets[::tokens])
    return problem, weights


def change(solution: Solution, path: str, W: Tensor) -> Tensor:
    """Return the change of one weight, of the shape of `W`."""
    parts = [m.delta(W) for m in solution.text_maps if path in m.modules]
    if solution.modules and path in solution.modules:
        parts.append(solution.modules[path].delta(W))
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


@dataclass(frozen=True)
class Bench:
    """A method with its settings, its literal form (None: not written), and the projections it edits."""

    method: ClosedForm[Any]
    config: MethodConfig
    literal: Callable[..., Literal] | None
    roles: str = "kv"

    def solve(self, problem: TextProblem, weights: dict[str, Tensor]) -> Solution:
        """Solve the problem with the method."""
        solution: Solution = self.method.solve(problem, weights, self.config, torch.Generator().manual_seed(0))
        return solution


BENCHES = {
    "uce": Bench(UCE(), UCEConfig(fixed="none", tokens="last"), literal_uce),
    "mace": Bench(MACE(), MACEConfig(), literal_uce),
    "rece": Bench(RECE(), RECEConfig(fixed="none"), literal_rece),
    "cure": Bench(CURE(), CUREConfig(), literal_cure),
    "speed": Bench(SPEED(), SPEEDConfig(params="v", tokens="last", retain_tokens="last"), literal_speed, "v"),
    "scapre": Bench(ScaPre(), ScaPreConfig(), literal_scapre),
    "scapre-small": Bench(ScaPre(), ScaPreConfig(form="small"), literal_scapre),
    "scapre-paper": Bench(ScaPre(), ScaPreConfig(form="paper", relevance="ratio"), literal_scapre),
}


def bench(shape: str, method: str, concepts: int, literal_concepts: int = LITERAL_CONCEPTS) -> Row:
    """Measure one method at one shape, with its literal form if there are at most `literal_concepts`."""
    b = BENCHES[method]
    tokens = DOOR_TOKENS if shape in DOORS else TOKENS[method]
    problems = build(shape, concepts, tokens, b.roles)
    spent = solve_and_apply(b, problems)
    row = Row(
        shape,
        method,
        concepts,
        tokens,
        round(spent.seconds, 3),
        None,
        None,
        None,
        round(spent.peak, 1),
        round(sum(w.numel() for _, weights in problems for w in weights.values()) * 8 / 1e6, 1),
        "none",
        torch.get_num_threads(),
        torch.__version__,
        round(spent.cpu, 3),
    )
    if b.literal is None or concepts > literal_concepts:
        return row
    seconds, differences, parts = 0.0, list[float](), list[str]()
    for p, weights in problems:
        printed = b.literal(p, weights, b.config)
        solution = b.solve(printed.problem or p, weights)
        seconds += printed.seconds
        parts.append(printed.part)
        differences += [
            relative_difference(solution, path, weights[path].double(), new, printed.rows.get(path))
            for path, new in printed.new.items()
        ]
    return replace(
        row,
        naive_seconds=round(seconds, 2),
        ratio=round(seconds / spent.seconds, 1),
        max_rel_diff=max(differences),
        naive_part="; ".join(dict.fromkeys(parts)),
    )


@dataclass(frozen=True)
class Spent:
    """Seconds, CPU seconds, and peak extra memory in MB."""

    seconds: float
    cpu: float
    peak: float


def solve_and_apply(b: Bench, problems: Sequence[tuple[TextProblem, dict[str, Tensor]]]) -> Spent:
    """Return what solving and computing the new weights takes; of the first run the memory, of the second the time.

    The new weights are computed one at a time, as when they replace those of a model. In the first run the allocator
    has no free blocks.
    """

    def work() -> float:
        began = time.process_time()
        for p, weights in problems:
            solution = b.solve(p, weights)
            for path, w in weights.items():
                _ = w + change(solution, path, w)
        return time.process_time() - began

    cpu, seconds, peak = cold_and_warm(work)
    return Spent(seconds, cpu, peak)


def relative_difference(solution: Solution, path: str, W: Tensor, new: Tensor, rows: range | None) -> float:
    """Return the relative difference (Frobenius) between the changes of a solution and of a literal form.

    Args:
        W: the weight before the edit.
        new: the weight, or some of its rows, by the literal form.
        rows: which rows; None for all.
    """
    some = rows or range(len(W))
    part = slice(some.start, some.stop)
    printed = new - W[part]
    return float((change(solution, path, W)[part] - printed).norm() / printed.norm())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--shape", action="append", choices=SHAPES)
    parser.add_argument("--concepts", type=int, action="append")
    parser.add_argument("--method", action="append", choices=BENCHES)
    parser.add_argument(
        "--literal", type=int, default=LITERAL_CONCEPTS, help="most concepts for which the literal form is timed"
    )
    parser.add_argument("--out", type=Path, help="append the lines to this file, as JSON")
    parser.add_argument("--table", type=Path, help="print the lines of such a file as a table; measure nothing")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.table:
        print(table([Row(**json.loads(line)) for line in options.table.read_text(encoding="utf-8").splitlines()]))
        return
    cells = [
        (shape, method, concepts)
        for shape in options.shape or ["sd15"]
        for concepts in options.concepts or [100]
        for method in options.method or BENCHES
    ]
    if options.here:
        print(json.dumps(bench(*cells[0], options.literal).__dict__))
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {RETAINED} retained texts", flush=True)
    for cell in cells:
        row = in_own_process(*cell, options.literal)
        print(describe(row), flush=True)
        if options.out:
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row.__dict__) + "\n")


def in_own_process(shape: str, method: str, concepts: int, literal_concepts: int) -> Row:
    """Return `bench` run in a separate process."""
    knobs = [f"--shape={shape}", f"--method={method}", f"--concepts={concepts}", f"--literal={literal_concepts}"]
    command = [sys.executable, "-m", "benchmarks.closed_form", *knobs, "--here"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Row(**json.loads(done.stdout.splitlines()[-1]))


def describe(row: Row) -> str:
    """Return a line of the result as text."""
    literal_form = "no literal form timed"
    if row.naive_seconds is not None:
        literal_form = (
            f"literal {row.naive_seconds:.1f} s (timed: {row.naive_part}), ratio {row.ratio:.0f}, largest relative "
            f"difference {row.max_rel_diff:.1e}"
        )
    return (
        f"{row.method:12} {row.shape} {row.concepts} concepts of {row.tokens} tokens: {row.seconds:.2f} s, "
        f"{row.cpu_seconds or 0:.2f} s of CPU; {literal_form}; extra memory {row.peak_extra_mb:.0f} MB, "
        f"projections in float64 {row.projections_mb:.0f} MB"
    )


def table(rows: Sequence[Row]) -> str:
    """Return the lines as Markdown, with memory also as a multiple of the projections in float64."""
    head = ["shape", "method", "concepts", "seconds", "literal", "ratio", "largest difference", "extra memory"]
    body = []
    for row in rows:
        literal_form = ["–"] * 3
        if row.naive_seconds is not None:
            literal_form = [f"{row.naive_seconds:.0f} s", f"{row.ratio:.0f}", f"{row.max_rel_diff:.0e}"]
        memory = f"{row.peak_extra_mb:.0f} MB, {row.peak_extra_mb / row.projections_mb:.1f} x"
        body.append([row.shape, row.method, f"{row.concepts:,}", f"{row.seconds:.2f}", *literal_form, memory])
    return markdown(head, body)


if __name__ == "__main__":
    main()
