"""Prompts encoded as a tree: each distinct beginning once, and nothing behind the last token that is wanted.

In a causal encoder (CLIP, every decoder) the state of a token depends on the tokens before it alone. So prompts that
begin with the same tokens share the states of these, and a token behind the last one that is read need not be run.
Several prompts stand in one row of an encoder's input: a token attends to its own path alone, by a mask, and has the
position of its depth. Rows are as long as the encoder's positions allow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from excise.families.networks import computes_in
from excise.families.partial import device_of
from excise.families.progress import encoded
from excise.families.text_known import KnownStates
from excise.families.text_states import TextStates, Until

Arguments = tuple[Tensor, Tensor, "Tensor | None"]
Encoder = Callable[[Tensor, Tensor, "Tensor | None"], "tuple[Tensor, Tensor | None]"]
"""From ids (R, S, k), positions (R, S) and a mask (R, 1, S, S) to states (R, S, d) and pooled states (R, S, p).

The mask is True where a token attends to another. None stands for rows that hold one prompt each, in which a token
attends to all before it.
"""
PASS = 4096  # tokens in one pass of an encoder


@dataclass(frozen=True)
class Tokens:
    """Tokens of B prompts.

    Attributes:
        ids: (B, L, k) as each of k encoders with one cut of words takes them.
        first, last, end: (B,) columns, see `TextStates`.
        read: (B, L) see `TextStates`.
        pooled: (B,) column of the token whose state makes the pooled prompt, in families that have such.
        hidden: number of columns that are encoded and not handed on (an instruction before the prompt).
        kept: number of columns before the hidden ones (a start token).
    """

    ids: Tensor
    first: Tensor
    last: Tensor
    end: Tensor
    read: Tensor
    pooled: Tensor | None = None
    hidden: int = 0
    kept: int = 1

    def shown(self, columns: Tensor) -> Tensor:
        """Columns, none of them hidden, among those that are handed on."""
        return torch.where(columns >= self.kept, columns - self.hidden, columns)

    def lengths(self, until: Sequence[Until]) -> Tensor:
        """(B,) number of tokens to encode."""
        to_end = self.end if self.pooled is None else torch.maximum(self.end, self.pooled)
        place = torch.arange(self.read.shape[1])
        whole = torch.maximum((self.read * place).amax(1), to_end)  # a few pads too: each reads those before it
        through = torch.stack([self.last, to_end, whole, whole])
        kinds = [get_args(Until).index(kind) for kind in until]
        return through[kinds, torch.arange(len(until))] + 1


@dataclass(frozen=True)
class Forest:
    """The distinct tokens of prompts, in rows.

    Attributes:
        at: (B, L) number of each prompt's tokens among the n in the rows; -1 behind its last. Of several rows, those
            in the first.
        path: (B, L) the same, of tokens in the prompt's own row.
        ids: (n, k) of each token. depth: (n,) its column. row, slot: (n,) where it stands.
        prompt: (n,) a prompt that has it.
    """

    at: Tensor
    path: Tensor
    ids: Tensor
    depth: Tensor
    row: Tensor
    slot: Tensor
    prompt: Tensor

    def __len__(self) -> int:
        return len(self.ids)


def grow(ids: Tensor, lengths: Tensor, capacity: int) -> Forest:
    """Lay out the first `lengths` (B,) tokens of prompts (B, L, k) in rows of at most `capacity` tokens.

    A row begins with a whole prompt; those that follow in it share what they have in common with the one before.
    A capacity of 0 gives each distinct prompt a row.
    """
    place = torch.arange(ids.shape[1])
    inside = place < lengths[:, None]
    marked = torch.where(inside[..., None], ids, -1)
    distinct, which = torch.unique(marked.flatten(1), dim=0, return_inverse=True)  # in the order of their tokens
    paths = distinct.view(len(distinct), *ids.shape[1:])
    within = paths[..., 0] >= 0
    same = torch.zeros_like(within)
    same[1:] = (paths[1:] == paths[:-1]).all(-1) & within[1:]
    shared, length = same.int().cumprod(1).sum(1), within.sum(1)
    rows, kept = _packed(shared.tolist(), length.tolist(), capacity)
    fresh = within & (place >= torch.tensor(kept)[:, None])
    number = fresh.flatten().cumsum(0).view(fresh.shape) - 1
    first = within & (place >= shared[:, None])
    at, path = (torch.where(within, torch.where(own, number, -1).cummax(0).values, -1) for own in (first, fresh))
    prompt, depth = fresh.nonzero().unbind(1)
    row = torch.tensor(rows)[prompt]
    begins = torch.cat([torch.zeros(1, dtype=torch.long), row.bincount().cumsum(0)])
    slot = torch.arange(len(row)) - begins[row]
    owner = torch.empty(len(distinct), dtype=torch.long)
    owner[which] = torch.arange(len(ids))
    return Forest(at[which], path[which], paths[fresh], depth, row, slot, owner[prompt])


def _packed(shared: Sequence[int], lengths: Sequence[int], capacity: int) -> tuple[list[int], list[int]]:
    """The row of each path, and the number of its tokens that the path before it in the row has brought."""
    rows, kept, row, used = list[int](), list[int](), -1, capacity
    for common, length in zip(shared, lengths, strict=True):
        if row < 0 or used + length - common > capacity:
            row, used, common = row + 1, 0, 0
        used += length - common
        rows.append(row)
        kept.append(common)
    return rows, kept


def passes(forest: Forest, share: bool) -> Iterator[tuple[Tensor, Arguments, tuple[Tensor, Tensor]]]:
    """Batches of rows: the tokens in them, arguments of an `Encoder`, and the row and slot of each token there."""
    sizes = forest.row.bincount()
    begin = 0
    while begin < len(sizes):
        stop = begin + max(1, PASS // int(sizes[begin : begin + PASS].max()))
        tokens = ((forest.row >= begin) & (forest.row < stop)).nonzero()[:, 0]
        row, slot = forest.row[tokens] - begin, forest.slot[tokens]
        shape = int(row.max()) + 1, int(slot.max()) + 1
        ids = torch.zeros(*shape, forest.ids.shape[1], dtype=torch.long)
        positions = torch.zeros(shape, dtype=torch.long)
        ids[row, slot], positions[row, slot] = forest.ids[tokens], forest.depth[tokens]
        mask = _paths_mask(forest, tokens, row, shape) if share else None
        yield tokens, (ids, positions, mask), (row, slot)
        begin = stop


def _paths_mask(forest: Forest, tokens: Tensor, row: Tensor, shape: tuple[int, int]) -> Tensor:
    """(R, 1, S, S) True where a token attends to another: to those on its path, and to itself."""
    mask = torch.eye(shape[1], dtype=torch.bool).repeat(shape[0], 1, 1)
    ancestors = forest.path[forest.prompt[tokens]]
    on_path = torch.arange(ancestors.shape[1]) <= forest.depth[tokens, None]
    which, column = on_path.nonzero().unbind(1)
    mask[row[which], forest.slot[tokens[which]], forest.slot[ancestors[which, column]]] = True
    return mask[:, None]


def encode_tokens(
    tokens: Tokens,
    until: Sequence[Until],
    encoder: Encoder,
    capacity: int,
    device: torch.device,
    known: KnownStates | None = None,
) -> TextStates:
    """Encode prompts as a tree.

    Args:
        until: how far each prompt is encoded.
        capacity: tokens that fit into a row; 0 for an encoder that takes no mask.
        device: of the states that are returned.
        known: states of earlier calls; what it lacks is encoded and put into it.
    """
    lengths = tokens.lengths(until)
    if known is None:
        forest = grow(tokens.ids, lengths, capacity)
        rows, further = _run(forest, encoder, capacity > 0, len(lengths))
        at = forest.at
    else:
        names = known.names(tokens.ids, lengths)
        missing = known.lacking(names)
        if missing:
            forest = grow(tokens.ids[missing], lengths[missing], capacity)
            places = zip(forest.prompt.tolist(), forest.depth.tolist(), strict=True)
            known.add([names[missing[p]][d] for p, d in places], *_run(forest, encoder, capacity > 0, len(missing)))
        rows, further, at = known.select(names, tokens.ids.shape[1])
    rows, pooled = rows.to(device), None
    if further is not None and tokens.pooled is not None and bool((lengths > tokens.pooled).all()):
        pooled = further.to(device)[at.gather(1, tokens.pooled[:, None])[:, 0].to(device)]
    shown = torch.tensor([*range(tokens.kept), *range(tokens.kept + tokens.hidden, tokens.ids.shape[1])])
    first, last, end = map(tokens.shown, (tokens.first, tokens.last, tokens.end))
    start = tokens.kept > 0 or tokens.hidden == 0
    return TextStates(rows, at[:, shown], first, last, end, tokens.read[:, shown], pooled, start)


def _run(forest: Forest, encoder: Encoder, share: bool, prompts: int) -> tuple[Tensor, Tensor | None]:
    """(n, d) states and (n, p) pooled states of the tokens of a forest."""
    states, pooled = list[Tensor](), list[Tensor]()
    for tokens, arguments, (row, slot) in passes(forest, share):
        outputs, further = encoder(*arguments)
        states.append(outputs[row, slot])
        if further is not None:
            pooled.append(further[row, slot])
        done = int(tokens[-1]) + 1
        encoded(done * prompts // len(forest), prompts)
    return torch.cat(states), torch.cat(pooled) if pooled else None


def run_on(encoder: Any, ids: Tensor, positions: Tensor, mask: Tensor | None, **options: Any) -> Any:
    """The output of a causal text encoder of transformers for ids (R, S) with the arguments of an `Encoder`."""
    device, dtype = device_of(encoder), computes_in(encoder)

    def added(allowed: Tensor) -> Tensor:  # as a sum, which every kind of attention takes
        return torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min).to(device)

    masks: Any = None
    if mask is not None:
        masks = added(mask)
        window = getattr(encoder.config, "sliding_window", None)
        if window and int(positions.max()) >= window and "sliding_attention" in encoder.config.layer_types:
            near = positions[:, None, :, None] - positions[:, None, None, :] < window
            masks = {"full_attention": masks, "sliding_attention": added(mask & near)}
    return encoder(ids.to(device), attention_mask=masks, position_ids=positions.to(device), **options)


def takes_masks(encoder: Any) -> bool:
    """Whether an encoder's attention takes a mask for each pair of tokens; kernels of flash attention do not."""
    return getattr(encoder.config, "_attn_implementation", None) in ("eager", "sdpa")
