"""The other built-in models: they ship small, draw what they are asked for, and lose what is erased."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderDC, AutoencoderKL, DiffusionPipeline
from PIL import Image

from excise import erase, export, load
from excise.canvas import render, world
from excise.families import BUILT_IN, WEIGHTS
from excise.judges.canvas import CanvasJudge, as_tensor
from excise.metrics.rates import rate

pytestmark = pytest.mark.canvas
STEPS, GUIDANCE = 12, 4.0
CALLS = {
    "sana": {"guidance_scale": GUIDANCE, "use_resolution_binning": False, "complex_human_instruction": None},
    "flux": {"true_cfg_scale": GUIDANCE, "negative_prompt": "", "max_sequence_length": 32},
    "zimage": {"guidance_scale": GUIDANCE - 1},
}
"""How the pipelines of diffusers are called, by family."""


SHIPPED = [m for m in BUILT_IN if m != "canvas-sd" and (WEIGHTS / m / "model_index.json").exists()]


@pytest.fixture(scope="module", params=SHIPPED)
def family(request):
    return load(request.param, device="cpu")


def draw(family, prompts):
    return family.sample(prompts, list(range(len(prompts))), steps=STEPS, guidance=GUIDANCE, batch=24)


def seen(family, cells):
    found = CanvasJudge("a").verdicts(draw(family, [world.grid_prompt(*c) for c in cells]))
    return list(zip(found["object"], found["style"], strict=True))


@pytest.mark.parametrize("model", [m for m in BUILT_IN if (WEIGHTS / m / "vae").exists()])
def test_renders_survive_the_autoencoder(model):
    kind = AutoencoderDC if model == "canvas-sana" else AutoencoderKL
    vae = kind.from_pretrained(WEIGHTS / model / "vae", torch_dtype=torch.float32).eval()
    rng, cells = np.random.default_rng(7), [(o, s) for o in world.OBJECTS for s in world.STYLES]
    renders = [Image.fromarray(render.draw(*cell, rng)) for cell in cells]
    with torch.no_grad():
        encoded = vae.encode(as_tensor(renders))
        latents = encoded.latent if model == "canvas-sana" else encoded.latent_dist.mean
        again = vae.decode(latents).sample.clamp(-1, 1).permute(0, 2, 3, 1)
    images = [Image.fromarray(x) for x in ((again + 1) * 127.5).round().byte().numpy()]
    found = CanvasJudge("a").verdicts(images)
    assert rate([a == o for a, (o, _) in zip(found["object"], cells, strict=True)]).value >= 0.98
    assert rate([a == s for a, (_, s) in zip(found["style"], cells, strict=True)]).value >= 0.95


def test_it_ships_small_and_draws_what_it_is_asked_for(family):
    folder = WEIGHTS / f"canvas-{family.name}"
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) <= 30e6
    assert sum(p.numel() for p in family.denoiser.parameters()) <= 10_000_000
    cells = [(o, world.STYLES[i % 10]) for i, o in enumerate(world.OBJECTS)]
    right = seen(family, cells)
    assert rate([a[0] == c[0] for a, c in zip(right, cells, strict=True)]).value >= 0.9
    assert rate([a[1] == c[1] for a, c in zip(right, cells, strict=True)]).value >= 0.9


def test_an_object_goes_its_neighbour_stays_and_the_lora_draws_the_same(family, tmp_path):
    edit = erase(family, ["cat"], "uce")
    cats, dogs = ([(o, s) for s in ("plain", "sketch", "sepia", "dots", "popart")] for o in ("cat", "dog"))
    prompt = [world.grid_prompt("cat", "sepia")]
    with edit.apply(family):
        assert sum(o == "cat" for o, _ in seen(family, cats)) <= 1
        assert sum(o == "dog" for o, _ in seen(family, dogs)) >= 4
        wanted = np.asarray(draw(family, prompt)[0]).astype(int)
    done = export(edit, family, tmp_path)
    stock = DiffusionPipeline.from_pretrained(WEIGHTS / f"canvas-{family.name}", torch_dtype=torch.float32)
    stock.load_lora_weights(str(tmp_path), weight_name=done.path.name)
    image = stock(
        prompt[0],
        num_inference_steps=STEPS,
        height=64,
        width=64,
        generator=torch.Generator().manual_seed(0),
        **CALLS.get(family.name, {"guidance_scale": GUIDANCE}),
    ).images[0]
    assert np.abs(np.asarray(image).astype(int) - wanted).max() <= 2
