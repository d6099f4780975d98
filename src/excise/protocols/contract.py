"""The contract of protocols that other packages register."""

from __future__ import annotations

from excise.protocols.base import Protocol
from excise.registry import made_by

PROTOCOL = made_by(
    "protocol",
    "protocol()",
    "an object of type excise.protocols.base.Protocol",
    lambda made: isinstance(made, Protocol),
)
