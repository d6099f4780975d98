"""One model is one model in every precision it is loaded in, and another one is another in all of them."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import tiny_pipe
from situations import encoder_edit, state, uce

from excise import Edit, stack
from excise.edits.bases import base_of, same_base
from excise.edits.originals import original_weights
from excise.errors import EditFileError, WrongBaseError
from excise.families import family_of, load
from excise.families.fingerprints import fingerprint

# How a model is loaded: from its own files, or from those in half precision ("half, then ...").
LOADED = {
    "single": (torch.float32,),
    "half": (torch.float16,),
    "bfloat16": (torch.bfloat16,),
    "half, then single": (torch.float16, torch.float32),
    "half, then bfloat16": (torch.float16, torch.bfloat16),
}


def loaded(pipe, how: str):
    pipe = copy.deepcopy(pipe)
    for dtype in LOADED[how]:
        pipe = pipe.to(dtype)
    return pipe


@pytest.fixture(scope="module")
def models(tokenizer):
    return {how: loaded(tiny_pipe(tokenizer), how) for how in LOADED}


@pytest.fixture(scope="module")
def others(tokenizer):
    """Of another seed, and a fine-tune: a hundredth apart."""
    tuned = tiny_pipe(tokenizer)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in (tuned.unet, tuned.text_encoder):
            for w in part.parameters():
                w.mul_(1 + 0.01 * torch.randn(w.shape, generator=generator))
    return {how: [loaded(p, how) for p in (tiny_pipe(tokenizer, seed=1), tuned)] for how in LOADED}


@pytest.mark.parametrize("made", LOADED)
@pytest.mark.parametrize("given", LOADED)
def test_an_edit_is_for_its_model_in_every_precision(models, others, made, given):
    for edit in (uce(models[made]), encoder_edit(models[made])):
        before = state(models[given])
        with edit.apply(models[given]):
            assert any(w is not before[n] for n, w in state(models[given]).items())
        for other in others[given]:
            with pytest.raises(WrongBaseError, match="has other weights"):
                edit.apply(other)
            with pytest.raises(WrongBaseError, match="another text encoder"):
                edit.apply(other, allow_other_base=True)


@pytest.mark.parametrize("made", LOADED)
@pytest.mark.parametrize("given", LOADED)
def test_edits_made_in_different_precisions_stack(models, others, made, given):
    one, two = uce(models[made]), uce(models[given])
    assert len(stack([one, two]).text_maps) == 2
    assert same_base(one.record.base, two.record.base)
    for other in others[given]:
        assert not same_base(one.record.base, base_of(family_of(other), "other"))


@pytest.mark.parametrize("given", ["single", "half", "half, then single"])
def test_prints_alone_decide_between_single_and_half(models, given):
    """Values are looked at where bfloat16 is on a side: a change too small for them is seen all the same."""
    edit, near = uce(models["single"]), copy.deepcopy(models[given])
    assert edit.record.base.values
    with torch.no_grad():
        for p in family_of(near).projections():
            p.module.weight.view(-1)[1] *= 1.002
    with pytest.raises(WrongBaseError, match="other weights"):
        edit.apply(near)


def test_records_of_before_values_were_kept_are_for_the_models_they_were_for(models, others):
    def old(edit: Edit) -> Edit:
        base = edit.record.base.model_copy(update={"values": {}})
        return Edit(edit.record.model_copy(update={"base": base}), edit.text_maps, edit.modules)

    single, half, bfloat16 = (old(uce(models[how])) for how in ("single", "half", "bfloat16"))
    for edit, how in (
        (single, "single"),
        (single, "half"),
        (single, "bfloat16"),
        (half, "single"),
        (half, "half, then bfloat16"),
        (bfloat16, "bfloat16"),
        (bfloat16, "single"),
    ):
        with edit.apply(models[how]):
            pass
        for other in others[how]:
            with pytest.raises(WrongBaseError, match="other weights"):
                edit.apply(other)
    # What rounding makes of it cannot be known: the advice says what would tell.
    with pytest.raises(WrongBaseError, match="If it is that model loaded in bfloat16, load it in float16 or float32"):
        half.apply(models["bfloat16"])


def test_the_record_of_a_file_has_the_values(models, tmp_path):
    edit = uce(models["half"])
    again = Edit.load(edit.save(tmp_path / "e.safetensors"))
    assert again.record == edit.record
    with again.apply(models["bfloat16"]):
        pass
    base = edit.record.base
    spoilt = base.model_copy(update={"values": {"weights": "no numbers"}})
    with pytest.raises(EditFileError, match="values that cannot be read"):
        Edit(edit.record.model_copy(update={"base": spoilt}), edit.text_maps).apply(models["bfloat16"])


def test_prints_are_what_they_have_always_been(models):
    """SHA-256 of the weights in half precision, and in bfloat16; edits that lie on disks hold them."""
    family = family_of(models["single"])
    base, weights = base_of(family, "tiny"), original_weights(family)
    assert base.weights == fingerprint(weights)
    assert base.weights_bfloat16 == fingerprint(weights, torch.bfloat16)
    assert base.text_encoder == fingerprint(dict(models["single"].text_encoder.named_parameters()))


@pytest.mark.canvas
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_built_in_model_needs_no_values_in_any_precision(canvas_family, dtype):
    other = load("canvas-sd", device="cpu", dtype=dtype)
    edit = uce(other)
    assert "values" not in edit.record.model_dump(mode="json")["base"]
    for made, model in ((edit, canvas_family), (uce(canvas_family), other), (encoder_edit(other.pipe), canvas_family)):
        with made.apply(model):
            pass
