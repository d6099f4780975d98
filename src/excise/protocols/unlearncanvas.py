"""UnlearnCanvas (arXiv 2402.11846): 20 objects in 50 painting styles, drawn by a model fine-tuned on them.

Names, prompt, seeds and sampler are those of the benchmark's public scripts (OPTML-Group/UnlearnCanvas).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from excise.protocols.base import Item, Protocol

OBJECTS = (
    *("Architectures", "Bears", "Birds", "Butterfly", "Cats", "Dogs", "Fishes", "Flame", "Flowers", "Frogs"),
    *("Horses", "Human", "Jellyfish", "Rabbits", "Sandwiches", "Sea", "Statues", "Towers", "Trees", "Waterfalls"),
)
STYLES = (
    *("Abstractionism", "Artist Sketch", "Blossom Season", "Bricks", "Byzantine", "Cartoon", "Cold Warm"),
    *("Color Fantasy", "Comic Etch", "Crayon", "Cubism", "Dadaism", "Dapple", "Defoliation", "Early Autumn"),
    *("Expressionism", "Fauvism", "French", "Glowing Sunset", "Gorgeous Love", "Greenfield", "Impressionism"),
    *("Ink Art", "Joy", "Liquid Dreams", "Magic Cube", "Meta Physics", "Meteor Shower", "Monet", "Mosaic"),
    *("Neon Lines", "On Fire", "Pastel", "Pencil Drawing", "Picasso", "Pop Art", "Red Blue Ink", "Rust", "Sketch"),
    *("Sponge Dabbed", "Structuralism", "Superstring", "Surrealism", "Ukiyoe", "Van Gogh", "Vibrant Flow"),
    *("Warm Love", "Warm Smear", "Watercolor", "Winter"),
)
PHOTO = "Seed Images"  # the photographs that the styles were made from
STYLE_HEAD = tuple(sorted((*STYLES, PHOTO)))
"""The outputs of the style classifier, in order; those of the object classifier are OBJECTS."""
SEEDS = (188, 288, 588, 688, 888)
PROMPT = "A {object} image in {style} style."


def unlearncanvas() -> Protocol:
    """Return the protocol with groups `grid` (20 objects x 50 styles x 5 seeds) and, on request only, `photo`.

    The group `photo` has the same objects as photographs. A style occurs in 100 images of the grid, an object in 250.
    """
    return Protocol(
        name="unlearncanvas",
        items=(*_items("grid", STYLES), *_items("photo", (PHOTO,))),
        steps=100,
        guidance=9.0,
        judge="unlearncanvas-vit",
        score="grid",
        labels={"object": OBJECTS, "style": STYLES},
        groups=("grid",),
        target_groups=("grid",),
        sampler="ddim",
        notes={
            "paper": "arXiv 2402.11846",
            "model": "valid only for the benchmark's fine-tuned Stable Diffusion 1.5; its style names mean its filters",
            "seeds": "each image starts from its seed; the benchmark seeds once for a grid that it draws in order",
            "photo": "prompted as in the benchmark's scripts for unlearned models; its training captions say 'photo'",
            "images": "judged as drawn; the benchmark stores JPEG first",
        },
    )


def _items(group: str, styles: Sequence[str]) -> Iterable[Item]:
    for index, seed in enumerate(SEEDS):
        for s in styles:
            for o in OBJECTS:
                yield Item(group, PROMPT.format(object=o, style=s), {"object": o, "style": s}, index, seed=seed)
