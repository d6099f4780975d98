"""What the tests of SurgUn share: a judge, slots of a tiny model, small settings."""

from __future__ import annotations

from excise.erasing.erase import Naming, make_edit
from excise.methods.trained.surgun.slots import draw_slots
from excise.training.pictures import Sampling


def erasure(model, concepts, *, preserve=(), vocabulary="auto", context=None, **settings):
    """As `excise.erase` with SurgUn, with the pictures."""
    return make_edit(model, concepts, "surgun", settings, Naming(preserve, vocabulary), context=context)


class Half:
    """Sees every name in every second picture, or as told."""

    name = "half"

    def __init__(self, sees=lambda name, i: True):
        self.answer, self.asked = sees, []

    def sees(self, images, names):
        self.asked += names
        return [self.answer(n, i) for i, n in enumerate(names)]


def slots(family, **options):
    options = {"scorer": Half(), "seed": 0, **options}
    return draw_slots(family, ["cat", "kitty"], ["dog", "car"], ["a {}", "{} in neon"], 4, Sampling(2, 1.0), **options)


SMALL = {
    "steps": 4,
    "save_every": 2,
    "lr": 3e-2,
    "batch": 2,
    "pictures": 4,
    "count": 2,
    "vocabulary": None,
}
HARDENED = {**SMALL, "judged": 2}  # with robust
