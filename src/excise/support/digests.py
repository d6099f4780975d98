"""Digests of requests."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest(what: Any) -> str:
    """SHA-256 of anything JSON can hold."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
