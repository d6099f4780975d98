"""Time the closed forms at true model shapes, beside the same formula written literally.

    python -m benchmarks.closed_form --shape sd15 --concepts 100 [--method uce --method speed] [--json]

Weights are random (orthogonal-ish Gaussian rows at the true shapes); text states are synthetic: a common mean, a
decaying spectrum, as CLIP's are. What is timed is the edit after encoding, the statistics of the text included. The
literal form follows the published formulas matrix by matrix: a d x d inverse for each layer, every augmented row as an
outer product. It is timed on a stated subset of layers and scaled to all of them.
"""

from __future__ import annotations

import argparse
import json
import resource
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from excise.linalg.solves import weakest_direction
from excise.methods.base import Solution, TextProblem
from excise.methods.speed import SPEED, SPEEDConfig, invariant_states
from excise.methods.uce import UCE, UCEConfig

# Rows of each cross-attention's keys (and values), and the text width.
SHAPES: dict[str, tuple[tuple[int, ...], int]] = {"sd15": ((320,) * 5 + (640,) * 5 + (1280,) * 6, 768)}
RETAINED = 1000
LITERAL_LAYERS = {"uce": 2, "speed": 1}
RETAINED_LITERAL = 1000


@dataclass(frozen=True)
class Row:
    """One line of the result."""

    shape: str
    method: str
    concepts: int
    seconds: float
    naive_seconds: float
    ratio: float
    max_rel_diff: float
    peak_extra_mb: float
    naive_layers: int
    layers: int


def text_states(n: int, d: int, generator: torch.Generator) -> Tensor:
    """(n, d) rows with a common mean and a decaying spectrum, scaled to a norm of about 28 as CLIP-L states are."""
    basis = torch.linalg.qr(torch.randn((d, d), generator=generator, dtype=torch.float64)).Q
    spectrum = (1 + torch.arange(d, dtype=torch.float64)) ** -0.5
    rows = torch.randn((n, d), generator=generator, dtype=torch.float64) * spectrum @ basis.mT
    rows = rows + 2 * basis[:, 0]
    return 28 * rows / rows.norm(dim=1, keepdim=True).mean()


def build(shape: str, concepts: int, roles: str, seed: int = 0) -> tuple[TextProblem, dict[str, Tensor]]:
    """A problem of `concepts` last-subject tokens and 1,000 retained ones, and the weights (single precision)."""
    rows, d = SHAPES[shape]
    generator = torch.Generator().manual_seed(seed)
    states = text_states(concepts + 1 + RETAINED + 1 + 76, d, generator)
    targets, anchor, retain, start, null = states.split([concepts, 1, RETAINED, 1, 76])
    weights = {
        f"layer{i}.to_{role}": torch.randn((n, d), generator=generator) / d**0.5
        for i, n in enumerate(rows)
        for role in roles
    }
    return TextProblem(targets, anchor.expand(concepts, -1), retain, start[0], 0.1 * null + null[:1]), weights


def literal_uce(W: Tensor, p: TextProblem, c: UCEConfig) -> Tensor:
    """W' - W, concept by concept, as the formula is printed."""
    d = W.shape[1]
    left, right = c.ridge * W, c.ridge * torch.eye(d, dtype=W.dtype)
    for o, n in zip(p.targets, p.anchors, strict=True):
        left = left + c.erase_scale * torch.outer(W @ n, o)
        right = right + c.erase_scale * torch.outer(o, o)
    for r in p.retain:
        left = left + c.retain_scale * torch.outer(W @ r, r)
        right = right + c.retain_scale * torch.outer(r, r)
    return left @ torch.linalg.inv(right) - W


def literal_speed(W: Tensor, p: TextProblem, c: SPEEDConfig, K: Tensor, g: Tensor) -> Tensor:
    """The printed closed form, with the retain moment summed over explicit augmented rows."""
    k, d = p.targets.shape
    eye = torch.eye(d, dtype=W.dtype)
    T, A = p.targets.mT @ p.targets / k, p.anchors.mT @ p.targets / k
    probe = W @ (A - T) @ torch.linalg.inv(eye + T)
    influence = (p.retain @ probe.mT).norm(dim=1)
    kept = p.retain[influence > influence.mean()]
    _left, _, right = torch.linalg.svd(W, full_matrices=False)
    v = right[-1] * torch.sign(right[-1].dot(weakest_direction(W)))
    P_min = torch.outer(v, v)
    total, count = torch.zeros((d, d), dtype=W.dtype), 0
    for start in range(0, len(kept), c.chunk):
        part = kept[start : start + c.chunk]
        # Noise whose component along v is g: what the projector leaves of it is g v.
        copies = (part[:, None] + (g[start : start + c.chunk, :, None] * v) @ P_min).flatten(0, 1)
        moved = (copies @ probe.mT).norm(dim=1)
        rows = torch.cat([part, copies[moved > moved.mean()]])
        total += (rows[:, :, None] @ rows[:, None, :]).sum(dim=0)
        count += len(rows)
    U, S, _ = torch.linalg.svd(total / count)
    P = U[:, c.threshold > S] @ U[:, c.threshold > S].mT
    M = torch.linalg.inv(T @ P + c.ridge * eye)
    core = K.mT @ P @ M @ K + c.invariant_slack * torch.eye(K.shape[1], dtype=W.dtype)
    return W @ (A - T) @ P @ (eye - M @ K @ torch.linalg.inv(core) @ K.mT @ P) @ M


