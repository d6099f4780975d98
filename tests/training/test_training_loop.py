"""Training of the built-in models: interrupted and resumed equals uninterrupted, stage by stage on toy sizes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from excise.canvas import clip, data
from excise.canvas.loop import Plan, Session, optimisers_of, train


def fit(work, steps: int, plan_steps: int, stop_at: int | None = None, orthogonal: str = "") -> torch.Tensor:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)

    def loss_of(rng, generator):
        if stop_at is not None and len(seen) == stop_at:
            raise KeyboardInterrupt
        seen.append(1)
        x = torch.randn(8, 4, generator=generator)
        return (model(x) - x.sum(dim=1, keepdim=True)).square().mean()

    seen: list[int] = []
    plan = Plan("toy", plan_steps, lr=0.05, ema=0.9, every=5, orthogonal=orthogonal)
    if stop_at is None:
        train(model, loss_of, plan, work, 0, lambda _: None)
    else:
        with pytest.raises(KeyboardInterrupt):
            train(model, loss_of, plan, work, 0, lambda _: None)
    return model.weight.detach()


@pytest.mark.parametrize("orthogonal", ["", ".*weight"])
def test_resumed_equals_uninterrupted_and_learns(tmp_path, orthogonal):
    whole = fit(tmp_path / "whole", 40, 40, orthogonal=orthogonal)
    fit(tmp_path / "parts", 40, 40, stop_at=17, orthogonal=orthogonal)
    resumed = fit(tmp_path / "parts", 40, 40, orthogonal=orthogonal)
    assert torch.equal(whole, resumed)
    log = [json.loads(line) for line in (tmp_path / "whole" / "toy.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 40
    assert log[-1]["loss"] < log[0]["loss"]


def test_muon_updates_the_matrices_that_a_plan_names_and_adamw_the_rest():
    model = nn.ModuleDict({"block": nn.Linear(4, 4), "head": nn.Linear(4, 1)})
    adamw, muon = optimisers_of(dict(model.named_parameters()), Plan("p", 1, lr=1.0, orthogonal="block.*"))
    assert [id(p) for p in muon.param_groups[0]["params"]] == [id(model["block"].weight)]
    assert len(adamw.param_groups[0]["params"]) == 3


def test_schedule_warms_up_and_decays():
    plan = Plan("p", 1000, lr=1.0)
    assert plan.lr_at(0) == pytest.approx(1 / 20, rel=0.1)
    assert plan.lr_at(20) == pytest.approx(1.0)
    assert plan.lr_at(1000) == pytest.approx(0.02)


def test_clip_stage_trains_on_a_toy_pool(tmp_path, tokenizer):
    pool = data.render_pool([("cat", "plain"), ("dog", "neon"), ("car", "dots")], lambda _: 4, seed=0)
    lines: list[str] = []
    model, seconds = clip.train_clip(
        pool, tokenizer, clip.build_text_model, Session(tmp_path, 0, "cpu", lines.append), 6
    )
    assert "clip: step 6/6" in lines[-1]
    assert seconds > 0
    features = model.text_features(clip.tokenize(tokenizer, ["cat", "dog"]))
    assert torch.allclose(features.norm(dim=-1), torch.ones(2), atol=1e-3)


def test_tokenizer_is_the_same_every_time_and_knows_every_word(tokenizer):
    assert clip.build_tokenizer().get_vocab() == tokenizer.get_vocab()
    assert tokenizer.decode(tokenizer("a fire engine in neon style").input_ids[1:-1]) == "a fire engine in neon style"
    assert tokenizer.unk_token_id not in tokenizer("xyzzy Ünï 猫", add_special_tokens=False).input_ids


@pytest.fixture
def small_pools(monkeypatch):
    """Three cells of four images instead of the whole world."""
    from excise.canvas import judging

    small = [("cat", "plain"), ("dog", "neon"), ("car", "dots")]
    monkeypatch.setattr(
        data,
        "training_pool",
        lambda work, without=(), seed=0: data.render_pool([c for c in small if c[0] not in without], lambda _: 4, 0),
    )
    monkeypatch.setattr(judging, "judge_pool", lambda work, seed: data.render_pool(small, lambda _: 4, seed))


def test_the_whole_world_trains_stage_by_stage_and_picks_up_where_it_stopped(tmp_path, small_pools):
    from diffusers import StableDiffusionPipeline

    from excise.canvas import build
    from excise.families import WEIGHTS

    steps = build.Steps(autoencoder=1, clip=1, judge=1, denoiser=2)
    lines: list[str] = []

    session = Session(tmp_path / "work", 0, "cpu", lines.append)

    def run() -> None:
        build.train_world(session, tmp_path / "out", steps)

    run()
    assert [line.split(":")[0] for line in lines] == ["autoencoder", "clip", "judge-a", "judge-b", "denoiser"]
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "out" / "canvas-sd")
    assert pipe.unet.config.cross_attention_dim == pipe.text_encoder.config.hidden_size
    notes = json.loads((tmp_path / "out" / "training.json").read_text())
    assert set(notes) == {"autoencoder", "clip", "judge-a", "judge-b", "denoiser"}
    before = pipe.unet.conv_in.weight.clone()
    lines.clear()
    run()  # nothing is left to do, and nothing changes
    assert lines == []
    again = StableDiffusionPipeline.from_pretrained(tmp_path / "out" / "canvas-sd")
    assert torch.equal(again.unet.conv_in.weight, before)
    # An oracle trains its own denoiser and nothing else: the parts that ship stay as they are.
    oracle_session = replace(session, seed=1)
    build.train_oracle("canvas-sd", oracle_session, tmp_path / "oracle", steps, without=("cat",), start=None)
    assert [line.split(":")[0] for line in lines] == ["denoiser"]
    assert (tmp_path / "work" / "denoiser-1-cat").is_dir()
    oracle = StableDiffusionPipeline.from_pretrained(tmp_path / "oracle" / "canvas-sd")
    shipped = StableDiffusionPipeline.from_pretrained(WEIGHTS / "canvas-sd")
    for name in ("text_encoder", "vae"):
        own, other = getattr(oracle, name).state_dict(), getattr(shipped, name).state_dict()
        assert all(torch.equal(own[key], other[key]) for key in other)


@pytest.mark.parametrize(("model", "count"), [("canvas-sdxl", 2), ("canvas-sana", 1)])
def test_oracles_of_the_other_models(tmp_path, small_pools, model, count):
    """That of canvas-sdxl begins with a denoiser of canvas-sd; all but the denoiser is what ships."""
    from excise import load
    from excise.canvas import build
    from excise.families import WEIGHTS

    steps = build.Steps(denoiser_sdxl=1, denoiser_sana=1)
    session = Session(tmp_path / "work", 1, "cpu", lambda line: None)
    (tmp_path / "work").mkdir()
    start = str(WEIGHTS / "canvas-sd") if model == "canvas-sdxl" else None
    build.train_oracle(model, session, tmp_path / "out", steps, without=("cat",), start=start)
    folder = {"canvas-sdxl": "denoiser-sdxl-1-cat-started", "canvas-sana": "denoiser-sana-1-cat"}[model]
    assert (tmp_path / "work" / folder).is_dir()  # one that begins with nothing must not go on from here
    oracle, shipped = load(tmp_path / "out" / model, device="cpu"), load(model, device="cpu")
    assert len(oracle.text_encoders) == count
    for name, encoder in shipped.text_encoders.items():
        theirs = oracle.text_encoders[name].state_dict()
        assert all(torch.equal(weight, theirs[key]) for key, weight in encoder.state_dict().items())
    ours = next(shipped.denoiser.parameters())
    assert not torch.equal(ours, next(oracle.denoiser.parameters()))


def test_canvas_sdxl_trains_beside_the_parts_that_ship(tmp_path, small_pools):
    from excise import load
    from excise.canvas import build

    lines: list[str] = []
    steps = build.Steps(denoiser_sdxl=2, second_clip=1)
    build.train_sdxl(Session(tmp_path / "work", 0, "cpu", lines.append), tmp_path / "out", steps)
    assert [line.split(":")[0] for line in lines] == ["clip", "denoiser"]
    family, sd = load(tmp_path / "out" / "canvas-sdxl", device="cpu"), load("canvas-sd", device="cpu")
    assert family.prediction == "v_prediction"
    assert family.text_width == 256 + 128
    assert sum(p.numel() for p in family.denoiser.parameters()) <= 10_000_000
    for key, weight in sd.pipe.text_encoder.state_dict().items():
        assert torch.equal(family.pipe.text_encoder.state_dict()[key], weight)


def test_canvas_sana_trains_its_own_parts(tmp_path, small_pools):
    from excise import load
    from excise.canvas import build

    lines: list[str] = []
    steps = build.Steps(autoencoder=1, clip=1, denoiser_sana=2)
    build.train_sana(Session(tmp_path / "work", 0, "cpu", lines.append), tmp_path / "out", steps)
    assert [line.split(":")[0] for line in lines] == ["autoencoder-dc", "clip", "denoiser"]
    family = load(tmp_path / "out" / "canvas-sana", device="cpu")
    assert family.prediction == "flow"
    assert family.image_size == 64
    assert sum(p.numel() for p in family.denoiser.parameters()) <= 10_000_000
    assert sum(f.stat().st_size for f in (tmp_path / "out").rglob("*") if f.is_file()) <= 30e6
    assert len(family.sample(["a cat"], [0], steps=1, guidance=2.0, batch=1)) == 1


def test_canvas_sdxl_starts_as_the_denoiser_of_canvas_sd():
    from excise import load
    from excise.canvas import sdxl

    source, own = load("canvas-sd", device="cpu", dtype="float32").denoiser, sdxl.denoiser().eval()
    sdxl.start_from(own, source)
    generator = torch.Generator().manual_seed(0)
    noisy, text = torch.randn(4, 4, 16, 16, generator=generator), torch.randn(4, 12, 384, generator=generator)
    text[..., 256:] = 0  # the second encoder is new to it
    pooled = {"text_embeds": torch.zeros(4, 128), "time_ids": torch.zeros(4, 6)}
    with torch.no_grad():
        there = source(noisy, 400, text[..., :256]).sample
        here = own(noisy, 400, text, added_cond_kwargs=pooled).sample
    assert (here - there).square().mean() < 0.02 * there.square().mean()


@pytest.mark.parametrize("model", ["canvas-flux", "canvas-zimage"])
def test_canvas_transformers_train_beside_the_parts_that_ship(tmp_path, small_pools, model):
    from excise import load
    from excise.canvas import build

    lines: list[str] = []
    steps = build.Steps(states=1, denoiser_flux=2, denoiser_zimage=2)
    build.train_model(model, Session(tmp_path / "work", 0, "cpu", lines.append), tmp_path / "out", steps)
    assert [line.split(":")[0] for line in lines] == ["clip", "denoiser"]
    family, sd = load(tmp_path / "out" / model, device="cpu"), load("canvas-sd", device="cpu")
    assert (family.name, family.prediction, family.image_size) == (model.removeprefix("canvas-"), "flow", 64)
    assert family.latent_shape == sd.latent_shape
    assert sum(p.numel() for p in family.denoiser.parameters()) <= 10_000_000
    assert sum(f.stat().st_size for f in (tmp_path / "out").rglob("*") if f.is_file()) <= 30e6
    own = family.pipe.vae.state_dict()
    assert all(torch.equal(own[key], weight) for key, weight in sd.pipe.vae.state_dict().items())
    assert len(family.sample(["a cat"], [0], steps=2, guidance=4.0, batch=1)) == 1


def test_a_transformer_begins_as_the_identity():
    """Every block adds nothing and the output is zero, whatever comes in."""
    from excise.canvas import build, flux, zimage

    for denoiser in (flux.denoiser(), zimage.denoiser()):
        build.gate_shut(denoiser)
        shut = [n for n, m in denoiser.named_modules() if isinstance(m, torch.nn.Linear) and not m.weight.any()]
        blocks = [m for m in denoiser.modules() if type(m).__name__.endswith("Block")]
        assert len(shut) >= len([b for b in blocks if getattr(b, "modulation", True)])
