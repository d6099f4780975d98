"""Tensors in files, by name: one is read at a time, in the precision that is wanted, and nothing else is touched.

Files are read into memory of their own, not mapped: a map counts every byte that was ever read as memory of the
process, and a file that goes away under a map ends the process without a word.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from io import RawIOBase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from excise.errors import ModelError
from excise.families.architectures import model_header
from excise.support.headers import Entry

PIECE = 1 << 22  # bytes that are read at once
_BASES = ("diffusion_pytorch_model", "model")  # of diffusers and of transformers
KINDS = {  # in the order in which the format lays tensors out
    "I64": torch.int64,
    "F64": torch.float64,
    "F32": torch.float32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I16": torch.int16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies.

    Attributes:
        file: that holds it.
        entry: its precision and shape, and where its bytes are, unless `places` says that.
        places: entries of consecutive rows of it, where they do not lie one behind the other.
    """

    file: Path
    entry: Entry
    places: tuple[Entry, ...] = ()

    def runs(self) -> list[tuple[int, int]]:
        """Where its bytes begin and end, for each run of them."""
        return [(place.begin, place.end) for place in self.places or (self.entry,)]

    @property
    def size(self) -> int:
        """Its bytes."""
        return sum(end - begin for begin, end in self.runs())


class TensorFiles:
    """The tensors of one network, in one file or in shards; precisions may differ from shard to shard.

    Args:
        stored: where each tensor lies, by name.
        where: the file or folder, for messages.
    """

    def __init__(self, stored: Mapping[str, Stored], where: Path) -> None:
        self._stored, self.where = stored, where

    @classmethod
    def of_file(cls, path: Path) -> TensorFiles:
        """Of a single file.

        Raises:
            ModelError: it is no safetensors file, or it is cut short.
        """
        return cls(_held(path), path)

    @classmethod
    def of_folder(cls, folder: Path, variant: str | None = None) -> TensorFiles:
        """Of a component's folder: of its shards where an index names some, else of its one file.

        Args:
            variant: files of this variant are preferred to the plain ones, as diffusers does.

        Raises:
            ModelError: there are no such files, a shard is missing, damaged or not the one that the index means.
        """
        for chosen in dict.fromkeys((variant, None)):
            for base in _BASES:
                index = folder / f"{base}.safetensors.index{'.' + chosen if chosen else ''}.json"
                if index.is_file():
                    return cls(_sharded(index), folder)
                file = folder / f"{base}{'.' + chosen if chosen else ''}.safetensors"
                if file.is_file():
                    return cls(_held(file), folder)
        raise ModelError(f"{folder} holds no .safetensors weights; copy or download the model again.")

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __contains__(self, name: object) -> bool:
        return name in self._stored

    def stored(self, name: str) -> Stored:
        """Where a tensor lies.

        Raises:
            ModelError: it lies in no file.
        """
        try:
            return self._stored[name]
        except KeyError:
            raise ModelError(
                f"no file in {self.where} holds '{name}', which the model's configuration asks for; its files and its "
                "configuration belong to different models, or some were not copied: copy or download it again."
            ) from None

    def read(self, name: str, dtype: torch.dtype | None = None, shape: tuple[int, ...] | None = None) -> Tensor:
        """Read one tensor.

        Args:
            dtype: the precision to return it in; None for that of the file.
            shape: that it must have.

        Raises:
            ModelError: it lies in no file, has another shape, or its file cannot be read any more.
        """
        kind = self.check(name, shape)
        floating = kind.is_floating_point and dtype is not None
        whole = torch.empty(self.shape(name), dtype=dtype if floating else kind)
        flat, done = whole.view(-1), 0
        if whole.dtype == kind:
            _fill(self._stored[name], 0, flat)
            return whole
        for piece in self.pieces(name):
            flat[done : done + len(piece)] = piece
            done += len(piece)
        return whole

    def pieces(self, name: str, shape: tuple[int, ...] | None = None) -> Iterator[Tensor]:
        """The numbers of a tensor, row by row, in consecutive pieces that share one piece of memory; raises as `read`.

        A tensor that is read as a whole to be cast would leave as much memory behind, in holes between what is kept.
        """
        kind, at = self.check(name, shape), self._stored[name]
        scratch = self._scratch.view(kind)
        size = at.size
        for begin in range(0, size, PIECE):
            piece = scratch[: min(PIECE, size - begin) // kind.itemsize]
            _fill(at, begin, piece)
            yield piece

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor; raises as `stored`."""
        return self.stored(name).entry.shape

    def kind(self, name: str) -> torch.dtype:
        """The precision of a tensor in its file; raises as `read`."""
        return self.check(name)

    def check(self, name: str, shape: tuple[int, ...] | None = None) -> torch.dtype:
        """The precision of a tensor in its file.

        Args:
            shape: that it must have.

        Raises:
            ModelError: it lies in no file, has another shape, or is kept in a way that cannot be read.
        """
        at = self.stored(name)
        kept, file = at.entry, at.file
        if shape is not None and kept.shape != shape:
            raise ModelError(
                f"'{name}' in {file} has the shape {kept.shape}; the model's configuration asks for {shape}. The file "
                "belongs to another model: copy or download the model again."
            )
        if kept.dtype not in KINDS:
            raise ModelError(
                f"'{name}' in {file} is kept as {kept.dtype}, which cannot be read here; expected numbers of floating "
                "point (F32, F16, BF16)."
            )
        return KINDS[kept.dtype]

    @cached_property
    def _scratch(self) -> Tensor:
        return torch.empty(PIECE, dtype=torch.uint8)


def _fill(at: Stored, begin: int, flat: Tensor) -> None:
    """Read bytes of a stored tensor, from `begin` on, into a tensor (n,)."""
    left = flat.view(torch.uint8).numpy().data
    try:
        with at.file.open("rb", buffering=0) as file:
            for start, end in at.runs():
                skipped = min(begin, end - start)
                part = left[: end - start - skipped]
                _read_at(file, start + skipped, part)
                begin, left = begin - skipped, left[len(part) :]
    except OSError as error:
        raise ModelError(
            f"{at.file} cannot be read any more ({error.strerror or error}); see that its disk is there, and run it "
            "again."
        ) from error


def _read_at(file: RawIOBase, start: int, buffer: memoryview) -> None:
    """Fill a buffer with what is in a file from a place on; raises OSError where it ends before."""
    file.seek(start)
    done = 0
    while done < len(buffer):
        count = file.readinto(buffer[done:])
        if not count:
            raise OSError(f"it ends after {start + done} bytes")
        done += count


def _held(file: Path) -> dict[str, Stored]:
    """The tensors of one file."""
    return {name: Stored(file, entry) for name, entry in model_header(file).tensors.items()}


def _sharded(index: Path) -> dict[str, Stored]:
    """The tensors of all shards that an index names."""
    try:
        content: Any = json.loads(index.read_text(encoding="utf-8"))
        places: dict[str, str] = {str(name): str(file) for name, file in content["weight_map"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{index} cannot be read as an index of shards ({error}); copy it again.") from error
    files = sorted(set(places.values()))
    missing = [file for file in files if not (index.parent / file).is_file()]
    if missing:
        raise ModelError(
            f"{index.parent} lacks {missing[0]}, one of {len(files)} files that {index.name} names; copy or download "
            "the model again."
        )
    headers = {file: _held(index.parent / file) for file in files}
    wrong = next((name for name, file in places.items() if name not in headers[file]), None)
    if wrong is not None:
        raise ModelError(
            f"{index.name} in {index.parent} looks for '{wrong}' in {places[wrong]}, which does not hold it: the index "
            "is of another model; copy or download the model again."
        )
    return {name: headers[file][name] for name, file in places.items()}
