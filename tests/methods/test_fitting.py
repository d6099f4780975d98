"""A method that needs what a family does not provide is refused before a model is loaded, with others that fit."""

from __future__ import annotations

import json

import pytest
from conftest import tiny_sana
from entry_points import Entry

from excise import erase
from excise.bench.recipe import read as read_recipe
from excise.errors import ConceptError, ModelError
from excise.families import FAMILIES, family_of
from excise.methods import METHODS
from excise.methods.fitting import check_fits, check_fits_model, families_for, methods_for
from excise.policy.policy import read as read_policy
from excise.registry import Record

REFUSED = (
    "emcid needs text encoders that add the output of their MLPs without normalising it (text_mlp), which the model "
    "family 'sana' does not provide. Families that fit emcid: sd, sdxl, flux, zimage. Methods that fit sana: "
    + ", ".join(name for name in METHODS if name not in ("emcid", "eraseanything", "safree", "zerase"))
    + "."
)


@pytest.fixture
def sana(tmp_path):
    """A folder that says which pipeline it is of and holds no weights: loading it would fail."""
    folder = tmp_path / "sana"
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "SanaPipeline"}), encoding="utf-8")
    return folder


def test_every_method_fits_some_family_and_every_family_some_method():
    for name, record in METHODS.records().items():
        assert record.needs, name
        assert families_for(record), name
    for name, record in FAMILIES.records().items():
        assert methods_for(record.provides), name


def test_a_method_fits_the_families_that_provide_what_it_needs():
    assert families_for(METHODS.record("emcid")) == ["sd", "sdxl", "flux", "zimage"]
    assert "emcid" not in methods_for(FAMILIES.record("sana").provides)
    check_fits("uce", "sana", FAMILIES.record("sana").provides)


def test_the_python_interface_refuses_before_anything_is_encoded(gemma_tokenizer, monkeypatch):
    pipe = tiny_sana(gemma_tokenizer)

    def encode(*args, **kwargs):
        raise AssertionError("encoded")

    monkeypatch.setattr(type(family_of(pipe)), "encode", encode)
    with pytest.raises(ModelError) as error:
        erase(pipe, ["cat"], "emcid")
    assert str(error.value) == REFUSED


def test_erase_refuses_before_the_model_is_loaded(excise, sana, tmp_path):
    status, _, error = excise("erase", "--model", sana, "-c", "cat", "--method", "emcid", "--out", tmp_path / "run")
    assert (status, error) == (2, f"excise: {REFUSED}\n")
    assert not (tmp_path / "run").exists()


def test_a_policy_is_refused_when_it_is_read(sana, tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(f"schema: 1\nmodel: {sana}\nmethods: {{default: emcid}}\nconcepts: [cat]\n", encoding="utf-8")
    with pytest.raises(ModelError) as error:
        read_policy(path)
    assert str(error.value) == REFUSED


def test_a_recipe_is_refused_when_it_is_read(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "schema: 1\nname: small\nmodels: [canvas-sd, canvas-sana]\nprotocols: [canvas-mini]\nmethods: [uce, emcid]\n"
        "concepts: [cat]\n",
        encoding="utf-8",
    )
    with pytest.raises(ModelError) as error:
        read_recipe(path)
    assert str(error.value) == REFUSED


def test_the_demo_refuses_before_its_model_is_loaded(excise, registered, tmp_path):
    record = Record("nowhere:Nothing", "a test", shape="closed-form", needs=frozenset({"pooled"}))
    registered(Entry("wide", record))
    status, _, error = excise("demo", "--method", "wide", "--out", tmp_path / "demo")
    assert status == 2
    assert "excise: wide needs a linear map that reads the pooled prompt (pooled), which the model " in error
    assert not (tmp_path / "demo").exists()


def test_a_model_whose_files_do_not_tell_its_family_is_not_refused_here(tmp_path):
    check_fits_model("emcid", "someone/some-model")
    check_fits_model("emcid", tmp_path)


def test_a_need_that_nobody_provides_is_refused_with_none(registered):
    registered(Entry("odd", Record("nowhere:Nothing", "a test", needs=frozenset({"text_kv", "telepathy"}))))
    with pytest.raises(ModelError, match=r"a capability of a plug-in \(telepathy\).* Families that fit odd: none\."):
        check_fits("odd", "sd", FAMILIES.record("sd").provides)


def test_what_fits_and_is_wrong_otherwise_is_refused_for_what_is_wrong(pipe):
    with pytest.raises(ConceptError, match="is empty"):
        erase(pipe, [""], "emcid")
