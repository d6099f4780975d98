"""Digests of JSON values and files, and seeds derived from names: the same on every machine and in every version."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def digest(value: Any, *, escape: bool = True) -> str:
    """Return the SHA-256 (64 hex digits) of a value as JSON with sorted keys.

    Args:
        value: anything that JSON can hold.
        escape: write characters outside ASCII as escapes. It changes the digest of texts that have any, so each use
            stays with the choice that it began with.

    Raises:
        TypeError: JSON cannot hold the value.
    """
    return hashlib.sha256(_as_json(value, escape)).hexdigest()


def short_digest(value: Any, *, size: int = 16, escape: bool = True) -> str:
    """Return the BLAKE2b digest of a value as JSON with sorted keys: for names of files in a cache.

    Args:
        value: anything that JSON can hold.
        size: in bytes; each gives two hex digits.
        escape: as in `digest`.

    Raises:
        TypeError: JSON cannot hold the value.
    """
    return hashlib.blake2b(_as_json(value, escape), digest_size=size).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 (64 hex digits) of a file's bytes.

    Raises:
        OSError: the file cannot be read.
    """
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def seed_of(*parts: object) -> int:
    """Return a seed in 0 .. 2^63 - 1 that depends on the parts alone, each taken as text.

    The first part should name the purpose ("training", "attack", a protocol), so that no two purposes share seeds.

    >>> seed_of("training", "a cat", 0) == seed_of("training", "a cat", "0")
    True
    """
    text = "\x00".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _as_json(value: Any, escape: bool) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=escape).encode()
