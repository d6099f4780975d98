"""The benchmark engine: recipes read strictly, cells run once, interrupted runs ending like uninterrupted ones."""

from __future__ import annotations

import json
import re
import textwrap
from functools import partial

import pytest
import worlds

from excise.bench import run as bench
from excise.bench.recipe import AttackEntry, Cell, MethodEntry, RecipeError, cells, read
from excise.edits.edit import Edit, applied_edits
from excise.errors import ConceptError, OutputError, UnknownNameError
from excise.families import family_of
from excise.methods.base import Context
from excise.metrics.rates import Estimate
from excise.support.runs import locked
from excise.training.pictures import Sampling

RECIPE = """
schema: 1
name: small
models: [tiny]
protocols: [small-world]
methods:
  - uce
  - {name: uce, label: gentle, settings: {ridge: 5.0}}
  - identity
  - noise
concepts: [cat, [dog, neon]]
vocabulary: none
preserve: [car]
"""


@pytest.fixture(autouse=True)
def small_world(monkeypatch, pipe):
    worlds.register(monkeypatch)
    monkeypatch.setattr(bench, "load_model", lambda model: family_of(pipe))


@pytest.fixture
def recipe(tmp_path):
    return read(write(tmp_path, RECIPE))


def write(folder, text):
    path = folder / "recipe.yaml"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def lines_of(folder):
    """Result lines less what may differ from run to run."""
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "peak_memory_mb")} for line in lines]


def test_every_cell_once_in_the_order_of_the_recipe(recipe, tmp_path):
    done = bench.run(recipe, tmp_path / "out")
    lines = lines_of(tmp_path / "out")
    assert [(x["method"], x["concepts"]) for x in lines] == [
        (m, c) for c in (["cat"], ["dog", "neon"]) for m in ("uce", "gentle", "identity", "noise")
    ]
    assert {"model", "method", "concepts", "protocol", "hash", "metrics"} <= set(lines[0])
    assert all((tmp_path / "out" / name).exists() for d in done for name in d.images)
    assert len(list((tmp_path / "out" / "edits").glob("*.safetensors"))) == 4
    identity = lines[2]
    assert identity["metrics"]["drift"]["value"] == 0
    assert lines[3]["metrics"]["drift"]["value"] > lines[0]["metrics"]["drift"]["value"]


def test_a_run_that_is_cut_off_goes_on_and_ends_the_same(recipe, tmp_path, monkeypatch):
    bench.run(recipe, tmp_path / "whole")
    real, ran = bench.run_cell, []

    def failing(cell, *rest):
        if len(ran) == 3:
            raise KeyboardInterrupt
        ran.append(cell.title)
        return real(cell, *rest)

    monkeypatch.setattr(bench, "run_cell", failing)
    with pytest.raises(KeyboardInterrupt):
        bench.run(recipe, tmp_path / "cut")
    kept = sorted((tmp_path / "cut" / "cells").iterdir())
    kept[0].write_text(kept[0].read_text()[:200])  # and one result is damaged
    ran.clear()
    monkeypatch.setattr(bench, "run_cell", lambda cell, *rest: ran.append(cell.title) or real(cell, *rest))
    bench.run(recipe, tmp_path / "cut")
    assert len(ran) == 8 - 3 + 1
    assert lines_of(tmp_path / "cut") == lines_of(tmp_path / "whole")
    assert images_of(tmp_path / "cut") == images_of(tmp_path / "whole")


