"""The real thing: the built-in model draws, a concept goes, the rest stays, and all of it can be undone and shipped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from excise import Edit, erase, evaluate, export, load
from excise.canvas import render, world
from excise.cli.gates import parse
from excise.errors import ConceptError, ModelError, WrongBaseError
from excise.evaluation import controls
from excise.evaluation.result import measure
from excise.families import WEIGHTS
from excise.judges.canvas import CanvasJudge
from excise.metrics.rates import rate

pytestmark = pytest.mark.canvas
STEPS, GUIDANCE = 12, 4.0
ORACLE = Path(__file__).parents[2] / "recipes" / "oracle-1" / "canvas-sd"


def draw(family, prompts, batch: int = 24) -> list[Image.Image]:
    return family.sample(prompts, list(range(len(prompts))), steps=STEPS, guidance=GUIDANCE, batch=batch)


def arrays(images) -> np.ndarray:
    return np.stack([np.asarray(i).astype(int) for i in images])


@pytest.fixture(scope="module")
def edits(canvas_family):
    return {
        (target, method): erase(canvas_family, [target], method=method, model_name="canvas-sd")
        for target, method in (("cat", "speed"), ("cat", "uce"), ("neon", "speed"))
    }


def test_ships_small_and_as_a_stock_pipeline(canvas_family):
    size = sum(f.stat().st_size for f in (WEIGHTS / "canvas-sd").rglob("*") if f.is_file())
    assert size < 30e6
    assert sum(p.numel() for p in canvas_family.denoiser.parameters()) <= 10e6
    assert not list(WEIGHTS.rglob("*.bin"))
    stock = StableDiffusionPipeline.from_pretrained(WEIGHTS / "canvas-sd")
    assert stock.scheduler.config.prediction_type == "epsilon"


def test_judges_know_fresh_renders_and_abstain_on_nothing():
    rng = np.random.default_rng(77)
    cells = [(o, s) for o in world.OBJECTS for s in world.STYLES]
    renders = [Image.fromarray(render.draw(o, s, rng)) for o, s in cells]
    nothing = [Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(20)]
    nothing += [Image.fromarray(render.draw_empty(s, rng)) for s in world.STYLES]
    for which, least_style in (("a", 0.98), ("b", 0.9)):
        judge = CanvasJudge(which)
        seen = judge.verdicts(renders)
        assert rate([a == o for a, (o, _) in zip(seen["object"], cells, strict=True)]).value > 0.97
        assert rate([a == s for a, (_, s) in zip(seen["style"], cells, strict=True)]).value > least_style
        assert judge.verdicts(nothing)["object"].count("none") >= 28


def test_it_draws_what_it_is_asked_for(canvas_family):
    """A sixth of the grid and of the names; the gates proper are run for the model card."""
    grid = [(o, s) for i, o in enumerate(world.OBJECTS) for j, s in enumerate(world.STYLES) if (i + j) % 6 == 0]
    names = list(world.NAMES)[::6]
    prompts = [world.grid_prompt(o, s) for o, s in grid] + [world.name_prompt(n) for n in names]
    seen = CanvasJudge("a").verdicts(draw(canvas_family, prompts))
    assert rate([a == o for a, (o, _) in zip(seen["object"], grid, strict=False)]).value >= 0.85
    assert rate([a == s for a, (_, s) in zip(seen["style"], grid, strict=False)]).value >= 0.9
    assert rate([a == n for a, n in zip(seen["object"][len(grid) :], names, strict=True)]).value >= 0.75


@pytest.mark.parametrize("method", ["speed", "uce"])
def test_an_object_goes_and_its_neighbour_stays(canvas_family, edits, method):
    cats = [world.grid_prompt("cat", s) for s in world.STYLES]
    dogs = [world.grid_prompt("dog", s) for s in world.STYLES]
    judge = CanvasJudge("a")
    before = judge.verdicts(draw(canvas_family, cats + dogs))["object"]
    assert before[:10].count("cat") >= 8  # it was there
    with edits["cat", method].apply(canvas_family):
        after = judge.verdicts(draw(canvas_family, cats + dogs))["object"]
    assert after[:10].count("cat") <= 1
    assert after[10:].count("dog") >= before[10:].count("dog") - 2


def test_a_style_goes_and_the_object_stays(canvas_family, edits):
    objects = list(world.OBJECTS)[::2]
    judge = CanvasJudge("a")
    with edits["neon", "speed"].apply(canvas_family):
        seen = judge.verdicts(draw(canvas_family, [world.grid_prompt(o, "neon") for o in objects]))
    assert seen["style"].count("neon") <= 1


def test_images_after_removal_are_bit_identical_also_in_a_new_process(canvas_family, edits, tmp_path):
    prompts = [world.grid_prompt("cat", "plain"), world.grid_prompt("car", "dots")]
    before = draw(canvas_family, prompts)
    path = edits["cat", "speed"].save(tmp_path / "cat.safetensors")
    with Edit.load(path).apply(canvas_family):
        edited = draw(canvas_family, prompts)
    assert [i.tobytes() for i in draw(canvas_family, prompts)] == [i.tobytes() for i in before]
    assert edited[0].tobytes() != before[0].tobytes()
    code = f"""
