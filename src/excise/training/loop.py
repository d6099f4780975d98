"""The training loop of trained methods, on accelerate: mixed precision, accumulation, several processes, resumable.

Each step draws its randomness from (seed, step), so a resumed run ends exactly where an uninterrupted one ends. A step
whose loss is not finite is skipped and counted; too many of them end the training at its last checkpoint.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from torch import Tensor, nn

from excise.errors import ExciseWarning, SettingError, TrainingError
from excise.support.counts import counted
from excise.support.files import write_atomically, write_text
from excise.training.adapters import Weights
from excise.training.averaging import Average

EXTRA_STATE = "beside"  # its key in checkpoint files
State = dict[str, Tensor]
Losses = Mapping[str, Tensor]
Step = Callable[[torch.Generator], Losses]
Watch = Callable[[int, int, Mapping[str, float]], None]
"""Receives steps done, steps in all, and the losses of the last step."""


@runtime_checkable
class Stateful(Protocol):
    """State of a training besides its weights and its optimiser."""

    def state_dict(self) -> dict[str, Any]:
        """The state, of values that `torch.load(weights_only=True)` reads."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train.

    Attributes:
        steps: optimiser steps.
        lr: learning rate after a linear warm-up over `warmup` of the steps. lr_scheduler: whether it stays there
            (constant) or falls to zero along a half cosine (cosine), begun anew so that there are `cycles` of them.
        save_every: steps between checkpoints.
        accumulate: passes whose gradients make one step.
        clip: largest gradient norm.
        weight_decay, beta2: of AdamW; without decay it is Adam.
        patience: steps that may be skipped; one more ends the training.
        precision: no, bf16 or fp16.
        request: a digest of what is trained; a run is resumed only where it agrees.
        newest: hold the newest checkpoint alone; of whole denoisers each takes gigabytes.
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
    beta2: float = field(default=0.999, repr=False)  # of these a checkpoint knows by `request`
    cycles: int = field(default=1, repr=False)
    newest: bool = field(default=False, repr=False)

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        warm = max(1.0, self.warmup * self.steps)
        if step + 1 <= warm or self.lr_scheduler == "constant":
            return self.lr * min(1.0, (step + 1) / warm)
        cycle = (self.steps + 1 - warm) / self.cycles
        return self.lr * (1 + math.cos(math.pi * ((step + 1 - warm) % cycle) / cycle)) / 2


@dataclass
class Run:
    """A finished training: the trained values by step, the losses of every step, and how many steps were skipped."""

    states: dict[int, State] = field(default_factory=dict)
    losses: list[dict[str, float]] = field(default_factory=list)
    skipped: int = 0
    seconds: float = 0.0


