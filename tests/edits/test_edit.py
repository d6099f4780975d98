"""Edits: exact removal, stacking, strength, the right base, and files that survive or are refused."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import tiny_pipe
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from excise import Edit, erase, stack
from excise.edits.apply import temporarily_applied
from excise.edits.deltas import Dense, LowRank
from excise.edits.originals import original_weights
from excise.errors import EditFileError, OutputError, SettingError, WrongBaseError
from excise.families import family_of

LOOSE = {"threshold": 5.0}  # a random text encoder has no near-empty directions


def weights(pipe) -> dict[str, torch.Tensor]:
    return {p.path: p.module.weight for p in family_of(pipe).projections()}


def image(pipe, prompt: str = "a cat") -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.from_numpy(pipe(prompt, num_inference_steps=2, generator=g, output_type="np").images)


@pytest.fixture
def edits(pipe):
    return {
        "uce": erase(pipe, ["cat"], method="uce", preserve=["dog"]),
        "speed": erase(pipe, ["car"], method="speed", preserve=["dog", "tree"], **LOOSE),
    }


@pytest.mark.parametrize("name", ["uce", "speed"])
def test_apply_changes_and_remove_restores_the_very_tensors(pipe, edits, name):
    before, picture = weights(pipe), image(pipe)
    with edits[name].apply(pipe):
        assert any(not torch.equal(before[p], w) for p, w in weights(pipe).items())
        assert not torch.equal(image(pipe), picture)
    assert all(w is before[p] for p, w in weights(pipe).items())
    assert torch.equal(image(pipe), picture)


def test_what_a_method_has_so_far_is_in_force_as_its_edit_would_be_and_below_it_every_edit_stays(pipe, edits):
    family = family_of(pipe)
    path = edits["speed"].paths[0]
    shape = family.denoiser.get_submodule(path).weight.shape
    low = LowRank(torch.randn(shape[0], 2), torch.randn(2, shape[1]))
    with edits["uce"].apply(pipe):
        before = weights(pipe)
        with temporarily_applied(family, {path: low}):
            changed = family.denoiser.get_submodule(path).weight
            assert_close(changed, before[path] + low.b @ low.a)
            assert changed.requires_grad == before[path].requires_grad
        with pytest.raises(RuntimeError, match="midway"), temporarily_applied(family, {path: low}):
            raise RuntimeError("midway")
        assert all(w is before[p] for p, w in weights(pipe).items())


def test_only_declared_weights_change(pipe, edits):
    before = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    with edits["speed"].apply(pipe):
        changed = {
            k.removesuffix(".weight") for k, v in pipe.unet.state_dict().items() if not torch.equal(v, before[k])
        }
    assert changed == set(edits["speed"].paths)


def test_strength_scales_the_change_and_zero_is_nothing(pipe, edits):
    before, edit = weights(pipe), edits["uce"]
    with edit.apply(pipe, strength=0.0):
        assert all(w is before[p] for p, w in weights(pipe).items())
    with edit.apply(pipe, strength=0.5):
        half = {p: w - before[p] for p, w in weights(pipe).items()}
    with edit.apply(pipe):
        for p, w in weights(pipe).items():
            assert_close(half[p], (w - before[p]) / 2, rtol=1e-4, atol=1e-6)
    with edit.scaled(0.5).apply(pipe):
        for p, w in weights(pipe).items():
            assert_close(half[p], w - before[p], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), float("-inf")])
def test_a_strength_that_is_not_finite_is_refused(pipe, edits, strength, excise, tmp_path):
    before = weights(pipe)
    for refused in (lambda: edits["uce"].apply(pipe, strength), lambda: edits["uce"].scaled(strength)):
        with pytest.raises(SettingError, match=f"the strength is {strength}; expected a finite number"):
            refused()
    assert all(w is before[p] for p, w in weights(pipe).items())
    status, _, err = excise("generate", "--prompt", "a cat", "--out", tmp_path / "out", f"--strength={strength}")
    assert status == 2
    assert "expected a finite number" in err
    assert not (tmp_path / "out").exists()


def test_what_overflowed_is_restored(pipe, edits):
    before = weights(pipe)
    with edits["uce"].apply(pipe, 1e40):
        assert not all(w.isfinite().all() for w in weights(pipe).values())
    assert all(w is before[p] for p, w in weights(pipe).items())


def test_strengths_of_a_strength_multiply_in_the_record_as_in_the_edit(pipe, edits):
    edit = edits["uce"]
    quarter = edit.scaled(0.5).scaled(0.5)
    assert quarter.record.settings == {**edit.record.settings, "strength": 0.25}
    assert quarter.record == edit.scaled(0.25).record
    for path, w in original_weights(family_of(pipe)).items():
        assert_close(quarter.delta(path, w), edit.delta(path, w) / 4, rtol=1e-4, atol=1e-6)


def test_what_was_in_force_is_told_with_its_whole_strength(pipe, edits):
    with edits["uce"].scaled(0.5).apply(pipe, 0.5), edits["speed"].apply(pipe):
        made = erase(pipe, ["tree"], method="esd", vocabulary=None, steps=1, sampler_steps=2)
    assert made.record.measured["after"] == ["uce: cat at strength 0.25", "speed: car"]


def test_edits_add_up_in_any_order_and_leave_in_any_order(pipe, edits):
    before = weights(pipe)
    first, second = edits["uce"].apply(pipe), edits["speed"].apply(pipe)
    one_way = {p: w.clone() for p, w in weights(pipe).items()}
    first.remove()
    with edits["speed"].apply(tiny_pipe(pipe.tokenizer)) as _:
        pass
    alone = {p: w.clone() for p, w in weights(pipe).items()}
    edits["uce"].apply(pipe)
    for p, w in weights(pipe).items():
        assert_close(w, one_way[p], rtol=1e-6, atol=1e-7)
    edits["uce"].remove(pipe)
    assert all(torch.equal(w, alone[p]) for p, w in weights(pipe).items())
    second.remove()
    assert all(w is before[p] for p, w in weights(pipe).items())
    with stack([edits["uce"], edits["speed"]]).apply(pipe):
        for p, w in weights(pipe).items():
            assert_close(w, one_way[p], rtol=1e-6, atol=1e-7)


def test_stack_of_low_rank_and_dense_parts_is_the_sum(pipe, edits):
    speed = edits["speed"]
    path = next(iter(speed.modules))
    shape = original_weights(family_of(pipe))[path].shape
    dense = Edit(speed.record, modules={path: Dense(torch.randn(shape))})
    low = Edit(speed.record, modules={path: LowRank(torch.randn(shape[0], 2), torch.randn(2, shape[1]))})
    joined = stack([low, dense, low])
    weight = torch.zeros(shape)
    assert_close(joined.delta(path, weight), 2 * low.delta(path, weight) + dense.delta(path, weight))
    assert stack([low, low]).modules[path].b.shape[1] == 4


def test_removing_what_is_not_applied_is_refused(pipe, edits):
    with pytest.raises(WrongBaseError, match="not applied"):
        edits["uce"].remove(pipe)


def test_exception_inside_still_restores(pipe, edits):
    before = weights(pipe)
    with pytest.raises(RuntimeError), edits["uce"].apply(pipe):
        raise RuntimeError
    assert all(w is before[p] for p, w in weights(pipe).items())


def test_wrong_base_is_refused_and_a_fine_tune_may_be_allowed(pipe, edits, tokenizer):
    other = tiny_pipe(tokenizer, seed=1)
    with pytest.raises(WrongBaseError, match="was made for"):
        edits["uce"].apply(other)
    with pytest.raises(WrongBaseError, match="another text encoder"):
        edits["uce"].apply(other, allow_other_base=True)
    other.text_encoder = pipe.text_encoder
    with edits["uce"].apply(other, allow_other_base=True):
        pass
    with pytest.raises(WrongBaseError, match="different models"):
        stack([edits["uce"], erase(other, ["cat"], method="uce")])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_base_in_half_precision_is_still_the_base(edits, tokenizer, dtype):
    half = tiny_pipe(tokenizer).to(dtype=dtype)
    before = weights(half)
    with edits["speed"].apply(half):
        assert next(iter(weights(half).values())).dtype == dtype
    assert all(w is before[p] for p, w in weights(half).items())


@pytest.mark.parametrize("name", ["uce", "speed"])
def test_file_round_trip(pipe, edits, name, tmp_path):
    path = edits[name].save(tmp_path / "deep" / "e.safetensors")
    loaded = Edit.load(path)
    assert loaded.record == edits[name].record
    for a, w in original_weights(family_of(pipe)).items():
        if a in loaded.paths:
            assert_close(loaded.delta(a, w), edits[name].delta(a, w), rtol=1e-5, atol=1e-6)
    assert [p.name for p in path.parent.iterdir()] == ["e.safetensors"]


def test_same_request_same_bytes(pipe, tmp_path):
    one, two = (erase(pipe, ["cat"], preserve=["dog"], seed=3, **LOOSE).save(tmp_path / n) for n in ("a", "b"))
    assert one.read_bytes() == two.read_bytes()
    three = erase(pipe, ["cat"], preserve=["dog"], seed=4, **LOOSE).save(tmp_path / "c")
    assert one.read_bytes() != three.read_bytes()


def test_files_that_are_no_edits_are_refused(edits, tmp_path):
    good = edits["uce"].save(tmp_path / "good.safetensors").read_bytes()

    def refuse(content: bytes, message: str, name: str = "bad.safetensors") -> None:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(EditFileError, match=message):
            Edit.load(path)

    refuse(good[: len(good) // 2], "damaged or cut short")
    refuse(good[:100], "damaged or cut short")
    refuse(b"", "damaged or cut short")
    refuse(b"PK\x03\x04....", "is a pickle")
    refuse(good, "is a pickle", name="edit.pt")
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    refuse((tmp_path / "other.safetensors").read_bytes(), "not an edit")
    with pytest.raises(EditFileError, match="there is no edit file"):
        Edit.load(tmp_path / "missing.safetensors")


def test_a_header_as_long_as_a_pickle_begins_is_no_pickle(edits, tmp_path):
    """The file starts with the header's length: 0x0280 + n 65536 reads like the start of a pickle."""
    good = edits["uce"].save(tmp_path / "good.safetensors").read_bytes()
    length = int.from_bytes(good[:8], "little")
    wanted = next(n for n in range(length, length + 2**17) if n % 65536 == 0x0280)
    padded = good[8 : 8 + length] + b" " * (wanted - length)
    (tmp_path / "long.safetensors").write_bytes(wanted.to_bytes(8, "little") + padded + good[8 + length :])
    assert (tmp_path / "long.safetensors").read_bytes().startswith(b"\x80\x02")
    assert Edit.load(tmp_path / "long.safetensors").paths == edits["uce"].paths


