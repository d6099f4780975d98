"""Nothing is lost: a finished run of another request is not replaced, and the same request is answered from it."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from excise import Edit


@pytest.fixture
def erase(excise, model, tmp_path):
    """Run excise erase with UCE into `tmp_path`/run, or another folder."""

    def run(concept: str, *more: object, out: str = "run") -> tuple[int, str, str]:
        words = ("erase", "--model", model, "-c", concept, "-p", "tree", "--method", "uce", "--vocabulary", "none")
        return excise(*words, "--out", tmp_path / out, *more)

    return run


@pytest.fixture
def no_model(monkeypatch):
    """Loading a model fails the test."""

    def refuse() -> None:
        def load(*_: object, **__: object) -> None:
            raise AssertionError("a model was loaded")

        monkeypatch.setattr("excise.families.load", load)

    return refuse


def files(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_another_request_does_not_replace_a_finished_run(erase, tmp_path, no_model):
    assert erase("cat")[0] == 0
    before = files(tmp_path / "run")
    no_model()
    for more in (("--seed", 3), ("--set", "ridge=0.7"), ("--preview",)):
        status, _, err = erase("cat", *more)
        assert (status, "holds a finished run of another request" in err, "--force" in err) == (2, True, True), err
    status, _, err = erase("dog")
    assert status == 2
    assert "(--concept cat, now --concept dog)" in err
    assert files(tmp_path / "run") == before


def test_force_replaces_it(erase, tmp_path):
    assert erase("cat")[0] == 0
    assert erase("dog", "--force")[0] == 0
    assert [c.name for c in Edit.load(tmp_path / "run").record.concepts] == ["dog"]


def test_the_same_request_is_answered_from_what_is_there(erase, tmp_path, no_model):
    (tmp_path / "keep.txt").write_text("fox\n")
    first = erase("cat", "--json", "--preserve-file", tmp_path / "keep.txt")
    before = files(tmp_path / "run")
    no_model()
    again = erase("cat", "--json", "--preserve-file", tmp_path / "keep.txt")
    assert (again[0], json.loads(again[1])) == (0, json.loads(first[1]))
    status, _, err = erase("cat", "--preserve-file", tmp_path / "keep.txt")
    assert (status, "nothing to do" in err, "excise generate" in err) == (0, True, True), err
    assert files(tmp_path / "run") == before
    (tmp_path / "keep.txt").write_text("fox\nhat\n")  # a file of another content is another request
    status, _, err = erase("cat", "--preserve-file", tmp_path / "keep.txt")
    assert (status, "keep.txt has changed since" in err) == (2, True), err


def test_an_edit_of_unknown_origin_is_not_replaced(erase, tmp_path, no_model):
    assert erase("cat")[0] == 0
    (tmp_path / "run" / "run.json").unlink()
    before = files(tmp_path / "run")
    no_model()
    status, _, err = erase("cat")
    assert (status, "belongs to no finished run" in err) == (2, True), err
    assert files(tmp_path / "run") == before


def test_an_empty_anchor_is_the_same_words_everywhere(erase, excise, tmp_path):
    """A dry run, `inspect`, the card of an export and the edit itself say it alike, and show the empty setting."""
    words = ("cat (object, read as nothing (the empty prompt))", 'anchor=""')
    _, plan, _ = erase("cat", "--set", 'anchor=""', "--dry-run")
    assert erase("cat")[0] == 0
    _, shown, _ = excise("inspect", tmp_path / "run")
    for text in (plan, shown):
        assert [w for w in words if w not in " ".join(text.split())] == []
    card = repr(Edit.load(tmp_path / "run"))
    html = Edit.load(tmp_path / "run")._repr_html_()
    assert 'anchor=""' in card + html.replace("&#34;", '"').replace("&quot;", '"')
    assert "nothing (the empty prompt)" in html


def test_a_dry_run_says_what_would_be_made_and_writes_nothing(erase, tmp_path, no_model):
    no_model()
    status, out, err = erase("cat", "--kind", "style", "--dry-run", "--anchor", "art")
    assert status == 0, err
    for part in ("cat (style, read as 'art')", "uce, seed 0", "ridge", "edit.safetensors", "tree"):
        assert part in " ".join(out.split()), part
    status, out, _ = erase("cat", "--dry-run", "--json")
    assert json.loads(out)["concepts"] == [{"name": "cat", "kind": "object", "anchor": "", "synonyms": []}]
    assert not (tmp_path / "run").exists()
    assert erase("cat", "--set", "rigde=1", "--dry-run")[0] == 2


def test_a_dry_run_has_the_kinds_and_anchors_of_the_real_one(excise, erase, model, tmp_path):
    (tmp_path / "names.csv").write_text("name,kind\nVan Gogh,style\ncat,object\n")
    words = ("erase", "--model", model, "--concept-file", tmp_path / "names.csv", "-p", "tree", "--method", "uce")
    status, out, err = excise(*words, "--out", tmp_path / "run", "--dry-run", "--json")
    assert status == 0, err
    planned = [(c["name"], c["kind"], c["anchor"]) for c in json.loads(out)["concepts"]]
    assert excise(*words, "--out", tmp_path / "run")[0] == 0
    record = Edit.load(tmp_path / "run").record
    assert planned == [(c.name, c.kind, c.anchor) for c in record.concepts]
    assert json.loads(out)["settings"] == record.settings


@pytest.mark.parametrize("given", ["run", "run/edit.safetensors"])
def test_an_edit_is_not_replaced_by_what_is_built_on_it(excise, erase, tmp_path, no_model, given):
    assert erase("cat")[0] == 0
    before = files(tmp_path / "run")
    no_model()
    status, _, err = erase("dog", "--edit", tmp_path / given, "--force")
    assert (status, "where the result would replace it" in err) == (2, True), err
    status, _, err = excise("fuse", tmp_path / given, tmp_path / given, "--out", tmp_path / "run", "--force")
    assert (status, "where the result would replace it" in err) == (2, True), err
    status, _, err = excise("import", tmp_path / given, "-c", "cat", "--out", tmp_path / "run", "--force")
    assert (status, "where the result would replace it" in err) == (2, True), err
    assert files(tmp_path / "run") == before


def test_a_run_folder_stands_for_its_edit(excise, erase, model, tmp_path):
    assert erase("cat")[0] == 0
    draw = ("generate", "--model", model, "-p", "a cat", "--steps", 1)
    for i, edit in enumerate(("run", "run/edit.safetensors")):
        status, _, err = excise(*draw, "--edit", tmp_path / edit, "--out", tmp_path / f"g{i}")
        assert status == 0, err
    a, b = (files(tmp_path / f"g{i}" / "images") for i in (0, 1))
    assert a == b
    assert excise("inspect", tmp_path / "run")[0] == 0
    assert erase("dog", "--edit", tmp_path / "run", out="two")[0] == 0
    status, _, err = excise(*draw, "--edit", tmp_path / "g0", "--out", tmp_path / "g2")
    assert (status, "holds no edit.safetensors" in err) == (2, True), err


def test_pictures_of_another_request_are_not_replaced(excise, model, tmp_path, no_model):
    draw = ("generate", "--model", model, "--steps", 1, "--out", tmp_path / "g")
    status, out, err = excise(*draw, "-p", "a cat", "--json")
    assert status == 0, err
    before = files(tmp_path / "g")
    no_model()
    status, again, err = excise(*draw, "-p", "a cat", "--json")
    assert (status, json.loads(again)) == (0, json.loads(out)), err
    status, _, err = excise(*draw, "-p", "a dog", "--steps", 2)
    assert (status, "holds a finished run of another request (" in err) == (2, True), err
    (tmp_path / "g" / "run.json").unlink()
    status, _, err = excise(*draw, "-p", "a cat")
    assert (status, "0000-a-cat-seed0.png is there already" in err) == (2, True), err
    assert files(tmp_path / "g").items() <= before.items()


def test_more_pictures_of_the_same_request_are_drawn_beside_those_that_are_there(excise, model, tmp_path, no_model):
    draw = ("generate", "--model", model, "--steps", 1, "-p", "a cat", "-p", "a dog", "--json")
    out, whole = ("--out", tmp_path / "g"), ("--out", tmp_path / "whole")
    assert excise(*draw, *out)[0] == 0
    pictures = tmp_path / "g" / "images"
    before, times = files(pictures), {p.name: p.stat().st_mtime_ns for p in pictures.iterdir()}
    status, more, err = excise(*draw, *out, "--count", 3)
    assert status == 0, err
    assert {name: (pictures / name).stat().st_mtime_ns for name in times} == times
    assert before.items() < files(pictures).items()
    assert excise(*draw, *whole, "--count", 3)[0] == 0
    images = json.loads(more)["images"]
    fresh = json.loads((tmp_path / "whole" / "run.json").read_text())["images"]
    assert [(i["prompt"], i["seed"]) for i in images] == [(i["prompt"], i["seed"]) for i in fresh]
    for image, other in zip(images, fresh, strict=True):
        assert Path(image["file"]).read_bytes() == Path(other["file"]).read_bytes()
    no_model()
    assert json.loads(excise(*draw, *out, "--count", 3)[1])["images"] == images
    fewer = json.loads(excise(*draw, *out, "--count", 2)[1])["images"]
    assert fewer == [image for image in images if image["seed"] < 2]
    assert len(json.loads((tmp_path / "g" / "run.json").read_text())["images"]) == 6


def test_pictures_of_further_prompts_and_seeds_join_those_that_are_there(excise, model, tmp_path, no_model):
    draw = ("generate", "--model", model, "--steps", 1, "--out", tmp_path / "g", "--json")
    assert excise(*draw, "-p", "a cat")[0] == 0
    status, out, err = excise(*draw, "-p", "a dog", "-p", "a cat", "--seed", 0, "--count", 2)
    assert status == 0, err
    names = [Path(image["file"]).name for image in json.loads(out)["images"]]
    assert names == ["0001-a-dog-seed0.png", "0002-a-dog-seed1.png", "0000-a-cat-seed0.png", "0003-a-cat-seed1.png"]
    run = json.loads((tmp_path / "g" / "run.json").read_text())
    assert sorted(Path(i["file"]).name for i in run["images"]) == sorted(names)
    no_model()
    for words in (("-p", "a cat"), ("-p", "a dog", "--seed", 1)):
        status, out, err = excise(*draw, *words)
        assert (status, len(json.loads(out)["images"])) == (0, 1), err
    assert sorted(p.name for p in (tmp_path / "g" / "images").iterdir()) == sorted(names)


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "-c", "cat"),
        ("attack", "-c", "cat"),
        ("generate", "-p", "a cat"),
        ("fuse",),
        ("import", "-c", "cat"),
        ("erase", "-c", "cat"),
    ],
    ids=lambda words: words[0],
)
def test_no_command_replaces_the_run_of_another(excise, erase, model, tmp_path, no_model, words):
    assert erase("cat")[0] == 0
    assert erase("dog", out="other")[0] == 0
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    if words[0] == "erase":
        (tmp_path / "run" / "run.json").write_text(json.dumps({**content, "verb": "evaluate"}))
    before = files(tmp_path / "run")
    no_model()
    verb, *more = words
    inputs = [tmp_path / "other" / "edit.safetensors"] * {"fuse": 2, "import": 1}.get(verb, 0)
    status, _, err = excise(verb, *inputs, *more, "--model", model, "--out", tmp_path / "run")
    assert (status, "holds a finished run of another request (excise" in err) == (2, True), err
    assert files(tmp_path / "run") == before


def test_an_update_keeps_the_folders_of_other_commands(excise, model, tmp_path, no_model):
    status, _, err = excise("generate", "--model", model, "-p", "x", "--steps", 1, "--out", tmp_path / "g")
    assert status == 0, err
    no_model()
    status, _, err = excise("update", tmp_path / "g", "--add", "fox")
    assert (status, "holds a finished run of excise generate" in err) == (2, True), err
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "ledger.jsonl").write_text("{}\n")
    status, _, err = excise("update", tmp_path / "p", "--add", "fox")
    assert (status, "is the folder of a policy" in err) == (2, True), err


def test_what_an_update_made_is_not_replaced_by_the_request_before_it(excise, erase, model, tmp_path):
    assert erase("cat")[0] == 0
    status, _, err = excise("update", tmp_path / "run", "--add", "fox", "--model", model)
    assert status == 0, err
    status, _, err = erase("cat")
    assert (status, "(excise update)" in err) == (2, True), err


def test_the_next_steps_that_are_printed_take_folders_that_are_free(excise, erase, model, tmp_path):
    assert erase("cat")[0] == 0
    for name in ("run-pictures", "run-evaluation", "run-pictures-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
    status, _, err = excise("update", tmp_path / "run", "--add", "fox", "--model", model)
    assert status == 0, err
    outs = [line.split("--out ")[1].split()[0] for line in err.splitlines() if line.startswith(("look:", "verify:"))]
    assert outs == [str(tmp_path / "run-pictures-3"), str(tmp_path / "run-evaluation-2")]


def test_the_demo_answers_from_what_is_there_and_replaces_no_other_run(excise, tmp_path):
    accuracies = {"object_accuracy": {"value": 0.99}, "style_accuracy": {"value": 1.0}}
    run = {
        "verb": "demo",
        "options": {"object": "cat", "style": "watercolor", "method": "speed"},
        "inputs": {"excise": version("excise")},
        **{"seconds": 1.0, "untouched": accuracies, "erased": {}},
    }
    (tmp_path / "run.json").write_text(json.dumps(run))
    (tmp_path / "report.html").write_text("kept")
    status, out, err = excise("demo", "--out", tmp_path)
    assert status == 0, err
    assert "report.html" in out + err
    status, _, err = excise("demo", "--object", "dog", "--out", tmp_path)
    assert (status, "holds a finished run of another request" in err) == (2, True), err
    assert (tmp_path / "report.html").read_text() == "kept"


def test_a_refusal_after_the_model_is_loaded_leaves_no_folder_behind(excise, erase, pipe, tmp_path):
    """An edit of another model is refused; a folder that was there stays, and a new one goes with its parents."""
    assert erase("cat")[0] == 0
    for weight in pipe.unet.parameters():
        weight.data.add_(0.01)
    pipe.save_pretrained(tmp_path / "other")
    words = ("--model", tmp_path / "other", "--edit", tmp_path / "run")
    (tmp_path / "there").mkdir()
    for out in ("new/inner", "there"):
        for verb in (("generate", "-p", "a cat"), ("evaluate", "--protocol", "concept", "--pictures", 1)):
            status, _, err = excise(*verb, *words, "--out", tmp_path / out)
            assert (status, "this edit was made for" in err) == (2, True), err
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "there").is_dir()


def test_a_policy_replaces_no_run_of_another_command_or_model(excise, erase, model, tmp_path, no_model):
    assert erase("cat")[0] == 0
    before = files(tmp_path / "run")
    (tmp_path / "policy.yaml").write_text(f"schema: 1\nmodel: {model}\nconcepts: [{{name: dog}}]\n")
    no_model()
    status, _, err = excise("apply", tmp_path / "policy.yaml", "--out", tmp_path / "run")
    assert (status, "holds a finished run of excise erase, whose files a policy would replace" in err) == (2, True), err
    assert files(tmp_path / "run") == before
