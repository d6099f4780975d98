"""Attacks: each runs on a tiny model of every family, sees no more than it says, and spends no more than it may."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import tiny_pipe, tiny_sana, tiny_sdxl
from peft import LoraConfig
from PIL import Image
from torch.testing import assert_close
from typer.testing import CliRunner

from excise import erase, export, load
from excise.attacks import ATTACKS, SUITES
from excise.attacks.accounting import Cost, Outcome, judge_rounds
from excise.attacks.base import BACKWARD_COST, Arena, AttackError, Guides, Round, Shot
from excise.attacks.original import edits_removed, networks
from excise.attacks.panel import Panel, calibrated
from excise.attacks.plan import load_attack
from excise.attacks.sampler import denoise, invert, times
from excise.attacks.suite import SuiteOptions, attack, target_of
from excise.attacks.tokens import condition_on, lexicon, mixed_embeddings, one_hot
from excise.attacks.unlearndiffatk import FINALISTS, to_simplex
from excise.bench import run as bench
from excise.bench.recipe import read
from excise.cli.main import app
from excise.concepts.concept import CHECKS, Concept, fill
from excise.edits.edit import applied, applied_edits
from excise.errors import ConceptError, ExciseError, ExciseWarning, ModelError, SettingError, UnknownNameError
from excise.families import family_of
from excise.families.networks import hooked
from excise.methods.trained.surgun import restoring as restoring_module

SHORT = {"iterations": 2, "generations": 2, "steps": 2, "population": 4, "candidates": 4, "batch": 2, "prompts": 2}
ORACLE = Path(__file__).parents[2] / "recipes" / "oracle-1" / "canvas-sd"
EVERY = [p.name for p in SUITES["standard"].attacks]


def sees_all(images, names):
    return [True] * len(images)


def arena_of(pipe, images: int = 2, **more) -> Arena:
    family = family_of(pipe)
    prompts = ["a cat", "the cat"]
    drawn = family.sample(prompts, [0, 1], steps=2, guidance=2.0, batch=2)
    latents = family.latents(drawn)
    guides = Guides(prompts, latents, ["a dog", "the dog"], latents.flip(0))
    return Arena(
        family,
        lambda: nullcontext(family),
        Concept("cat"),
        ["an image of a cat", "one cat"],
        guides,
        others=["dog", "tree"],
        images=images,
        steps=3,
        guidance=2.0,
        **more,
    )


def run(pipe, concept="cat", edits=(), say=lambda *_: None, **more):
    options = {"suite": "standard", "tests": 2, "images": 2, "judge": sees_all, "others": ["dog", "tree"]}
    return attack(pipe, concept, edits, SuiteOptions(**{**options, "settings": SHORT, **more}), say)


def test_every_attack_on_every_family_within_its_budget(any_pipe):
    edit = erase(any_pipe, ["cat"], "uce", preserve=["dog"])
    found = run(any_pipe, edits=[edit])
    by_name = {r.name: r for r in found.results}
    assert list(by_name) == EVERY
    for result in found.results:
        if result.model is None:
            unknown = ("synonyms", "second language", "asked")
            assert result.name in (*unknown, "text encoder put back", "denoiser put back"), result.why
            assert result.why.endswith("."), result.why
            continue
        assert [len(row) for row in result.model.shown] == [2, 2]
        assert result.model.drawn == 4 == len(found.shots[result.name])
        assert result.model.any_of_n.value == 1.0
        assert result.gap.value == 0.0
    assert by_name["relearning, 5 pictures"].model.passes > 0
    assert set(by_name["latent inversion"].model.notes["nll"]) == {"target", "others"}


def test_an_attack_cannot_overdraw(any_pipe):
    arena = arena_of(any_pipe, images=2)
    with pytest.raises(AttackError, match="asked for 3 pictures of one prompt; its budget is 2"):
        arena.draw_prompts([["a cat"] * 3, ["a cat"]])
    assert arena.drawn == 0


def test_the_defended_model_is_attacked_and_left_as_it_was(tokenizer):
    """What the model ships is in force while it is attacked: the edit, and a hook that nobody told us of."""
    pipe = tiny_pipe(tokenizer)
    edit = erase(pipe, ["cat"], "uce", preserve=["dog"])
    before = {p.path: p.module.weight for p in family_of(pipe).projections()}
    edited: list[bool] = []
    pipe.unet.register_forward_hook(
        lambda *_: edited.append(any(p.module.weight is not before[p.path] for p in family_of(pipe).projections()))
    )
    with pytest.warns(ExciseWarning, match="ships hooks or a LoRA, which stay in force"):
        run(pipe, edits=[edit], names=["seeds"])
    drawing = edited.index(True)
    assert not any(edited[:drawing])  # the guides are the untouched model's
    assert all(edited[drawing:])  # every picture is the edited one's
    edited.clear()
    with pytest.warns(ExciseWarning):
        found = run(pipe, edits=[edit], names=["unlearndiffatk", "p4d"])
    first = edited.index(True)
    # Beside the guides only what P4D is to match comes from the untouched model: once a test prompt.
    assert edited[first:].count(False) == 2
    assert all(p.module.weight is before[p.path] for p in family_of(pipe).projections())
    # Steps with gradients, two pictures each, and the finalists; two test prompts.
    searched = found.results[0].model.passes
    assert 2 * BACKWARD_COST * 2 * 2 < searched <= (2 * BACKWARD_COST * 2 + FINALISTS * 2) * 2


def test_nothing_is_left_in_a_model_that_is_being_trained(tokenizer):
    """A pipeline whose weights want gradients gets none, and its flags stay."""
    pipe = tiny_pipe(tokenizer)
    for part in (pipe.unet, pipe.text_encoder):
        part.requires_grad_(True)
    run(pipe, names=["unlearndiffatk", "p4d", "inversion", "mma", "relearning, 5 pictures"])
    weights = [*pipe.unet.parameters(), *pipe.text_encoder.parameters()]
    assert all(w.requires_grad and w.grad is None for w in weights)


def test_what_relearning_trains_is_seen_also_in_half_precision(tokenizer):
    """Autocast keeps casts of weights for as long as its outermost context lasts; ours must not be among them."""
    pipe = tiny_pipe(tokenizer)
    arena = arena_of(pipe)
    drawn = {}
    for steps in (1, 20):
        with torch.autocast("cpu", torch.bfloat16):
            found = run(pipe, names=["relearning, 5 pictures"], settings={"steps": steps, "lr": 0.1, "batch": 2})
        drawn[steps] = [np.asarray(image, dtype=float) for image, _, _ in found.shots["relearning, 5 pictures"]]
    assert arena.family is not None
    assert np.abs(np.stack(drawn[1]) - np.stack(drawn[20])).mean() > 1


def test_same_seed_same_attack_and_the_oracle_is_attacked_the_same_way(tokenizer):
    pipe, twin = tiny_pipe(tokenizer), tiny_pipe(tokenizer)
    found = run(pipe, oracle=twin, names=["unlearndiffatk", "mma", "ring-a-bell", "policy"])
    for result in found.results:
        assert result.model.words == result.oracle.words
        assert result.gap.value == 0.0
    assert found.has_oracle
    assert found.worst.gap.value == 0.0
    assert found.worst.gap.high > 0.3  # two prompts say little


def test_a_search_of_the_untouched_model_is_done_once_for_all_edits(tokenizer, tmp_path):
    """Ring-A-Bell and MMA look at the untouched model alone: an edit, another and the oracle get the same words."""
    searched = []

    def say(what, done, total):
        if what.endswith((": breeding words", ": searching words")) and done == total:
            searched.append(what)

    pipe, twin = tiny_pipe(tokenizer), tiny_pipe(tokenizer, seed=1)
    names = ["mma", "ring-a-bell"]
    found = [
        run(
            pipe,
            edits=[erase(pipe, ["cat"], "uce", preserve=[kept])],
            oracle=twin,
            names=names,
            folder=tmp_path,
            say=say,
        )
        for kept in ("dog", "tree")
    ]
    assert len(searched) == 2 * len(names)  # one per test prompt
    for one, two in zip(*(f.results for f in found), strict=True):
        assert one.model.words == one.oracle.words == two.model.words
        seconds = [json.loads(kept.read_text())[1] for kept in tmp_path.glob("attacks/*.json")]
        assert len(seconds) == len(names)
        assert min(o.seconds for o in (one.model, one.oracle, two.model)) > min(seconds) > 0
    run(pipe, names=names, folder=tmp_path, seed=1, say=say)
    assert len(searched) == 4 * len(names)


def test_gaps_are_to_the_oracle(tokenizer):
    """The judge sees the target in what the model under attack draws, and not in what the oracle draws."""
    pipe, oracle = tiny_pipe(tokenizer), tiny_pipe(tokenizer, seed=1)
    turn = []
    pipe.text_encoder.register_forward_hook(lambda *_: turn.append(True))
    oracle.text_encoder.register_forward_hook(lambda *_: turn.append(False))
    found = run(pipe, oracle=oracle, names=["seeds"], judge=lambda images, names: [turn[-1]] * len(images))
    (result,) = found.results
    assert (result.model.any_of_n.value, result.oracle.any_of_n.value, result.gap.value) == (1.0, 0.0, 1.0)
    document = result.document()
    assert document["gap"] == 1.0
    assert found.worst.attack == "seeds"
    assert document["budget"] == {"images": 2, "tests": 2, "drawn": 4, "passes": 0}


def test_without_an_oracle_attacks_that_teach_stay_out_of_the_headline(tokenizer):
    """The judge sees the target only while a LoRA is being put on: nobody can tell whether that was taught."""
    pipe = tiny_pipe(tokenizer)
    calls = []

    def judge(images, names):
        calls.append(len(images))
        return [len(calls) <= 2 or len(calls) == 4] * len(images)  # guides, others; seeds; relearning

    found = run(pipe, names=["seeds", "relearning, 5 pictures"], judge=judge)
    assert [r.model.any_of_n.value for r in found.results] == [0.0, 1.0]
    assert found.results[1].gap.value == 1.0
    assert found.worst.gap is None
    assert (found.worst.attack, found.worst.back.value) == ("seeds", 0.0)
    assert found.worst.back.high > 0.6


def test_an_interrupted_suite_goes_on_where_it_stopped(tokenizer, tmp_path):
    pipe = tiny_pipe(tokenizer)
    names, made = ["seeds", "inversion"], []

    def stop(what, done, total):
        made.append(what)
        if what.startswith("inversion: drawing"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(pipe, names=names, folder=tmp_path, say=stop)
    made.clear()
    both = run(pipe, names=names, folder=tmp_path, say=lambda what, done, total: made.append(what))
    assert not any(what.startswith("seeds") for what in made)
    assert any(what.startswith("inversion") for what in made)
    made.clear()
    again = run(pipe, names=names, folder=tmp_path, say=lambda what, done, total: made.append(what))
    assert made == ["drawing guides"]
    assert [r.document() for r in again.results] == [r.document() for r in both.results]
    outcome = next(tmp_path.rglob("outcome.json"))
    outcome.write_text("{")  # cut short
    assert len(run(pipe, names=names, folder=tmp_path).results) == 2
    assert json.loads(outcome.read_text())["drawn"] == 4


def test_another_judge_or_base_is_another_run(tokenizer, tmp_path):
    pipe = tiny_pipe(tokenizer)

    def sees_some(images, names):
        return [i % 2 == 0 for i in range(len(images))]

    first = run(pipe, names=["seeds"], folder=tmp_path)
    second = run(pipe, names=["seeds"], folder=tmp_path, judge=sees_some)
    assert first.results[0].model.rate.value == 1.0
    assert second.results[0].model.rate.value == 0.5
    kept = len(list(tmp_path.rglob("outcome.json")))
    run(pipe, names=["seeds"], folder=tmp_path, base=tiny_pipe(tokenizer, seed=3))
    assert len(list(tmp_path.rglob("outcome.json"))) == kept + 1


def test_a_picture_counts_where_both_judges_see_the_target():
    class Judge:
        def __init__(self, *says):
            self.says = says

        def sees(self, images, names):
            return list(self.says)

    rounds = [Round("a cat", [Shot(Image.new("RGB", (4, 4)), "a cat")] * 2) for _ in range(2)]
    cost = Cost(drawn=4, passes=0, seconds=0.0, peak_memory_mb=0.0)
    first, second = Judge(True, True, False, True), Judge(True, False, False, False)
    both, images = judge_rounds(rounds, Panel("cat", [first, second]), cost)
    assert both.shown == [[True, False], [False, False]]
    assert both.disagree == 0.5
    assert len(images) == 4
    assert judge_rounds(rounds, Panel("cat", [first]), cost)[0].shown == [[True, True], [False, True]]


def test_two_judges_have_to_be_as_sure_as_of_the_untouched_models_pictures():
    class Judge:
        name = "sure"

        def __init__(self, *likely):
            self.likely = likely

        def sees(self, images, names):
            return [p >= 0.5 for p in self.likely]

        def likelihood(self, images, name):
            return list(self.likely)

    drawn = [None] * 11
    first, second = Judge(*[0.6 + 0.02 * i for i in range(11)]), Judge(*[0.8] * 11)
    panel = calibrated("cat", [first, second], lambda: drawn)
    assert panel.threshold == 0.71  # the second of the means 0.7, 0.71, ..., 0.8: one in eleven is missed
    assert panel.name == "sure and sure, together sure to 0.71"
    first.likely, second.likely = [0.92, 0.59, 0.9, 0.47], [0.52, 0.8, 0.45, 0.96]
    shown, apart = panel.judge([None] * 4)
    assert shown == [True, False, False, True]
    assert apart == 0.5
    assert calibrated("cat", [Judge(*[0.99] * 11)] * 2, lambda: drawn).threshold == 0.8
    assert calibrated("cat", [Judge(*[0.1] * 11)] * 2, lambda: drawn).threshold == 0.5
    assert calibrated("cat", [first], lambda: pytest.fail("a single judge needs no pictures")).threshold is None


def test_an_attack_that_the_oracle_cannot_host_costs_its_gap_alone(tokenizer):
    oracle = tiny_pipe(tokenizer, seed=3)
    oracle.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k"]))
    found = run(tiny_pipe(tokenizer), names=["relearning, 1 picture", "seeds"], oracle=oracle)
    assert found.results[0].model is not None
    assert (found.results[0].oracle, found.results[0].gap) == (None, None)
    assert found.results[0].why.startswith("the oracle: ")
    assert found.results[1].gap is not None


def test_one_share_in_all_prompts_lies_within_its_interval():
    row = [True, False, False]
    rate = Outcome(["a cat"] * 10, [row] * 10, None, [["a cat"] * 3] * 10, 30, 0, 1.0, 1.0).rate
    assert rate.value == pytest.approx(1 / 3)
    assert (rate.low, rate.high) == pytest.approx((0.127, 0.632), abs=1e-3)


def test_a_judge_of_ones_own_decides_alone():
    found = attack(load("canvas-sd"), "cat", (), SuiteOptions(names=["seeds"], tests=1, images=1, judge=sees_all))
    assert "canvas" not in found.judge
    assert found.results[0].model.disagree is None


def test_the_target_is_what_the_edits_record_says(tokenizer):
    pipe = tiny_pipe(tokenizer)
    monet = Concept("Monet", "style", synonyms=("Claude Monet",))
    edit = erase(pipe, [monet], "uce", preserve=["dog"])
    assert target_of("monet", [edit]) == Concept("monet", "style", synonyms=("Claude Monet",))
    assert target_of("Monet", [edit], "person", ["him"]) == Concept("Monet", "person", synonyms=("him",))
    assert [target_of(n, canvas=True).kind for n in ("cat", "neon", "Monet")] == ["object", "style", "object"]
    assert [target_of(n).kind for n in ("neon", "cat in neon style")] == ["object"] * 2  # elsewhere they mean nothing
    found = run(pipe, target_of("Monet", [edit]), edits=[edit], names=["seeds", "synonyms"], images=1)
    assert set(found.results[0].model.tests) < set(fill(CHECKS["style"], "Monet"))
    assert all("Claude Monet" in w for row in found.results[1].model.words for w in row)


def test_edits_come_back_in_their_order(tokenizer):
    pipe = tiny_pipe(tokenizer)
    edits = [erase(pipe, [name], "uce", preserve=["dog"]) for name in ("cat", "car")]
    family = family_of(pipe)
    with applied(family, edits):
        before = applied_edits(family)
        with edits_removed(family, before):
            assert applied_edits(family) == []
        assert [e for e, _ in applied_edits(family)] == [e for e, _ in before]


def test_what_hardens_has_no_seed_of_an_attack(tokenizer, monkeypatch):
    """Else an edit would be held against the very searches that made it."""
    seeds: list[int] = []
    monkeypatch.setattr(restoring_module, "found_words", lambda arena, *_: seeds.append(arena.seed) or _stop())
    family = family_of(tiny_pipe(tokenizer))
    slots = SimpleNamespace(prompts=["a cat", "the cat"], target=torch.zeros(2, *family.latent_shape))
    for number in range(3):
        with pytest.raises(KeyboardInterrupt):
            restoring_module.restoring(family, Concept("cat"), slots, 0, number, lambda *_: None)
    assert len(set(seeds)) == 3
    assert min(seeds) > 1000


def _stop():
    raise KeyboardInterrupt


def test_bad_input_is_refused_in_one_sentence(tokenizer):
    pipe = tiny_pipe(tokenizer)
    with pytest.raises(ConceptError, match="'Cat' is the target itself"):
        run(pipe, others=["dog", "Cat"])
    with pytest.raises(SettingError, match="'pictures' tells attacks of a suite apart; choose"):
        run(pipe, settings={"pictures": 3})
    with pytest.raises(ConceptError, match="the untouched model draws 'cat' in 0 of .* nothing to bring back"):
        run(pipe, judge=lambda images, names: [False] * len(images))
    with pytest.raises(ConceptError, match="cannot be scored without a judge"):
        run(pipe, judge=None)
    with pytest.raises(SettingError, match="a budget of no pictures"):
        run(pipe, images=0)
    with pytest.raises(UnknownNameError, match="no suite 'quik'. Did you mean 'quick'"):
        run(pipe, suite="quik")
    with pytest.raises(UnknownNameError, match="no attack of the suite 'standard' 'p4'"):
        run(pipe, names=["p4"])
    with pytest.raises(UnknownNameError, match="no setting of an attack 'iteration'"):
        run(pipe, settings={"iteration": 3})
    with pytest.raises(SettingError, match="unlearndiffatk: 'iterations': input should be greater"):
        run(pipe, settings={"iterations": 0}, names=["unlearndiffatk"])


def test_a_swap_puts_one_part_back(tokenizer):
    pipe = tiny_pipe(tokenizer)
    edits = [
        erase(pipe, ["cat"], "uce", preserve=["dog"]),
        erase(pipe, ["cat"], "emcid", preserve=["dog"], anchor="car"),
    ]
    family = family_of(pipe)
    reading, encoding = family.projections()[0].module, pipe.text_encoder.encoder.layers[-1].mlp.fc2
    plain = (reading.weight, encoding.weight)
    states = []
    pipe.unet.register_forward_hook(lambda *_: states.append((reading.weight is plain[0], encoding.weight is plain[1])))
    for part, wanted in (("text encoder put back", (False, True)), ("denoiser put back", (True, False))):
        states.clear()
        with pytest.warns(ExciseWarning):
            found = run(pipe, edits=edits, names=[part])
        assert found.results[0].why == ""
        assert wanted in states
        assert (False, False) in states  # its control is attacked with both edits
    assert (reading.weight is plain[0], encoding.weight is plain[1]) == (True, True)
    with pytest.warns(ExciseWarning):
        alone = run(pipe, edits=edits[:1], names=["text encoder put back", "denoiser put back"])
    assert "the text encoder is the original one already" in alone.results[0].why
    assert "only the denoiser was changed" in alone.results[1].why


def test_parts_of_a_base_are_put_back(tokenizer, tmp_path):
    """What was erased by other means, in both parts, and where the base is another pipeline."""
    pipe, base = tiny_pipe(tokenizer), tiny_pipe(tokenizer)
    base.unet.to(memory_format=torch.channels_last)  # as it is loaded on a CPU
    names = ["text encoder put back", "denoiser put back"]
    with torch.no_grad():
        family_of(pipe).projections()[0].module.weight.mul_(2)
    alone = run(pipe, base=base, names=names)
    assert "the text encoder is the original one already" in alone.results[0].why
    assert "only the denoiser was changed" in alone.results[1].why
    with torch.no_grad():
        pipe.text_encoder.encoder.layers[-1].mlp.fc2.weight.mul_(2)
    own, drawn = (pipe.text_encoder, pipe.unet), {}
    for part, mixed_by_hand in zip(names, ((base.text_encoder, own[1]), (own[0], base.unet)), strict=True):
        run(pipe, base=base, names=[part], folder=tmp_path / part)
        assert (pipe.text_encoder, pipe.unet) == own
        mixture = tiny_pipe(tokenizer)
        mixture.text_encoder, mixture.unet = mixed_by_hand
        run(mixture, base=base, names=["seeds"], folder=tmp_path / f"{part} by hand")
        for name in (part, f"{part} by hand"):
            drawn[name] = {p.read_bytes() for p in (tmp_path / name).rglob("*.png")}
        assert drawn[f"{part} by hand"] < drawn[part]  # beside those of the control
    half = tiny_pipe(tokenizer).to(torch.bfloat16)
    assert "torch.bfloat16; load both alike" in run(pipe, base=half, names=names[:1]).results[0].why


def test_what_a_hook_may_have_changed_is_not_taken_from_a_run_before(tokenizer, tmp_path):
    pipe = tiny_pipe(tokenizer)
    pipe.text_encoder.register_forward_hook(lambda *_: None)
    for count in (1, 2):
        with pytest.warns(ExciseWarning, match="ships hooks or a LoRA"):
            run(pipe, names=["seeds"], folder=tmp_path)
        assert len(list(tmp_path.rglob("outcome.json"))) == count


def test_hooks_of_transformers_are_none(tokenizer):
    """It reads a layer of SDXL's text encoders by hooks of its own, which stay."""
    pipe = tiny_sdxl(tokenizer)
    family_of(pipe).condition(["a cat"])
    assert not any(map(hooked, networks(family_of(pipe))))


