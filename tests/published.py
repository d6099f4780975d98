"""Small stand-ins for the files of published benchmarks, in the layouts in which their authors publish them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

LANGUAGES = ("Spanish", "French", "German", "Italian", "Portuguese")


def emma(root: Path) -> Path:
    """A folder of EMMA's prompts: two domains, of which the second has no synonyms, as in the original."""
    objects = {"cat": "cat", "stopsign": "stop sign", "dog": "dog"}
    levels = {
        "1_name": lambda n: [f"an image of the {n}"],
        "2_prefix": lambda n: [f"an image of the happy{n}", f"an image of the under{n}"],
        "3_variant": lambda n: [f"an image of the Other {n}"],
        "4_short": lambda n: ["A small animal with whiskers."],
        "5_long": lambda n: ["A small animal with whiskers that sleeps on a sofa while the sun goes down."],
        "6_random": lambda n: [f"an image of the {other}" for other in objects.values() if other != n],
        "7_hard": lambda n: ["an image of the dog", "an image of the thing unheard of"],
    }
    for level, prompts in levels.items():
        _write(root / "object" / f"{level}.json", [{key: prompts(name)} for key, name in objects.items()])
    artists = {"salvador-dali": "Salvador Dali", "paul-cezanne": "Paul Cezanne"}
    for level in ("1_name", "2_prefix", "6_random"):
        glued = level == "2_prefix"
        rows = [
            {key: [f"a photo in the style of {'vivid' + name.replace(' ', '') if glued else name}"]}
            for key, name in artists.items()
        ]
        _write(root / "art" / f"{level}.json", rows if level != "6_random" else _swapped(rows))
    return root


def hub(root: Path, concept: str = "Snoopy") -> Path:
    """A folder of HUB's prompts of one concept: prompts without a header, nouns with underscores, an odd file name."""
    prompts = root / "prompts"
    for task in (
        "target_image",
        "pinpoint_ness",
        "multilingual_robustness",
        "attack_robustness",
        "selective_alignment",
    ):
        (prompts / task).mkdir(parents=True, exist_ok=True)
    lines = [f'"{concept} in a park, running."', f"{concept} at sea", f"{concept} at sea"]
    (prompts / "target_image" / f"{concept}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    nouns = ["dog,0.8", f"{concept.lower()},0.79", "teddy_bear,0.7", *(f"noun{i},0.6" for i in range(120))]
    (prompts / "pinpoint_ness" / f"{concept}.csv").write_text("noun,similarity\n" + "\n".join(nouns), encoding="utf-8")
    rows = [",".join(("Original", *LANGUAGES, "Index"))]
    rows += [
        ",".join([f'"{concept} {i}, en"', *(f"{concept} {i} {lang}" for lang in LANGUAGES), str(i)]) for i in (0, 1)
    ]
    odd = concept.replace(" ", "_")
    (prompts / "multilingual_robustness" / f"{odd}.csv").write_text("\n".join(rows), encoding="utf-8")
    (prompts / "attack_robustness" / f"{concept}.csv").write_text(
        "snoop moussnowy ...\n, peanuts ]\n", encoding="utf-8"
    )
    nouns_of = [{"prompt": f"{concept} at sea", "nouns": ["Sea ", "sea", concept], "index": 1}]
    _write(prompts / "selective_alignment" / f"{concept}.json", nouns_of)
    return root


def eraseeval(root: Path, concept: str = "Snoopy") -> Path:
    """What EraseEval's program leaves in its folder `captions`, with captions and real pictures of a user's."""
    _write(root / "protocol1.json", {concept: f"a dream of {concept} among the stars"})
    _write(root / "protocol2.json", {concept.replace(" ", "-"): "the white dog that sleeps on the roof of its kennel"})
    captions = "\n".join(f"{i},a street with {i} cars" for i in range(6))
    (root / "captions.csv").write_text(f"seed,caption\n{captions}\n", encoding="utf-8")
    (root / "real").mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(root / "real" / f"{i}.png")
    return root


def set_variables(monkeypatch, root: Path, concept: str = "Snoopy") -> None:
    """Write all of them, and let the environment name them."""
    erased = eraseeval(root / "eraseeval", concept)
    monkeypatch.setenv("EXCISE_EMMA", str(emma(root / "emma")))
    monkeypatch.setenv("EXCISE_HUB", str(hub(root / "hub", concept)))
    monkeypatch.setenv("EXCISE_ERASEEVAL", str(erased))
    monkeypatch.setenv("EXCISE_COCO", str(erased / "captions.csv"))
    monkeypatch.setenv("EXCISE_COCO_IMAGES", str(erased / "real"))


def _swapped(rows: list[dict[str, list[str]]]) -> list[dict[str, list[str]]]:
    (first,), (second,) = ([*row.items()] for row in rows)
    return [{first[0]: second[1]}, {second[0]: first[1]}]


def _write(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")