def test_an_edit_is_not_made_again_where_the_run_was_cut_off_after_it(recipe, tmp_path, monkeypatch, caplog):
    recipe = recipe.model_copy(update={"methods": recipe.methods[:1], "concepts": recipe.concepts[:1]})
    bench.run(recipe, tmp_path / "whole")
    real = {name: getattr(bench, name) for name in ("erase", "evaluate")}

    def cut(*_, **__):
        raise KeyboardInterrupt

    def begin():
        monkeypatch.setattr(bench, "evaluate", cut)
        with pytest.raises(KeyboardInterrupt):
            bench.run(recipe, tmp_path / "cut")
        monkeypatch.setattr(bench, "evaluate", real["evaluate"])

    begin()
    assert not caplog.text
    (edit,) = (tmp_path / "cut" / "edits").glob("*.safetensors")
    whole = edit.read_bytes()
    edit.write_bytes(whole[: len(whole) // 2])
    begin()  # a damaged one is, and said
    assert edit.read_bytes() == whole
    assert "is damaged (EditFileError); it is made again" in caplog.text
    monkeypatch.setattr(bench, "erase", cut)
    bench.run(recipe, tmp_path / "cut")
    assert lines_of(tmp_path / "cut") == lines_of(tmp_path / "whole")
    (note,) = (tmp_path / "cut" / "edits").glob("*.json")
    (line,) = (tmp_path / "cut" / "results.jsonl").read_text().splitlines()
    assert json.loads(line)["seconds"]["erase"] == pytest.approx(json.loads(note.read_text())["seconds"], abs=1e-3)


def images_of(folder):
    return {p.name: p.read_bytes() for p in (folder / "images").rglob("*.png")}


def test_a_training_goes_on_where_the_run_was_cut_off_in_it(tmp_path, monkeypatch):
    settings = "{steps: 4, save_every: 2, batch: 2, pictures: 4, count: 1, confine: false, blocks: all}"
    head, tail = RECIPE.split("methods:")[0], RECIPE.split("- noise")[1]
    text = f"{head}methods:\n  - {{name: surgun, settings: {settings}}}{tail}".replace("[cat, [dog, neon]]", "[cat]")
    recipe, steps = read(write(tmp_path, text)), []

    def context(judge, folder, at=None):
        def say(what, done, total):
            if what.startswith("training"):
                steps.append(done)
                if done == at:
                    raise KeyboardInterrupt

        return Context(None, folder, say=say)

    monkeypatch.setattr("excise.training.pictures.SAMPLING", Sampling(2, 2.0))
    monkeypatch.setattr(bench, "Context", partial(context, at=3))
    with pytest.raises(KeyboardInterrupt):
        bench.run(recipe, tmp_path / "out")
    monkeypatch.setattr(bench, "Context", context)
    steps.clear()
    bench.run(recipe, tmp_path / "out")
    assert steps[0] == 3  # the checkpoint of step 2 was gone on from
    assert not list((tmp_path / "out" / "training").iterdir())
    bench.run(recipe, tmp_path / "whole")
    assert lines_of(tmp_path / "out") == lines_of(tmp_path / "whole")


def test_a_sequence_is_erased_one_on_top_of_the_other(tmp_path, pipe):
    text = """
        schema: 1
        models: [tiny]
        protocols: [small-sequence]
        methods:
          - {name: surgun, settings: {steps: 2, batch: 2, pictures: 2, count: 1, confine: false, blocks: all}}
        concepts: [[cat, neon]]
        vocabulary: none
        preserve: [car]
        """
    bench.run(read(write(tmp_path, text)), tmp_path / "out")
    first, second = (Edit.load(p) for p in sorted((tmp_path / "out" / "edits").glob("*.safetensors")))
    assert "after" not in first.record.measured
    assert second.record.measured["after"] == ["surgun: cat"]
    assert applied_edits(family_of(pipe)) == []


def test_two_processes_do_not_share_a_folder(recipe, tmp_path):
    with locked(tmp_path), pytest.raises(OutputError, match="another process is at work"):
        bench.run(recipe, tmp_path)


def test_an_oracle_stands_only_beside_what_it_never_saw(recipe, tmp_path):
    oracle = MethodEntry(name="oracle", model="somewhere", without=("cat", "car"))
    with_oracle = recipe.model_copy(update={"methods": (*recipe.methods, oracle)})
    found = list(cells(with_oracle))
    assert [c.concepts for c in found if c.method.name == "oracle"] == [("cat",)]
    assert {c.concepts for c in found if c.oracle is not None} == {("cat",)}
    assert len({c.key for c in found}) == len(found) == 9


def test_an_oracle_is_not_judged_by_what_else_it_never_saw(recipe, tmp_path):
    oracle = MethodEntry(name="oracle", model="somewhere", without=("cat", "car", "neon"))
    alone = recipe.model_copy(update={"methods": (oracle,), "concepts": ("cat",)})
    (done,) = bench.run(alone, tmp_path / "out")
    asked = [s.asked for s in done.result.shown]
    assert {a["object"] for a in asked} == {"cat", "dog"}
    assert {a["style"] for a in asked} == {"plain"}
    assert len(done.images) == len(asked)
    assert done.result.metrics["ira"]["n"] == sum(a["object"] == "dog" for a in asked)
    assert (tmp_path / "out" / done.images[0]).exists()


def test_fade_sets_images_of_one_prompt_and_seed_side_by_side(recipe, tmp_path, monkeypatch):
    """All models are one here, so what it is given must agree pixel by pixel."""
    pairs = []

    def fade(erased, edits, oracle, prompts, images, seed):
        if not edits:
            pairs.extend(zip(prompts, *images, strict=True))
        return Estimate(0.0, 0.0, 0.0, len(prompts))

    monkeypatch.setattr(bench, "fade", fade)
    oracles = [MethodEntry(name="oracle", label=m, model=m, without=("cat", "neon")) for m in ("one", "two")]
    bench.run(recipe.model_copy(update={"methods": tuple(oracles), "concepts": ("cat",)}), tmp_path / "out")
    assert pairs
    assert all(a.tobytes() == b.tobytes() for _, a, b in pairs)
    assert not any("neon" in prompt for prompt, _, _ in pairs)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (("preserve:", "perserve:"), RecipeError, "unknown key 'perserve'. Did you mean 'preserve'"),
        (("settings:", "setings:"), RecipeError, "unknown key 'methods.1.setings'. Did you mean 'settings'"),
        (("- uce\n", "- uec\n"), UnknownNameError, "no method 'uec'. Did you mean 'uce'"),
        (("small-world", "small-word"), UnknownNameError, "no protocol 'small-word'"),
        (("label: gentle", "label: uce"), RecipeError, "two methods are called 'uce'"),
        (("schema: 1", "schema: 2"), RecipeError, "'schema': input should be 1"),
        (("- noise", "- oracle"), RecipeError, "an oracle needs `model`"),
        (
            ("- noise", "- {name: oracle, model: gone/canvas-sd, without: [cat]}"),
            RecipeError,
            "the oracle of the recipe is not there: no folder .*excise canvas train --without cat --seed 1 --out",
        ),
        (("name: small", "name: [small"), RecipeError, "is no YAML: line 4, expected"),
        (("concepts: [cat,", "concepts: [Monet,"), ConceptError, "small-world cannot judge 'Monet'"),
    ],
)
def test_bad_recipes_are_refused_in_one_sentence(tmp_path, change, error, message):
    with pytest.raises(error, match=message.replace("[", r"\[")):
        list(cells(read(write(tmp_path, RECIPE.replace(*change)))))


