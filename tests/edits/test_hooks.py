"""Edits with hooks: their files, applying and removing them, stacks and strengths, caches, and what refuses them."""

from __future__ import annotations

import json
from copy import deepcopy

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from excise import Edit, erase, export, stack, update
from excise.attacks.original import swaps, untouched
from excise.edits.apply import alone
from excise.edits.edit import applied_edits
from excise.edits.fuse import fuse
from excise.errors import EditFileError, ModelError
from excise.families import family_of
from excise.families.attached import attached
from excise.families.drawing import draw, model_key
from excise.families.networks import hooked

STRONG = {"adavd": {"centre": 0.0}, "sld": {"level": "max"}, "uce": {"preserve": ["dog"]}}


def edit_of(pipe, method: str, concept: str = "cat", **more) -> Edit:
    return erase(pipe, [concept], method=method, vocabulary=None, **{**STRONG[method], **more})


@pytest.fixture
def family(pipe):
    return family_of(pipe)


def hooks_on(family) -> list[tuple[str, str]]:
    return [h for network in (family.denoiser, *family.text_encoders.values()) for h in attached(network)]


def picture(family, prompt: str = "a cat") -> np.ndarray:
    return np.asarray(family.sample([prompt], [0], steps=3, guidance=3.0, batch=1)[0]).astype(int)


@pytest.mark.parametrize("method", ["adavd", "sld"])
def test_applying_acts_on_pictures_and_removing_leaves_nothing(pipe, family, method):
    before, key = picture(family), model_key(family)
    edit = edit_of(pipe, method)
    assert edit.paths == []
    with edit.apply(pipe):
        assert [e for e, _ in applied_edits(pipe)] == [edit]
        assert hooks_on(family)
        assert np.abs(picture(family) - before).max() > 0
        assert model_key(family) != key
    assert hooks_on(family) == []
    assert applied_edits(pipe) == []
    assert not hooked(family.denoiser)
    assert np.array_equal(picture(family), before)
    assert model_key(family) == key


@pytest.mark.parametrize("method", ["adavd", "sld"])
def test_strength_zero_draws_the_same_pictures_and_strengths_multiply(pipe, family, method):
    before, edit = picture(family), edit_of(pipe, method)
    with edit.apply(pipe, 0.0):
        assert np.array_equal(picture(family), before)
    with edit.scaled(0.0).apply(pipe):
        assert np.array_equal(picture(family), before)
    with edit.apply(pipe, 0.25):
        quarter, key = picture(family), model_key(family)
    with edit.scaled(0.5).apply(pipe, 0.5):
        assert np.array_equal(picture(family), quarter)
        assert model_key(family) == key
    assert edit.scaled(0.5).record.settings["strength"] == 0.5


def test_the_file_brings_the_same_hooks_back(pipe, family, tmp_path):
    both = stack([edit_of(pipe, "uce"), edit_of(pipe, "adavd").scaled(0.5), edit_of(pipe, "sld", "dog")])
    loaded = Edit.load(both.save(tmp_path / "e.safetensors"))
    assert loaded.record == both.record
    assert loaded.record.format == 2
    assert [(h.kind, h.strength, h.settings()) for h in loaded.hooks] == [
        (h.kind, h.strength, h.settings()) for h in both.hooks
    ]
    assert {n for n in loaded.tensors() if n.startswith("hook.")} == {"hook.0.states", "hook.1.encoder_hidden_states"}
    with both.apply(pipe):
        wanted, key = picture(family), model_key(family)
    with loaded.apply(pipe):
        assert np.array_equal(picture(family), wanted)
        assert model_key(family) == key


def test_a_file_without_hooks_stays_in_format_1(pipe, tmp_path):
    edit = edit_of(pipe, "uce")
    assert edit.record.format == 1
    with safe_open(edit.save(tmp_path / "e.safetensors"), "pt") as file:
        assert set(json.loads(file.metadata()["excise"])) == {"record", "text_maps"}