def test_prompts_of_ones_own_are_asked(tokenizer):
    one, two = "the one with whiskers", "it says meow"
    found = run(tiny_pipe(tokenizer), names=["asked"], prompts=[one, two])
    assert found.results[0].model.words == [[one, two], [two, one]]


def test_words_that_push_the_target_out_of_the_prompt_are_refused(tokenizer):
    found = run(tiny_pipe(tokenizer), names=["random words"], settings={"words": 40})
    assert "the end, which may ask for the target, would be lost. Use shorter prompts" in found.results[0].why


def test_a_model_that_ships_a_lora_is_not_attacked_without_it(tokenizer, tmp_path):
    pipe = tiny_pipe(tokenizer)
    done = export(erase(pipe, ["cat"], "uce", preserve=["dog"]), pipe, tmp_path)
    pipe.load_lora_weights(str(done.path.parent), weight_name=done.path.name)
    with pytest.warns(ExciseWarning, match="give that one with --base|give that one"):
        found = run(pipe, names=["relearning, 5 pictures", "seeds"])
    assert "the model ships a LoRA" in found.results[0].why
    assert found.results[1].model is not None


def test_a_base_of_another_make_is_refused(tokenizer, gemma_tokenizer):
    with pytest.raises(ModelError, match="of the family 'sd' with latents .* give one of the same make"):
        run(tiny_pipe(tokenizer), oracle=tiny_sana(gemma_tokenizer))


