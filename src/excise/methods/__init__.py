"""The methods, by name; nothing is imported until one is used."""

from excise.registry import Record, Registry

METHODS = Registry(
    "method",
    "excise.methods",
    {
        "speed": Record(
            "excise.methods.speed:SPEED",
            "closed-form erasure inside the null space of what is kept",
            paper="Li et al., ICLR 2026, arXiv 2503.07392",
            shape="closed-form",
            families=("sd",),
            cost="one text-width eigendecomposition for each edited layer; seconds on a CPU",
            licence="written from the paper; official code is Apache-2.0",
        ),
        "uce": Record(
            "excise.methods.uce:UCE",
            "least-squares remapping of the projections that read text",
            paper="Gandikota et al., WACV 2024, arXiv 2308.14761",
            shape="closed-form",
            families=("sd",),
            cost="one text-width solve for the whole model; under a second on a CPU",
            licence="written from the paper; official code is MIT",
        ),
    },
)

CONTROLS = ("identity", "noise", "oracle")
"""What a benchmark sets beside the methods; see `excise.controls`."""

__all__ = ["CONTROLS", "METHODS"]