def test_tampered_content_is_refused(edits, tmp_path):
    path = edits["uce"].save(tmp_path / "e.safetensors")
    tensors = load_file(path)
    from safetensors import safe_open

    with safe_open(path, "pt") as f:
        header = json.loads(f.metadata()["excise"])

    def refuse(tensors, header, message):
        save_file(tensors, tmp_path / "t.safetensors", metadata={"excise": json.dumps(header)})
        with pytest.raises(EditFileError, match=message):
            Edit.load(tmp_path / "t.safetensors")

    refuse({**tensors, "text_map.0.u": tensors["text_map.0.u"] * float("nan")}, header, "not a finite matrix")
    refuse({**tensors, "text_map.0.u": tensors["text_map.0.u"][:-1].contiguous()}, header, "has factors")
    refuse({**tensors, "stray": torch.zeros(2, 2)}, header, "unexpected tensor 'stray'")
    refuse(tensors, {**header, "record": {**header["record"], "format": 9}}, "edit format 9")
    refuse(tensors, {**header, "record": {**header["record"], "surprise": 1}}, "cannot be read")
    refuse(tensors, {"record": header["record"]}, "cannot be read")


def test_a_failed_write_leaves_nothing(edits, tmp_path, monkeypatch):
    path = edits["uce"].save(tmp_path / "e.safetensors")
    content = path.read_bytes()

    def full(*args, **kwargs):
        args[1].write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OutputError, match="No space left on device. Nothing was left behind"):
        edits["uce"].save(path)
    assert path.read_bytes() == content
    assert len(list(tmp_path.iterdir())) == 1