def change(solution: Solution, path: str, W: Tensor) -> Tensor:
    """What a solution adds to one weight."""
    parts = [m.delta(W) for m in solution.text_maps if path in m.modules]
    if solution.modules and path in solution.modules:
        parts.append(solution.modules[path].delta(W))
    return torch.stack(parts).sum(dim=0)


def bench_uce(shape: str, concepts: int) -> Row:
    p, weights = build(shape, concepts, "kv")
    config = UCEConfig(fixed="none", tokens="last")
    solution, seconds, peak = cold_and_warm(lambda: UCE.solve(p, weights, config, torch.Generator()))
    # The edit is one d x d map; making the new weights from it belongs to the job as much as solving does.
    _, apply_seconds, _ = timed(lambda: [w + change(solution, path, w) for path, w in weights.items()])
    subset = _spread(weights, LITERAL_LAYERS["uce"])
    literal, naive, _ = timed(lambda: {q: literal_uce(weights[q].double(), p, config) for q in subset})
    return _row(shape, "uce", concepts, seconds + apply_seconds, naive, peak, solution, weights, literal)


def bench_speed(shape: str, concepts: int) -> Row:
    p, weights = build(shape, concepts, "v")
    config = SPEEDConfig(params="v", tokens="last", retain_tokens="last")
    solution, seconds, peak = cold_and_warm(lambda: SPEED.solve(p, weights, config, torch.Generator().manual_seed(0)))
    subset = list(weights)[: LITERAL_LAYERS["speed"]]  # the first layer, whose draws can be repeated
    generator = torch.Generator().manual_seed(0)
    K = invariant_states(p, config.invariants, generator)

    def literal_first() -> dict[str, Tensor]:
        W = weights[subset[0]].double()
        rows = _kept(W, p)
        g = torch.randn((rows, config.draws), generator=generator, dtype=torch.float64)
        return {subset[0]: literal_speed(W, p, config, K, g)}

    literal, naive, _ = timed(literal_first)
    return _row(shape, "speed", concepts, seconds, naive, peak, solution, weights, literal)


def _kept(W: Tensor, p: TextProblem) -> int:
    """How many retained rows the filter keeps for a layer, which is how many rows of noise the method draws."""
    k, d = p.targets.shape
    T, A = p.targets.mT @ p.targets / k, p.anchors.mT @ p.targets / k
    influence = (p.retain @ (W @ (A - T) @ torch.linalg.inv(torch.eye(d).double() + T)).mT).norm(dim=1)
    return int((influence > influence.mean()).sum())


def _row(
    shape: str,
    method: str,
    concepts: int,
    seconds: float,
    naive: float,
    peak: float,
    solution: Solution,
    weights: dict[str, Tensor],
    literal: dict[str, Tensor],
) -> Row:
    differences = [
        float((change(solution, q, weights[q].double()) - wanted).norm() / wanted.norm())
        for q, wanted in literal.items()
    ]
    naive_all = naive * len(weights) / len(literal)
    return Row(
        shape,
        method,
        concepts,
        round(seconds, 3),
        round(naive_all, 2),
        round(naive_all / seconds, 1),
        max(differences),
        round(peak, 1),
        len(literal),
        len(weights),
    )


def cold_and_warm(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Memory of a first run, before the allocator keeps any of it, and the time of a second one."""
    _, _, peak = timed(work)
    result, seconds, _ = timed(work)
    return result, seconds, peak


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """(result, seconds, extra resident megabytes at the peak); memory is sampled every few milliseconds."""
    before, peak, done = _resident(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.003):
            peak[0] = max(peak[0], _resident() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - began
    done.set()
    watcher.join()
    return result, seconds, max(peak[0], _resident() - before)


def _resident() -> float:
    """Megabytes of memory that this process holds."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _spread(weights: dict[str, Tensor], count: int) -> list[str]:
    """The first weight and others spread over the sizes."""
    paths = list(weights)
    return [paths[i * (len(paths) - 1) // max(1, count - 1)] for i in range(count)]


BENCHES: dict[str, Callable[[str, int], Row]] = {"uce": bench_uce, "speed": bench_speed}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--shape", choices=SHAPES, default="sd15")
    parser.add_argument("--concepts", type=int, default=100)
    parser.add_argument("--method", action="append", choices=BENCHES)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    rows = []
    for method in options.method or BENCHES:
        rows.append(BENCHES[method](options.shape, options.concepts))
    if options.json:
        print(json.dumps([row.__dict__ for row in rows], indent=2))
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {RETAINED} retained texts")
    for row in rows:
        print(
            f"{row.method:6} {row.shape} {row.concepts} concepts, {row.layers} matrices: {row.seconds:.2f} s; literal "
            f"{row.naive_seconds:.1f} s ({row.naive_layers} of {row.layers} timed, scaled), ratio {row.ratio:.0f}; "
            f"largest relative difference {row.max_rel_diff:.1e}; extra memory {row.peak_extra_mb:.0f} MB"
        )


if __name__ == "__main__":
    main()
