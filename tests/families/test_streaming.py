"""Text encoders are read as they run, and give the same states to the bit."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from excise import erase, load
from excise.edits.edit import applied
from excise.errors import ModelError
from excise.families import streaming
from excise.families.networks import hooked, parameters
from excise.families.streaming import streams

PROMPTS = ["a red cat", "a dog", ""]


@pytest.fixture(params=["sd", "sdxl", "sana"])
def folder(request, make, tmp_path):
    make(request.param).save_pretrained(tmp_path / request.param)
    return tmp_path / request.param


@pytest.fixture
def no_memory(monkeypatch):
    monkeypatch.setattr(streaming, "free_memory", lambda device: 0.0)


def halved(folder):
    """Let the files hold half precision, which is cast as it is read."""
    for file in folder.glob("*/model.safetensors"):
        save_file({name: t.half() for name, t in load_file(file).items()}, file, metadata={"format": "pt"})


@pytest.mark.parametrize("halves", [False, True])
def test_streamed_states_are_those_of_a_loaded_encoder_to_the_bit(folder, no_memory, halves):
    if halves:
        halved(folder)
    whole, streamed = load(folder, device="cpu"), load(folder, device="cpu", whole=False)
    for name, wanted in whole.condition(PROMPTS).inputs.items():
        assert torch.equal(streamed.condition(PROMPTS).inputs[name], wanted)
    one, two = whole.encode(PROMPTS), streamed.encode(PROMPTS)
    assert torch.equal(one.states, two.states)
    for encoder in streamed.text_encoders.values():
        assert streams(encoder)
        assert all(weight.is_meta for weight in parameters(encoder).values())
    assert streamed.device == torch.device("cpu")


@pytest.mark.parametrize("method", ["uce", "emcid"])
def test_edits_are_the_same_to_the_byte(folder, no_memory, tmp_path, method):
    if method == "emcid" and folder.name == "sana":
        pytest.skip("not for this family")
    files = []
    for number, whole in enumerate((True, False)):
        family = load(folder, device="cpu", whole=whole)
        edit = erase(family, ["cat"], method, preserve=["dog"], vocabulary=None)
        files.append(edit.save(tmp_path / f"{number}.safetensors").read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize("late", [False, True])
def test_an_edit_of_the_encoder_is_in_force_while_it_is_streamed(make, tmp_path, no_memory, late):
    make("sd").save_pretrained(tmp_path / "sd")
    whole, streamed = load(tmp_path / "sd", device="cpu"), load(tmp_path / "sd", device="cpu", whole=False)
    edit = erase(whole, ["cat"], "emcid", preserve=["dog"], vocabulary=None)
    before = whole.condition(PROMPTS).inputs["encoder_hidden_states"]
    if late:
        streamed.complete_text()
    with applied(whole, [edit]), applied(streamed, [edit]):
        wanted, states = (f.condition(PROMPTS).inputs["encoder_hidden_states"] for f in (whole, streamed))
        assert torch.equal(states, wanted)
        assert not torch.equal(states, before)
    assert streams(streamed.pipe.text_encoder)
    assert torch.equal(streamed.condition(PROMPTS).inputs["encoder_hidden_states"], before)


def test_a_layer_that_runs_more_often_is_kept_where_memory_allows(make, tmp_path):
    make("sd").save_pretrained(tmp_path / "sd")
    family = load(tmp_path / "sd", device="cpu", whole=False)
    encoder = family.pipe.text_encoder
    for left in (True, True, False):
        states = family.encode(PROMPTS).states
        assert all(weight.is_meta == left for weight in parameters(encoder).values())
    assert torch.equal(family.encode(PROMPTS).states, states)
    assert not hooked(encoder)  # a cache of encoded text stays on


def test_reading_the_whole_encoder_ends_the_streaming(make, tmp_path):
    make("sd").save_pretrained(tmp_path / "sd")
    family = load(tmp_path / "sd", device="cpu", whole=False)
    states, encoder = family.encode(PROMPTS).states, family.pipe.text_encoder
    assert streams(encoder)
    family.complete_text()
    assert not streams(encoder)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in encoder.modules() if m._parameters)
    assert torch.equal(family.encode(PROMPTS).states, states)


def test_a_file_that_goes_away_while_the_encoder_runs_is_named(make, tmp_path):
    make("sd").save_pretrained(tmp_path / "sd")
    family = load(tmp_path / "sd", device="cpu", whole=False)
    shutil.move(tmp_path / "sd" / "text_encoder", tmp_path / "away")
    with pytest.raises(ModelError, match="cannot be read any more"):
        family.encode(PROMPTS)
    shutil.move(tmp_path / "away", tmp_path / "sd" / "text_encoder")
    assert family.encode(PROMPTS).states.isfinite().all()


def test_an_encoder_that_neither_fits_nor_streams_is_refused(make, tmp_path, no_memory):
    make("sd").save_pretrained(tmp_path / "sd")
    file = tmp_path / "sd" / "text_encoder" / "model.safetensors"
    save_file({f"other.{name}": t for name, t in load_file(file).items()}, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"takes 0\.0 GB of memory, 0\.0 GB are free, and its files name weights"):
        load(tmp_path / "sd", device="cpu", whole=False)


def test_the_limit_of_a_container_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "_CGROUP", tmp_path)
    free = streaming.free_memory(torch.device("cpu"))
    assert free > 0
    (tmp_path / "memory.current").write_text("400\n")
    (tmp_path / "memory.max").write_text("1000\n")
    assert streaming.free_memory(torch.device("cpu")) == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert streaming.free_memory(torch.device("cpu")) > 600
