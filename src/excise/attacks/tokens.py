"""Tokens as an attack handles them: the words it may use, and vectors standing in a prompt instead of words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from excise.attacks.base import AttackError
from excise.concepts.concept import same
from excise.families.base import Condition, Family

FEWEST = 50  # words to search among
FIRST = "a"  # a word of no matter


@dataclass(frozen=True)
class Lexicon:
    """Words that are one token each to every text encoder of a model.

    Attributes:
        words: n of them. rows: by encoder their embeddings (n, e).
        place: a further word, which marks where vectors stand. ids: by encoder its token.
        front: whether words go before a prompt (or behind it, where the first token of a prompt is cut otherwise).
    """

    words: list[str]
    rows: Mapping[str, Tensor]
    place: str
    ids: Mapping[str, int]
    front: bool

    def prompt(self, chosen: Sequence[str], prompt: str) -> str:
        """A prompt with words put to it."""
        return put_to(" ".join(chosen), prompt, self.front)

    def text(self, chosen: Sequence[int]) -> list[str]:
        """Words by their numbers."""
        return [self.words[i] for i in chosen]


def lexicon(family: Family, banned: Sequence[str] = (), avoid: Sequence[str] = ()) -> Lexicon:
    """The words a model knows, found in its tokenizer.

    Args:
        banned: words that may not be used. avoid: prompts in which the marking word must not stand.

    Raises:
        AttackError: there are hardly any.
    """
    tokenizers = family.tokenizers
    first = next(iter(tokenizers.values()))
    found = {first.decode([i]).strip() for i in first.get_vocab().values()}
    gone = {w for name in banned for w in same(name).split()}
    words = sorted(w for w in found if re.fullmatch(r"[a-z]{2,}", w) and w not in gone)
    ids = {name: _single(tokenizer, words) for name, tokenizer in tokenizers.items()}
    words = [w for w in words if all(w in known for known in ids.values())]
    if len(words) < FEWEST:
        raise AttackError(f"the tokenizer has only {len(words)} words of one token; {FEWEST} are needed for a search.")
    spoken = {w for prompt in avoid for w in prompt.lower().split()}
    place = next(w for w in reversed(words) if w not in spoken)
    words.remove(place)
    rows = {}
    for name, encoder in family.text_encoders.items():
        table: Any = encoder.get_input_embeddings()  # type: ignore[operator]
        with torch.no_grad():  # by the layer itself, for some scale what they look up
            rows[name] = table(torch.tensor([ids[name][w] for w in words], device=table.weight.device)).float().cpu()
    return Lexicon(words, rows, place, {name: known[place] for name, known in ids.items()}, words_first(family))


def words_first(family: Family) -> bool:
    """Whether words may stand at the front of a prompt: there some tokenizers cut the first one otherwise."""
    tokenizer = next(iter(family.tokenizers.values()))
    alone, before, inside = tokenizer(["cat", FIRST, f"{FIRST} cat"], add_special_tokens=False).input_ids
    return bool(alone == inside[len(before) :])


def put_to(words: str, prompt: str, front: bool) -> str:
    """A prompt with words put to it."""
    parts = (words, prompt) if front else (prompt, words)
    return " ".join(p for p in parts if p)


def soft(family: Family, lexicon: Lexicon, prompts: Sequence[str], vectors: Mapping[str, Tensor]) -> Condition:
    """Conditions of prompts in which vectors stand where the marking word does; gradients flow to them.

    Args:
        prompts: B of them, in each the marking word k times. vectors: by encoder (B, k, e), or (k, e) for all.

    Raises:
        AttackError: the marking word stands in a prompt more or less often.
    """
    # A word before a marking word at the very front, where that would be cut otherwise.
    led = [p if lexicon.front or not p.startswith(lexicon.place) else f"{FIRST} {p}" for p in prompts]
    with _placed(family, lexicon, vectors):
        return family.live_condition(led)


@contextmanager
def _placed(family: Family, lexicon: Lexicon, vectors: Mapping[str, Tensor]) -> Iterator[None]:
    def hook(name: str) -> Any:
        def put(module: Any, inputs: Any, output: Tensor) -> Tensor:
            here = inputs[0] == lexicon.ids[name]
            if int(here.sum()) == 0:  # the empty prompt of guidance
                return output
            mine = vectors[name].to(output)
            rows = mine if mine.ndim == 3 else mine.expand(len(output), *mine.shape)
            if bool((here.sum(dim=1) != rows.shape[1]).any()):
                raise AttackError(
                    f"a prompt has not {rows.shape[1]} places for the vectors that stand in it: it is too long, or "
                    "names the target more than once."
                )
            return output.masked_scatter(here[..., None], rows.reshape(-1, rows.shape[-1]))

        return put

    with ExitStack() as held:
        for name, encoder in family.text_encoders.items():
            table: Any = encoder.get_input_embeddings()  # type: ignore[operator]
            held.callback(table.register_forward_hook(hook(name)).remove)
        yield


def mixed(lexicon: Lexicon, weights: Tensor) -> dict[str, Tensor]:
    """By encoder (..., e): words mixed by weights (..., n)."""
    return {name: weights @ rows.to(weights) for name, rows in lexicon.rows.items()}


def one_hot(lexicon: Lexicon, chosen: Tensor) -> Tensor:
    """(..., n) weights of single words."""
    return torch.nn.functional.one_hot(chosen, len(lexicon.words)).float()


def _single(tokenizer: Any, words: Sequence[str]) -> dict[str, int]:
    """Those words that are one token inside a prompt, with their numbers."""
    before = tokenizer(["a"], add_special_tokens=False).input_ids[0]
    rows = tokenizer([f"a {w}" for w in words], add_special_tokens=False).input_ids if words else []
    pairs = zip(words, rows, strict=True)
    return {w: row[-1] for w, row in pairs if len(row) == len(before) + 1 and row[:-1] == before}
