"""Names: what is accepted, what is refused, and in which words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from excise.concept import Concept, as_concepts, check_name, check_preserve, fill, read_names
from excise.errors import ConceptError, UnknownNameError


@pytest.mark.parametrize("name", ["", "   ", "\t"])
def test_empty_names_are_refused(name):
    with pytest.raises(ConceptError, match="is empty"):
        Concept(name)


@pytest.mark.parametrize("name", ["a/b", "..\\x", "<b>cat</b>", 'cat"', "a{b}", "cat\n", "x\x00"])
def test_paths_and_markup_are_refused(name):
    with pytest.raises(ConceptError, match="not allowed in a name"):
        Concept(name)


def test_too_long_unknown_kind_and_bad_anchor():
    with pytest.raises(ConceptError, match="300 characters"):
        check_name("x" * 300)
    with pytest.raises(UnknownNameError, match="Did you mean 'object'"):
        Concept("cat", kind="objekt")
    with pytest.raises(ConceptError, match="the anchor"):
        Concept("cat", anchor="a/b")


@given(st.sampled_from(["Vincent van Gogh", "R2-D2", "gato", "猫", "it's"]))
def test_ordinary_names_are_accepted(name):
    assert Concept(name).name == name


def test_lists_are_checked():
    with pytest.raises(ConceptError, match="no concept given"):
        as_concepts([])
    with pytest.raises(ConceptError, match="given twice"):
        as_concepts(["cat", "Cat "])
    with pytest.raises(ConceptError, match="erased and to be preserved at once"):
        check_preserve(as_concepts(["cat"]), ["dog", "CAT"])
    with pytest.raises(ConceptError, match="erased and to be preserved"):
        check_preserve([Concept("cat", synonyms=("kitty",))], ["kitty"])


def test_names_from_files(tmp_path):
    text, table = tmp_path / "keep.txt", tmp_path / "keep.csv"
    text.write_text("# artists\nMonet\n\n  Van Gogh \n", encoding="utf-8")
    table.write_text('name,born\nMonet,1840\n"Gogh, Vincent van",1853\n', encoding="utf-8")
    assert read_names(text) == ["Monet", "Van Gogh"]
    assert read_names(table) == ["Monet", "Gogh, Vincent van"]
    (tmp_path / "none.txt").write_text("# nothing\n")
    with pytest.raises(ConceptError, match="holds no names"):
        read_names(tmp_path / "none.txt")
    with pytest.raises(ConceptError, match="cannot read names"):
        read_names(tmp_path / "missing.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConceptError, match="cannot read names"):
        read_names(tmp_path / "binary.txt")


def test_templates():
    assert fill(("{}", "a {} style"), "") == ["", "a style"]
    assert Concept("Monet", "style").prompts()[1] == "Monet style"