@dataclass
class Trainer:
    """A training: what is trained, how, and what is saved on the way.

    Every process that `accelerate launch` started takes its own passes; gradients and losses are averaged.

    Attributes:
        weights: what is trained, attached to the model.
        folder: of `state.pt` (to resume from) and `losses.jsonl`; None saves nothing.
        extra_state: further state saved with each checkpoint and restored on resume (rank 0's on every process).
        tracker: also log to this tracker of accelerate: tensorboard, wandb, mlflow, ...
        advice: what the caller's user can set where losses are not finite.
        average: a running mean of the weights, which is what checkpoints hold.
    """

    weights: Weights
    plan: Plan
    seed: int
    folder: Path | None = None
    extra_state: Sequence[Stateful] = ()
    tracker: str = ""
    advice: str = "lower the learning rate"
    average: Average | None = None

    def fit(self, step_of: Step, watch: Watch | None = None) -> Run:
        """Train, or go on from the last checkpoint of an interrupted run.

        Args:
            step_of: computes the losses of one pass, by name; "loss" is minimised, the others are logged.
            watch: receives progress.

        Raises:
            SettingError: the precision or the tracker is not available.
            TrainingError: the loss was not finite too often before the first checkpoint, or in every step, or memory
                ran out.
        """
        plan, weights = self.plan, self.weights
        accelerator = _accelerator(plan, self.tracker, self.folder)
        betas, parameters = (0.9, plan.beta2), weights.parameters.values()
        adamw = torch.optim.AdamW(parameters, lr=plan.lr, betas=betas, weight_decay=plan.weight_decay)
        optimiser = accelerator.prepare(adamw)
        run, start = self._resume(accelerator, optimiser)
        began = time.monotonic() - run.seconds
        for step in range(start, plan.steps):
            for group in optimiser.param_groups:
                group["lr"] = plan.rate(step)
            losses = self._step(accelerator, optimiser, step_of, step)
            run.skipped += losses is None
            run.losses.append({"step": step + 1, **(losses or {})})
            if run.skipped > plan.patience:
                self._give_up(run, step + 1)
                break
            run.seconds = time.monotonic() - began
            if (step + 1) % plan.save_every == 0 or step + 1 == plan.steps:
                before = {} if plan.newest else run.states
                run.states = {**before, step + 1: (self.average or weights).state()}
                if accelerator.is_main_process:
                    self._save(accelerator, optimiser, run, step + 1)
            accelerator.log(losses or {}, step=step + 1)
            if watch:
                watch(step + 1, plan.steps, run.losses[-1])
        if run.skipped and run.skipped == plan.steps:
            self._give_up(run, plan.steps)
        accelerator.wait_for_everyone()
        for log in accelerator.trackers:
            log.finish()  # not `end_training`, which parts the processes: there may be more to train
        return run

    def _step(self, accelerator: Accelerator, optimiser: Any, step_of: Step, step: int) -> dict[str, float] | None:
        """One optimiser step; None where its loss or gradient was not finite and nothing was changed."""
        optimiser.zero_grad(set_to_none=True)
        passes, parameters, total = self.plan.accumulate, self.weights.parameters, dict[str, float]()
        try:
            for i in range(passes):
                part = (step * passes + i) * accelerator.num_processes + accelerator.process_index
                with accelerator.autocast():
                    losses = step_of(torch.Generator().manual_seed(_mixed(self.seed, part)))
                accelerator.backward(losses["loss"] / passes)
                for name, value in losses.items():
                    total[name] = total.get(name, 0.0) + float(value.detach()) / passes
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                "the device ran out of memory in training; lower --set batch=..., raise --set accumulate=..., or use "
                "--set checkpointing=true"
            ) from error
        if accelerator.num_processes > 1:
            _average(accelerator, parameters, total)
        norm = accelerator.clip_grad_norm_(list(parameters.values()), self.plan.clip)
        finite = bool(torch.isfinite(norm)) and all(map(math.isfinite, total.values()))
        if finite or accelerator.scaler is not None:  # the scaler of fp16 skips a bad step by itself, and scales less
            optimiser.step()
            self.weights.settle(self.plan.rate(step))
            if self.average is not None:
                self.average.update()
        return (
            {**{name: round(v, 6) for name, v in total.items()}, "gradient": round(float(norm), 6)} if finite else None
        )

    def _give_up(self, run: Run, step: int) -> None:
        """Warn that training ends at its last checkpoint, because too many steps were skipped.

        Raises:
            TrainingError: there is no checkpoint of a step that was made.
        """
        seen = f"the loss was not finite in {counted(run.skipped, 'step')} (the last one {step} of {self.plan.steps})"
        if not run.states or run.skipped == step:  # a checkpoint of no step at all is none
            raise TrainingError(f"{seen}; {self.advice}.")
        warnings.warn(
            f"{seen}, so training ended at its checkpoint of step {max(run.states)}; {self.advice}, or keep that one.",
            ExciseWarning,
            stacklevel=3,
        )

    def _identity(self, accelerator: Accelerator) -> list[Any]:
        """What a run must have in common with a checkpoint to be resumed from it."""
        return [repr(self.plan), self.seed, accelerator.num_processes, sorted(self.weights.parameters)]

    def _resume(self, accelerator: Accelerator, optimiser: Any) -> tuple[Run, int]:
        """What an earlier run of the same plan saved, and its step; an empty run where there is none."""
        path = self.folder / "state.pt" if self.folder is not None else None
        if path is None or not path.exists():
            return Run(), 0
        state = _checkpoint(path)
        extra = state.get(EXTRA_STATE, [])
        if state.get("plan") != self._identity(accelerator) or len(extra) != len(self.extra_state):
            return Run(), 0
        step, states = int(state["step"]), state["states"]
        held = {step: states[step]} if self.plan.newest else states
        run = Run(held, state["losses"], state["skipped"], state["seconds"])
        self.weights.load(run.states[step])
        for one, saved in zip(self.extra_state, extra, strict=True):
            one.load_state_dict(saved)
        optimiser.load_state_dict(state["optimiser"])
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(state["scaler"])
        return run, step

    def _save(self, accelerator: Accelerator, optimiser: Any, run: Run, step: int) -> None:
        """Write a checkpoint, atomically."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "plan": self._identity(accelerator),
            "states": run.states,
            "losses": run.losses,
            "skipped": run.skipped,
            "seconds": run.seconds,
            "optimiser": optimiser.state_dict(),
            "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else {},
            EXTRA_STATE: [one.state_dict() for one in self.extra_state],
            "step": step,
        }
        write_atomically(self.folder / "state.pt", lambda p: torch.save(state, p))
        write_text(self.folder / "losses.jsonl", "".join(json.dumps(line) + "\n" for line in run.losses))


def _checkpoint(path: Path) -> dict[str, Any]:
    """What `Trainer` saved; nothing, with a warning, where the file cannot be read."""
    try:
        state: Any = torch.load(path, weights_only=True)
    except OSError:
        raise
    except Exception:  # what torch raises depends on where a file is damaged
        state = None
    if isinstance(state, dict):
        return state
    warnings.warn(
        f"{path} is no checkpoint that can be read, so training begins anew and replaces it.",
        ExciseWarning,
        stacklevel=4,
    )
    return {}


def _average(accelerator: Accelerator, parameters: Mapping[str, nn.Parameter], total: dict[str, float]) -> None:
    """Average gradients and losses over the processes, so that all take the same step, or none."""
    for p in parameters.values():
        if p.grad is not None:
            p.grad = accelerator.reduce(p.grad, "mean")
    values = accelerator.reduce(torch.tensor(list(total.values()), device=accelerator.device), "mean")
    total.update(zip(total, values.tolist(), strict=True))


def _accelerator(plan: Plan, tracker: str, folder: Path | None) -> Accelerator:
    """An accelerator of the plan's precision, which may differ from that of an earlier training in this process."""
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
    """Refuse a precision or a tracker that this machine does not have.

    Raises:
        SettingError: it is not available.
    """
    if precision == "fp16" and not torch.cuda.is_available():
        raise SettingError("precision fp16 needs a GPU, and there is none here; use --set precision=bf16 or no.")
    if tracker and tracker not in (installed := [str(t) for t in get_available_trackers()]):
        raise SettingError(
            f"no tracker '{tracker}' is installed; {', '.join(installed) or 'none'} can be used. Install it, or leave "
            "--set tracker=... out: the losses are kept in losses.jsonl anyway."
        )


def _mixed(seed: int, part: int) -> int:
    """A seed for one pass of one run; those of neighbouring passes have nothing in common."""
    return int(torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(seed * 1_000_003 + part)))
