"""What a method that edits text encoders is given: what their maps read, and what the last states should become.

A CLIP layer adds what its second MLP map makes to a stream, and the states that are read are the stream at the end. So
a change of that map at some layer moves the stream by what it makes of its input there, and whatever later layers make
of that. What the stream of a target's prompt should become is that of its anchor's, token by token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from excise.families.base import EncoderLayer, Family, split
from excise.families.networks import module_in
from excise.methods.closed_form.text_problem import Encoded

BATCH = 128  # prompts


@dataclass(frozen=True)
class Moments:
    """At one map of f inputs and d outputs, means over tokens in float64.

    Attributes:
        targets: (f, f) x x' of the tokens to erase. lacking: (f, d) x r', r what their stream lacks of the
            anchor's.
        retain: (f, f) x x' of the tokens to keep.
    """

    targets: Tensor
    lacking: Tensor
    retain: Tensor


class EncoderProblem:
    """Targets, anchors and retained prompts, ready to be read at any layer of a family that provides "text_mlp"."""

    def __init__(self, family: Family, encoded: Encoded) -> None:
        self.family = family
        self.layers = family.encoder_layers()
        n, rows, states = encoded.pairs, encoded.rows, encoded.states
        self.texts, self.last, self.end = encoded.texts, states.last, states.end
        self.pairs = list(zip(rows[:n], rows[n : 2 * n], strict=True))
        self.kept = list(dict.fromkeys(rows[2 * n :]))
        anchors = list(dict.fromkeys(anchor for _, anchor in self.pairs))
        self._place = {row: i for i, row in enumerate(anchors)}
        self._wanted = {name: self._streams(name, anchors) for name in family.text_encoders}

    @torch.no_grad()
    def read(self, layer: EncoderLayer, deltas: Mapping[str, Tensor]) -> Moments:
        """What the map of `layer` reads while `deltas` (out, in) by path are in force."""
        targets, lacking, retain = _Mean(), _Mean(), _Mean()
        with self._watch(layer, deltas) as seen:
            for part in split(self.pairs, BATCH):
                x, stream = seen([t for t, _ in part])
                reads, wanted = self._matched(layer.encoder, part, x.shape[1])
                targets.add(x[reads], x[reads])
                lacking.add(x[reads], (wanted - stream)[reads])
            for rows in split(self.kept, BATCH):
                x = seen(rows)[0].flatten(0, 1)
                retain.add(x, x)
        return Moments(targets.mean, lacking.mean, retain.mean)

    def _matched(self, encoder: str, pairs: Sequence[tuple[int, int]], length: int) -> tuple[Tensor, Tensor]:
        """(b, L) tokens to erase, from a target's last word on; (b, L, d) what the stream should be there."""
        streams = self._wanted[encoder]
        device = streams.device
        start = self.last[[t for t, _ in pairs]].to(device)[:, None]
        theirs = self.last[[a for _, a in pairs]].to(device)[:, None]
        at = torch.arange(length, device=device)[None]
        from_ = at - start + theirs
        rows = streams[[self._place[a] for _, a in pairs]]
        index = from_.clamp(0, length - 1)[..., None].expand(-1, -1, rows.shape[-1])
        return (at >= start) & (from_ < length), rows.gather(1, index)

    @torch.no_grad()
    def _streams(self, encoder: str, rows: Sequence[int]) -> Tensor:
        """(n, L, d) the stream of some prompts at the end of an encoder as it is."""
        last = [layer for layer in self.layers if layer.encoder == encoder][-1]
        with self._watch(last, {}) as seen:
            return torch.cat([seen(part)[1] for part in split(rows, BATCH)])

    @contextmanager
    def _watch(self, layer: EncoderLayer, deltas: Mapping[str, Tensor]) -> Iterator[Any]:
        """A function from rows to what the layer's map reads and where its encoder's stream ends."""
        kept: dict[str, Tensor] = {}
        end = [other for other in self.layers if other.encoder == layer.encoder][-1]

        def run(rows: Sequence[int]) -> tuple[Tensor, Tensor]:
            self.family.condition([self.texts[row] for row in rows])
            return kept["read"].double(), kept["stream"].double()

        def read(module: Any, inputs: Any) -> None:
            kept["read"] = inputs[0]

        def stream(module: Any, inputs: Any, output: Any) -> None:
            kept["stream"] = output[0] if isinstance(output, tuple) else output

        with ExitStack() as held:
            for path, delta in deltas.items():
                held.callback(self._module(path).register_forward_hook(_adding(delta)).remove)
            held.callback(self._module(layer.map).register_forward_pre_hook(read).remove)
            held.callback(self._module(end.path).register_forward_hook(stream).remove)
            yield run

    def _module(self, path: str) -> Any:
        name, _, rest = path.partition(".")
        return module_in(self.family.text_encoders[name], rest)


def _adding(delta: Tensor) -> Any:
    def hook(module: Any, inputs: Any, output: Tensor) -> Tensor:
        return output + F.linear(inputs[0], delta.to(inputs[0]))

    return hook


class _Mean:
    """A mean of outer products, batch by batch."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.count = 0

    def add(self, one: Tensor, two: Tensor) -> None:
        product = one.mT @ two
        self.total = product if self.total is None else self.total + product
        self.count += len(one)

    @property
    def mean(self) -> Tensor:
        assert self.total is not None
        return self.total / self.count