def test_a_file_of_names(tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    text = RECIPE.replace("concepts: [cat, [dog, neon]]", "concepts: [{file: names.txt}]")
    assert {c.concepts for c in cells(read(write(tmp_path, text)))} == {("cat", "dog")}


def test_a_key_of_before_advice_and_attacks_existed_is_what_it_was():
    """Results that were computed by an earlier version are found again; asking for either is another cell."""
    import hashlib
    import json

    cell = Cell(
        model="m", protocol="p", hash="h", method=MethodEntry(name="uce"), concepts=("cat",), vocabulary="auto",
        preserve=(), seed=0, groups=None, precision="float32",
        oracle=MethodEntry(name="oracle", model="o", without=("cat",)),
    )  # fmt: skip
    old = cell.model_dump(mode="json")
    del old["method"]["advise"], old["oracle"]["advise"]
    for later in ("attack", "kind", "judge", "judge_weights", "judge_files"):
        del old[later]
    text = json.dumps(old, sort_keys=True, ensure_ascii=False)
    assert cell.key == hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
    assert cell.model_copy(update={"method": MethodEntry(name="uce", advise=True)}).key != cell.key
    assert cell.model_copy(update={"attack": AttackEntry()}).key != cell.key


def test_other_weights_in_the_same_folder_make_another_cell(tmp_path):
    (tmp_path / "weights").mkdir()
    weights = tmp_path / "weights" / "classifier.safetensors"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE + "judge_weights: weights\n")
    keys = []
    for content in (b"one", b"two", b"one"):
        weights.write_bytes(content)
        keys.append(next(cells(read(recipe))).key)
    assert keys[0] == keys[2] != keys[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [("suite: quik", "'attack.suite'"), ("test: 3", "Did you mean 'tests'?"), ("images: 0", "images")],
)
def test_bad_attacks_in_a_recipe_are_refused(tmp_path, change, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        read(write(tmp_path, f"methods: [identity]\nconcepts: [cat]\nattack: {{{change}}}\n"))


def test_a_recipe_hands_on_its_judges_and_its_kind(tmp_path, monkeypatch):
    """Local weights of a protocol's judge, a CLIP folder that looks while edits are made, and what the concepts are."""
    (tmp_path / "clip").mkdir()
    (tmp_path / "weights").mkdir()
    more = "judge: clip\njudge_weights: weights\nkind: style\n"
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE + more)
    recipe = read(path)
    asked = {}

    def spy(name):
        real = getattr(bench, name)

        def called(*args, **options):
            asked[name] = options
            return real(*args, **options)

        monkeypatch.setattr(bench, name, called)

    spy("erase")
    spy("evaluate")
    first = next(cells(recipe))
    bench.run_cell(first, tmp_path / "out")
    assert asked["erase"]["kind"] == "style"
    assert asked["erase"]["context"].judge == str(tmp_path / "clip")
    assert asked["evaluate"]["judge_weights"] == tmp_path / "weights"
    path.write_text(RECIPE)
    assert next(cells(read(path))).key != first.key
    for line, sentence in (("judge: nowhere", "names the folder nowhere"), ("kind: stile", "Did you mean 'style'")):
        path.write_text(f"{RECIPE}{line}\n")
        with pytest.raises((RecipeError, UnknownNameError), match=sentence):
            read(path)
