"""Fixtures: tiny random models of each family, built from configs alone, and a text problem to solve."""

from __future__ import annotations

import sys

import pytest
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SanaPipeline,
    SanaTransformer2DModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from dits import CASES
from entry_points import Entry
from hypothesis import settings
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from excise.canvas import gemma
from excise.canvas.clip import build_tokenizer
from excise.families import WEIGHTS

WIDTH = 32
pytest_plugins = ["real_judges"]  # its fixtures serve judges and protocols

settings.register_profile("excise", deadline=None)  # a busy machine is no failure
settings.load_profile("excise")


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    """No test reads or fills the cache of the person who runs it."""
    monkeypatch.delenv("EXCISE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))


@pytest.fixture
def few_steps(monkeypatch):
    """Two steps of the sampler, in the place of the 25 for models that are not built in."""
    from excise.training.pictures import Sampling

    for module in ("training.pictures", "evaluation.plan", "attacks.suite"):
        monkeypatch.setattr(f"excise.{module}.SAMPLING", Sampling(2, 2.0, batch=64))


@pytest.fixture
def registered(monkeypatch):
    """A function that registers entry points for methods, in place of those that are installed."""

    def register(*entries: Entry) -> None:
        monkeypatch.setattr("excise.registry.entry_points", lambda group: entries if group == "excise.methods" else ())
        monkeypatch.setattr("excise.methods.METHODS.warned", set())

    return register


@pytest.fixture(scope="session")
def tokenizer() -> CLIPTokenizer:
    return build_tokenizer()


@pytest.fixture(scope="session")
def gemma_tokenizer():
    return gemma.build_tokenizer()


@pytest.fixture(params=["sd", "sdxl", "sana"])
def any_pipe(request, make):
    """A tiny random model of every family whose text is read by cross-attention in every block."""
    return make(request.param)


WAYS = ("sd", "sdxl", "sana", "flux-dev", "zimage")
"""A tiny model of every way in which text reaches a picture."""


@pytest.fixture(params=WAYS)
def every_pipe(request, make):
    """A tiny random model of every way in which text reaches a picture."""
    return make(request.param)


@pytest.fixture
def make(tokenizer, gemma_tokenizer):
    """A maker of equal pipelines of one family."""

    def make(family: str = "sd"):
        if family in CASES:
            return CASES[family].build()
        if family == "sana":
            return tiny_sana(gemma_tokenizer)
        return {"sd": tiny_pipe, "sdxl": tiny_sdxl}[family](tokenizer)

    return make


def tiny_pipe(tokenizer: CLIPTokenizer, seed: int = 0, prediction: str = "epsilon") -> StableDiffusionPipeline:
    """A complete Stable Diffusion pipeline of some ten thousand random weights."""
    torch.manual_seed(seed)
    text = CLIPTextModel(_clip_config(tokenizer))
    unet = UNet2DConditionModel(**UNET, cross_attention_dim=WIDTH)
    pipe = StableDiffusionPipeline(
        AutoencoderKL(**VAE),
        text,
        tokenizer,
        unet,
        DDIMScheduler(**SCHEDULE, prediction_type=prediction, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return _ready(pipe)


def tiny_sdxl(tokenizer: CLIPTokenizer, seed: int = 0) -> StableDiffusionXLPipeline:
    """The same of Stable Diffusion XL: a second encoder half as wide, the pooled prompt, v-prediction."""
    torch.manual_seed(seed)
    half = WIDTH // 2
    unet = UNet2DConditionModel(
        **UNET,
        cross_attention_dim=WIDTH + half,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=half + 48,
    )
    pipe = StableDiffusionXLPipeline(
        AutoencoderKL(**VAE),
        CLIPTextModel(_clip_config(tokenizer)),
        CLIPTextModelWithProjection(_clip_config(tokenizer, half)),
        tokenizer,
        tokenizer,
        unet,
        DDIMScheduler(**SCHEDULE, prediction_type="v_prediction", clip_sample=False),
        add_watermarker=False,
    )
    return _ready(pipe)


def tiny_sana(tokenizer, seed: int = 0) -> SanaPipeline:
    """The same of SANA: Gemma, a linear transformer of two blocks, a deep-compression autoencoder, flow."""
    torch.manual_seed(seed)
    text = gemma.build_text_model(tokenizer, WIDTH, layers=2)
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=WIDTH,
        mlp_ratio=1.0,
        sample_size=8,
    )
    vae = AutoencoderDC(
        latent_channels=4,
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), ()),
        decoder_qkv_multiscales=((), (), ()),
    )
    return _ready(SanaPipeline(tokenizer, text, vae, transformer, FlowMatchEulerDiscreteScheduler(shift=3.0)))


UNET = {
    "sample_size": 8,
    "block_out_channels": (16, 48),
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
VAE = {"block_out_channels": (8,), "norm_num_groups": 4, "latent_channels": 4, "sample_size": 8, "layers_per_block": 1}
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def _clip_config(tokenizer: CLIPTokenizer, width: int = WIDTH) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _ready(pipe):
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return pipe


@pytest.fixture
def pipe(tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    return tiny_pipe(tokenizer)


@pytest.fixture
def model(pipe, tmp_path):
    """The tiny pipeline as a folder on disk."""
    pipe.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


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


@pytest.fixture
def small_world(monkeypatch):
    """The protocols and the judge of `worlds`, known for the time of a test."""
    import worlds

    worlds.register(monkeypatch)
