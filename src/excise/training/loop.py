"""The loop of trained methods, on accelerate: mixed precision, accumulation, several processes, resumable.

Each step draws its randomness from (seed, step), so an interrupted run ends where an uninterrupted one ends. A step
whose loss is not finite is left out and counted; too many of them end the training at its last checkpoint.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from torch import Tensor, nn

from excise.errors import ExciseWarning, SettingError, TrainingError
from excise.support.files import write_atomically, write_text
from excise.training.adapters import Weights

State = dict[str, Tensor]
Losses = Mapping[str, Tensor]
Step = Callable[[torch.Generator], Losses]
Watch = Callable[[int, int, Mapping[str, float]], None]
"""Receives steps done, steps in all, and the losses of the last step."""


class Stateful(Protocol):
    """What can be kept and taken up again."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train.

    Attributes:
        steps: optimiser steps.
        lr: learning rate after a linear warm-up over `warmup` of the steps. lr_scheduler: whether it stays there
            (constant) or falls to zero along a half cosine (cosine).
        save_every: steps between the states that are kept.
        accumulate: passes whose gradients make one step.
        clip: largest gradient norm.
        patience: steps that may be left out; one more ends the training.
        precision: no, bf16 or fp16.
        request: a digest of what is trained; a run is gone on with only where it agrees.
    """

    steps: int
    lr: float
    save_every: int
    warmup: float = 0.05
    lr_scheduler: Literal["constant", "cosine"] = "constant"
    accumulate: int = 1
    clip: float = 1.0
    weight_decay: float = 1e-2
    patience: int = 10
    precision: str = "no"
    request: str = ""

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        warm = max(1.0, self.warmup * self.steps)
        if step + 1 <= warm or self.lr_scheduler == "constant":
            return self.lr * min(1.0, (step + 1) / warm)
        return self.lr * (1 + math.cos(math.pi * (step + 1 - warm) / (self.steps + 1 - warm))) / 2


@dataclass
class Run:
    """What training left: the adapter's state by step, the losses of every step, and how many were left out."""

    states: dict[int, State] = field(default_factory=dict)
    losses: list[dict[str, float]] = field(default_factory=list)
    skipped: int = 0
    seconds: float = 0.0


def fit(
    adapter: Weights,
    step_of: Step,
    plan: Plan,
    *,
    seed: int,
    folder: Path | None = None,
    beside: Sequence[Stateful] = (),
    watch: Watch | None = None,
    tracker: str = "",
    advice: str = "lower the learning rate",
) -> Run:
    """Train what the adapter holds.

    Every process that `accelerate launch` started takes its own passes; gradients and losses are averaged.

    Args:
        step_of: from a generator the losses of one pass, by name; "loss" is minimised, the others are logged.
        folder: of `state.pt` (to go on from) and `losses.jsonl`; None keeps nothing on disk.
        beside: what else changes from step to step. It goes on where it was; of several processes, where the first was.
        tracker: also log to what accelerate calls so: tensorboard, wandb, mlflow, ...
        advice: what to do where losses are not finite, in settings that the caller has.

    Raises:
        SettingError: the precision or the tracker is not to be had here.
        TrainingError: the loss was not finite too often before the first checkpoint, or memory ran out; the message
            says which knob to turn.
    """
    accelerator = _accelerator(plan, tracker, folder)
    parameters = adapter.parameters
    optimiser = accelerator.prepare(torch.optim.AdamW(parameters.values(), lr=plan.lr, weight_decay=plan.weight_decay))
    run, start = _resume(folder, adapter, optimiser, accelerator, plan, seed, beside)
    began = time.monotonic() - run.seconds
    for step in range(start, plan.steps):
        for group in optimiser.param_groups:
            group["lr"] = plan.rate(step)
        found = _step(accelerator, optimiser, parameters, step_of, plan, seed, step)
        run.skipped += found is None
        run.losses.append({"step": step + 1, **(found or {})})
        if run.skipped > plan.patience:
            _give_up(run, step + 1, plan, advice)
            break
        run.seconds = time.monotonic() - began
        if (step + 1) % plan.save_every == 0 or step + 1 == plan.steps:
            run.states[step + 1] = adapter.state()
            if folder is not None and accelerator.is_main_process:
                _keep(folder, run, optimiser, accelerator, plan, seed, step + 1, beside)
        accelerator.log(found or {}, step=step + 1)
        if watch:
            watch(step + 1, plan.steps, run.losses[-1])
    accelerator.wait_for_everyone()
    for log in accelerator.trackers:
        log.finish()  # not `end_training`, which parts the processes: there may be more to train
    return run


def _give_up(run: Run, step: int, plan: Plan, advice: str) -> None:
    """Too many steps were left out: say so, and go no further than the last checkpoint.

    Raises:
        TrainingError: there is none yet.
    """
    seen = f"the loss was not finite in {run.skipped} steps (the last one {step} of {plan.steps})"
    if not run.states:
        raise TrainingError(f"{seen}; {advice}.")
    warnings.warn(
        f"{seen}, so training ended at its checkpoint of step {max(run.states)}; {advice}, or keep that one.",
        ExciseWarning,
        stacklevel=3,
    )


