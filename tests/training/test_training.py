"""The training room: adapters that leave no trace, a loop that resumes, objectives by hand, choices that are fixed."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from conftest import tiny_pipe
from scipy.linalg import eigh
from torch.testing import assert_close

from excise.edits.edit import Edit
from excise.errors import ConceptError, ExciseWarning, SettingError, TrainingError
from excise.families import family_of
from excise.families.noising import Noising
from excise.families.text_space import pooled
from excise.methods.trained.surgun import contrasts
from excise.methods.trained.surgun.confinement import null_span, readings, target_span
from excise.methods.trained.surgun.distractors import choose as choose_distractors
from excise.methods.trained.surgun.localisation import choose as choose_blocks
from excise.training import loop
from excise.training.adapters import Adapter, blocks, choose_maps
from excise.training.calibration import Point, calibrate, choose
from excise.training.loop import Plan, Trainer
from excise.training.probes import Rates


@pytest.fixture
def family(any_pipe):
    return family_of(any_pipe)


def predict(family, prompt: str = "a cat") -> torch.Tensor:
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return family.predict(latents, torch.tensor([500]), family.condition([prompt]))


def fit(weights, step, plan, *, seed, **trainer):
    return Trainer(weights, plan, seed, **trainer).fit(step)


def push(family):
    """A loss that moves every prediction."""

    def step(generator: torch.Generator):
        latents = torch.randn(2, 4, 8, 8, generator=generator)
        guess = family.predict(latents, torch.tensor([300, 700]), family.condition(["a cat", "a dog"]))
        loss = (guess - 1).square().mean()
        return {"loss": loss, "target": loss}

    return step


def paths(family, modules: str = "attention", chosen=None) -> list[str]:
    return [m.path for m in choose_maps(family, modules, chosen)]


def test_an_adapter_changes_nothing_until_it_is_trained_and_leaves_no_trace(family):
    before, modules = predict(family), dict(family.denoiser.named_modules())
    weights = {k: v.clone() for k, v in family.denoiser.state_dict().items()}
    with Adapter(family, paths(family), 2, seed=0) as adapter:
        assert torch.equal(predict(family), before)
        fit(adapter, push(family), Plan(steps=2, lr=1e-2, save_every=1), seed=0)
        assert not torch.equal(predict(family), before)
        with adapter.teacher():
            assert torch.equal(predict(family), before)
        deltas = adapter.deltas()
        trained = predict(family)
    assert torch.equal(predict(family), before)
    assert all(a is b for a, b in zip(family.denoiser.modules(), modules.values(), strict=True))
    assert all(torch.equal(v, weights[k]) for k, v in family.denoiser.state_dict().items())
    assert not any(p.requires_grad for p in family.denoiser.parameters())
    for path, delta in deltas.items():  # and what it taught is in the deltas
        family.denoiser.get_submodule(path).weight.data += delta.b @ delta.a
    assert_close(predict(family), trained, rtol=1e-4, atol=1e-5)


def test_only_the_chosen_blocks_change(family):
    first = blocks(family)[0]
    with Adapter(family, paths(family, "cross", [first]), 2, seed=0) as adapter:
        fit(adapter, push(family), Plan(steps=1, lr=1e-2, save_every=1), seed=0)
        deltas = adapter.deltas()
    assert set(deltas) == {m.path for m in family.attention_maps() if m.block == first and m.source == "cross"}
    assert all(d.b.abs().max() > 0 for d in deltas.values())


def test_blocks_and_roles_that_do_not_exist(family):
    with pytest.raises(SettingError, match="no attention block 'nowhere'; it has:"):
        choose_maps(family, "attention", ["nowhere"])
    kinds = {(m.source, m.part) for m in family.attention_maps()}
    assert kinds == {(s, p) for s in ("self", "cross") for p in ("q", "k", "v", "out")}


def test_a_confined_adapter_leaves_all_but_its_span_exactly_alone(family):
    chosen = paths(family, "cross_kv")
    width = family.text_width
    basis = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(0)))[0]
    span, rest = basis[:, :4], basis[:, 4:]
    with Adapter(family, chosen, 2, seed=0, spans=dict.fromkeys(chosen, span)) as adapter:
        fit(adapter, push(family), Plan(steps=3, lr=3e-2, save_every=3), seed=0)
        for path in chosen:
            layer = family.denoiser.get_submodule(path)
            for states, moved in ((span.mT, True), (rest.mT, False)):
                change = (layer(states) - layer.base_layer(states)).abs().max()
                assert (change > 1e-4) == moved
                assert moved or change < 1e-5
        deltas = adapter.deltas()
    for delta in deltas.values():  # and so does the edit that is made of it
        assert delta.a.shape == (2, width)
        assert (delta.b @ (delta.a @ rest)).abs().max() < 1e-5


def test_the_null_span_is_what_retained_prompts_do_not_use(family):
    kept = ["a dog", "a car in neon style"]
    read = readings(family, [], kept)["tokens"]
    span = null_span(read, 1e-2).directions
    assert_close(span.mT @ span, torch.eye(span.shape[1], dtype=torch.float64), rtol=0, atol=1e-9)
    states = family.encode([*kept, ""])
    rows = torch.cat([states.span(i, "all") for i in range(3)]).double()
    assert 0 < span.shape[1] < family.text_width
    assert (rows @ span).square().mean(dim=0).max() < 1e-2
    with pytest.raises(SettingError, match="SurgUn needs names to protect"):
        readings(family, [], [])
    with pytest.raises(SettingError, match="no direction of text space is free at threshold -1"):
        null_span(read, -1.0)


def test_the_target_span_answers_to_the_target_and_hardly_to_what_is_kept(family):
    kept, share = ["a dog", "a car in neon style"], 0.5
    asked = [("a cat", "cat"), ("a kitty in neon style", "kitty")]
    found = target_span(readings(family, [asked], kept)["tokens"], share, 1e-2)
    span = found.directions
    states = family.encode([p for p, _ in asked], [w for _, w in asked])
    rows = torch.cat([states.span(i, "from_last") for i in range(2)]).double()
    own, size = rows @ span, rows.square().sum(dim=1).mean()  # answers at the size of the states themselves
    assert_close(own.mT @ own / len(own), size * torch.eye(span.shape[1], dtype=torch.float64), rtol=1e-6, atol=1e-6)
    others = family.encode([*kept, ""])
    rest = torch.cat([others.span(i, "all") for i in range(3)]).double() @ span
    energy = rest.square().mean(dim=0)
    assert energy.max() <= share * size
    assert own.mean(dim=0).min() >= 0
    # The generalised eigenproblem T z = mu (R + ridge tr(R) / d I) z, solved as it is written.
    every, d = torch.cat([others.span(i, "all") for i in range(3)]).double(), len(span)
    moment = (every.mT @ every / len(every)).numpy()
    mu, z = eigh((rows.mT @ rows / len(rows)).numpy(), moment + 1e-2 * np.trace(moment) / d * np.eye(d))
    assert (mu >= 1 / share).sum() == span.shape[1]
    assert_close(found.shares, (float(1 / mu[-1]),), rtol=1e-6, atol=0)
    for k in range(span.shape[1]):
        assert abs(torch.cosine_similarity(torch.from_numpy(z[:, -1 - k]), span[:, k], dim=0)) > 1 - 1e-6
    with pytest.raises(SettingError, match="SurgUn needs names to protect"):
        readings(family, [asked], [])


def test_every_target_has_its_clearest_direction_however_little_it_tells(family):
    kept, cat, tree = ["a dog", "a car in neon style"], [("a cat", "cat")], [("a tree", "tree")]

    def span(targets, share):
        return target_span(readings(family, targets, kept)["tokens"], share, 1e-2)

    assert span([[*cat, ("a cat, sepia", "cat")]], 1e6).directions.shape[1] > 1
    alone = span([cat], 1e-9)
    assert alone.directions.shape == (family.text_width, 1)
    assert alone.shares[0] > 1e-9
    both = span([cat, tree], 1e-9)
    assert both.directions.shape == (family.text_width, 2)
    assert both.shares[0] == alone.shares[0]
    same = span([cat, cat], 1e-9)  # twice the same adds no direction
    assert_close(same.directions * 2**0.5, alone.directions)


@pytest.mark.parametrize("steps", [1, 7, 200])
def test_a_learning_rate_rises_and_stays_or_falls_to_nothing(steps):
    stays = Plan(steps=steps, lr=0.5, save_every=1)
    falls = Plan(steps=steps, lr=0.5, save_every=1, lr_scheduler="cosine")
    warm = max(1, steps // 20)
    constant, cosine = ([plan.rate(i) for i in range(steps)] for plan in (stays, falls))
    assert constant[:warm] == cosine[:warm] == pytest.approx([0.5 * (i + 1) / warm for i in range(warm)])
    assert set(constant[warm:]) <= {0.5}
    assert all(a > b > 0 for a, b in pairwise(cosine[warm - 1 :]))
    if steps > 1:
        assert cosine[-1] < 0.5 * 4 / steps
        assert sum(cosine[warm:]) == pytest.approx(0.25 * (steps - warm))


@pytest.mark.parametrize("lr_scheduler", ["constant", "cosine"])
def test_a_resumed_run_equals_an_uninterrupted_one(tokenizer, tmp_path, lr_scheduler):
    plan = Plan(steps=6, lr=1e-2, save_every=2, lr_scheduler=lr_scheduler)

    def train(folder, stop=None):
        family = family_of(tiny_pipe(tokenizer))
        step = push(family)

        def maybe(generator):
            done.append(1)
            if stop is not None and len(done) > stop:
                raise KeyboardInterrupt
            return step(generator)

        done: list[int] = []
        with Adapter(family, paths(family), 2, seed=0) as adapter:
            run = fit(adapter, maybe, plan, seed=3, folder=folder)
        return run, len(done)

    whole, _ = train(None)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, stop=5)
    resumed, steps = train(tmp_path)
    assert steps == 2  # steps 5 and 6; step 5 had not been kept
    assert [x["loss"] for x in resumed.losses] == [x["loss"] for x in whole.losses]
    assert sorted(resumed.states) == [2, 4, 6]
    for step, state in whole.states.items():
        assert all(torch.equal(state[k], resumed.states[step][k]) for k in state)
    assert len((tmp_path / "losses.jsonl").read_text().splitlines()) == 6


def test_accumulation_makes_one_step_of_several_passes(tokenizer):
    def train(**knobs):
        family = family_of(tiny_pipe(tokenizer))
        passes = []

        def step(generator):
            passes.append(1)
            return push(family)(torch.Generator().manual_seed(0))

        with Adapter(family, paths(family), 2, seed=0) as adapter:
            run = fit(adapter, step, Plan(steps=2, lr=1e-2, save_every=2, **knobs), seed=0)
        return run.states[2], len(passes)

    (one, passes_one), (three, passes_three) = train(), train(accumulate=3)
    assert (passes_one, passes_three) == (2, 6)
    for name in one:
        assert_close(one[name], three[name], rtol=1e-3, atol=1e-4)  # Adam magnifies rounding


def test_a_loss_that_is_not_finite_is_left_out_and_too_many_end_training(tokenizer):
    family = family_of(tiny_pipe(tokenizer))

    def train(bad, patience=10, save_every=6):
        count = iter(range(100))

        def step(generator):
            losses = push(family)(generator)
            return {"loss": losses["loss"] * float("nan")} if next(count) in bad else losses

        with Adapter(family, paths(family), 2, seed=0) as adapter:
            return fit(adapter, step, Plan(steps=6, lr=1e-2, save_every=save_every, patience=patience), seed=0)

    run = train({1, 3})
    assert run.skipped == 2
    assert all(torch.isfinite(v).all() for v in run.states[6].values())
    assert run.losses[1] == {"step": 2}  # nothing that JSON could not hold
    with pytest.raises(TrainingError, match="not finite in 3 steps .*lower the learning rate"):
        train({0, 1, 2, 3}, patience=2)
    for patience, save_every in ((2, 1), (10, 6)):  # a checkpoint before a step was made is none
        with pytest.raises(TrainingError, match="not finite in [36] steps"):
            train(set(range(6)), patience, save_every)
    with pytest.warns(ExciseWarning, match="not finite in 3 steps .*ended at its checkpoint of step 4"):
        run = train({2, 3, 4}, patience=2, save_every=2)
    assert sorted(run.states) == [2, 4]
    good = train(set(), save_every=2).states[2]
    assert all(torch.equal(v, good[name]) for name, v in run.states[4].items())  # nothing was changed by steps left out


def test_out_of_memory_says_which_knob(tokenizer):
    family = family_of(tiny_pipe(tokenizer))

    def step(generator):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with (
        Adapter(family, paths(family), 2, seed=0) as adapter,
        pytest.raises(TrainingError, match="ran out of memory in training; lower --set batch"),
    ):
        fit(adapter, step, Plan(steps=1, lr=1e-2, save_every=1), seed=0)


TWO = """
import os, sys
from itertools import pairwise
from pathlib import Path
import torch
sys.path[:0] = [sys.argv[1], sys.argv[2], sys.argv[2] + "/training"]
from conftest import build_tokenizer, tiny_pipe
from test_training import fit, paths, push
from excise.families import family_of
from excise.training.adapters import Adapter
from excise.training.loop import Plan

