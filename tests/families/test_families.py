"""The Stable Diffusion adapter: projections by role, token positions, noise of either prediction, seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compvis import single_file_state
from conftest import WIDTH, tiny_pipe
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.torch import save_file
from torch.testing import assert_close

from excise.errors import ConceptError, ModelError, UnknownNameError
from excise.families import family_of, load
from excise.families.fingerprints import fingerprint
from excise.families.noising import noising


@pytest.fixture
def family(pipe):
    return family_of(pipe)


def test_projections_are_those_that_read_text(family):
    found = family.projections()
    assert {p.path.split(".")[-2] for p in found} == {"attn2"}
    assert {p.module.in_features for p in found} == {WIDTH}
    assert len(found) == 2 * len(family.projections("v"))
    assert all(p.path.endswith(f"to_{p.role}") for p in found)


def test_one_print_however_the_weights_lie_in_memory(pipe):
    before = fingerprint(pipe.unet.state_dict())
    pipe.unet.to(memory_format=torch.channels_last)
    assert fingerprint(pipe.unet.state_dict()) == before


def test_no_text_reading_projection_is_an_error(pipe):
    pipe.text_encoder.config.hidden_size = 77
    with pytest.raises(ModelError, match="no cross-attention that reads text of width 77"):
        family_of(pipe).projections()


def test_encode_gives_what_the_pipeline_hands_to_its_unet(family, pipe):
    texts = ["a cat", "a fire engine in neon style", ""]
    ours = family.encode(texts).states
    theirs, _ = pipe.encode_prompt(texts, "cpu", 1, False)
    assert_close(ours, theirs, rtol=0, atol=0)
    one_by_one = torch.cat([family.encode([t]).states for t in texts])
    assert_close(ours, one_by_one, rtol=1e-5, atol=1e-6)


def test_token_positions(family):
    # <start> a fire engine in neon style <end>; "engine" is two tokens or one, "fire" at 2
    ids = family.pipe.tokenizer("a fire engine in neon style").input_ids
    states = family.encode(["a fire engine in neon style", "cat", ""], ["fire engine", "cat", None])
    length = len(family.pipe.tokenizer("fire engine", add_special_tokens=False).input_ids)
    assert states.first.tolist() == [2, 1, 0]
    assert states.last.tolist() == [1 + length, 1, 0]
    assert states.end.tolist() == [len(ids) - 1, 2, 1]
    sizes = {t: len(states.span(0, t)) for t in ("last", "subject", "from_last", "all_but_start", "all")}
    assert sizes == {"last": 1, "subject": length, "from_last": 32 - 1 - length, "all_but_start": 31, "all": 32}


def test_an_empty_subject_stands_before_what_follows(family):
    states = family.encode(["on a table", "an image of"], [0, len("an image of")])
    assert states.last.tolist() == [0, 3]


def test_subject_must_stand_in_the_prompt(family):
    with pytest.raises(ConceptError, match="does not stand as words"):
        family.encode(["a cathedral"], ["cat"])


def test_prompt_that_does_not_fit_is_refused(family):
    with pytest.raises(ConceptError, match="tokens; 32 fit"):
        family.encode(["cat " * 40])


def test_v_prediction_is_turned_into_noise(tokenizer):
    v = tiny_pipe(tokenizer, prediction="v_prediction")
    plan = noising(v.scheduler)
    latents, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([10, 900])
    raw = family_of(v).predict(latents, t, family_of(v).condition(["cat", "dog"]))
    alpha = v.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    # x0 recovered from v, then the noise that x_t holds beside it
    x0 = alpha.sqrt() * latents - (1 - alpha).sqrt() * raw
    wanted = (latents - alpha.sqrt() * x0) / (1 - alpha).sqrt()
    assert_close(plan.noise(raw, latents, t), wanted, rtol=1e-4, atol=1e-4)


def test_an_image_does_not_depend_on_its_batch(family):
    def draw(batch: int) -> list[np.ndarray]:
        images = family.sample(["a cat", "a dog", "a car"], [3, 4, 5], steps=3, guidance=2.0, batch=batch)
        return [np.asarray(i).astype(int) for i in images]

    alone, together = draw(1), draw(3)
    assert max(np.abs(a - b).max() for a, b in zip(alone, together, strict=True)) <= 1  # rounding of one grey level
    assert np.abs(alone[0] - alone[1]).max() > 1


def test_folder_round_trip_and_other_names(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    loaded = load(tmp_path / "model", device="cpu")
    for ours, theirs in zip(loaded.projections(), family_of(pipe).projections(), strict=True):
        assert torch.equal(ours.module.weight, theirs.module.weight)
    assert (
        load(tmp_path / "model", device="cpu", dtype="bfloat16").projections()[0].module.weight.dtype == torch.bfloat16
    )


def test_a_single_file_is_loaded_with_a_local_config(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "config")
    save_file(single_file_state(pipe), tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors", config=tmp_path / "config", local_files_only=True, device="cpu")
    for part in ("unet", "vae", "text_encoder"):
        theirs = getattr(pipe, part).state_dict()
        for name, weight in getattr(loaded.pipe, part).state_dict().items():
            assert torch.equal(weight, theirs[name]), (part, name)
    assert_close(loaded.encode(["a cat"]).states, family_of(pipe).encode(["a cat"]).states)


def test_what_cannot_be_loaded_is_said_in_one_sentence(tmp_path):
    with pytest.raises(UnknownNameError, match="Did you mean 'canvas-sd'"):
        load("canvas-sdd")
    (tmp_path / "m.ckpt").write_bytes(b"x")
    with pytest.raises(ModelError, match="is a pickle"):
        load(tmp_path / "m.ckpt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no model_index.json"):
        load(tmp_path / "empty")
    (tmp_path / "broken.safetensors").write_bytes(b"not a model")
    with pytest.raises(ModelError, match="cannot read .*single-file"):
        load(tmp_path / "broken.safetensors", local_files_only=True)
    with pytest.raises(UnknownNameError, match="no dtype 'float8'"):
        load("canvas-sd", dtype="float8")
    with pytest.raises(ModelError, match="cannot be used here"):
        load("canvas-sd", device="nonsense")


def test_hub_options_reach_diffusers(monkeypatch, pipe):
    from diffusers import DiffusionPipeline

    asked = {}
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", lambda name, **options: asked.update(options) or pipe)
    load("org/name", revision="abc", variant="fp16", dtype="float32", device="cpu", local_files_only=True)
    assert asked["revision"] == "abc"
    assert asked["variant"] == "fp16"
    assert asked["local_files_only"] is True
    assert asked["use_safetensors"] is True


def test_hub_id_without_network_is_refused_in_one_sentence(monkeypatch):
    with pytest.raises(ModelError, match="cannot load 'nobody/nothing' from the hub: .*local cache"):
        load("nobody/nothing", local_files_only=True)


def test_unsupported_family_names_the_supported_ones():
    unet = UNet2DModel(
        sample_size=8, block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",)
    )
    with pytest.raises(ModelError, match="DDPMPipeline is not supported yet; supported are StableDiffusionPipeline"):
        family_of(DDPMPipeline(unet, DDPMScheduler()))