def _step(
    accelerator: Accelerator,
    optimiser: Any,
    parameters: Mapping[str, nn.Parameter],
    step_of: Step,
    plan: Plan,
    seed: int,
    step: int,
) -> dict[str, float] | None:
    """One optimiser step; None where its loss or gradient was not finite and nothing was changed."""
    optimiser.zero_grad(set_to_none=True)
    total: dict[str, float] = {}
    try:
        for i in range(plan.accumulate):
            part = (step * plan.accumulate + i) * accelerator.num_processes + accelerator.process_index
            with accelerator.autocast():
                losses = step_of(torch.Generator().manual_seed(_mixed(seed, part)))
            accelerator.backward(losses["loss"] / plan.accumulate)
            for name, value in losses.items():
                total[name] = total.get(name, 0.0) + float(value.detach()) / plan.accumulate
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            "the device ran out of memory in training; lower --set batch=..., raise --set accumulate=..., or use "
            "--set checkpointing=true"
        ) from error
    if accelerator.num_processes > 1:
        _average(accelerator, parameters, total)
    norm = accelerator.clip_grad_norm_(list(parameters.values()), plan.clip)
    finite = bool(torch.isfinite(norm)) and all(map(math.isfinite, total.values()))
    if finite or accelerator.scaler is not None:  # the scaler of fp16 leaves a bad step out by itself, and scales less
        optimiser.step()
    return {**{name: round(v, 6) for name, v in total.items()}, "gradient": round(float(norm), 6)} if finite else None


def _average(accelerator: Accelerator, parameters: Mapping[str, nn.Parameter], total: dict[str, float]) -> None:
    """Gradients and losses become their means over the processes, so that all take the same step, or none."""
    for p in parameters.values():
        if p.grad is not None:
            p.grad = accelerator.reduce(p.grad, "mean")
    values = accelerator.reduce(torch.tensor(list(total.values()), device=accelerator.device), "mean")
    total.update(zip(total, values.tolist(), strict=True))


def _accelerator(plan: Plan, tracker: str, folder: Path | None) -> Accelerator:
    """An accelerator of the plan's precision; one process may train several methods one after another."""
    check_available(plan.precision, tracker)
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != plan.precision:
        AcceleratorState._reset_state()
    accelerator = Accelerator(
        mixed_precision=plan.precision,
        cpu=not torch.cuda.is_available(),
        log_with=tracker or None,
        project_dir=str(folder or "."),
    )
    if tracker:
        accelerator.init_trackers("excise", {k: v for k, v in asdict(plan).items() if k != "request"})
    return accelerator


def check_available(precision: str, tracker: str) -> None:
    """Raises:
    SettingError: the precision or the tracker is not to be had here.
    """
    if precision == "fp16" and not torch.cuda.is_available():
        raise SettingError("precision fp16 needs a GPU, and there is none here; use --set precision=bf16 or no.")
    if tracker and tracker not in (known := [str(t) for t in get_available_trackers()]):
        raise SettingError(
            f"no tracker '{tracker}' is installed; {', '.join(known) or 'none'} can be used. Install it, or leave "
            "--set tracker=... out: the losses are kept in losses.jsonl anyway."
        )


def _resume(
    folder: Path | None,
    adapter: Weights,
    optimiser: Any,
    accelerator: Accelerator,
    plan: Plan,
    seed: int,
    beside: Sequence[Stateful],
) -> tuple[Run, int]:
    """What an earlier run of the same plan left, or the beginning."""
    path = folder / "state.pt" if folder is not None else None
    if path is None or not path.exists():
        return Run(), 0
    state: Any = torch.load(path, weights_only=True)
    kept, same = state.get("beside", []), [repr(plan), seed, accelerator.num_processes, sorted(adapter.parameters)]
    if state["plan"] != same or len(kept) != len(beside):
        return Run(), 0
    for one, its in zip(beside, kept, strict=True):
        one.load_state_dict(its)
    run = Run(state["states"], state["losses"], state["skipped"], state["seconds"])
    adapter.load(run.states[state["step"]])
    optimiser.load_state_dict(state["optimiser"])
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(state["scaler"])
    return run, int(state["step"])


def _keep(
    folder: Path,
    run: Run,
    optimiser: Any,
    accelerator: Accelerator,
    plan: Plan,
    seed: int,
    step: int,
    beside: Sequence[Stateful],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        "plan": [repr(plan), seed, accelerator.num_processes, sorted(run.states[step])],
        "states": run.states,
        "losses": run.losses,
        "skipped": run.skipped,
        "seconds": run.seconds,
        "optimiser": optimiser.state_dict(),
        "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else {},
        "beside": [one.state_dict() for one in beside],
        "step": step,
    }
    write_atomically(folder / "state.pt", lambda p: torch.save(state, p))
    write_text(folder / "losses.jsonl", "".join(json.dumps(line) + "\n" for line in run.losses))


def _mixed(seed: int, part: int) -> int:
    """One seed for each part of each run, far from each other."""
    return int(torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(seed * 1_000_003 + part)))