def rewritten(path, change) -> None:
    """The edit file with its header and its tensors changed."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["excise"])
    tensors = load_file(path)
    change(header, tensors)
    save_file(tensors, path, metadata={"excise": json.dumps(header)})


def set_kind(header, tensors):
    header["hooks"][0]["kind"] = "foreign"


def drop_tensor(header, tensors):
    tensors.pop("hook.0.states")


def reshape_tensor(header, tensors):
    tensors["hook.0.states"] = tensors["hook.0.states"].repeat(3, 1)


def spoil_tensor(header, tensors):
    tensors["hook.0.states"][0, 0] = float("nan")


def add_tensor(header, tensors):
    tensors["hook.0.more"] = torch.zeros(1, 1)


def add_setting(header, tensors):
    header["hooks"][0]["settings"]["more"] = 1


def drop_setting(header, tensors):
    del header["hooks"][0]["settings"]["slope"]


def spell_setting(header, tensors):
    header["hooks"][0]["settings"]["slope"] = "steep"


def empty_setting(header, tensors):
    header["hooks"][0]["settings"]["centre"] = None


def spoil_setting(header, tensors):
    header["hooks"][0]["settings"]["slope"] = float("nan")


def spoil_strength(header, tensors):
    header["hooks"][0]["strength"] = float("nan")


def list_settings(header, tensors):
    header["hooks"][0]["settings"] = []


def drop_kind(header, tensors):
    del header["hooks"][0]["kind"]


def empty_hooks(header, tensors):
    header["hooks"] = None


def drop_hooks(header, tensors):
    del header["hooks"]


def raise_format(header, tensors):
    header["record"]["format"] = 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_kind, "needs a hook that this version does not know: no hook 'foreign'.*Upgrade excise"),
        (drop_tensor, "tensor 'states' of a hook is missing"),
        (reshape_tensor, "tensor 'states' of a hook has shape .*, expected 1 x any"),
        (spoil_tensor, "tensor 'states' of the hook 'adavd' is not finite"),
        (add_tensor, "has no place for the tensor 'more'"),
        (add_setting, "the setting 'more' of a hook is unknown"),
        (drop_setting, "the setting 'slope' of a hook is missing"),
        (spell_setting, "the setting 'slope' of a hook is 'steep'"),
        (empty_setting, "the setting 'centre' of a hook is None"),
        (spoil_setting, "the setting 'slope' of a hook is nan"),
        (spoil_strength, "the strength of the hook 'adavd' is nan"),
        (list_settings, "the settings of the hook 'adavd' are no mapping"),
        (drop_kind, "the entry 'kind' is missing"),
        (empty_hooks, "the entry 'hooks' is no list of hooks"),
        (drop_hooks, "the tensor 'hook.0.states' belongs to no hook that the header lists"),
        (raise_format, "has edit format 3; this version reads up to 2. Upgrade excise."),
    ],
)
def test_a_file_with_a_wrong_hook_is_refused(pipe, tmp_path, change, message):
    path = edit_of(pipe, "adavd").save(tmp_path / "e.safetensors")
    rewritten(path, change)
    with pytest.raises(EditFileError, match=message):
        Edit.load(path)


@pytest.mark.parametrize("method", ["adavd", "sld"])
def test_a_copy_with_hooks_is_refused(pipe, family, method):
    edit = edit_of(pipe, method)
    with edit.apply(pipe):
        copy = deepcopy(pipe)
    for work in (edit.apply, lambda model: erase(model, ["dog"], method="uce", vocabulary=None)):
        with pytest.raises(ModelError, match="is a copy of one to which an edit is applied"):
            work(copy)
    with edit.apply(pipe):
        assert hooks_on(family)
    assert not hooks_on(family)


def test_a_second_edit_that_changes_guidance_is_refused(pipe, family):
    first, second = edit_of(pipe, "sld"), edit_of(pipe, "sld", "dog")
    with first.apply(pipe):
        there = hooks_on(family)
        with pytest.raises(ModelError, match="two edits change guidance, which only one at a time can do"):
            second.apply(pipe)
        assert hooks_on(family) == there
        assert [e for e, _ in applied_edits(pipe)] == [first]
        with edit_of(pipe, "adavd").apply(pipe):
            assert len(applied_edits(pipe)) == 2
    with pytest.raises(ModelError, match="two edits change guidance"):
        stack([first, second])


def test_hooks_run_in_the_order_of_applying(pipe, family):
    one, two = edit_of(pipe, "adavd"), edit_of(pipe, "adavd", "dog", height=0.5)
    with one.apply(pipe), two.apply(pipe):
        in_order, orders = picture(family), hooks_on(family)
    with two.apply(pipe), one.apply(pipe):
        assert hooks_on(family) != orders
    with stack([one, two]).apply(pipe):
        assert np.array_equal(picture(family), in_order)
        assert hooks_on(family) == orders


def test_edits_leave_in_any_order(pipe, family):
    before = picture(family)
    one, two = edit_of(pipe, "adavd"), stack([edit_of(pipe, "uce"), edit_of(pipe, "sld")])
    with one.apply(pipe):
        alone_picture = picture(family)
    first, second = two.apply(pipe), one.apply(pipe)
    first.remove()
    assert np.array_equal(picture(family), alone_picture)
    second.remove()
    assert np.array_equal(picture(family), before)
    assert hooks_on(family) == []


def test_an_edit_that_cannot_be_put_on_leaves_nothing(pipe, family, monkeypatch):
    good, bad = edit_of(pipe, "adavd"), edit_of(pipe, "adavd", "dog")
    broken = stack([edit_of(pipe, "uce"), good, bad])

    def fail(*args):
        raise ModelError("no room")

    monkeypatch.setattr(type(bad.hooks[0]), "put_on", lambda hook, *args: fail() if "dog" in hook.words else None)
    weights = {p.path: p.module.weight for p in family.projections()}
    with pytest.raises(ModelError, match="no room"):
        broken.apply(pipe)
    assert hooks_on(family) == []
    assert applied_edits(pipe) == []
    assert all(p.module.weight is weights[p.path] for p in family.projections())


def test_the_untouched_model_has_no_hooks_and_gets_them_back(pipe, family):
    before = picture(family)
    edit = edit_of(pipe, "sld")
    with edit.apply(pipe):
        edited, there = picture(family), hooks_on(family)
        with untouched(family, None)() as base:
            assert np.array_equal(picture(base), before)
        assert hooks_on(family) == there
        parts = swaps(family, None)
        assert set(parts) == {"denoiser"}
        with parts["denoiser"]():
            assert np.array_equal(picture(family), before)
        assert np.array_equal(picture(family), edited)
    with edit.apply(pipe), alone(edit_of(pipe, "uce"), family):
        assert hooks_on(family) == []


def test_pictures_with_hooks_are_kept_under_their_own_key(pipe, family, tmp_path):
    requests = [("a cat", 0), ("a dog", 1)]

    def files() -> list[str]:
        return sorted(p.name for p in tmp_path.rglob("*.png"))

    def drawn() -> list[bytes]:
        return [i.tobytes() for i in draw(family, requests, steps=2, guidance=3.0, cache=tmp_path)]

    plain, edit = drawn(), edit_of(pipe, "sld")
    assert len(files()) == 2
    with edit.apply(pipe):
        edited = drawn()
        assert edited != plain
        assert len(files()) == 4
        assert drawn() == edited
    with edit.apply(pipe):
        assert drawn() == edited
    with edit.apply(pipe, 0.5):
        assert drawn() not in (plain, edited)
    assert drawn() == plain
    assert len(files()) == 6
    handle = family.denoiser.register_forward_hook(lambda *args: None)
    with edit.apply(pipe):
        drawn()
    handle.remove()
    assert len(files()) == 6


def test_what_knows_weights_alone_refuses_hooks_in_one_sentence(pipe, tmp_path, excise):
    edit = edit_of(pipe, "adavd")
    uce = edit_of(pipe, "uce", "car")
    for format in ("diffusers-lora", "kohya-lora", "merged", "single-file"):
        with pytest.raises(ModelError, match="an export holds weights alone.*excise generate --edit FILE"):
            export(edit, pipe, tmp_path / "out", format)
    with pytest.raises(ModelError, match="fusing joins changes of weights alone, and this edit, made by adavd"):
        fuse(pipe, [uce, edit])
    with pytest.raises(ModelError, match="an update solves for weights again"):
        update(pipe, edit, add=["car"])
    assert not (tmp_path / "out").exists()
    path = edit.save(tmp_path / "e.safetensors")
    status, out, _ = excise("inspect", path, "--json")
    assert status == 0
    assert json.loads(out)["delta"]["hooks"] == [
        {"kind": "adavd", "strength": 1.0, "settings": edit.hooks[0].settings()}
    ]
    status, out, _ = excise("inspect", path)
    assert status == 0
    assert "adavd" in out


def test_a_compiled_model_is_refused(pipe, family):
    edit = edit_of(pipe, "adavd")
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    with pytest.raises(ModelError, match="is compiled, and runs past what an edit puts on it"):
        edit.apply(pipe)
    assert hooks_on(family) == []
