"""Progress moves inside a batch of pictures and of prompts, and what is made is the same with and without it."""

from __future__ import annotations

import numpy as np
import pytest

from excise.families import family_of
from excise.families.drawing import draw
from excise.families.progress import encoding

STEPS = 3


@pytest.fixture
def family(any_pipe):
    return family_of(any_pipe)


def arrays(images) -> list[np.ndarray]:
    return [np.asarray(image) for image in images]


def test_drawing_tells_of_every_step_and_draws_the_same(family):
    told: list[tuple[float, int]] = []
    prompts, seeds, how = ["a cat"] * 3, [0, 1, 2], {"steps": STEPS, "guidance": 2.0, "batch": 2}
    silent = family.sample(prompts, seeds, **how)
    watched = family.sample(prompts, seeds, **how, progress=lambda done, total: told.append((done, total)))
    assert all(np.array_equal(a, b) for a, b in zip(arrays(silent), arrays(watched), strict=True))
    done = [d for d, _ in told]
    assert done == sorted(done)
    assert {total for _, total in told} == {3}
    assert done[-1] == 3
    assert len(done) >= 2 * STEPS + 2
    assert 0 < done[0] < 1


def test_pictures_on_disk_tell_of_every_step(family, tmp_path):
    told: list[float] = []
    requests = [("a cat", seed) for seed in range(3)]
    for _ in range(2):
        draw(family, requests, steps=STEPS, guidance=2.0, batch=2, cache=tmp_path, progress=lambda d, _: told.append(d))
        assert told == sorted(told)
        assert max(told) == 3
    assert len(told) >= 2 * STEPS + 2


def test_encoding_tells_of_every_batch(family, monkeypatch):
    monkeypatch.setattr(type(family), "encode_batch", 2)
    told: list[tuple[int, int]] = []
    with encoding(lambda done, total: told.append((done, total))):
        family.condition([f"a cat {i}" for i in range(5)])
    family.condition(["a dog"])
    assert told == [(2, 5), (4, 5), (5, 5)]
