"""Warnings about names: of another kind than given, two in one text, one slip away from a known one."""

from __future__ import annotations

import warnings

import pytest
from conftest import tiny_pipe

from excise import Concept, erase
from excise.concepts.concept import KINDS, as_concepts
from excise.concepts.known_names import check_no_slips, kind_by_name, nearest_name, warn_of_names, warn_of_names_outside
from excise.erasing.cautions import warn_of_pieces
from excise.errors import ConceptError, ExciseWarning


def said(*names: str, kind: str | None = None) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_names(as_concepts(names, kind), kind)
    return [str(w.message) for w in caught if issubclass(w.category, ExciseWarning)]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("Van Gogh", "style"), ("the style of Monet", "style"), ("Elon Musk", "person"), ("Pikachu", "instance"),
     ("nudity", "explicit"), ("cat", "object"), ("teapot of Zorblax", None)],
)  # fmt: skip
def test_the_kind_of_a_known_name(name, kind):
    assert kind_by_name(name) == kind
    assert kind is None or kind in KINDS


def test_a_known_name_erased_as_an_object_is_said_with_the_option():
    (message,) = said("van gogh")
    assert "--kind style" in message
    assert said("van gogh", kind="style") == said("van gogh", kind="object") == said("teapot") == []


@pytest.mark.parametrize(
    ("name", "near"),
    [("cta", "cat"), ("Pikachuu", "Pikachu"), ("Taylor Swfit", "Taylor Swift"), ("Donald Trunp", "Donald Trump")],
)
def test_a_slip_is_said(name, near):
    assert nearest_name(name) == near
    assert any(f"'{near}'" in message for message in said(name))


@pytest.mark.parametrize("name", ["cat", "cats", "bat", "Pikachu", "plant", "mouse", "watercolours", "stool", "ox"])
def test_ordinary_words_are_no_slips(name):
    assert nearest_name(name) is None


def test_two_names_joined_by_a_word_are_said():
    (message,) = said("cat and dog")
    assert "--concept cat --concept dog" in message
    assert said("salt and pepper") == said("Tom and Jerry", kind="instance") == []


def test_names_that_a_built_in_model_never_saw_are_said():
    with pytest.warns(ExciseWarning, match="canvas-sd was never trained on 'cta'.* Did you mean 'cat'"):
        warn_of_names_outside({"cat", "dog"}, [Concept("cta")], "canvas-sd")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_names_outside({"cat", "dog"}, [Concept("Dog")], "canvas-sd")


class Letters:
    """A tokenizer that knows two words, and breaks all others into letters."""

    def tokenize(self, text: str) -> list[str]:
        return [f"{text}</w>"] if text in ("cat", "sitting") else [*text[:-1], f"{text[-1]}</w>"]


def test_a_word_in_pieces_is_said_with_its_pieces():
    with pytest.warns(ExciseWarning, match=r"breaks 'xqzv' into 4 pieces \(x q z v\)"):
        warn_of_pieces([Concept("sitting xqzv")], {"tokenizer": Letters()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_pieces([Concept("sitting cat"), Concept("ox"), Concept("R2-D2")], {"tokenizer": Letters()})


def test_python_says_it_too(tokenizer):
    pipe = tiny_pipe(tokenizer)
    with pytest.warns(ExciseWarning) as caught:
        erase(pipe, ["Van Gogh"], "uce", vocabulary=None)
    messages = [str(w.message) for w in caught]
    assert any('kind="style"' in message for message in messages)
    assert any("there is nothing to keep" in message for message in messages)


def test_the_command_line_says_it_before_the_model_is_loaded(excise, model, tmp_path, monkeypatch):
    def load(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for reading in ("load", "outlined"):
        monkeypatch.setattr(f"excise.families.{reading}", load)
    warnings.simplefilter("always")
    words = ("erase", "--model", model, "-c", "Van Gogh", "--method", "uce", "--out", tmp_path / "run")
    status, _, err = excise(*words, "--vocabulary", "none")
    assert (status, "--kind style" in err, "there is nothing to keep" in err) == (130, True, True), err
    assert not list(tmp_path.glob("run/*"))


@pytest.mark.parametrize("name", ["cta", "gutar", "watercolour"])
def test_a_slip_that_a_built_in_model_cannot_draw_is_refused_before_any_work(excise, tmp_path, name):
    meant = {"cta": "cat", "gutar": "guitar", "watercolour": "watercolor"}[name]
    words = f"never trained on '{name}', so nothing of it can be erased. Did you mean '{meant}'?"
    status, _, err = excise("erase", "-c", name, "--method", "uce", "--out", tmp_path / "run")
    assert (status, words in err) == (2, True), err
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"schema: 1\nmodel: canvas-sd\nconcepts: [{{name: {name}}}]\n")
    for more in ((), ("--dry-run",)):
        status, _, err = excise("apply", policy, "--out", tmp_path / "run", *more)
        assert (status, words in err, f"give name: {meant}" in err) == (2, True, True), err
    assert not (tmp_path / "run").exists()


def test_a_name_that_is_no_slip_is_warned_of_alone():
    world = {"cat", "boat", "guitar"}
    check_no_slips(world, ["AC/DC", "cat", "robot", "at"], "canvas-sd")
    with pytest.raises(ConceptError, match="'coat'.* Did you mean 'boat'"):
        check_no_slips(world, ["coat"], "canvas-sd")


def test_what_is_kept_is_said_where_no_name_is_given(excise, model, tmp_path):
    words = ("erase", "--model", model, "-c", "cat", "--method", "uce", "--out", tmp_path / "run")
    status, _, err = excise(*words)
    assert (status, "ordinary names of kind object (the built-in list) are kept" in err) == (0, True), err
