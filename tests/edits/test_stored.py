"""An edit on networks that move, are offloaded, cast or quantised, and a failure half-way: in force, or refused."""

from __future__ import annotations

import copy
import gc
import tempfile

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from diffusers.hooks import apply_group_offloading
from situations import FAMILIES, encoder_edit, image, same, state, uce

from excise import Edit, erase
from excise.edits.edit import applied_edits
from excise.errors import ModelError, WrongBaseError
from excise.exporting import export
from excise.families import family_of
from excise.families.networks import walk


def test_a_failure_half_way_leaves_everything_as_it_was(make, monkeypatch):
    pipe = make()
    edit = encoder_edit(pipe)
    before, delta, calls = state(pipe), Edit.delta, []

    def fails(self, path, weight):
        calls.append(path)
        if len(calls) == len(edit.paths):
            raise RuntimeError("out of memory")
        return delta(self, path, weight)

    monkeypatch.setattr(Edit, "delta", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        edit.apply(pipe)
    assert same(state(pipe), before)
    assert applied_edits(family_of(pipe)) == []
    monkeypatch.setattr(Edit, "delta", delta)
    # The same while parameters are put into their places: the text encoder, which comes second, does not take one.
    last = dict(walk(pipe.text_encoder))["encoder.layers.0.mlp.fc2"]
    monkeypatch.setattr(type(last), "__setattr__", _refusing(last), raising=False)
    with pytest.raises(RuntimeError, match="cannot be set"):
        edit.apply(pipe)
    monkeypatch.undo()
    assert same(state(pipe), before)
    assert applied_edits(family_of(pipe)) == []
    with edit.apply(pipe):
        assert not same(state(pipe), before)
    assert same(state(pipe), before)


def _refusing(module):
    def set_(self, name, value):
        if self is module and name == "weight":
            raise RuntimeError("cannot be set")
        torch.nn.Module.__setattr__(self, name, value)

    return set_


@pytest.mark.parametrize("name", FAMILIES)
def test_an_edit_moves_with_its_model(make, name):
    pipe = make(name)
    before = state(pipe)
    applied = encoder_edit(pipe).apply(pipe)
    more = uce(pipe).apply(pipe)
    pipe.to(torch.bfloat16)
    more.remove()
    applied.remove()
    assert {w.dtype for w in state(pipe).values()} == {torch.bfloat16}
    wanted = state(make(name).to(torch.bfloat16))
    assert all(torch.equal(w, wanted[n]) for n, w in state(pipe).items())
    image(pipe)
    pipe = make(name)
    before = state(pipe)
    applied = uce(pipe).apply(pipe)
    pipe.to(torch.bfloat16).to(torch.float32)
    applied.remove()
    assert all(w is before[n] for n, w in state(pipe).items())


def test_another_edit_on_a_model_that_moved(make):
    pipe, other = make(), make().to(torch.bfloat16)
    one, two = uce(pipe), erase(pipe, ["car"], method="uce", vocabulary=None)
    first = one.apply(pipe)
    pipe.to(torch.bfloat16)
    with two.apply(pipe):
        assert {w.dtype for w in state(pipe).values()} == {torch.bfloat16}
    first.remove()
    assert all(torch.equal(w, state(other)[n]) for n, w in state(pipe).items())


@pytest.mark.parametrize("where", ["memory", "disk", "all of it"])
def test_offloaded_weights_are_refused_and_an_edit_below_them_is_in_force(make, where, tmp_path):
    def offload(pipe):
        if where == "all of it":
            for part in (pipe.unet, pipe.text_encoder, pipe.vae):
                cpu_offload(part, execution_device=torch.device("cpu"))
        elif where == "memory":
            cpu_offload(pipe.unet, execution_device=torch.device("cpu"))
        else:
            folder = tempfile.mkdtemp(dir=tmp_path)  # accelerate takes weights that lie in a folder for the model's
            disk_offload(pipe.unet, folder, execution_device=torch.device("cpu"))

    pipe, edit = make(), uce(make())
    picture = image(pipe)
    offload(pipe)
    for refused in (edit.apply, uce, lambda p: export(edit, p, tmp_path / "out")):
        with pytest.raises(ModelError, match="is offloaded: its weight is not in the model .*remove_all_hooks"):
            refused(pipe)
    assert applied_edits(family_of(pipe)) == []
    assert (image(pipe) == picture).all()
    pipe = make()
    applied = edit.apply(pipe)
    erased = image(pipe)
    offload(pipe)
    assert (image(pipe) == erased).all()
    with pytest.raises(ModelError, match="is offloaded"):
        applied.remove()
    assert (image(pipe) == erased).all()
    pipe.remove_all_hooks()
    applied.remove()
    assert (image(pipe) == picture).all()


def test_group_offloading_is_refused(make):
    pipe, edit = make(), uce(make())
    picture = image(pipe)
    apply_group_offloading(pipe.unet, onload_device=torch.device("cpu"), offload_type="leaf_level")
    with pytest.raises(ModelError, match="offloaded in groups"):
        edit.apply(pipe)
    assert applied_edits(family_of(pipe)) == []
    assert (image(pipe) == picture).all()


def test_storage_in_eight_bits_comes_after_an_edit_and_keeps_it(make):
    pipe, edit = make(), uce(make())
    plain = make()
    plain.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    picture = image(plain)
    for refused in (edit.apply, uce):
        with pytest.raises(ModelError, match=r"kept in eight bits \(torch.float8_e4m3fn\).* cast it afterwards"):
            refused(plain)
    assert (image(plain) == picture).all()
    applied = edit.apply(pipe)
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert (image(pipe) != picture).any()
    applied.remove()
    assert (image(pipe) == picture).all()


class Packed(torch.nn.Parameter):
    """As quantising libraries mark their weights: a parameter of a class of its own."""


def _packed(module):
    module.weight = Packed(module.weight.detach(), requires_grad=False)


def _integers(module):
    module.weight = torch.nn.Parameter((module.weight.detach() * 100).to(torch.int8), requires_grad=False)


def _stated(module):
    module.weight.quant_state = object()


@pytest.mark.parametrize("quantise", [_packed, _integers, _stated])
@pytest.mark.parametrize("name", FAMILIES)
def test_quantised_weights_are_refused(make, quantise, name, tmp_path):
    pipe, edit = make(name), uce(make(name))
    last = edit.paths[-1] if edit.paths[-1] != "add_embedding.linear_1" else edit.paths[-2]
    quantise(family_of(pipe).denoiser.get_submodule(last))
    before = state(pipe)
    for refused in (edit.apply, uce, lambda p: export(edit, p, tmp_path, "merged")):
        with pytest.raises(ModelError, match=f"'{last}' is quantised or kept in eight bits.*export .* as a LoRA"):
            refused(pipe)
    assert same(state(pipe), before)
    assert not list(tmp_path.iterdir())


def test_weights_quantised_while_an_edit_is_in_force_are_not_overwritten(make):
    pipe, edit = make(), uce(make())
    applied = edit.apply(pipe)
    _packed(pipe.unet.get_submodule(edit.paths[-1]))
    before = state(pipe)
    with pytest.raises(ModelError, match="is quantised"):
        applied.remove()
    assert same(state(pipe), before)
    assert applied_edits(family_of(pipe)) == [(edit, 1.0)]


class WithoutWeight(torch.nn.Linear):
    """A linear map whose weight is made anew in every forward pass, as layers with scaled integers do."""

    def __init__(self, like):
        super().__init__(like.in_features, like.out_features, bias=False)
        weight = self._parameters.pop("weight")
        self.register_buffer("packed", weight.detach())

    @property
    def weight(self):
        return self.packed * 1.0

    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight)


