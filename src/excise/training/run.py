"""Train an adapter and keep its best checkpoint: the second half of every trained method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel

from excise.edits.deltas import Delta
from excise.families.base import Family
from excise.families.fingerprints import fingerprint
from excise.support.digests import digest
from excise.training.adapters import Weights
from excise.training.calibration import Point, calibrate
from excise.training.config import TrainedConfig
from excise.training.loop import Stateful, Step, fit
from excise.training.probes import Look
from excise.training.problem import TrainingProblem

FEW = 256  # positions of the latents
UNSEEN = "none: training pictures were not filtered, the last checkpoint was kept"


def look_of(problem: TrainingProblem, others: Sequence[str] = ()) -> Look | None:
    """The pictures to judge checkpoints and blocks by, drawn once from the untouched model; None without a judge.

    Args:
        others: names that may stand in for the targets.
    """
    probes = [p for c in problem.concepts for p in problem.probes.get(c.name, ())]
    if problem.scorer is None or not probes:
        return None
    return Look(problem.family, probes, problem.scorer, problem.sampling, problem.seed, others)


def train(
    problem: TrainingProblem,
    config: TrainedConfig,
    adapter: Weights,
    step_of: Callable[[Weights], Step],
    look: Look | None,
    meet: Callable[[Weights], None] | None = None,
    beside: Sequence[Stateful] = (),
) -> tuple[Mapping[str, Delta], dict[str, Any]]:
    """Train, calibrate, take the deltas; the model is left as it was.

    Args:
        meet: called with the adapter while the model is as the chosen checkpoint has it.
        beside: what else changes from step to step.

    Returns:
        The deltas of the chosen checkpoint, and the evidence: losses, calibration curve, chosen step.
    """

    def watch(done: int, total: int, losses: Mapping[str, float]) -> None:
        loss = f"loss {losses['loss']:.3f}" if "loss" in losses else "a step was left out"
        problem.say(f"training, {loss}", done, total)

    plan = replace(config.plan(), request=_request(problem, config))
    with adapter:
        with passes(problem.family, config):
            step = step_of(adapter)
            run = fit(
                adapter,
                step,
                plan,
                seed=problem.seed,
                folder=problem.folder,
                beside=beside,
                watch=watch,
                tracker=config.tracker,
                advice=config.steadier,
            )
        chosen, curve = max(run.states), list[Point]()
        if look is not None:
            chosen, curve = calibrate(adapter, run.states, look, config.calibrate, problem.say, config.tie, config.keep)
        adapter.load(run.states[chosen])
        deltas = adapter.deltas()
        if meet is not None:
            with passes(problem.family, config):
                meet(adapter)
    return deltas, {
        "judge": problem.scorer.name if problem.scorer else UNSEEN,
        "step": chosen,
        "calibration": [
            {"step": p.step, **vars(p.rates), "retain": p.rates.retain, "score": p.rates.score} for p in curve
        ],
        "losses": run.losses,
        "skipped_steps": run.skipped,
    }


def kept_point(measured: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of what `train` measured, the point of the calibration curve that was kept."""
    found: Mapping[str, Any] = next(p for p in measured["calibration"] if p["step"] == measured["step"])
    return found


@contextmanager
def passes(family: Family, config: TrainedConfig) -> Iterator[None]:
    """How passes through the model are made for a while: with gradient checkpointing or not, and how it attends."""
    if config.checkpointing:
        family.denoiser.enable_gradient_checkpointing()  # type: ignore[operator]
    try:
        with attending(family):
            yield
    finally:
        if config.checkpointing:
            family.denoiser.disable_gradient_checkpointing()  # type: ignore[operator]


def attending(family: Family) -> AbstractContextManager[Any]:
    """How it attends in passes with gradients: on a CPU the backward pass of fused attention is slow.

    Over few positions it would take a third of a step.
    """
    tokens = family.latent_shape[1] * family.latent_shape[2]
    plain = family.device.type == "cpu" and tokens <= FEW
    return sdpa_kernel(SDPBackend.MATH) if plain else nullcontext()


def _request(problem: TrainingProblem, config: TrainedConfig) -> str:
    """A digest of all that a training run depends on beside its plan: no other request may go on with it."""
    concepts = [asdict(c) for c in problem.concepts]
    weights = fingerprint({p.path: p.module.weight for p in problem.family.projections()})
    asked = [concepts, list(problem.retain), list(problem.preserve), dict(problem.candidates)]
    judge = problem.scorer.name if problem.scorer else None
    return digest([asked, config.model_dump(mode="json", exclude={"tracker"}), weights, judge])
