"""The optimiser and the learning rate of a training, as settings give them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import tiny_pipe

from excise.families import family_of
from excise.methods import METHODS, settings_of
from excise.methods.trained.slug_config import SLUGConfig
from excise.training.adapters import FullWeights, other_linears
from excise.training.config import TrainedConfig
from excise.training.loop import Plan, Run, Trainer

OPTIMISER = ("lr_warmup", "lr_cycles", "weight_decay", "beta2")
TRAINED = sorted(name for name, record in METHODS.records().items() if record.shape == "trained")


def rates(**settings) -> list[float]:
    plan = Plan(steps=3000, lr=1e-4, save_every=1, **settings)
    return [plan.rate(step) for step in range(3000)]


def test_without_a_warm_up_the_first_step_has_the_whole_rate():
    assert rates(warmup=0.0) == [1e-4] * 3000
    assert rates()[0] < 1e-6


def test_a_cosine_begun_anew_is_full_again_after_each_fall():
    """Cosine with hard restarts: warm-up over 500 of 3,000 steps, then (1 + cos(pi (3 p mod 1))) / 2, p in [0, 1)."""
    seen = rates(warmup=1 / 6, lr_scheduler="cosine", cycles=3)
    assert seen[:500] == pytest.approx([1e-4 * (i + 1) / 500 for i in range(500)])
    expected = [1e-4 * (1 + math.cos(math.pi * ((3 * i / 2501) % 1))) / 2 for i in range(1, 2501)]
    assert seen[500:] == pytest.approx(expected, rel=1e-6, abs=1e-12)
    rises = [i for i in range(500, 3000) if seen[i] > seen[i - 1]]
    assert len(rises) == 2
    assert all(seen[i] > 0.99e-4 and seen[i - 1] < 1e-9 for i in rises)


def test_one_cycle_is_the_cosine_to_the_bit():
    warm = 150.0
    assert rates(lr_scheduler="cosine")[150:] == [
        1e-4 * (1 + math.cos(math.pi * (step + 1 - warm) / (3001 - warm))) / 2 for step in range(150, 3000)
    ]


def trained(tokenizer, scales=(0.0,), **settings) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight before and after a step for each scale, by a loss whose gradient is the scale everywhere."""
    family = family_of(tiny_pipe(tokenizer))
    path = other_linears(family)[0]
    plan = Plan(steps=len(scales), lr=0.1, save_every=len(scales), warmup=0.0, clip=math.inf, **settings)
    with FullWeights(family, [path]) as weights:
        (weight,) = weights.parameters.values()
        before, left = weight.detach().clone(), iter(scales)
        Trainer(weights, plan, 0).fit(lambda generator: {"loss": weight.sum() * next(left)})
        return before, weight.detach().clone()


def test_weight_decay_shrinks_and_none_leaves_alone(tokenizer):
    before, after = trained(tokenizer, weight_decay=0.5)
    torch.testing.assert_close(after, before * 0.95)
    before, after = trained(tokenizer, weight_decay=0.0)
    assert torch.equal(after, before)


def test_a_lower_beta2_forgets_a_large_gradient_sooner(tokenizer):
    moved = {}
    for beta2 in (0.999, 0.9):
        before, after = trained(tokenizer, (100.0, *[1.0] * 20), weight_decay=0.0, beta2=beta2)
        moved[beta2] = float((before - after).mean())
    m, v, total = 0.0, 0.0, 0.0  # Adam by hand, arXiv 1412.6980, algorithm 1
    for t, gradient in enumerate((100.0, *[1.0] * 20), start=1):
        m, v = 0.9 * m + 0.1 * gradient, 0.9 * v + 0.1 * gradient**2
        total += 0.1 * (m / (1 - 0.9**t)) / math.sqrt(v / (1 - 0.9**t))
    assert moved[0.9] == pytest.approx(total, rel=1e-3)
    assert abs(moved[0.9] - moved[0.999]) > 0.01


def test_where_the_last_checkpoint_is_chosen_no_other_is_held(tokenizer, tmp_path):
    """Of a whole denoiser each checkpoint takes gigabytes, in memory and in what a run resumes from."""
    family = family_of(tiny_pipe(tokenizer))
    path = other_linears(family)[0]

    def fitted(folder: Path, config: TrainedConfig, stop: int = 7) -> tuple[Run, torch.Tensor]:
        with FullWeights(family, [path]) as weights:
            (weight,) = weights.parameters.values()
            done = 0

            def step(generator: torch.Generator) -> dict[str, torch.Tensor]:
                nonlocal done
                if done == stop:
                    raise KeyboardInterrupt
                done += 1
                return {"loss": (weight**2).sum()}

            try:
                run = Trainer(weights, config.plan(), 0, folder=folder).fit(step)
            except KeyboardInterrupt:
                run = Run()
            return run, weight.detach().clone()

    last = TrainedConfig(steps=7, save_every=3, calibrate="last")
    run, weight = fitted(tmp_path / "whole", last)
    saved = torch.load(tmp_path / "whole" / "state.pt", weights_only=True)
    assert [*run.states] == [*saved["states"]] == [7]
    fitted(tmp_path / "broken", last, stop=5)
    resumed, again = fitted(tmp_path / "broken", last)
    assert [*resumed.states] == [7]
    assert torch.equal(again, weight)
    assert [*fitted(tmp_path / "all", TrainedConfig(steps=7, save_every=3))[0].states] == [3, 6, 7]


def test_checkpoints_of_a_version_that_held_all_are_let_go(tokenizer, tmp_path):
    """So that what is judged and written down does not tell a resumed run from another."""
    family = family_of(tiny_pipe(tokenizer))
    config = TrainedConfig(steps=6, save_every=2, calibrate="last")
    for plan in (replace(config.plan(), newest=False), config.plan()):
        with FullWeights(family, other_linears(family)[:1]) as weights:
            (weight,) = weights.parameters.values()
            run = Trainer(weights, plan, 0, folder=tmp_path).fit(lambda _, w=weight: {"loss": (w**2).sum()})
    assert [*run.states] == [6]


def test_settings_of_the_optimiser_reach_the_plan():
    config = TrainedConfig(lr_warmup=0.25, lr_cycles=2, weight_decay=0.5, beta2=0.9, lr_scheduler="cosine")
    plan = config.plan()
    assert (plan.warmup, plan.cycles, plan.weight_decay, plan.beta2) == (0.25, 2, 0.5, 0.9)
    usual, ours = Plan(steps=600, lr=1e-4, save_every=50), TrainedConfig().plan()
    assert ours == usual


@pytest.mark.parametrize("method", TRAINED)
def test_what_nobody_set_is_not_written_down(method):
    """Records and digests of requests that leave the optimiser alone hold nothing of it."""
    assert not set(OPTIMISER) & set(settings_of(method)().model_dump())
    assert not any(name in repr(Plan(steps=1, lr=1.0, save_every=1)) for name in ("beta2", "cycles", "newest"))


@pytest.mark.parametrize("name", OPTIMISER)
def test_a_method_without_an_optimiser_reads_nothing_of_it(name):
    """What a method does not read is refused: test_reading."""
    assert name in SLUGConfig.unread