family = family_of(tiny_pipe(build_tokenizer()))
step, rank = push(family), int(os.environ["RANK"])

def one_is_bad(generator):
    losses = step(generator)
    done.append(1)
    return {"loss": losses["loss"] * float("nan")} if rank and len(done) == 2 else {"loss": losses["loss"]}

done = []
with Adapter(family, paths(family), 2, seed=0) as adapter:
    run = fit(adapter, one_is_bad, Plan(steps=3, lr=1e-2, save_every=3), seed=0)
torch.save([run.states[3], run.losses, run.skipped], Path(sys.argv[3]) / f"{rank}.pt")
"""


def test_two_processes_take_the_same_steps_and_each_its_own_share(tmp_path, tokenizer):
    """As one process that accumulates both shares; a bad share leaves the step out everywhere."""
    (tmp_path / "two.py").write_text(TWO)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    here = Path(__file__).parents[1]
    command = [*launch, str(tmp_path / "two.py"), str(here.parent / "src"), str(here), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (mine, losses, skipped), (theirs, their_losses, _) = (torch.load(tmp_path / f"{i}.pt") for i in (0, 1))
    assert skipped == 1
    assert [repr(x) for x in losses] == [repr(x) for x in their_losses]
    assert all(torch.equal(mine[k], theirs[k]) for k in mine)

    family, done = family_of(tiny_pipe(tokenizer)), []
    step = push(family)

    def shares(generator):
        done.append(1)
        losses = step(generator)
        return {"loss": losses["loss"] * float("nan")} if len(done) == 4 else {"loss": losses["loss"]}

    with Adapter(family, paths(family), 2, seed=0) as adapter:
        alone = fit(adapter, shares, Plan(steps=3, lr=1e-2, save_every=3, accumulate=2), seed=0)
    for name in mine:
        assert_close(mine[name], alone.states[3][name], rtol=1e-3, atol=1e-4)  # Adam magnifies rounding


def test_precisions_and_trackers_that_are_not_to_be_had(family, monkeypatch):
    def train(**plan):
        tracker = plan.pop("tracker", "")
        with Adapter(family, paths(family), 2, seed=0) as adapter:
            fit(adapter, push(family), Plan(steps=1, lr=1e-2, save_every=1, **plan), seed=0, tracker=tracker)

    with pytest.raises(SettingError, match="no tracker 'tensorbored' is installed"):
        train(tracker="tensorbored")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingError, match="precision fp16 needs a GPU"):
        train(precision="fp16")


def test_losses_reach_the_tracker(tokenizer, monkeypatch):
    family, logged = family_of(tiny_pipe(tokenizer)), []

    class Tracker(GeneralTracker):
        name, requires_logging_directory = "mine", False
        tracker = None

        def __init__(self, run, **more):
            super().__init__()

        def store_init_configuration(self, values):
            logged.append(values["steps"])

        def log(self, values, step=None, **more):
            logged.append((step, sorted(values)))

    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "mine", Tracker)
    monkeypatch.setattr(loop, "get_available_trackers", lambda: ["mine"])
    with Adapter(family, paths(family), 2, seed=0) as adapter:
        fit(adapter, push(family), Plan(steps=2, lr=1e-2, save_every=1), seed=0, tracker="mine")
    assert logged == [2, (1, ["gradient", "loss", "target"]), (2, ["gradient", "loss", "target"])]


def test_contrasts_by_hand_and_the_sign_of_their_gradients():
    target, distractor = (torch.tensor([v], requires_grad=True) for v in (0.5, 2.0))
    assert float(contrasts.ratio(target, distractor, 1e-3)) == pytest.approx(math.log(1 + 2.0 / 0.501))
    assert float(contrasts.logasc(target, 1e-3)) == pytest.approx(-math.log(0.501))
    assert float(contrasts.npo(target, torch.tensor([0.4]), 5.0)) == pytest.approx(0.4 * math.log(1 + math.exp(-0.5)))
    duo = contrasts.duo(target, distractor, torch.tensor([0.4]), torch.tensor([1.0]), 5.0)
    assert float(duo) == pytest.approx(math.log(1 + math.exp(5 * (1.0 - 0.1))))
    assert float(contrasts.capped_ascent(torch.tensor([0.5, 9.0]), 4.0)) == pytest.approx(-2.25)
    for value in (contrasts.ratio(target, distractor, 1e-3), duo):
        down, up = torch.autograd.grad(value, (target, distractor), retain_graph=True)
        assert down < 0 < up


@pytest.mark.parametrize("error", [0.01, 0.4, 3.0])
def test_npo_is_ascent_that_ends(error):
    target = torch.tensor([error], requires_grad=True)
    (gradient,) = torch.autograd.grad(contrasts.npo(target, torch.tensor([0.4]), 5.0), target)
    assert -2 < gradient < 0  # the weight of plain ascent lies in (0, 2)
    (gentle,) = torch.autograd.grad(contrasts.npo(target, torch.tensor([0.4]), 1e-6), target)
    assert float(gentle) == pytest.approx(-1.0, rel=1e-4)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
def test_errors_of_every_prediction_are_those_of_the_picture_up_to_a_weight(kind):
    """A guess at the picture, told as each kind of prediction: x0 - x0' is a known multiple of the error."""
    g = torch.Generator().manual_seed(0)
    clean, guess, noise = (torch.randn(4, 2, 3, 3, generator=g, dtype=torch.float64) for _ in range(3))
    plan = Noising(kind, 1000, torch.linspace(0.999, 0.01, 1000, dtype=torch.float64), shift=3.0)
    t = plan.times(4, generator=g)
    a, s = plan.scales(t)
    z = plan.add(clean, noise, t)
    told = {
        "epsilon": (z - a * guess) / s,
        "v_prediction": (a * z - guess) / s,
        "flow": (z - guess) / s,
    }[kind]
    weight = {"epsilon": s / a, "v_prediction": s, "flow": s}[kind]
    assert_close(plan.clean(told, z, t), guess)
    assert_close(a * guess + s * plan.noise(told, z, t), z)
    assert_close(weight * (told - plan.target(clean, noise, t)), clean - guess)