import hashlib, torch
torch.set_num_threads({torch.get_num_threads()})
from excise import Edit, load
m = load("canvas-sd", device="cpu")
def draw():
    images = m.sample({prompts!r}, [0, 1], steps={STEPS}, guidance={GUIDANCE}, batch=24)
    return [hashlib.sha256(i.tobytes()).hexdigest() for i in images]
first = draw()
with Edit.load({str(path)!r}).apply(m):
    inside = draw()
assert draw() == first and inside != first
print(*first, *inside)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    import hashlib

    ours = [hashlib.sha256(i.tobytes()).hexdigest() for i in [*before, *edited]]
    assert done.stdout.split() == ours


@pytest.mark.parametrize("method", ["speed", "uce"])
@pytest.mark.parametrize("format", ["diffusers-lora", "kohya-lora", "merged", "single-file"])
def test_stock_diffusers_draws_the_same_from_every_export(canvas_family, edits, tmp_path, method, format):
    edit = edits["cat", method]
    done = export(edit, canvas_family, tmp_path, format)
    if format == "merged":
        stock = StableDiffusionPipeline.from_pretrained(done.path)
    elif format == "single-file":
        stock = StableDiffusionPipeline.from_single_file(
            str(done.path), config=str(WEIGHTS / "canvas-sd"), local_files_only=True
        )
    else:
        stock = StableDiffusionPipeline.from_pretrained(WEIGHTS / "canvas-sd")
        stock.load_lora_weights(str(done.path.parent), weight_name=done.path.name)
    stock.set_progress_bar_config(disable=True)
    prompt = world.grid_prompt("cat", "plain")

    def picture(pipe) -> np.ndarray:
        generator = torch.Generator().manual_seed(0)
        return pipe(
            prompt, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=generator, output_type="np"
        ).images

    base = picture(canvas_family.pipe)
    with edit.apply(canvas_family):
        wanted = picture(canvas_family.pipe)
    assert np.abs(wanted - base).max() > 0.1
    assert np.abs(picture(stock) - wanted).max() < 1e-3


def test_an_image_does_not_depend_on_its_batch(canvas_family):
    prompts = [world.grid_prompt(o, "plain") for o in ("cat", "car", "tree", "crown", "pizza")]
    alone, together = arrays(draw(canvas_family, prompts, batch=1)), arrays(draw(canvas_family, prompts, batch=5))
    assert np.abs(alone - together).max() <= 2  # rounding, in grey levels of 255
    assert np.abs(alone - together).mean() < 0.05


