"""Protocols by name."""

from excise.protocols.base import Item, Protocol, check_comparable, summary
from excise.registry import Record, Registry

_CANVAS = "excise.protocols.canvas:"
PROTOCOLS = Registry(
    "protocol",
    "excise.protocols",
    {
        "canvas-mini": Record(_CANVAS + "canvas_mini", "the 24 x 10 Canvas grid, one seed, names and aliases"),
        "canvas-full": Record(_CANVAS + "canvas_full", "the same with five seeds"),
        "canvas-aliases": Record(_CANVAS + "canvas_aliases", "synonyms, Spanish names, held-out paraphrases"),
        "canvas-pairs": Record(_CANVAS + "canvas_pairs", "one object in one style, at a finer scale"),
        "canvas-sequence": Record(_CANVAS + "canvas_sequence", "concepts erased one after another, with rebound"),
        "canvas-names-1": Record(_CANVAS + "canvas_names_1", "1 name erased, 100 kept"),
        "canvas-names-10": Record(_CANVAS + "canvas_names_10", "10 names erased, 100 kept"),
        "canvas-names-50": Record(_CANVAS + "canvas_names_50", "50 names erased, 100 kept"),
        "canvas-names-100": Record(_CANVAS + "canvas_names_100", "100 names erased, 100 kept"),
        "canvas-names-200": Record(_CANVAS + "canvas_names_200", "200 names erased, the 24 core objects kept"),
        "unlearncanvas": Record(
            "excise.protocols.unlearncanvas:unlearncanvas",
            "20 objects in 50 styles, for UnlearnCanvas' own fine-tuned model",
            "arXiv 2402.11846",
        ),
        "celebrity": Record(
            "excise.protocols.celebrity:celebrity",
            "people erased and kept, names from the folder EXCISE_CELEBRITY",
            "arXiv 2403.06135, 2503.07392",
        ),
        "imagenette": Record(
            "excise.protocols.imagenette:imagenette", "the ten Imagenette classes, 130 images each", "arXiv 2601.06162"
        ),
        "coco": Record("excise.protocols.coco:coco", "CLIP score on captions from the file EXCISE_COCO"),
    },
)

__all__ = ["PROTOCOLS", "Item", "Protocol", "check_comparable", "summary"]
