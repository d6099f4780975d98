"""States of a text encoder's tokens that are known from earlier calls, by the tokens before them."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from excise.support.digests import short_digest
from excise.support.files import write_tensors

NAME = 16  # bytes of a beginning's name


class KnownStates:
    """States by the beginning of a prompt that ends with their token, read from a folder and saved to it.

    A beginning is named by a digest of its tokens, so prompts that begin alike find what they share. Files that are
    damaged, or of an earlier format, are passed over.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._at: dict[bytes, int] = {}
        self._states: list[Tensor] = []
        self._pooled: list[Tensor] = []
        for path in sorted(folder.glob("*.safetensors")):
            self._read(path)
        self._saved = len(self._at)

    def _read(self, path: Path) -> None:
        try:
            held = load_file(path)
        except (OSError, SafetensorError):
            return
        names = held.get("names")
        if names is not None:
            self.add([bytes(row) for row in names.numpy()], held["states"], held.get("pooled"))

    def names(self, ids: Tensor, lengths: Tensor) -> list[list[bytes]]:
        """The name of each beginning of prompts (B, L, k), up to `lengths` (B,) tokens."""
        prompts = []
        for row, length in zip(ids.numpy(), lengths.tolist(), strict=True):
            digest, prompt = blake2b(digest_size=NAME), list[bytes]()
            for token in row[:length]:
                digest.update(token.tobytes())
                prompt.append(digest.digest())
            prompts.append(prompt)
        return prompts

    def lacking(self, names: Sequence[Sequence[bytes]]) -> list[int]:
        """The prompts of which a state is not known."""
        return [i for i, prompt in enumerate(names) if not self._at.keys() >= set(prompt)]

    def add(self, names: Sequence[bytes], states: Tensor, pooled: Tensor | None) -> None:
        """Put in states (n, d) and pooled states (n, p); those that are known stay."""
        new = []
        for i, name in enumerate(names):
            if name not in self._at:
                self._at[name] = len(self._at)
                new.append(i)
        if new:
            self._states.append(states[new].cpu())
            self._pooled += [] if pooled is None else [pooled[new].cpu()]

    def select(self, names: Sequence[Sequence[bytes]], width: int) -> tuple[Tensor, Tensor | None, Tensor]:
        """States (n, d) and pooled states (n, p) of prompts, and (B, `width`) which of them each token has, else -1."""
        own: dict[bytes, int] = {}
        at = torch.full((len(names), width), -1)
        for i, prompt in enumerate(names):
            at[i, : len(prompt)] = torch.tensor([own.setdefault(name, len(own)) for name in prompt])
        rows = [self._at[name] for name in own]
        return torch.cat(self._states)[rows], torch.cat(self._pooled)[rows] if self._pooled else None, at

    def save(self) -> None:
        """Write what was put in since the last time as one file.

        Raises:
            OutputError: the folder cannot be written.
        """
        new = list(self._at)[self._saved :]
        if not new:
            return
        held = {
            "names": torch.frombuffer(bytearray(b"".join(new)), dtype=torch.uint8).view(-1, NAME),
            "states": torch.cat(self._states)[self._saved :],
        }
        if self._pooled:
            held["pooled"] = torch.cat(self._pooled)[self._saved :]
        path = self.folder / f"{short_digest([name.hex() for name in new])}.safetensors"
        write_tensors(path, held, durable=False)
        self._saved = len(self._at)