def test_calibration_picks_the_planted_checkpoint_and_of_equals_the_middle_or_an_end():
    curve = [Point(s, Rates(*r)) for s, r in {
        20: (0.2, 1.0, 1.0), 40: (0.9, 0.99, 1.0), 60: (0.905, 0.99, 1.0), 80: (1.0, 0.5, 0.9), 100: (1.0, 0.7, 0.7),
    }.items()]  # fmt: skip
    assert choose(curve, "hmean") == 40  # 60 is better by less than a tie
    assert choose(curve, "constrained") == 80  # 0.7 on both sides, and earlier
    assert choose(curve, "last") == 100
    assert choose(curve[:3], "constrained") == 40  # none erases enough
    shows = {20: 0.0, 40: 0.32, 60: 0.6, 80: 0.64, 100: 0.55}
    tied = [Point(s, Rates(1.0, 1.0, 1.0, instead)) for s, instead in shows.items()]
    assert choose(tied, "hmean") == 80  # the middle of those that mostly show something
    assert choose(tied[:2], "hmean") == 20  # where none does, of two the earlier
    assert choose(tied, "hmean", "early") == 20
    assert choose(tied, "hmean", "late") == 100
    assert choose(curve, "constrained", "early") == 80


def test_a_single_picture_does_not_decide_where_the_clearest_is_asked_for():
    """Ten pictures of the target: gone from all at first, from nine later, which show something else by then."""
    rates = {20: (0.0, 0.0), 40: (0.9, 0.1), 60: (1.0, 0.2), 80: (0.9, 0.4), 100: (0.9, 0.7), 120: (0.8, 0.9)}
    curve = [Point(step, Rates(erase, 1.0, 1.0, instead)) for step, (erase, instead) in rates.items()]
    assert choose(curve, "hmean") == 60
    assert choose(curve, "hmean", "clear", pictures=10) == 100
    assert choose(curve, "hmean", "clear", pictures=5) == 120  # one of five is as much as two of ten
    assert choose(curve[:3], "hmean", "clear", pictures=100) == 60
    equal = [Point(step, Rates(1.0, 1.0, 1.0, 0.5)) for step in (20, 40)]
    assert choose(equal, "hmean", "clear", pictures=10) == 40


