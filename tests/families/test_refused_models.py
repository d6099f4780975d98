"""What a diffusion transformer is not given is refused in one sentence that says what to do."""

from __future__ import annotations

import pytest
import torch
from dits import CASES
from safetensors.torch import save_file

from excise import erase, export
from excise.errors import ModelError, WrongBaseError
from excise.families import family_of
from excise.families.locate import unsupported
from excise.importing.import_edit import import_edit

KEPT = {"preserve": ["dog"], "vocabulary": None}


@pytest.mark.parametrize("name", CASES)
def test_a_model_without_its_text_encoders_is_refused(name):
    pipe = CASES[name].build()
    pipe.register_modules(**dict.fromkeys(family_of(pipe).encoder_names))
    with pytest.raises(ModelError, match=r"loaded without its 'text_encoder\w*' .*; load it with it"):
        erase(pipe, ["cat"], "uce", **KEPT)


def test_the_command_line_says_so_with_status_2(excise, tmp_path):
    pipe = CASES["zimage"].build()
    pipe.tokenizer.chat_template = None
    pipe.save_pretrained(tmp_path / "model")
    for command in (["doctor"], ["erase", "-c", "cat", "--method", "uce", "--out", tmp_path / "out"]):
        status, _, error = excise(*command, "--model", tmp_path / "model")
        assert status == 2, error
        assert "has no chat template" in error
    assert not (tmp_path / "out").exists()


def test_an_export_for_another_family_is_not_imported(tmp_path):
    """Chroma's maps have the names and shapes of those of FLUX.1."""
    chroma, flux = CASES["chroma"].build(), CASES["flux-dev"].build()
    done = export(erase(chroma, ["cat"], "uce", **KEPT), chroma, tmp_path)
    with pytest.raises(WrongBaseError, match="was made for a model of the family 'chroma', and this one is of 'flux'"):
        import_edit(done.path, flux)


def test_a_lora_of_another_program_for_another_family_is_not_imported(tmp_path):
    factors = {"lora_A.weight": torch.ones(1, 32), "lora_B.weight": torch.ones(32, 1)}
    state = {f"transformer.layers.0.attention.to_q.{end}": tensor for end, tensor in factors.items()}
    save_file(state, tmp_path / "lora.safetensors")
    with pytest.raises(WrongBaseError, match="which the base does not have; give its base model"):
        import_edit(tmp_path / "lora.safetensors", CASES["sd3"].build(), ["cat"])


def test_the_nearest_pipeline_is_named():
    assert str(unsupported("PixArtAlphaPipeline")).endswith("; the nearest of them is PixArtSigmaPipeline.")
    assert str(unsupported("DDPMPipeline")).endswith("ControlNet siblings.")
