"""The built-in world: its contract of names, its renderer, its captions, and that held-out prompts are held out."""

from __future__ import annotations

import numpy as np
import pytest

from excise.canvas import data, render, vocabulary, world
from excise.protocols import PROTOCOLS


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
