"""Protocols by name."""

from excise.protocols.base import Item, Protocol
from excise.registry import Record, Registry

PROTOCOLS = Registry(
    "protocol",
    "excise.protocols",
    {"canvas-mini": Record("excise.protocols.canvas:canvas_mini", "the 24 x 10 Canvas grid, one seed")},
)

__all__ = ["PROTOCOLS", "Item", "Protocol"]
