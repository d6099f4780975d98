"""The headers of safetensors files: which tensors a file holds, and where. No torch here."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from excise.errors import ModelError


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies.

    Attributes:
        file: the file.
        kind: its precision, as the format names it ("F32", "BF16").
        shape: its shape.
        begin: of its bytes in the file.
        size: number of its bytes.
    """

    file: Path
    kind: str
    shape: tuple[int, ...]
    begin: int
    size: int


def read_header(path: Path, purpose: str = "") -> tuple[dict[str, Stored], Mapping[str, str]]:
    """Return the tensors of a file by name, and its metadata; nothing else of the file is read.

    Args:
        purpose: what the file is read as, for the message.

    Raises:
        ModelError: the file is no safetensors file, or it is cut short.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            if length > size - 8:
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", None) or {}
        start = 8 + length
        stored = {}
        for name, entry in header.items():
            begin, end = (int(at) for at in entry["data_offsets"])
            shape = tuple(int(side) for side in entry["shape"])
            stored[name] = Stored(path, str(entry["dtype"]), shape, start + begin, end - begin)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, struct.error) as error:
        raise ModelError(
            f"cannot read {path}{purpose}: it is no safetensors file, or it is damaged ({error}); copy it again."
        ) from error
    end = max((entry.begin + entry.size for entry in stored.values()), default=start)
    if end > size:
        raise ModelError(f"{path} is cut short: it has {size} of {end} bytes; copy or download it again.")
    return stored, metadata