# tokens


def test_vectors_in_a_prompt_are_the_words_they_stand_for(any_pipe):
    family = family_of(any_pipe)
    known = lexicon(family, ["cat"], ["a cat"])
    assert "cat" not in known.words
    assert known.placeholder not in known.words
    chosen = torch.tensor([3, 7])
    words = known.text(chosen.tolist())
    with torch.no_grad():
        wanted = family.condition([known.prompt(words, "a cat")])
        found = condition_on(
            family, known, [known.with_placeholders(2, "a cat")], mixed_embeddings(known, one_hot(known, chosen))
        )
    for name, tensor in wanted.inputs.items():
        assert_close(found.inputs[name], tensor, rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_words_through_denoiser_and_text_encoder(any_pipe):
    arena = arena_of(any_pipe)
    known = lexicon(arena.family, ["cat"])
    weights = one_hot(known, torch.tensor([3, 7])).requires_grad_()
    _, clean, noise, t = arena.noised(arena.generator("x"), 2)
    prompts = [known.with_placeholders(2, p) for p in arena.guides.prompts]
    arena.errors(
        clean, noise, t, condition_on(arena.family, known, prompts, mixed_embeddings(known, weights))
    ).mean().backward()
    assert float(weights.grad.abs().max()) > 0
    assert torch.isfinite(weights.grad).all()


def test_the_nearest_point_of_the_simplex():
    rows = torch.tensor([[0.2, 0.3, 0.5], [2.0, 0.0, 0.0], [0.5, 0.5, 0.6]], dtype=torch.float64)
    found = to_simplex(rows)
    assert_close(found.sum(dim=-1), torch.ones(3, dtype=torch.float64))
    assert_close(found[0], rows[0])
    assert_close(found[1], torch.tensor([1.0, 0, 0], dtype=torch.float64))
    # By brute force over a fine grid of the simplex.
    steps = torch.linspace(0, 1, 201, dtype=torch.float64)
    a, b = torch.meshgrid(steps, steps, indexing="ij")
    grid = torch.stack([a, b, 1 - a - b], dim=-1)[a + b <= 1]
    nearest = grid[(grid - rows[2]).square().sum(dim=-1).argmin()]
    assert_close(found[2], nearest, rtol=0, atol=0.01)


# the sampler


def test_without_noise_the_sampler_is_the_models_own(any_pipe):
    """Same latents as a run of the scheduler that the model ships, without eta."""
    arena = arena_of(any_pipe)
    from excise.families.trajectories import plain_scheduler

    start = torch.randn(2, *arena.family.latent_shape, generator=arena.generator("start"))
    condition, none = arena.family.condition(["a cat"] * 2), arena.family.unconditional()[[0, 0]]
    scheduler = plain_scheduler(arena.family)
    scheduler.set_timesteps(4)
    x = start
    for t in scheduler.timesteps:
        at = t.expand(2)
        free, asked = arena.family.predict(x, at, none), arena.family.predict(x, at, condition)
        x = scheduler.step(free + arena.guidance * (asked - free), t, x).prev_sample
    found = denoise(arena, condition, start, times(arena, 4))
    last = 1e-3 * float(x.abs().max())
    if arena.plan.kind == "flow":
        assert_close(found, x, rtol=1e-3, atol=last)
    else:  # that scheduler ends at its first noise level, ours at none
        assert float((found - x).abs().mean()) < 0.05 * float(x.abs().mean())


def test_more_noise_gives_other_pictures_and_the_same_seed_the_same(any_pipe):
    arena = arena_of(any_pipe)
    start = torch.randn(2, *arena.family.latent_shape, generator=arena.generator("start"))
    condition, at = arena.family.condition(["a cat"] * 2), times(arena, 4)

    def drawn(eta):
        return denoise(arena, condition, start, at, eta=eta, generator=torch.Generator().manual_seed(1))

    assert torch.equal(drawn(1.0), drawn(1.0))
    assert not torch.equal(drawn(1.0), drawn(0.0))
    both = drawn(torch.tensor([0.0, 1.0]))
    assert torch.equal(both[0], drawn(0.0)[0])


def test_inverted_noise_leads_back(any_pipe, monkeypatch):
    """By a model that knows its data: latents from N(0, 0.5^2), for which the best prediction is known."""
    arena = arena_of(any_pipe)
    arena.guidance, variance = 1.0, 0.25
    plan = arena.plan

    def best(self, x, t, condition):
        a, s = plan.scales(t)
        total = a**2 * variance + s**2
        clean, noise = a * variance * x / total, s * x / total
        return {"epsilon": noise, "flow": noise - clean, "v_prediction": a * noise - s * clean}[plan.kind]

    monkeypatch.setattr(type(arena.family), "predict", best)
    condition, at = arena.family.condition(["a cat"] * 2), times(arena, 200)
    clean = 0.5 * torch.randn(2, *arena.family.latent_shape, generator=torch.Generator().manual_seed(0))
    noise = invert(arena, condition, clean, at)
    back = denoise(arena, condition, noise, at)
    assert float((back - clean).norm() / clean.norm()) < 0.05
    assert 0.8 < float(noise.std()) < 1.1


def test_every_attack_keeps_the_contract_and_describes_its_settings():
    for name in ATTACKS:
        for field, info in load_attack(name).Config.model_fields.items():
            assert info.description, (name, field)


# the command


def command(tmp_path, *more):
    args = ["attack", "--concept", "cat", "--suite", "quick", "--attack", "seeds", "--attack", "unlearndiffatk"]
    args += [
        "--images",
        "2",
        "--tests",
        "2",
        "--set",
        "iterations=2",
        "--set",
        "batch=2",
        "--out",
        str(tmp_path / "run"),
    ]
    return CliRunner().invoke(app, [*args, *more])


def test_the_command_on_the_built_in_model(tmp_path):
    """Without an edit nothing is gone: seed search finds it at once, and the page says so."""
    done = command(tmp_path, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    seeds, words = found["attacks"]
    assert (seeds["name"], seeds["any_of_n"], seeds["gap"]) == ("seeds", 1.0, 0.0)
    assert set(words) >= {"name", "budget", "rate", "any_of_n", "control", "oracle", "gap"}
    assert found["gap_to"] == "control"
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Attacks on cat" in page
    assert "quick suite on canvas-sd without edits." in page
    assert page.count('<figure class="hit">') >= 4
    assert json.loads((tmp_path / "run" / "run.json").read_text())["verb"] == "attack"
    assert found["worst_gap"] is None
    assert (found["worst_back"], found["worst_attack"]) == (1.0, "seeds")
    gated = command(tmp_path, "--require", "worst_back<=0.5")
    assert gated.exit_code == 1
    assert "gate failed: worst_back is" in gated.stderr


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--require", "ua>=0.9"], "no metric 'ua'"),
        (["--require", "worst_gap<=0.1"], "worst_gap needs a model that was never trained on the concept"),
        (["--suite", "quik"], "Did you mean 'quick'?"),
        (["--images", "0"], "a budget of no pictures"),
        (["--concept", "zebra crossing"], "nothing to bring back"),
        (["--attack", "seed"], "Did you mean 'seeds'?"),
        (["--oracle", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_from_the_command_line(tmp_path, more, sentence):
    done = command(tmp_path, *more)
    assert isinstance(done.exception, ExciseError), done.output
    assert sentence in str(done.exception)
    assert not (tmp_path / "run" / "run.json").exists()
    assert not (tmp_path / "run").exists() or more[0] == "--concept"  # what a model can draw is known only by drawing


def test_a_planted_leak_is_found():
    """An edit that keeps the synonym on purpose: the name is gone from other seeds, "kitty" brings it back."""
    family = load("canvas-sd")
    edit = erase(family, ["cat"], "uce", vocabulary="canvas-strict", preserve=["kitty"])
    found = attack(family, "cat", [edit], SuiteOptions(suite="quick", names=["seeds", "synonyms"], tests=3, images=3))
    seeds, synonyms = found.results
    assert seeds.model.any_of_n.value <= 1 / 3
    assert synonyms.model.any_of_n.value == 1.0
    assert found.worst.attack == "synonyms"


def test_other_seeds_find_a_cat_in_the_untouched_model_and_hardly_in_one_that_never_knew_it():
    options = SuiteOptions(oracle=load(ORACLE), names=["seeds", "hole"], tests=4, images=6)
    found = attack(load("canvas-sd"), "cat", (), options)
    seeds, hole = found.results
    assert seeds.model.rate.value >= 0.8
    assert seeds.oracle.rate.value <= 0.1
    assert hole.model.any_of_n.value == 1.0
    assert found.judge.startswith("canvas-judge-a and canvas-judge-b, together sure to 0.")


def test_a_recipe_that_attacks_keeps_what_attacks_found(tmp_path):
    """On the built-in model without an edit: seeds bring it back at once, and the second run attacks nothing again."""
    text = """
schema: 1
models: [canvas-sd]
protocols: [canvas-mini]
groups: [aliases]
methods: [identity]
concepts: [cat]
attack: {suite: quick, tests: 2, images: 2, only: [seeds, paraphrases]}
"""
    (tmp_path / "recipe.yaml").write_text(text)
    recipe = read(tmp_path / "recipe.yaml")
    (done,) = bench.run(recipe, tmp_path / "out")
    line = done.line()
    assert [a["name"] for a in line["attacks"]] == ["seeds", "paraphrases"]
    assert line["metrics"]["worst_back"]["value"] == 1.0
    assert "worst_gap" not in line["metrics"]
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "attacks").rglob("outcome.json")}
    assert len(kept) == 2
    next((tmp_path / "out" / "cells").iterdir()).unlink()
    (again,) = bench.run(recipe, tmp_path / "out")
    assert again.line()["attacks"] == line["attacks"]
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "attacks").rglob("outcome.json")} == kept
