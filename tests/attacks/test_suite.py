"""A suite of attacks: its target, oracle and seeds, what it keeps on disk, and bad input."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from attack_runs import run
from conftest import tiny_pipe, tiny_sana
from peft import LoraConfig

from excise import erase
from excise.attacks.suite import target_of
from excise.concepts.concept import CHECKS, Concept, fill
from excise.errors import ConceptError, ExciseWarning, ModelError, SettingError, UnknownNameError
from excise.families import family_of
from excise.methods.trained.surgun import restoring as restoring_module


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


def test_guides_are_drawn_once_for_all_calls_that_share_a_cache(tokenizer, tmp_path):
    def times():
        return {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.png")}

    one, drawn = run(tiny_pipe(tokenizer), names=["relearning, 1 picture"], cache=tmp_path), times()
    two = run(tiny_pipe(tokenizer), names=["relearning, 1 picture"], cache=tmp_path)
    without = run(tiny_pipe(tokenizer), names=["relearning, 1 picture"])
    assert drawn
    assert times() == drawn
    assert (
        one.results[0].document()["rate"] == two.results[0].document()["rate"] == without.results[0].document()["rate"]
    )


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
    assert set(made) == {"drawing guides"}
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


def test_what_a_hook_may_have_changed_is_not_taken_from_a_run_before(tokenizer, tmp_path):
    pipe = tiny_pipe(tokenizer)
    pipe.text_encoder.register_forward_hook(lambda *_: None)
    for count in (1, 2):
        with pytest.warns(ExciseWarning, match="ships hooks or a LoRA"):
            run(pipe, names=["seeds"], folder=tmp_path)
        assert len(list(tmp_path.rglob("outcome.json"))) == count


def test_an_attack_that_the_oracle_cannot_host_costs_its_gap_alone(tokenizer):
    oracle = tiny_pipe(tokenizer, seed=3)
    oracle.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k"]))
    found = run(tiny_pipe(tokenizer), names=["relearning, 1 picture", "seeds"], oracle=oracle)
    assert found.results[0].model is not None
    assert (found.results[0].oracle, found.results[0].gap) == (None, None)
    assert found.results[0].why.startswith("the oracle: ")
    assert found.results[1].gap is not None


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


def test_a_base_of_another_make_is_refused(tokenizer, gemma_tokenizer):
    with pytest.raises(ModelError, match="of the family 'sd' with latents .* give one of the same make"):
        run(tiny_pipe(tokenizer), oracle=tiny_sana(gemma_tokenizer))
