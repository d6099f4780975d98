"""What is kept where nobody says what to keep: on every model but the built-in ones ordinary names."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
import torch

from excise import Concept, erase, fuse, update
from excise.concepts.concept import CHECKS, KINDS, fill, normalise_name, read_names
from excise.concepts.vocabulary import (
    LISTS,
    VOCABULARIES,
    Vocabulary,
    VocabularySource,
    guess_kind,
    naming_vocabulary,
    ordinary_names,
    ordinary_prompts,
    vocabulary_of,
)
from excise.errors import UnknownNameError
from excise.families import family_of
from excise.registry import Record


def delta(edit, pipe, path: str) -> torch.Tensor:
    return edit.delta(path, family_of(pipe).denoiser.get_submodule(path).weight.double())


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_a_list_with_its_provenance(kind):
    path = LISTS / f"{kind}.txt"
    head = path.read_text(encoding="utf-8").split("\n\n")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert "Apache-2.0" in head
    assert "copied from no list" in head.replace("\n# ", " ")
    names = read_names(path)
    assert 60 <= len(names) <= 100
    assert len({normalise_name(n) for n in names}) == len(names)
    assert all(n == n.strip() for n in names)


def test_what_speaks_of_a_target_is_left_out():
    assert {"dog", "house"} <= set(ordinary_names("object", [Concept("cat")]))
    asked = [Concept("Cats", anchor="dogs", synonyms=("car",))]
    assert not {"cat", "dog", "car"} & set(ordinary_names("object", asked))
    assert "dog" in ordinary_names("object", [Concept("hot dog")])  # another thing
    assert "table" not in " ".join(ordinary_prompts([Concept("table")])).split()  # nor "{} on a table"
    style = ordinary_names("style", [Concept("van Gogh", "style"), Concept("Mary Cassatt", "style")])
    assert "Vincent van Gogh" not in style
    assert "Rembrandt" in style
    assert "Rembrandt" not in ordinary_names("style", [Concept("Rembrandt van Rijn", "style")])
    assert "Emma" not in ordinary_names("person", [Concept("Emma Thompson", "person")])


def test_every_kind_of_a_request_has_its_names(pipe):
    family = family_of(pipe)
    both = vocabulary_of("auto", family, [Concept("cat"), Concept("Monet", "style")])
    assert both.name == "ordinary"
    assert "a dog" in both.prompts
    assert any("Rembrandt" in p for p in both.prompts)
    assert not any("Sherlock" in p for p in both.prompts)


def test_names_that_a_tokenizer_cannot_hold_break_nothing(pipe):
    pipe.text_encoder.config.max_position_embeddings = 12
    found = vocabulary_of("auto", family_of(pipe), [Concept("Monet", "style")]).prompts
    assert set(found) < set(ordinary_prompts([Concept("Monet", "style")]))
    assert max(len(pipe.tokenizer(p).input_ids) for p in found) == 12
    assert erase(pipe, ["cat"], "uce", kind="style").record.vocabulary == "ordinary"


def test_names_are_kept_by_default_and_told_in_the_record(any_pipe):
    edit = erase(any_pipe, ["cat"], "uce")
    asked = erase(any_pipe, ["cat"], "uce", vocabulary="ordinary")
    bare = erase(any_pipe, ["cat"], "uce", vocabulary="none")
    assert (edit.record.vocabulary, bare.record.vocabulary) == ("ordinary", None)
    assert all(torch.equal(t, asked.tensors()[k]) for k, t in edit.tensors().items())
    assert update(any_pipe, edit, add=["fox"], drop=["cat"]).record.vocabulary == "ordinary"
    assert fuse(any_pipe, [edit, erase(any_pipe, ["dog"], "uce")]).record.vocabulary == "ordinary"
    with pytest.raises(UnknownNameError, match="Known: auto, canvas, canvas-strict, none, ordinary"):
        erase(any_pipe, ["cat"], "uce", vocabulary="wordnet")


@pytest.mark.parametrize("method", ["mace", "scapre", "rece", "uce", "cure", "emcid"])
def test_others_move_less_in_prompts_that_no_method_saw(pipe, method):
    """With no name to keep given; mean over layers, of the change that the edit makes to what keys and values read."""
    names = ["horse", "bridge", "violin", "bread", "umbrella"]
    family = family_of(pipe)

    def moved(vocabulary: str) -> float:
        # The empty prompt's states fill so narrow a space: RECE would have no room beside them.
        own = {"fixed": "start"} if method == "rece" else {}
        edit = erase(pipe, ["cat"], method, vocabulary=vocabulary, **own)
        prompts = [p for n in names for p in fill(CHECKS["object"], n)]
        weights = {p.path: p.module.weight for p in family.projections()}
        before = family.encode(prompts).states
        was = {path: before @ w.mT for path, w in weights.items()}
        with edit.apply(pipe):
            after = family.encode(prompts).states
            now = [after @ p.module.weight.mT for p in family.projections()]
        return sum(float((a - b).norm() / b.norm()) for a, b in zip(now, was.values(), strict=True))

    assert moved("auto") < 0.8 * moved("none")


def test_canvas_names_mean_canvas_models_only(pipe):
    canvas_names = ["neon", "dots", "blueprint", "cat in neon style"]
    edit = erase(pipe, canvas_names, "uce", vocabulary=None)
    assert {c.kind for c in edit.record.concepts} == {"object"}
    asked = erase(pipe, canvas_names, "uce", vocabulary="canvas")  # who asks for its vocabulary means its names
    assert [c.kind for c in asked.record.concepts] == ["style"] * 3 + ["instance"]


@pytest.mark.canvas
def test_the_built_in_models_keep_their_own_vocabulary(canvas_family):
    assert vocabulary_of("auto", canvas_family, [Concept("cat")]).name == "canvas"
    assert guess_kind(Concept("neon"), None, naming_vocabulary("auto", canvas_family)) == Concept("neon", "style")


class Bestiary(VocabularySource):
    """A vocabulary of another package."""

    def vocabulary(self, concepts, family, bare):
        return Vocabulary("bestiary", ["a unicorn"], {c.kind: ["the {}"] for c in concepts})

    def kind_of(self, name):
        return "instance" if name == "Puss in Boots" else None


RECORD = Record(f"{__name__}:Bestiary", "beasts")


def test_another_package_may_bring_a_vocabulary(pipe, monkeypatch):
    point = EntryPoint("bestiary", f"{__name__}:RECORD", "excise.vocabularies")
    monkeypatch.setattr("excise.registry.entry_points", lambda group: [point] if group == point.group else [])
    assert "bestiary" in VOCABULARIES
    edit = erase(pipe, ["Puss in Boots", "cat"], "uce", vocabulary="bestiary")
    assert edit.record.vocabulary == "bestiary"
    assert [c.kind for c in edit.record.concepts] == ["instance", "object"]
    assert [c.kind for c in erase(pipe, ["Puss in Boots"], "uce").record.concepts] == ["object"]


def test_the_core_knows_no_canvas():
    code = (
        "import sys; from excise.concepts.vocabulary import VOCABULARIES; assert 'canvas' in VOCABULARIES;"
        "assert not {'torch', 'excise.canvas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
