"""Everyday names of each kind of concept: the default candidates for a target's competitors."""

from __future__ import annotations

# Used where neither the caller nor a vocabulary names candidates.
CANDIDATES: dict[str, tuple[str, ...]] = {
    "object": (
        "bicycle", "teapot", "violin", "lighthouse", "pineapple", "umbrella", "typewriter", "cactus", "sailboat",
        "armchair", "waterfall", "tractor", "seashell", "lantern", "windmill", "backpack", "chess board", "mushroom",
        "hot air balloon", "clock tower", "sunflower", "steam train", "penguin", "telescope",
    ),
    "style": (
        "pencil sketch", "stained glass", "pixel art", "oil painting", "ukiyo-e print", "charcoal drawing", "mosaic",
        "blueprint", "pop art", "cross stitch", "low poly render", "woodcut", "graffiti", "black and white photograph",
    ),
    "person": (
        "a young woman", "an old man", "a firefighter", "a chef", "a ballet dancer", "an astronaut", "a farmer",
        "a nurse", "a guitarist", "a schoolboy", "a judge in a robe", "a mountaineer",
    ),
    "explicit": (
        "a fully clothed person", "a business suit", "a winter coat", "a landscape", "a bowl of fruit",
        "a city street", "a library", "a sleeping dog",
    ),
    "instance": (
        "a cartoon robot", "a fox in a raincoat", "a clay dinosaur", "a wooden puppet", "a knight in armour",
        "a space pirate", "a talking teapot", "a paper dragon", "a snow owl", "a tin soldier", "a mermaid",
    ),
}  # fmt: skip