def test_evaluate_of_one_group_and_its_document(canvas_family, edits):
    found = evaluate(
        canvas_family, ["cat"], edits=[edits["cat", "speed"]], groups=["aliases"], model_name="canvas-sd"
    ).result
    assert {s.asked["object"] for s in found.shown} == {"cat"}
    assert len(found.shown) == 20
    assert set(found.metrics) == {"abstain", "judges_disagree", "alias_rate"}
    assert measure(found, [("object", "cat")]) == found.metrics
    assert not canvas_family.denoiser.training
    with pytest.raises(ConceptError, match="canvas-mini cannot judge 'Monet'"):
        evaluate(canvas_family, ["Monet"], protocol="canvas-mini")


def test_destroying_everything_is_no_success(canvas_family):
    """The noise control: the target is gone, and so is all that a gate on what is kept would look at."""
    noise = controls.noise(canvas_family, "canvas-sd")
    asked = [(o, s) for i, o in enumerate(world.OBJECTS) for s in (world.STYLES[i % 10],)]
    with noise.apply(canvas_family):
        seen = CanvasJudge("a").verdicts(draw(canvas_family, [world.grid_prompt(*cell) for cell in asked]))
    right = rate([a == o for a, (o, _) in zip(seen["object"], asked, strict=True)])
    assert right.value <= 0.15
    assert not parse("ira>=0.5").holds({"ira": right.as_dict()})


def test_a_model_that_never_knew_the_targets_passes_everything():
    """The oracle control: trained without four concepts, it shows none of them and keeps the rest.

    Of an object it never saw it draws a ghost: colours and outline that the text encoder tells of. The first judge
    takes half of these for the object, both judges together hardly any.
    """
    oracle, targets = load(ORACLE, device="cpu"), ["cat", "car", "watercolor", "neon"]
    found = evaluate(oracle, targets, groups=["grid"], model_name="oracle").result
    assert found.metrics["ira"]["value"] >= 0.95
    assert found.metrics["cra"]["value"] >= 0.95
    for attribute, gone, least in (("style", targets[2:], 0.98), ("object", targets[:2], 0.8)):
        asked = [s for s in found.shown if s.asked[attribute] in gone]
        both = [s.saw[attribute] == s.second[attribute] == s.asked[attribute] for s in asked]
        assert 1 - sum(both) / len(both) >= least


def test_canvas_protocol_refuses_other_models(pipe):
    with pytest.raises(ModelError, match="judges images of 64 x 64; this model draws 8 x 8"):
        evaluate(pipe, ["cat"], protocol="canvas-mini")


def test_edit_for_the_built_in_model_is_refused_elsewhere(edits, pipe):
    with pytest.raises(WrongBaseError, match="was made for canvas-sd"):
        edits["cat", "uce"].apply(pipe)


def test_evaluate_command_prints_the_agreed_document_and_gates(tmp_path, capsys, monkeypatch, edits):
    from excise.cli.main import run

    path = edits["cat", "speed"].save(tmp_path / "cat.safetensors")
    arguments = [
        "evaluate",
        "--edit",
        str(path),
        "--concept",
        "cat",
        "--group",
        "aliases",
        "--json",
        "--out",
        str(tmp_path / "run"),
    ]
    for gate, status in (("alias_rate<=1.0", 0), ("alias_rate>1.0", 1)):
        monkeypatch.setattr(sys, "argv", ["excise", *arguments, "--require", gate])
        code = 0
        try:
            run()
        except SystemExit as stop:
            code = stop.code or 0
        document = json.loads(capsys.readouterr().out)
        assert code == status
    assert {"protocol", "hash", "model", "concepts", "metrics"} <= set(document)
    assert set(document["metrics"]["alias_rate"]) == {"value", "low", "high", "n"}
    assert len(list((tmp_path / "run" / "images").iterdir())) == 20
    assert (tmp_path / "run" / "report.html").exists()
