"""Parts that do not belong together, and prompts that do not fit, are told in one sentence."""

from __future__ import annotations

import shutil

import pytest
from dits import CASES
from safetensors.torch import load_file, save_file

from excise import erase, export, load
from excise.errors import ConceptError, ExciseWarning, ModelError, WrongBaseError
from excise.families import family_of
from excise.families.load import check_model
from excise.families.locate import unsupported
from excise.importing.import_edit import import_edit

KEPT = {"preserve": ["dog"], "vocabulary": None}


def test_a_text_encoder_of_another_width_is_refused_by_doctor_and_erase(excise, tmp_path):
    for name in ("zimage", "flux2-klein"):
        CASES[name].build().save_pretrained(tmp_path / name)
    shutil.rmtree(tmp_path / "zimage" / "text_encoder")
    shutil.copytree(tmp_path / "flux2-klein" / "text_encoder", tmp_path / "zimage" / "text_encoder")
    for command in (["doctor"], ["erase", "-c", "cat", "--method", "uce", "--out", tmp_path / "out"]):
        status, _, error = excise(*command, "--model", tmp_path / "zimage")
        assert status == 2, error
        assert "load the text encoder that came with the model" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", CASES)
def test_a_pipeline_without_its_tokenizer_is_refused(name):
    pipe = CASES[name].build()
    family = family_of(pipe)
    tokenizer = family.encoder_names[-1].replace("text_encoder", "tokenizer")
    if family.encoder_names[-1] in family.optional_encoders:
        tokenizer = "tokenizer"
    pipe.register_modules(**{tokenizer: None})
    with pytest.raises(ModelError, match="without the tokenizer of its 'text_encoder"):
        erase(pipe, ["cat"], "uce", **KEPT)


@pytest.mark.parametrize("template", ["{{ raise_exception('no system role') }}", "{% for turn in messages %}"])
@pytest.mark.parametrize("name", ["zimage", "flux2-klein"])
def test_a_chat_template_that_fails_is_refused(name, template):
    pipe = CASES[name].build()
    pipe.tokenizer.chat_template = template
    with pytest.raises(ModelError, match="chat template fails on a prompt .*; load the model with the tokenizer"):
        erase(pipe, ["cat"], "uce", **KEPT)


@pytest.mark.parametrize("name", ["krea2", "sd3"])
def test_a_file_that_lacks_a_weight_is_blamed_itself(name, tmp_path):
    """Under the names of diffusers, of which one is left out; diffusers reads such a file whole."""
    CASES[name].build().save_pretrained(tmp_path / "folder")
    state = load_file(next((tmp_path / "folder" / "transformer").glob("*.safetensors")))
    del state[sorted(n for n in state if n.endswith(".weight"))[-1]]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(
        ModelError, match=r"model.safetensors (lacks|cannot be read as) .*give --config the folder of the same variant"
    ):
        load(tmp_path / "model.safetensors", config=tmp_path / "folder", device="cpu", whole=False)


def test_a_prediction_is_refused_where_the_scheduler_has_another(tmp_path):
    CASES["sana-sprint"].build().save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match="is for 'trigflow', not epsilon; leave --prediction out"):
        load(tmp_path / "model", device="cpu", prediction="epsilon")


def test_configurations_of_a_folder_are_its_own(tmp_path):
    CASES["zimage"].build().save_pretrained(tmp_path / "model")
    for model in (tmp_path / "model", "canvas-sd"):
        with pytest.raises(ModelError, match="--config is for models in one file"):
            check_model(model, config=tmp_path / "model")


@pytest.mark.parametrize(
    ("pipeline", "nearest"),
    [
        ("FluxKontextPipeline", "Flux"),
        ("FluxPriorReduxPipeline", "Flux"),
        ("Lumina2Text2ImgPipeline", "Lumina2"),
        ("StableDiffusionXLTurboPipeline", "StableDiffusionXL"),
    ],
)
def test_the_longest_beginning_is_the_nearest_pipeline(pipeline, nearest):
    assert str(unsupported(pipeline)).endswith(f"; the nearest of them is {nearest}Pipeline.")


@pytest.mark.parametrize("name", CASES)
def test_a_prompt_that_does_not_fit_is_told_when_it_is_drawn(name):
    family = family_of(CASES[name].build())
    short, long = "a cat", " ".join(["a cat on a mat"] * 600)
    with pytest.warns(ExciseWarning, match=r"has \d+ tokens.*; \d+ fit"):
        next(family.batches([[(short, 0), (long, 0)]], steps=1, guidance=1.0))


def test_a_name_that_clip_does_not_read_is_not_erased_from_flux():
    """T5 reads further than CLIP, whose pooled prompt would then say nothing of the name."""
    family = family_of(CASES["flux-dev"].build())
    limit = family.pipe.tokenizer.model_max_length
    prompt = " ".join(["a red cat on a mat"] * (limit // 4)) + " dog"
    with pytest.raises(ConceptError, match=rf"{limit} fit"):
        family.encode([prompt], ["dog"])


def test_an_export_for_another_family_is_not_imported_under_a_name_either(tmp_path):
    chroma, flux = CASES["chroma"].build(), CASES["flux-dev"].build()
    done = export(erase(chroma, ["cat"], "uce", **KEPT), chroma, tmp_path)
    with pytest.raises(WrongBaseError, match="was made for a model of the family 'chroma'"):
        import_edit(done.path, flux, ["cat"])


@pytest.mark.parametrize(
    "told",
    [{"modelspec.architecture": "flux-1-dev/lora"}, {"ss_base_model_version": "flux1"}],
    ids=["modelspec", "kohya"],
)
def test_a_lora_that_names_another_model_is_imported_with_a_warning(told, tmp_path):
    chroma = CASES["chroma"].build()
    done = export(erase(chroma, ["cat"], "uce", **KEPT), chroma, tmp_path)
    save_file(load_file(done.path), tmp_path / "lora.safetensors", told)
    with pytest.warns(ExciseWarning, match="says that it was made for flux.*of the family 'chroma'"):
        import_edit(tmp_path / "lora.safetensors", chroma, ["cat"])
