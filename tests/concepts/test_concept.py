"""Names: what is accepted, what is refused, and in which words."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from excise.concepts.concept import Concept, as_concepts, check_name, check_preserve, fill, read_names
from excise.concepts.concept_file import read_concepts
from excise.errors import ConceptError, ExciseWarning, UnknownNameError


@pytest.mark.parametrize("name", ["", "   ", "\t"])
def test_empty_names_are_refused(name):
    with pytest.raises(ConceptError, match="is empty"):
        Concept(name)


@pytest.mark.parametrize("name", ["a{b}", "cat\n", "x\x00", "cat\u2028dog"])
def test_braces_and_control_characters_are_refused(name):
    with pytest.raises(ConceptError, match="not allowed in a name"):
        Concept(name)


def test_too_long_unknown_kind_and_bad_anchor():
    with pytest.raises(ConceptError, match="300 characters"):
        check_name("x" * 300)
    with pytest.raises(UnknownNameError, match="Did you mean 'object'"):
        Concept("cat", kind="objekt")
    with pytest.raises(ConceptError, match="the anchor"):
        Concept("cat", anchor="a{b}")


@given(st.sampled_from(["Vincent van Gogh", "R2-D2", "gato", "猫", "it's", "Tom & Jerry", "AC/DC", 'the "cat"', "<3"]))
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


TABLES = {
    "id,concept\n1,Mickey\n2,Snoopy\n": ["Mickey", "Snoopy"],
    "kind,name\nobject,lamp\nobject,chair\n": ["lamp", "chair"],
    "id,name\n1,cat\n2,dog\n": ["cat", "dog"],
    ",name\n0,cat\n1,dog\n": ["cat", "dog"],  # an index
    "name,artist\n1,Monet\n2,Klee\n": ["Monet", "Klee"],
    "name,artist\n2e5,Monet\n1E-3,Klee\n": ["Monet", "Klee"],
    "name,artist\n,Monet\n": ["Monet"],
    "class_id,class\n0,tench\n": ["tench"],
    "Artist,id\nMonet,1\n": ["Monet"],
    "text,label\ncat,0\n": ["cat"],
    '# asked for in March\nname\ncat\n# off\n#fox\n"#1 fan"\n': ["cat", "#1 fan"],
    "#,name\n1,cat\n": ["cat"],
    "type,text\nretain,Snoopy\n": ["Snoopy"],
    "class,label\n0,tench\n1,church\n": ["tench", "church"],  # numbers are passed over
    "born;Artist names\n1840;Monet\n1853;Gogh, Vincent van\n": ["Monet", "Gogh, Vincent van"],
    "\ufeffconcept\tborn\nGogh, Vincent\t1853\n": ["Gogh, Vincent"],
    'name\n"Gogh, Vincent van"\n': ["Gogh, Vincent van"],
    # UCE and ESD publish such a table, each name in five rows.
    ",case_number,prompt,evaluation_seed,artist\n0,0,Art by Monet,7,Monet\n1,1,Image by Monet,8,Monet\n": ["Monet"],
    "case_number,prompt,class,evaluation_seed\n0,an image of a tench,tench,1174\n": ["tench"],
    # What UnlearnDiffAtk publishes has prompts alone.
    "case_number,prompt,evaluation_seed\n0,Old stone church.,69922\n": ["Old stone church."],
}


@pytest.mark.parametrize(("text", "names"), TABLES.items(), ids=[t.splitlines()[0] for t in TABLES])
def test_names_stand_in_the_column_that_is_called_so(tmp_path, text, names):
    path = tmp_path / "list.csv"
    path.write_text(text, encoding="utf-8")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert read_names(path) == names
    ours = text.startswith(("name\n", "kind,name\n", "# asked"))
    assert len(said) == (0 if ours else 1)  # said where there are other columns
    if "prompt,evaluation_seed,artist" in text:
        assert "column `artist`; it also has `prompt`" in str(said[0].message)
    if "Old stone" in text:
        assert "each prompt as one name" in str(said[0].message)
        with pytest.raises(ConceptError, match="whole prompts and no names; expected `name`"):
            read_concepts(path)
    else:
        with warnings.catch_warnings(record=True) as again:
            warnings.simplefilter("always")
            assert [c.name for c in read_concepts(path)] == names
        assert [str(w.message) for w in again] == [str(w.message) for w in said]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,x\n2,y\n", "the columns 1, x, which look like a row of it; expected `name`"),
        ("case_number,evaluation_seed\n1,2\n", "has the columns case_number, evaluation_seed; expected `name`"),
        ("id,class\n1,1\n2,2\n", r"the column `class` of .* holds numbers \(1, 2\), not names"),
        ("Mickey\nSnoopy\n", "has the columns Mickey; expected `name`"),
        ("cat,object\ndog,object\n", "the first line of .* looks like one of its names"),
        ("name,name\ncat,dog\n", "has 2 columns called `name`; leave in the one that is meant"),
        ("name,kind,Kind\ncat,object,style\n", "has 2 columns called `kind`; leave in the one that is meant"),
        ("name\nGogh, Vincent van\n", "line 2: more cells than the header has; quote what holds a comma"),
        ("", "holds no"),
    ],
)
def test_tables_without_a_column_of_names_are_refused(tmp_path, text, message):
    path = tmp_path / "list.csv"
    path.write_text(text)
    for read in (read_names, read_concepts):
        with pytest.raises(ConceptError, match=message):
            read(path)


@pytest.mark.parametrize("table", ["id,name,\n1,cat,\n2,dog,\n", "name,id,kind\ncat,1,\ndog,2,\n"])
def test_columns_that_are_none_of_ours_are_passed_over_and_said(tmp_path, table):
    path = tmp_path / "list.csv"
    path.write_text(table)
    for read in (read_names, read_concepts):
        with pytest.warns(ExciseWarning) as said:
            assert len(read(path)) == 2
        (warning,) = said
        assert (
            str(warning.message)
            == f"the names in {path} were taken from its column `name`; it also has `id`, passed over."
        )


@pytest.mark.parametrize("key", ["knd", "synonym", "anchors"])
def test_a_misspelt_key_is_refused_with_the_nearest(tmp_path, key):
    path = tmp_path / "list.csv"
    path.write_text(f"id,name,{key}\n1,cat,object\n")
    refused = pytest.raises(ConceptError, match=f"entry 1: unknown key '{key}'. Did you mean '(kind|synonyms|anchor)'")
    with pytest.warns(ExciseWarning, match="it also has `id`, passed over"), refused:
        read_concepts(path)


@pytest.mark.parametrize(
    ("ending", "text"),
    [
        ("yaml", '- "cat"\n- dog\n# - fox\n'),
        ("YML", "- {name: ' cat ', kind: object}\n- name: dog\n"),
        ("json", '["cat", {"name": "dog"}]'),
    ],
)
def test_yaml_is_read_as_yaml_wherever_names_are_read(tmp_path, ending, text):
    path = tmp_path / f"keep.{ending}"
    path.write_text(text)
    assert read_names(path) == [c.name for c in read_concepts(path)] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# none\n", "holds no (names|concepts); expected one a line, a table .*, or a YAML list"),
        ("cat dog\n", "holds str; expected a list of names, .*: begin each entry with a dash"),
        ("- cat\n- 7\n", "entry 2: .*valid string, and the entry has 7. Put a name in quotes"),
        ("- cat\n- no\n", "entry 2: .*has False. Put a name in quotes if it reads as .* yes or no"),
        ("- Heat: Two\n", "entry 1: .*has the keys Heat. Put a name in quotes if it .* holds a colon"),
        ("- '1'\n- '2'\n", r"holds numbers \(1, 2\), not names; write names in their place"),
    ],
)
def test_yaml_without_names_is_refused(tmp_path, text, message):
    (tmp_path / "keep.yaml").write_text(text)
    for read in (read_names, read_concepts):
        with pytest.raises(ConceptError, match=message):
            read(tmp_path / "keep.yaml")


@pytest.mark.parametrize("line", ["- cat", "1. cat", '"cat"'])
def test_the_marks_of_a_list_in_a_text_are_said(tmp_path, line):
    (tmp_path / "keep.txt").write_text(f"dog\n{line}\n")
    for read in (read_names, read_concepts):
        with pytest.warns(ExciseWarning, match=f"'{line}' too; if its marks are not meant, take them out"):
            assert len(read(tmp_path / "keep.txt")) == 2


@pytest.mark.parametrize("name", ["&lt;cat&gt;", "Tom &amp; Jerry", "&#60;cat", "1,000 cats", "cat;"])
def test_a_mark_inside_a_name_is_no_list(tmp_path, name):
    (tmp_path / "keep.txt").write_text(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        as_concepts([name])
        assert read_names(tmp_path / "keep.txt") == [name]


def test_a_list_of_numbers_is_refused_and_a_header_that_could_be_a_name_is_said(tmp_path):
    (tmp_path / "n.txt").write_text("1\n2e5\n")
    for read in (read_names, read_concepts):
        with pytest.raises(ConceptError, match=r"holds numbers \(1, 2e5\), not names; give a name a line\.$"):
            read(tmp_path / "n.txt")
    (tmp_path / "coco.csv").write_text("person\nbicycle\n")
    with pytest.warns(ExciseWarning, match="taken from its column `person`"):
        assert read_names(tmp_path / "coco.csv") == ["bicycle"]


def test_templates():
    assert fill(("{}", "a {} style"), "") == ["", "a style"]
    assert Concept("Monet", "style").prompts()[1] == "Monet style"


def test_a_phrase_that_looks_like_several_names_is_said(tmp_path):
    with pytest.warns(ExciseWarning) as said:
        assert [c.name for c in as_concepts(["cat, dog"])] == ["cat, dog"]
    text = str(said[0].message)
    assert "'cat, dog' is taken as one phrase" in text
    assert "--concept cat --concept dog" in text
    assert '["cat", "dog"]' in text
    (tmp_path / "keep.txt").write_text("cat, dog\n")
    for read in (read_names, read_concepts):
        with pytest.warns(ExciseWarning, match="'cat, dog' too; if several are meant, give each a line"):
            read(tmp_path / "keep.txt")
    (tmp_path / "keep.csv").write_text('name\n"Gogh, Vincent van"\n')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        as_concepts(read_concepts(tmp_path / "keep.csv"))  # what a table holds is meant


def test_a_text_in_place_of_a_list_is_one_name():
    assert as_concepts("cat") == [Concept("cat")]
    with pytest.raises(ConceptError, match="give a list of names: \\['dog'\\]"):
        check_preserve([Concept("cat")], "dog")