def test_the_rule_kept_goes_as_far_as_what_is_kept_allows():
    curve = [Point(s, Rates(*r)) for s, r in {
        40: (1.0, 1.0, 1.0), 80: (1.0, 0.98, 1.0), 120: (0.9, 1.0, 0.98), 160: (1.0, 1.0, 0.95), 200: (1.0, 0.9, 0.9),
    }.items()]  # fmt: skip
    assert choose(curve, "kept", keep=0.97) == 80  # 120 shows the target again, 160 keeps enough on one side alone
    assert choose(curve, "kept", keep=0.95) == 160
    assert choose(curve[2:3], "kept", keep=0.97) == 120  # where none that keeps enough erases enough
    assert choose(curve[3:], "kept", keep=0.97) == 160  # none keeps it: what keeps most
    close = [Point(40, Rates(1.0, 0.96, 0.96)), Point(80, Rates(1.0, 1.0, 0.93)), Point(120, Rates(1.0, 0.9, 0.9))]
    assert choose(close, "kept", keep=0.97) == 80  # however little more


def test_calibration_leaves_the_chosen_state_in_the_adapter():
    class Preview:
        probes = ()

        def draw(self, progress=None):
            return held[0]

        def rates(self, images):
            return Rates(*((0.9,) * 3 if images == 2 else (0.1,) * 3))

    class Held:
        def load(self, state):
            held[0] = state

    held = [0]
    step, curve = calibrate(Held(), {10: 1, 20: 2, 30: 3}, Preview(), "hmean")
    assert (step, held[0], [p.step for p in curve]) == (20, 2, [10, 20, 30])


