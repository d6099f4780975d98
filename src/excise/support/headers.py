"""The header of a safetensors file: its metadata, and the names, types and shapes of its tensors; no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST = 100_000_000  # bytes of a header, the limit of safetensors itself
SINGLE = "F32"
METADATA = "__metadata__"  # the entry of the table that is no tensor


@dataclass(frozen=True)
class Entry:
    """A tensor of a file.

    Attributes:
        dtype: as safetensors names it.
        begin, end: where its bytes are in the file.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """What the beginning of a safetensors file tells."""

    path: Path
    metadata: Mapping[str, str]
    tensors: Mapping[str, Entry]

    def raw(self, name: str) -> bytes:
        """The bytes of a tensor."""
        entry = self.tensors[name]
        with self.path.open("rb") as file:
            file.seek(entry.begin)
            return file.read(entry.end - entry.begin)

    def is_finite(self, name: str) -> bool:
        """Whether all numbers of a tensor in single precision are finite."""
        return math.isfinite(sum(memoryview(self.raw(name)).cast("f")))


def read_table(path: Path) -> tuple[dict[str, Any], int]:
    """Read the table at the beginning of a file as it stands there, and its length in bytes.

    Raises:
        ValueError: it is no safetensors file.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MOST, size - 8):
            raise ValueError("its header is longer than the file")
        table = json.loads(file.read(length).decode("utf-8"))
    if not isinstance(table, dict):
        raise ValueError("its header is no table")
    return table, length


def sort_metadata(path: Path) -> None:
    """Sort the metadata of a file, which the library writes in an order of chance.

    The header keeps its length, so the tensors stay where they are. A header that would grow is left as it is.
    """
    table, length = read_table(path)
    table[METADATA] = dict(sorted(table.get(METADATA, {}).items()))
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
    if len(text) <= length:
        with path.open("r+b") as file:
            file.seek(8)
            file.write(text.ljust(length))


def read_header(path: Path) -> Header:
    """Read the header of a file, and check that the file is as long as it says.

    Raises:
        ValueError: it is no safetensors file, or is cut short.
        OSError: it cannot be read.
    """
    content, length = read_table(path)
    size = path.stat().st_size
    metadata = content.pop(METADATA, None) or {}
    start = 8 + length
    try:
        tensors = {
            name: Entry(e["dtype"], tuple(e["shape"]), *(start + offset for offset in e["data_offsets"]))
            for name, e in content.items()
        }
    except (KeyError, TypeError) as error:
        raise ValueError("its header names a tensor without its type, shape or place") from error
    end = max((e.end for e in tensors.values()), default=start)
    if end != size or any(not start <= e.begin <= e.end for e in tensors.values()):
        raise ValueError(f"it has {size} bytes where its header says {end}")
    if any(e.dtype == SINGLE and math.prod(e.shape) * 4 != e.end - e.begin for e in tensors.values()):
        raise ValueError("its header gives a tensor another size than its shape")
    return Header(path, metadata, tensors)
