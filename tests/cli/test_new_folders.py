"""A command that is refused late, or interrupted, leaves no new --out folder behind; one that was there stays."""

from __future__ import annotations

import pytest
from conftest import tiny_pipe
from PIL import Image

from excise import erase
from excise.errors import ModelError
from excise.support.runs import new_folder

VERBS = {
    "erase": ("-c", "fox", "--method", "uce"),
    "fuse": ("{edit}", "{other}"),
    "import": ("{model}", "-c", "fox"),
    "apply": ("{policy}",),
    "generate": ("-p", "a cat"),
    "evaluate": ("--protocol", "concept", "-c", "fox"),
    "judge": ("{pictures}", "-c", "fox", "--judge", "nudenet"),
    "sequence": ("-c", "fox", "-c", "wolf"),
    "attack": ("-c", "fox"),
    "export": ("{edit}",),
    "demo": (),
    "bench": ("{recipe}",),
    "canvas": ("train", "--work", "{work}"),
}
WITHOUT_MODEL = ("apply", "judge", "demo", "bench", "canvas", "export")


@pytest.fixture(scope="module")
def places(tokenizer, tmp_path_factory):
    """A model, two edits of it, a policy and a recipe for it, and a picture."""
    here = tmp_path_factory.mktemp("given")
    pipe = tiny_pipe(tokenizer)
    pipe.save_pretrained(here / "model")
    for name, concept in (("edit", "cat"), ("other", "dog")):
        edit = erase(pipe, [concept], "uce", vocabulary=None, model_name=str(here / "model"))
        edit.save(here / name / "edit.safetensors")
    (here / "policy").write_text(f"schema: 1\nmodel: {here / 'model'}\nconcepts: [{{name: dog}}]\n")
    (here / "recipe").write_text(
        f"name: x\nprotocols: [canvas-mini]\nmodels: [{here / 'model'}]\nmethods: [{{name: uce}}]\nconcepts: [cat]\n"
    )
    (here / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(here / "pictures" / "a-fox-seed1.png")
    return {name: here / name for name in ("edit", "other", "policy", "recipe", "model", "pictures")}


@pytest.fixture
def call(excise, places, tmp_path, monkeypatch):
    """Run one command with --out; from the moment on at which it loads a model, an error comes."""

    def run(verb, out, error):
        def load(*_, **__):
            raise error

        # Where it is used first: a module that is imported while `families.load` is replaced would keep that for good.
        places_of_loading = ("bench.run.load", "canvas.build.train_world", "evaluation.judge_folder.judge_named")
        for place in (*places_of_loading, "families.load", "families.outlined"):
            monkeypatch.setattr(f"excise.{place}", load)
        more = [word.format(**places, work=tmp_path / "work") for word in VERBS[verb]]
        given = [] if verb in WITHOUT_MODEL else ["--model", places["model"]]
        return excise(verb, *more, *given, "--out", tmp_path / out)

    return run


@pytest.mark.parametrize("error", [ModelError("refused late."), KeyboardInterrupt()], ids=["refused", "interrupted"])
@pytest.mark.parametrize("verb", VERBS)
def test_no_new_folder_stays_and_an_old_one_does(call, tmp_path, verb, error):
    (tmp_path / "there").mkdir()
    for out in ("new/inner", "there"):
        status, _, err = call(verb, out, error)
        assert status == (2 if isinstance(error, ModelError) else 130), err
        assert status == 130 or "refused late" in err
    assert not (tmp_path / "new").exists()
    assert list((tmp_path / "there").iterdir()) == []


def test_every_command_with_a_folder_as_out_is_here():
    from typer.main import get_command

    from excise.cli.main import app

    commands = {**get_command(app).commands}
    to_files = {"compare", "ledger"}
    with_out = {name for name, c in commands.items() if any(p.name == "out" for p in c.params)}
    assert with_out - to_files == set(VERBS) - {"canvas"}


def test_a_folder_goes_with_folders_that_hold_no_file_and_stays_with_a_file(tmp_path):
    def work(name):
        with new_folder(tmp_path / "a" / "b"):
            (tmp_path / "a" / "b" / "attacks" / "pictures").mkdir(parents=True)
            if name:
                (tmp_path / "a" / "b" / "attacks" / name).touch()
            raise ModelError("no.")

    for name in ("", "kept"):
        with pytest.raises(ModelError):
            work(name)
        assert (tmp_path / "a").exists() == bool(name)