def test_localisation_ranks_the_planted_block_first():
    rows = [
        {"block": "a", "erase": 1.0, "retain": 0.5},
        {"block": "b", "erase": 0.85, "retain": 0.95},
        {"block": "c", "erase": 0.3, "retain": 1.0},
        {"block": "d", "erase": 0.9, "retain": 0.95},
    ]
    assert choose_blocks(rows, 2) == ["b", "d"]
    assert choose_blocks(rows, 1, worst=True) == ["a"]


def test_distractors_are_fixed_diverse_and_never_what_is_kept(family):
    names = ["dog", "car", "tree", "house", "guitar", "castle"]
    chosen = choose_distractors(family, ["cat", "kitty"], [*names, "cat", "Kitty"], 3, excluded=["car", "dog"])
    assert chosen == choose_distractors(family, ["cat", "kitty"], [*names, "cat", "Kitty"], 3, excluded=["car", "dog"])
    assert set(chosen) <= {"tree", "house", "guitar", "castle"}
    assert len(set(chosen)) == 3
    states = torch.nn.functional.normalize(pooled(family, ["cat", *names]), dim=-1)
    cosine = dict(zip(names, (states[1:] @ states[0]).tolist(), strict=True))
    near = choose_distractors(family, ["cat"], names, 2, near=True)
    assert near == sorted(names, key=cosine.__getitem__, reverse=True)[:2]
    far, rows = choose_distractors(family, ["cat"], names, 3), dict(zip(names, states[1:], strict=True))
    assert far[0] == min(names, key=cosine.__getitem__)
    for i, name in enumerate(far[1:], start=1):  # each next one is the farthest from all before it
        away = {n: min(float((rows[n] - rows[k]).norm()) for k in far[:i]) for n in names if n not in far[:i]}
        assert away[name] == pytest.approx(max(away.values()))
    with pytest.raises(ConceptError, match="1 distractors for 'cat' are left of 2 candidates .*3 are needed"):
        choose_distractors(family, ["cat"], ["dog", "cat"], 3)


