"""The built-in world: its contract of names, its renderer, its captions, and that held-out prompts are held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from excise.canvas import data, render, vocabulary, world
from excise.protocols import PROTOCOLS
from excise.training.scorers import CanvasScorer


def test_names_are_the_contract():
    assert len(world.OBJECTS) == 24
    assert len(world.STYLES) == 10
    assert len(world.NAMES) == 200
    assert len(world.list_a()) == len(world.list_b()) == 100
    assert not set(world.list_a()) & set(world.list_b())
    everything = [*world.OBJECTS, *world.STYLES, *world.NAMES]
    everything += [a for o in (*world.OBJECTS, *world.STYLES) for a in world.aliases(o)]
    assert len(everything) == len(set(everything)) == 24 + 10 + 200 + 48 + 10


def test_drawing_is_a_function_of_the_generator():
    one, two, three = (render.draw("cat", "dots", np.random.default_rng(s)) for s in (0, 0, 1))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, three)
    assert one.shape == (64, 64, 3)
    assert one.dtype == np.uint8


@pytest.mark.parametrize("style", world.STYLES)
def test_every_style_changes_the_picture_and_keeps_the_object_visible(style):
    picture = render.draw("car", style, np.random.default_rng(3)).astype(float)
    empty = render.draw_empty(style, np.random.default_rng(3)).astype(float)
    assert np.abs(picture - empty).mean() > 5
    if style != "plain":
        assert np.abs(picture - render.draw("car", "plain", np.random.default_rng(3))).mean() > 5


def test_all_glyphs_are_drawn_and_differ():
    pictures = {n: render.draw(n, "plain", np.random.default_rng(0)).tobytes() for n in world.drawables()}
    assert len(set(pictures.values())) == 224


def test_training_and_retained_prompts_are_no_evaluation_prompts():
    rng = np.random.default_rng(0)
    tested = {i.prompt for i in PROTOCOLS.load("canvas-mini")().items}
    trained = {data.caption(c, rng).text for c in data.cells() for _ in range(40)}
    assert not tested & trained
    assert not tested & set(vocabulary.prompts())
    assert not tested & set(vocabulary.prompts(strict=True))


def test_strict_vocabulary_names_no_core_object_or_style_and_no_target():
    strict = vocabulary.prompts(["cat", "pixel"], strict=True)
    words = {w for p in strict for w in p.replace(",", "").split()}
    shared = {"dog", "tree", "car"}  # "hot dog", "palm tree" and "police car" are names of their own
    assert not words & (set(world.OBJECTS) | set(world.STYLES)) - shared
    gone = {"kitty", "gato", "mosaic"}
    assert not words & gone
    assert any("kitty" in p for p in vocabulary.prompts(strict=True))


def test_a_pair_goes_in_all_its_words_and_what_lies_around_it_stays():
    pair = "cat in neon style"
    kept = vocabulary.prompts([pair], strict=True)
    gone = set(vocabulary.prompts(strict=True)) - set(kept)
    assert len(gone) == 2  # two aliases of cat, one of neon
    assert all({"kitty", "gato"} & set(p.replace(",", "").split()) and "glowing" in p for p in gone)
    tested = {i.prompt for i in PROTOCOLS.load("canvas-pairs")().items}
    siblings = vocabulary.siblings(pair)
    assert len(siblings) == 23 * 9
    probes = vocabulary.probes(pair, siblings, strict=True)
    assert not tested & {prompt for prompt, *_ in probes}
    roles = {role: [name for _, name, r, _ in probes if r == role] for role in ("target", "related", "unrelated")}
    assert set(roles["target"]) == {pair}
    assert all(name.startswith("cat in ") != name.endswith("in neon style") for name in roles["related"])
    assert all("cat" not in name and "neon" not in name for name in roles["unrelated"])
    assert min(map(len, roles.values())) == 10


@pytest.mark.parametrize("target", ["cat", "neon"])
def test_probes_of_what_is_kept_know_the_two_things_that_their_picture_shows(target):
    others = [n for n in vocabulary.siblings(target) if n != target]
    rows = vocabulary.probes(target, others, strict=True)
    assert {partner for _, _, role, partner in rows if role == "target"} == {""}
    kept = [row for row in rows if row[2] != "target"]
    assert {role for _, _, role, _ in kept} == {"related", "unrelated"}
    for prompt, name, _, partner in kept:
        assert {name in world.STYLES, partner in world.STYLES} == {True, False}
        assert all(world.aliases(n)[0] in prompt for n in (name, partner))


def test_the_scorer_knows_names_aliases_and_pairs():
    rng = np.random.default_rng(0)
    image = Image.fromarray(render.draw("cat", "neon", rng))
    asked = ["cat", "kitty", "neon", "cat in neon style", "cat in sepia style", "dog in neon style", "dog"]
    assert CanvasScorer().sees([image] * len(asked), asked) == [True, True, True, True, False, False, False]


def test_captions_ask_for_what_the_picture_shows():
    rng = np.random.default_rng(1)
    for cell in [("cat", "neon"), ("cat", "plain"), ("fire engine", "plain")]:
        found = [data.caption(cell, rng) for _ in range(60)]
        assert all(c.matches(cell) for c in found)
        assert not any(c.matches(("umbrella", "sepia")) for c in found)
        assert len({c.text for c in found}) > 8


def test_cells_without_a_concept():
    assert len(data.cells()) == 440
    assert len(data.cells(["cat"])) == 430
    assert len(data.cells(["neon"])) == 416
    assert len(data.cells(["cat", "neon", "hot dog"])) == 430 - 23 - 1


def test_pool_is_cached_and_picks_from_the_right_cell(tmp_path):
    chosen = [("cat", "plain"), ("dog", "neon")]
    pool = data.render_pool(chosen, lambda _: 3, seed=0, cache=tmp_path / "pool.npz")
    again = data.render_pool(chosen, lambda _: 3, seed=0, cache=tmp_path / "pool.npz")
    assert np.array_equal(pool.images, again.images)
    picked = pool.pick(np.array([1, 1, 0]), np.random.default_rng(0))
    assert pool.cell_of[picked].tolist() == [1, 1, 0]


@pytest.mark.parametrize("target", ["cat", "neon", "ox", "cat in neon style"])
@pytest.mark.parametrize("strict", [False, True])
def test_calibration_and_checks_are_prompts_no_method_is_given(target, strict):
    from excise.concepts.concept import fill

    kind = "style" if target in world.STYLES else "instance" if world.pair(target) else "object"
    given = {*vocabulary.prompts([target], strict), *fill(vocabulary.contexts(kind, strict), target)}
    calibration, checks = set(vocabulary.calibration(target)), set(vocabulary.checks(target))
    assert calibration
    assert checks
    assert not given & calibration
    assert not given & checks
    assert not calibration & checks
    assert all(any(word in prompt for word in target.split()) for prompt in calibration | checks)


def test_no_weights_tell_where_they_were_made():
    """Configurations of what ships name no folder of the machine they were saved on."""
    home = Path(__file__).parents[2]
    configs = [*(home / "src/excise/canvas/weights").rglob("*.json"), *(home / "recipes").rglob("*.json")]
    assert len(configs) > 10
    for path in configs:
        assert "_name_or_path" not in path.read_text(encoding="utf-8"), path