def test_a_layer_without_a_weight_of_its_own_is_refused(make):
    pipe, edit = make(), uce(make())
    parent, _, name = edit.paths[-1].rpartition(".")
    attention = pipe.unet.get_submodule(parent)
    setattr(attention, name, WithoutWeight(getattr(attention, name)))
    with pytest.raises(ModelError, match=f"'{edit.paths[-1]}' has no weight that can be read or replaced"):
        edit.apply(pipe)
    with pytest.raises(ModelError, match="has no weight"):
        uce(pipe)


@pytest.mark.parametrize("instead", [False, True])
def test_an_edit_is_not_removed_by_half(make, instead):
    pipe = make()
    edit, before, encoder = encoder_edit(pipe), state(pipe), pipe.text_encoder
    edit.apply(pipe)
    during, layers = state(pipe), applied_edits(family_of(pipe))
    pipe.text_encoder = make().text_encoder if instead else None
    with pytest.raises(ModelError, match="in force on a 'text_encoder' too that is not the pipeline's now"):
        edit.remove(pipe)
    pipe.text_encoder = encoder
    assert same(state(pipe), during)
    assert applied_edits(family_of(pipe)) == layers
    edit.remove(pipe)
    assert same(state(pipe), before)


def test_a_network_that_is_gone_for_good_keeps_no_edit_from_being_removed(make):
    pipe = make()
    edit, before = encoder_edit(pipe), dict(pipe.unet.named_parameters())
    edit.apply(pipe)
    pipe.text_encoder = make().text_encoder
    gc.collect()
    edit.remove(pipe)
    assert same(dict(pipe.unet.named_parameters()), before)


def test_what_is_applied_in_inference_mode_is_no_inference_tensor(make):
    pipe = make()
    pipe.fuse_qkv_projections()
    edit = encoder_edit(pipe)
    with torch.inference_mode():
        edit.apply(pipe)
        edit.apply(pipe, 0.5)
    assert not any(w.is_inference() for w in state(pipe).values())
    pipe.to(torch.float64)
    with torch.inference_mode():
        edit.remove(pipe)
        edit.remove(pipe)
    assert not any(w.is_inference() for w in state(pipe).values())


def test_a_copy_of_a_model_with_an_edit_in_force_is_told_for_one(make):
    pipe = make()
    edit = uce(pipe)
    other = make()
    with edit.apply(pipe):
        twin = copy.deepcopy(pipe)
        for refused in (edit.remove, edit.apply):
            with pytest.raises(WrongBaseError, match="copy of a model with an edit in force.*copy a model before"):
                refused(twin)
        with pytest.raises(WrongBaseError, match=r"there is nothing to remove\.$"):
            edit.remove(other)
        with edit.apply(other):
            pass
