"""Fixtures: tiny random models of each family, built from configs alone, and a text problem to solve."""

from __future__ import annotations

import sys

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from excise.canvas.clip import build_tokenizer
from excise.families import WEIGHTS

WIDTH = 32


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    """No test reads or fills the cache of the person who runs it."""
    monkeypatch.delenv("EXCISE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))


@pytest.fixture(scope="session")
def tokenizer() -> CLIPTokenizer:
    return build_tokenizer()


def tiny_pipe(tokenizer: CLIPTokenizer, seed: int = 0, prediction: str = "epsilon") -> StableDiffusionPipeline:
    """A complete Stable Diffusion pipeline of some ten thousand random weights."""
    torch.manual_seed(seed)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=32,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 48),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    vae = AutoencoderKL(
        block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=8, layers_per_block=1
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction, clip_sample=False
    )
    pipe = StableDiffusionPipeline(
        vae,
        text,
        tokenizer,
        unet,
        scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    for module in (text, unet, vae):
        module.eval().requires_grad_(False)
    return pipe


@pytest.fixture
def pipe(tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    return tiny_pipe(tokenizer)


@pytest.fixture
def excise(capsys, monkeypatch):
    """Run the command in this process; returns (status, stdout, stderr)."""
    from excise.cli.main import run

    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["excise", *map(str, args)])
        capsys.readouterr()
        status = 0
        try:
            run()
        except SystemExit as stop:
            status = int(stop.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture(scope="session")
def canvas_family():
    """The built-in model; tests that use it are marked `canvas`."""
    from excise import load

    if not (WEIGHTS / "canvas-sd" / "model_index.json").exists():
        pytest.fail("the built-in model is missing from the package; run: excise canvas train")
    return load("canvas-sd", device="cpu")
