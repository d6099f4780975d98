"""Train weights and choose the best checkpoint: the second half of every trained method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, replace
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from excise.edits.deltas import Delta
from excise.edits.edit import Edit, applied_edits
from excise.families.base import Family
from excise.families.fingerprints import fingerprint, text_encoder_print
from excise.support.digests import digest
from excise.training.adapters import Weights
from excise.training.averaging import Average
from excise.training.calibration import Point, calibrate
from excise.training.config import TrainedConfig
from excise.training.loop import Stateful, Step, Trainer
from excise.training.probes import Preview
from excise.training.problem import TrainingProblem

FEW = 256  # positions of the latents
UNSEEN = "none: training pictures were not filtered, the last checkpoint was kept"


def preview_of(problem: TrainingProblem, others: Sequence[str] = ()) -> Preview | None:
    """Probes by which blocks and checkpoints are judged, drawn once from the untouched model; None without a judge.

    Args:
        others: names that may stand in for the targets.
    """
    probes = [p for c in problem.concepts for p in problem.probes.get(c.name, ())]
    if problem.scorer is None or not probes:
        return None
    return Preview(problem.family, probes, problem.scorer, problem.sampling, problem.seed, others, telling=True)


def train(
    problem: TrainingProblem,
    config: TrainedConfig,
    weights: Weights,
    step_of: Callable[[Weights], Step],
    preview: Preview | None,
    on_chosen_checkpoint: Callable[[Weights], None] | None = None,
    extra_state: Sequence[Stateful] = (),
    average: Average | None = None,
) -> tuple[Mapping[str, Delta], dict[str, Any]]:
    """Train, choose a checkpoint, and return its deltas; the model is left as it was.

    Args:
        step_of: makes one pass of training from the attached weights; one that is `Stateful` is saved with them.
        on_chosen_checkpoint: called with the weights while the model is as the chosen checkpoint has it.
        extra_state: further state saved with each checkpoint.
        average: a running mean of the weights, which is what checkpoints hold.

    Returns:
        The deltas of the chosen checkpoint, and the evidence: losses, calibration curve, chosen step.
    """

    def watch(done: int, total: int, losses: Mapping[str, float]) -> None:
        loss = f"loss {losses['loss']:.3f}" if "loss" in losses else "a step was skipped"
        problem.say(f"training, {loss}", done, total)

    plan = replace(config.plan(), request=_request(problem, config, weights))
    with weights:
        with training_mode(problem.family, config.checkpointing, weights.text_encoders):
            if average is not None:
                average.begin()
            step = step_of(weights)
            further: list[Stateful] = [*extra_state, *([step] if isinstance(step, Stateful) else [])]
            trainer = Trainer(
                weights,
                plan,
                problem.seed,
                folder=problem.folder,
                extra_state=[*further, *([average] if average else [])],
                average=average,
                tracker=config.tracker,
                advice=config.steadier,
            )
            run = trainer.fit(step, watch)
        chosen, curve = max(run.states), list[Point]()
        if preview is not None:
            chosen, curve = calibrate(
                weights, run.states, preview, config.calibrate, problem.say, config.tie, config.keep
            )
        weights.load(run.states[chosen])
        deltas = weights.deltas()
        if on_chosen_checkpoint is not None:
            with training_mode(problem.family, config.checkpointing, weights.text_encoders):
                on_chosen_checkpoint(weights)
    return deltas, {
        "judge": problem.scorer.name if problem.scorer else UNSEEN,
        "step": chosen,
        "calibration": [
            {"step": p.step, **vars(p.rates), "retain": p.rates.retain, "score": p.rates.score} for p in curve
        ],
        "losses": run.losses,
        "skipped_steps": run.skipped,
    }


def chosen_point(measured: Mapping[str, Any]) -> Mapping[str, Any]:
    """The point of the calibration curve that `train` chose, from the evidence that it returned."""
    point: Mapping[str, Any] = next(p for p in measured["calibration"] if p["step"] == measured["step"])
    return point


@contextmanager
def training_mode(family: Family, checkpointing: bool, encoders: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Set up the model for passes with gradients inside the block: gradient checkpointing, attention backend.

    Args:
        checkpointing: recompute what is between layers, in the denoiser and in the text encoders that are trained.
        encoders: these, by name.
    """
    with ExitStack() as stack:
        if checkpointing:
            denoiser: Any = family.denoiser
            denoiser.enable_gradient_checkpointing()
            stack.callback(denoiser.disable_gradient_checkpointing)
            for encoder in (encoders or {}).values():
                stack.enter_context(_checkpointed(encoder))
        stack.enter_context(attention_backend(family))
        yield


@contextmanager
def _checkpointed(encoder: Any) -> Iterator[None]:
    """Gradient checkpointing in a text encoder.

    Layers of transformers recompute only in training mode; it is set on them alone, not on the dropout inside them.
    """
    kind = "activation" if hasattr(encoder, "activation_checkpointing_enable") else "gradient"  # as it is called now
    getattr(encoder, f"{kind}_checkpointing_enable")({"use_reentrant": False})
    encoder.disable_input_require_grads()  # a hook on the tokens' embeddings, which would stay behind and needs not be
    resting = [m for m in encoder.modules() if getattr(m, "gradient_checkpointing", False) and not m.training]
    for layer in resting:
        layer.training = True
    try:
        yield
    finally:
        for layer in resting:
            layer.training = False
        getattr(encoder, f"{kind}_checkpointing_disable")()


def attention_backend(family: Family) -> AbstractContextManager[Any]:
    """The attention kernel for passes with gradients: on a CPU the backward pass of fused attention is slow.

    Over few positions it would take a third of a step.
    """
    tokens = family.latent_shape[1] * family.latent_shape[2]
    plain = family.device.type == "cpu" and tokens <= FEW
    return sdpa_kernel(SDPBackend.MATH) if plain else nullcontext()


def _request(problem: TrainingProblem, config: TrainedConfig, trained: Weights) -> str:
    """A digest of all that a training depends on besides its plan; only the same request resumes a checkpoint."""
    concepts = [asdict(c) for c in problem.concepts]
    weights = fingerprint({p.path: p.module.weight for p in problem.family.projections()})
    requested = [concepts, list(problem.retain), list(problem.preserve), dict(problem.candidates)]
    judge = problem.scorer.name if problem.scorer else None
    encoders = [text_encoder_print(problem.family)] if trained.text_encoders else []
    below = [_told_apart(edit, strength) for edit, strength in applied_edits(problem.family)]
    further = [*encoders, *([below] if below else [])]
    return digest([requested, config.model_dump(mode="json", exclude={"tracker"}), weights, judge, *further])


def _told_apart(edit: Edit, strength: float) -> list[Any]:
    """What tells an edit that is in force from others: all that it changes, and how much."""
    hooks = [hook.digest(strength) for hook in edit.hooks]
    return [edit.paths, fingerprint(edit.tensors(), torch.float32), hooks, strength]
