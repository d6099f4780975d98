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
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import literal
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
from excise.methods.closed_form.speed import SPEED, invariant_states
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
LITERAL_WIDTH = 2304  # above which outer products are timed on a few states
LITERAL_STATES = 8  # targets and retained states each, there
LITERAL_ROWS = 9  # for ScaPre


@dataclass(frozen=True)
class Literal:
    """Result of a literal form.

    Attributes:
        new: by path, the new weights of some layers, or of some of their rows.
        seconds: extrapolated to all layers and rows.
        part: what was timed, in words.
        rows: by path, the rows in `new`; all rows if missing.
        problem: the problem that was solved, if it is smaller than the method's.
    """

    new: dict[str, Tensor]
    seconds: float
    part: str
    rows: dict[str, range] = field(default_factory=dict)
    problem: TextProblem | None = None


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


def literal_uce(p: TextProblem, weights: dict[str, Tensor], config: UCEConfig | MACEConfig) -> Literal:
    """Run UCE, or MACE's first step, on two matrices; in wide text on one, with few states."""
    if p.targets.shape[1] > LITERAL_WIDTH:
        return _literal_of_few(p, weights, config)
    some = _spread(weights, min(2, len(weights)))
    erase = getattr(config, "erase_scale", 1.0)
    new, seconds, _ = timed(
        lambda: {k: literal.uce(weights[k].double(), p, erase, config.retain_scale, config.ridge) for k in some}
    )
    return Literal(new, seconds * len(weights) / len(some), f"{len(some)} of {len(weights)} matrices")


def _literal_of_few(p: TextProblem, weights: dict[str, Tensor], config: UCEConfig | MACEConfig) -> Literal:
    """Run UCE with no state and with few, whose difference is the time of a state."""
    first, erase = next(iter(weights)), getattr(config, "erase_scale", 1.0)

    def of(states: int) -> tuple[TextProblem, Tensor, float]:
        part = replace(p, targets=p.targets[:states], anchors=p.anchors[:states], retain=p.retain[:states])
        W = weights[first].double()
        new, seconds, _ = timed(lambda: literal.uce(W, part, erase, config.retain_scale, config.ridge))
        return part, new, seconds

    (*_, without), (part, new, few) = of(0), of(LITERAL_STATES)
    states, timed_states = len(p.targets) + len(p.retain), 2 * LITERAL_STATES
    seconds = without + max(0.0, few - without) / timed_states * states
    return Literal({first: new}, seconds * len(weights), f"{timed_states} of {states} states", problem=part)


def literal_rece(p: TextProblem, weights: dict[str, Tensor], config: RECEConfig) -> Literal:
    """Run RECE's search for one concept, which sums over all layers, and the UCE steps of a round on two matrices."""
    first = p.owner == 0
    part = replace(p, targets=p.targets[first], anchors=p.anchors[first], retain=p.retain[:10], owner=p.owner[first])
    doubles, scale = {k: w.double() for k, w in weights.items()}, config.retain_scale
    some = _spread(weights, 2)
    now = {k: literal.uce(W, part, 1.0, scale, config.ridge) for k, W in doubles.items()}
    restoring, sums, _ = timed(lambda: literal.rece_restoring(doubles, now, part, config))
    again = replace(part, targets=restoring)
    new = {
        k: literal.uce(now[k], again, 1.0, scale / 10, config.round_ridge, list(part.targets), config.hold)
        for k in some
    }
    _, uce, _ = timed(lambda: {k: literal.uce(doubles[k], p, 1.0, scale, config.ridge) for k in some})
    concepts = len(p.subjects)
    seconds = 2 * uce * len(weights) / len(some) + sums * concepts
    part_ = f"the search of 1 of {concepts} concepts, UCE of {len(some)} of {len(weights)} matrices"
    return Literal(new, seconds, part_, problem=part)


def literal_cure(p: TextProblem, weights: dict[str, Tensor], config: CUREConfig) -> Literal:
    """Run CURE on one matrix."""
    some = _spread(weights, 1)
    new, seconds, _ = timed(lambda: {k: literal.cure(weights[k].double(), p, config) for k in some})
    return Literal(new, seconds * len(weights) / len(some), f"{len(some)} of {len(weights)} matrices")


def literal_speed(p: TextProblem, weights: dict[str, Tensor], config: SPEEDConfig) -> Literal:
    """Run SPEED on the first matrix, whose random draws can be reproduced."""
    first = next(iter(weights))
    W, generator = weights[first].double(), torch.Generator().manual_seed(0)
    K = invariant_states(p, config.invariants, generator)

    def run() -> dict[str, Tensor]:
        shape = (literal.speed_kept(W, p), config.draws)
        return {first: literal.speed(W, p, config, K, torch.randn(shape, generator=generator, dtype=torch.float64))}

    new, seconds, _ = timed(run)
    return Literal(new, seconds * len(weights), f"1 of {len(weights)} matrices")


def literal_scapre(p: TextProblem, weights: dict[str, Tensor], config: ScaPreConfig) -> Literal:
    """Run ScaPre's masks on the first matrix, whose draws can be reproduced, and its solves on a few rows (or all)."""
    first = next(iter(weights))
    W, total = weights[first].double(), sum(len(w) for w in weights.values())
    (h, m), masks, _ = timed(lambda: literal.scapre_scores(W, p, config, torch.Generator().manual_seed(0)))
    count = len(W) if config.form == "paper" else min(LITERAL_ROWS, len(W))

    def solve(count: int) -> Tensor:
        return literal.SCAPRE[config.form](W, p, config, h, m, range(count))

    new, solves, _ = timed(lambda: solve(count))
    setting_up = 0.0 if config.form == "paper" else timed(lambda: solve(1))[1]  # once a matrix, not once a row
    rows = max(0.0, solves - setting_up) * total / (count - 1 if setting_up else count)
    seconds = masks * total / len(W) + setting_up * len(weights) + rows
    part = f"masks of {len(W)} and solves of {count} of {total} rows"
    return Literal({first: new}, seconds, part, {first: range(count)})


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


def cold_and_warm(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return result, seconds of a second run, and peak memory of the first, when the allocator has no free blocks."""
    _, _, peak = timed(work)
    result, seconds, _ = timed(work)
    return result, seconds, peak


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return result, seconds, and peak extra resident memory in MB, sampled every few milliseconds."""
    before, peak, done = _resident(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.003):
            peak[0] = max(peak[0], _resident() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        began = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - began
    finally:  # otherwise the process would wait for its watcher after a failure
        done.set()
        watcher.join()
    return result, seconds, max(peak[0], _resident() - before)


def _resident() -> float:
    """Return the resident memory of this process in MB."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _spread(weights: dict[str, Tensor], count: int) -> list[str]:
    """Return the first path and others, evenly spaced."""
    paths = list(weights)
    return [paths[i * (len(paths) - 1) // max(1, count - 1)] for i in range(count)]


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
