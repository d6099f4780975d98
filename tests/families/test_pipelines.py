"""Pipelines other than the plain one of a family: subclasses, siblings, without a text encoder, other schedulers."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    EDMDPMSolverMultistepScheduler,
    SanaControlNetPipeline,
    StableDiffusionInpaintPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from situations import FAMILIES, encoder_edit, image, same, state, uce
from torch.testing import assert_close

from excise import erase
from excise.errors import ModelError, UnknownNameError
from excise.families import family_of, load
from excise.families.drawing import draw
from excise.families.noising import noising

SIBLINGS = {
    "sd": [
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "StableDiffusionControlNetPipeline",
        "StableDiffusionControlNetImg2ImgPipeline",
        "StableDiffusionControlNetInpaintPipeline",
        "StableDiffusionPAGPipeline",
    ],
    "sdxl": [
        "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLInpaintPipeline",
        "StableDiffusionXLControlNetPipeline",
    ],
    "sana": [],
}


def sibling(pipe, kind: str):
    """Another pipeline of the same parts."""
    parts = dict(pipe.components)
    if "ControlNet" in kind:
        parts["controlnet"] = ControlNetModel.from_unet(pipe.unet, conditioning_channels=3)
    known = {"sd": {"requires_safety_checker": False}, "sdxl": {"add_watermarker": False}}[family_of(pipe).name]
    return getattr(diffusers, kind)(**parts, **known)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_subclass_is_of_its_family(make, name):
    pipe, edit = make(name), uce(make(name))
    own = type("Mine", (type(pipe),), {})
    pipe.__class__ = own
    before = state(pipe)
    with edit.apply(pipe):
        assert not same(state(pipe), before)
    assert same(state(pipe), before)
    assert uce(pipe).paths == edit.paths


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kinds in SIBLINGS.items() for kind in kinds])
def test_siblings_take_edits_make_them_and_draw_from_words(make, name, kind):
    plain, pipe = make(name), sibling(make(name), kind)
    edit, picture = uce(plain), image(plain)
    made = uce(pipe)
    assert made.record.base == edit.record.base
    before = state(pipe)
    with edit.apply(pipe), edit.apply(plain):
        assert (image(pipe) == image(plain)).all()
        assert (image(pipe) != picture).any()
    assert same(state(pipe), before)
    with draw_as_itself(pipe, kind) as (_, changes):
        with edit.apply(pipe):
            assert changes()
        assert not changes()


class draw_as_itself:  # noqa: N801 - reads as a verb
    """The pipeline called as its users call it, and whether its picture has changed since."""

    def __init__(self, pipe, kind):
        self.pipe, given = pipe, Image.new("RGB", (8, 8), "grey")
        self.call = {"prompt": "a cat", "num_inference_steps": 4, "output_type": "np"}
        if "Img2Img" in kind or "Inpaint" in kind:
            self.call |= {"image": given, "strength": 1.0}
        if "Inpaint" in kind:
            self.call |= {"mask_image": Image.new("L", (8, 8), 255)}
        if "ControlNet" in kind:
            self.call |= {"control_image" if "image" in self.call else "image": given}
        if "Img2Img" not in kind:
            self.call |= {"height": 8, "width": 8}

    def picture(self):
        self.pipe.set_progress_bar_config(disable=True)
        return np.asarray(self.pipe(**self.call, generator=torch.Generator().manual_seed(0)).images)

    def __enter__(self):
        before = self.picture()
        return before, lambda: bool((self.picture() != before).any())

    def __exit__(self, *error):
        pass


def test_a_model_for_inpainting_takes_edits_and_does_not_draw_from_words(make):
    pipe = make()
    torch.manual_seed(0)
    wide = UNet2DConditionModel.from_config(pipe.unet.config, in_channels=9).eval()
    pipe = StableDiffusionInpaintPipeline(**{**pipe.components, "unet": wide}, requires_safety_checker=False)
    edit, before = uce(pipe), state(pipe)
    with draw_as_itself(pipe, "Inpaint") as (_, changes), edit.apply(pipe):
        assert changes()
    assert same(state(pipe), before)
    with pytest.raises(ModelError, match="takes 9 channels, not the 4 .* draw with the pipeline itself"):
        image(pipe)
    with pytest.raises(ModelError, match="takes 9 channels"):
        erase(pipe, ["cat"], "esd", vocabulary=None)


@pytest.mark.parametrize("kind", ["StableDiffusionXLInstructPix2PixPipeline", "FluxKontextPipeline"])
def test_what_only_sounds_alike_is_not_of_a_family(kind):
    with pytest.raises(ModelError, match=f"{kind} is not supported yet; supported are StableDiffusionPipeline"):
        family_of(type(kind, (), {})())


def test_sana_with_a_controlnet_is_sana(make):
    pipe = make("sana")
    edit, picture = uce(pipe), image(pipe)
    other = SanaControlNetPipeline(**pipe.components, controlnet=torch.nn.Identity())
    with edit.apply(other):
        assert (image(other) != picture).any()


# ---------------------------------------------------------------------------------------------- without a text encoder


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("tokenizer_too", [False, True])
def test_without_a_text_encoder_an_edit_of_the_denoiser_is_applied(make, name, tokenizer_too):
    whole = make(name)
    edit, deep = uce(whole), encoder_edit(whole)
    pipe = make(name)
    for encoder in family_of(pipe).encoder_names:
        setattr(pipe, encoder, None)
        if tokenizer_too:
            setattr(pipe, encoder.replace("text_encoder", "tokenizer"), None)
    before = state(pipe)
    with edit.apply(pipe), edit.apply(whole):
        theirs = {p.path: p.module.weight for p in family_of(whole).projections()}
        assert all(torch.equal(p.module.weight, theirs[p.path]) for p in family_of(pipe).projections())
        assert not same(state(pipe), before)
    assert same(state(pipe), before)
    for refused in (deep.apply, uce, image, lambda p: edit.apply(tuned(p), allow_other_base=True)):
        with pytest.raises(ModelError, match=r"loaded without its 'text_encoder' \(text_encoder=None\)"):
            refused(pipe)
    assert same(state(pipe), before)


def tuned(pipe):
    with torch.no_grad():
        family_of(pipe).projections()[0].module.weight.mul_(1.1)
    return pipe


# ----------------------------------------------------------------------------------------------------------- schedulers


def test_an_edm_scheduler_is_for_closed_forms(make, tmp_path):
    pipe = make("sdxl")
    plain = uce(pipe)
    pipe.scheduler = EDMDPMSolverMultistepScheduler()
    edit = uce(pipe)
    assert all(torch.equal(t, plain.tensors()[name]) for name, t in edit.tensors().items())
    before = image(pipe)
    with edit.apply(pipe):
        assert (image(pipe) != before).any()
    with pytest.raises(ModelError, match=r"EDMDPMSolverMultistepScheduler noises in its own way \(EDM\).* closed form"):
        erase(pipe, ["cat"], "esd", vocabulary=None)
    with pytest.raises(ModelError, match="own sampler"):
        draw(family_of(pipe), [("a cat", 0)], steps=2, guidance=2.0, sampler="ddim")


def test_a_flow_is_not_sampled_by_ddim(make):
    with pytest.raises(ModelError, match="DDIM does not sample from a model that predicts 'flow'"):
        draw(family_of(make("sana")), [("a cat", 0)], steps=2, guidance=2.0, sampler="ddim")


def test_what_a_model_predicts_can_be_said(make, tmp_path):
    told, untold = make(), make()
    told.scheduler = told.scheduler.from_config(told.scheduler.config, prediction_type="v_prediction")
    told.save_pretrained(tmp_path / "told")
    untold.save_pretrained(tmp_path)
    silent = load(tmp_path, device="cpu")
    assert silent.prediction == "epsilon"
    family = load(tmp_path, device="cpu", prediction="v_prediction")
    assert family.prediction == "v_prediction"
    assert np.abs(image(family.pipe) - image(load(tmp_path / "told", device="cpu").pipe)).max() <= 1
    assert (image(family.pipe) != image(silent.pipe)).any()
    x, e, t = torch.ones(1, 4, 8, 8), torch.full((1, 4, 8, 8), 2.0), torch.tensor([300])
    a = family.pipe.scheduler.alphas_cumprod[300]
    assert_close(noising(family.pipe.scheduler).target(x, e, t), a.sqrt() * e - (1 - a).sqrt() * x)
    with pytest.raises(UnknownNameError, match="no prediction 'v-prediction'. Did you mean 'v_prediction'"):
        load(tmp_path, device="cpu", prediction="v-prediction")


def test_a_flow_is_not_told_otherwise(make, tmp_path):
    make("sana").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is for a flow, not v_prediction; leave --prediction out"):
        load(tmp_path, device="cpu", prediction="v_prediction")


def test_the_command_line_says_it_too(excise, model, tmp_path):
    asked = ["generate", "--model", model, "--prompt", "a cat", "--steps", "2", "--json"]
    assert excise(*asked, "--out", tmp_path / "a")[0] == 0
    assert excise(*asked, "--out", tmp_path / "b", "--prediction", "v_prediction")[0] == 0
    one, other = (next((tmp_path / n).rglob("*.png")).read_bytes() for n in "ab")
    assert one != other
    status, _, err = excise(*asked, "--out", tmp_path / "c", "--prediction", "velocity")
    assert status == 2
    assert "no prediction 'velocity'" in err