def test_names_are_told_apart_where_all_prompts_share_most_of_their_state(monkeypatch):
    """Under a large common mean every cosine is near one; what is beyond it decides, a near-synonym included."""
    common = torch.tensor([100.0, 0.0, 0.0, 0.0])
    beyond = {"cat": [0, 1, 0, 0], "kitten": [0, 1, 0.1, 0], "dog": [0, 0, 1, 0], "car": [0, 0, 0, 1]}
    states = {name: common + torch.tensor(own, dtype=torch.float32) for name, own in beyond.items()}
    module = "excise.methods.trained.surgun.distractors"
    monkeypatch.setattr(f"{module}.pooled", lambda family, texts: torch.stack([states[t] for t in texts]).double())
    chosen = choose_distractors(None, ["cat"], ["kitten", "dog", "car"], 2)
    assert sorted(chosen) == ["car", "dog"]
    with pytest.raises(ConceptError, match="2 distractors for 'cat' are left of 3 candidates"):
        choose_distractors(None, ["cat"], ["kitten", "dog", "car"], 3)


def test_what_an_adapter_learnt_is_an_edit_of_any_module(family, tmp_path):
    """Self-attention too: applied, removed and read back, bit for bit."""
    from excise.edits.bases import base_of
    from excise.edits.record import EditRecord, Target

    before = predict(family)
    with Adapter(family, paths(family), 2, seed=0) as adapter:
        fit(adapter, push(family), Plan(steps=1, lr=1e-2, save_every=1), seed=0)
        trained, deltas = predict(family), adapter.deltas()
    record = EditRecord(
        excise="0",
        base=base_of(family, "tiny"),
        method="surgun",
        concepts=(Target(name="cat", kind="object", anchor=""),),
    )
    edit = Edit.load(Edit(record, modules=deltas).save(tmp_path / "e.safetensors"))
    with edit.apply(family):
        assert_close(predict(family), trained, rtol=1e-4, atol=1e-5)
    assert torch.equal(predict(family), before)
