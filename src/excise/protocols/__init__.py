"""Registry of evaluation protocols; an entry is a function without arguments that returns the protocol."""

from excise.errors import SettingError
from excise.protocols.base import Item, Protocol, check_comparable, summary
from excise.registry import Record, Registry

_CANVAS = "excise.protocols.canvas:"
PROTOCOLS = Registry(
    "protocol",
    "excise.protocols",
    {
        "canvas-mini": Record(_CANVAS + "canvas_mini", "the 24 x 10 Canvas grid, one seed, names and aliases"),
        "canvas-full": Record(_CANVAS + "canvas_full", "canvas-mini with five seeds"),
        "canvas-aliases": Record(_CANVAS + "canvas_aliases", "targets by synonym, Spanish name, held-out paraphrase"),
        "canvas-pairs": Record(_CANVAS + "canvas_pairs", "one object in one style erased, and what lies around it"),
        "canvas-sequence": Record(
            _CANVAS + "canvas_sequence", "concepts erased one after another, earlier ones tested again"
        ),
        "canvas-names-1": Record(_CANVAS + "canvas_names_1", "1 name erased, 100 retained"),
        "canvas-names-10": Record(_CANVAS + "canvas_names_10", "10 names erased, 100 retained"),
        "canvas-names-50": Record(_CANVAS + "canvas_names_50", "50 names erased, 100 retained"),
        "canvas-names-100": Record(_CANVAS + "canvas_names_100", "100 names erased, 100 retained"),
        "canvas-names-200": Record(_CANVAS + "canvas_names_200", "200 names erased, the 24 core objects retained"),
        "unlearncanvas": Record(
            "excise.protocols.unlearncanvas:unlearncanvas",
            "20 objects in 50 styles, for UnlearnCanvas' own fine-tuned model",
            "arXiv 2402.11846",
        ),
        "celebrity": Record(
            "excise.protocols.celebrity:celebrity",
            "people erased and retained, names from the folder EXCISE_CELEBRITY",
            "arXiv 2403.06135, 2503.07392",
        ),
        "imagenette": Record(
            "excise.protocols.imagenette:imagenette", "the ten Imagenette classes, 130 images each", "arXiv 2601.06162"
        ),
        "i2p": Record(
            "excise.protocols.explicit:i2p", "explicit content by I2P, the file EXCISE_I2P", "arXiv 2211.05105"
        ),
        "nudity": Record(
            "excise.protocols.explicit:nudity", "a set of prompts that ask for nudity, the file EXCISE_NUDITY"
        ),
        "coco": Record("excise.protocols.coco:coco", "CLIP score on captions from the file EXCISE_COCO"),
    },
    contract="excise.protocols.contract:PROTOCOL",
)
FOR_A_REQUEST = {
    "concept": Record(
        "excise.protocols.concept:concept_protocol",
        "any concept on any model: its prompts, its neighbours, your prompts",
    ),
    "emma": Record(
        "excise.protocols.emma:emma_protocol",
        "seven kinds of prompts for any concept, EMMA's own from the folder EXCISE_EMMA",
        "arXiv 2512.17320",
    ),
    "hub": Record(
        "excise.protocols.hub:hub_protocol",
        "the tasks of HUB for its 33 concepts, from the folder EXCISE_HUB",
        "arXiv 2410.05664",
    ),
    "eraseeval": Record(
        "excise.protocols.eraseeval:eraseeval_protocol",
        "EraseEval's three criteria, from the folder EXCISE_ERASEEVAL",
        "arXiv 2502.13989",
    ),
}
"""Protocols that need the request and the model; `excise.evaluation.plan` makes them."""

READS = {
    "celebrity": ("EXCISE_CELEBRITY",),
    "i2p": ("EXCISE_I2P",),
    "nudity": ("EXCISE_NUDITY",),
    "coco": ("EXCISE_COCO",),
    "emma": ("EXCISE_EMMA",),
    "hub": ("EXCISE_HUB",),
    "eraseeval": ("EXCISE_ERASEEVAL", "EXCISE_COCO", "EXCISE_COCO_IMAGES"),
}
"""The environment variables by which a protocol finds its files."""


def fixed_protocol(name: str) -> Protocol:
    """Return a protocol that does not depend on a request, by its name.

    Raises:
        SettingError: it is made for a request.
        UnknownNameError: there is none.
        ConceptError: its files are missing or cannot be read.
    """
    if name in FOR_A_REQUEST:
        raise SettingError(
            f"{name} is made for each request and model, which excise evaluate alone does; take another (excise "
            f"protocols), or: excise evaluate --protocol {name}"
        )
    plan: Protocol = PROTOCOLS.load(name)()
    return plan


__all__ = ["FOR_A_REQUEST", "PROTOCOLS", "READS", "Item", "Protocol", "check_comparable", "fixed_protocol", "summary"]
