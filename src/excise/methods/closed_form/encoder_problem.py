"""The input of a method that edits text encoders: inputs of their MLP maps, and the last states they should produce.

A layer of CLIP, T5 or Qwen adds the output of its second MLP map to the residual stream, and the text states are the
stream after the last layer, but for a norm. A change of that map in one layer moves the stream by its product with the
input there, and by the effect of that on later layers. The stream of a target's prompt should become that of its
anchor's prompt, token by token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from excise.families.base import Family, split
from excise.families.maps import EncoderLayer
from excise.families.networks import module_in
from excise.methods.closed_form.text_problem import Encoded
from excise.support.progress import Report, silent

BATCH = 128  # prompts


@dataclass(frozen=True)
class Moments:
    """Means over tokens at one map of f inputs and d outputs, in float64.

    Attributes:
        targets: (f, f) mean of x x' over the tokens to erase, x the input of the map.
        lacking: (f, d) mean of x r', r the anchor's stream less the target's.
        retain: (f, f) mean of x x' over the tokens to retain.
    """

    targets: Tensor
    lacking: Tensor
    retain: Tensor


class EncoderProblem:
    """Targets, anchors and retained prompts, ready to be read at any layer of a family that provides "text_mlp".

    Args:
        say: receives progress, of the layers that `expect` announced.
    """

    def __init__(self, family: Family, encoded: Encoded, say: Report = silent) -> None:
        self.family, self.say = family, say
        self.layers = family.encoder_layers()
        n, rows = encoded.pairs, encoded.rows
        self.texts = encoded.texts
        named = (encoded.texts, encoded.subjects)
        self._spans = {name: family.encoder_spans(name, *named) for name in family.text_encoders}
        self.pairs = list(zip(rows[:n], rows[n : 2 * n], strict=True))
        self.retained = list(dict.fromkeys(rows[2 * n :]))
        anchors = list(dict.fromkeys(anchor for _, anchor in self.pairs))
        self._place = {row: i for i, row in enumerate(anchors)}
        self.expect(1)
        self._anchor_streams = {name: self._streams(name, anchors) for name in family.text_encoders}

    def expect(self, layers: int) -> None:
        """Announce how many layers will be read, for the progress."""
        self._prompts_read, self._expected = 0, layers * (len(self.pairs) + len(self.retained))

    @torch.no_grad()
    def read(self, layer: EncoderLayer, deltas: Mapping[str, Tensor]) -> Moments:
        """Moments at the map of `layer` while `deltas` (out, in), by path, are added to other maps."""
        targets, lacking, retain = _Mean(), _Mean(), _Mean()
        with self._capture(layer, deltas) as run:
            for part in split(self.pairs, BATCH):
                x, stream = run([t for t, _ in part])
                erased, goal = self._matched(layer.encoder, part, x)
                targets.add(x[erased], x[erased])
                lacking.add(x[erased], (goal - stream)[erased])
                self._advance(len(part))
            for rows in split(self.retained, BATCH):
                x = run(rows)[0]
                kept = x[self._read(layer.encoder, rows, x)]
                retain.add(kept, kept)
                self._advance(len(rows))
        return Moments(targets.mean, lacking.mean, retain.mean)

    def _advance(self, prompts: int) -> None:
        self._prompts_read += prompts
        self.say("reading layers", min(self._prompts_read, self._expected), self._expected)

    def _read(self, encoder: str, rows: Sequence[int], like: Tensor) -> Tensor:
        """(b, L) which tokens of prompts the denoiser is given, for inputs or a stream (b, L, f)."""
        read, length = self._spans[encoder][1][list(rows)], like.shape[1]
        return F.pad(read, (0, max(0, length - read.shape[1])))[:, :length].to(like.device)

    def _matched(self, encoder: str, pairs: Sequence[tuple[int, int]], like: Tensor) -> tuple[Tensor, Tensor]:
        """(b, L) which tokens to erase, from a target's last word on; (b, L, d) the stream of the anchor there."""
        streams, length = self._anchor_streams[encoder], like.shape[1]
        device, last = streams.device, self._spans[encoder][0]
        start = last[[t for t, _ in pairs]].to(device)[:, None]
        anchor_start = last[[a for _, a in pairs]].to(device)[:, None]
        at = torch.arange(length, device=device)[None]
        source = at - start + anchor_start
        rows = streams[[self._place[a] for _, a in pairs]]
        index = source.clamp(0, length - 1)[..., None].expand(-1, -1, rows.shape[-1])
        read = self._read(encoder, [t for t, _ in pairs], like)
        return read & (at >= start) & (source < length), rows.gather(1, index)

    @torch.no_grad()
    def _streams(self, encoder: str, rows: Sequence[int]) -> Tensor:
        """(n, L, d) the stream of prompts after the last layer of an unedited encoder."""
        last = [layer for layer in self.layers if layer.encoder == encoder][-1]
        with self._capture(last, {}) as run:
            streams = list[Tensor]()
            for part in split(rows, BATCH):
                self.say("reading anchors", len(streams) * BATCH, len(rows))
                streams.append(run(part)[1])
            self.say("reading anchors", len(rows), len(rows))
            return torch.cat(streams)

    @contextmanager
    def _capture(self, layer: EncoderLayer, deltas: Mapping[str, Tensor]) -> Iterator[Any]:
        """A function from prompts, by row, to the input of the layer's map and the last stream of its encoder."""
        inputs_read, streams = list[Tensor](), list[Tensor]()  # the pipeline may encode prompts in several parts
        end = [other for other in self.layers if other.encoder == layer.encoder][-1]

        def run(rows: Sequence[int]) -> tuple[Tensor, Tensor]:
            inputs_read.clear()
            streams.clear()
            self.family.condition([self.texts[row] for row in rows])
            return torch.cat(inputs_read).double(), torch.cat(streams).double()

        def read(module: Any, inputs: Any) -> None:
            inputs_read.append(inputs[0])

        def stream(module: Any, inputs: Any, output: Any) -> None:
            streams.append(output[0] if isinstance(output, tuple) else output)

        with ExitStack() as hooks:
            for path, delta in deltas.items():
                hooks.callback(self._module(path).register_forward_hook(_adding(delta)).remove)
            hooks.callback(self._module(layer.map).register_forward_pre_hook(read).remove)
            hooks.callback(self._module(end.path).register_forward_hook(stream).remove)
            yield run

    def _module(self, path: str) -> Any:
        name, _, rest = path.partition(".")
        return module_in(self.family.text_encoders[name], rest)


def _adding(delta: Tensor) -> Any:
    """A forward hook that adds the output of a delta (out, in) to that of a linear map."""

    def hook(module: Any, inputs: Any, output: Tensor) -> Tensor:
        return output + F.linear(inputs[0], delta.to(inputs[0]))

    return hook


class _Mean:
    """A running mean of outer products."""

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
