"""Tokens in attacks: the words that a search may use, and vectors that stand in a prompt in place of words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from excise.attacks.base import AttackError
from excise.concepts.concept import normalise_name
from excise.families.base import Family
from excise.families.conditions import Condition
from excise.families.roles import token_tables

MIN_WORDS = 50  # to search among
NEUTRAL_WORD = "a"


@dataclass(frozen=True)
class Lexicon:
    """Words that are a single token to every text encoder of a model.

    Attributes:
        words: the n words.
        rows: by text encoder, their embeddings (n, e).
        placeholder: one more word, which marks where vectors stand in a prompt.
        placeholder_ids: by text encoder, its token.
        front: whether words go before a prompt; otherwise behind it, because some tokenizers split the first word of a
            prompt differently.
    """

    words: list[str]
    rows: Mapping[str, Tensor]
    placeholder: str
    placeholder_ids: Mapping[str, int]
    front: bool

    def prompt(self, words: Sequence[str], prompt: str) -> str:
        """Return a prompt with words added."""
        return put_to(" ".join(words), prompt, self.front)

    def with_placeholders(self, count: int, prompt: str) -> str:
        """Return a prompt with places for `count` vectors added."""
        return self.prompt([self.placeholder] * count, prompt)

    def text(self, numbers: Sequence[int]) -> list[str]:
        """Return the words of those numbers."""
        return [self.words[i] for i in numbers]


def lexicon(family: Family, banned: Sequence[str] = (), avoid: Sequence[str] = ()) -> Lexicon:
    """Return the words in a model's vocabulary.

    Args:
        banned: names whose words may not be used.
        avoid: prompts that may not hold the placeholder.

    Raises:
        AttackError: the vocabulary has fewer than `MIN_WORDS` words.
    """
    tokenizers = family.tokenizers
    first = next(iter(tokenizers.values()))
    vocabulary = {first.decode([i]).strip() for i in first.get_vocab().values()}
    banned_words = {w for name in banned for w in normalise_name(name).split()}
    words = sorted(w for w in vocabulary if re.fullmatch(r"[a-z]{2,}", w) and w not in banned_words)
    ids = {name: _single_tokens(tokenizer, words) for name, tokenizer in tokenizers.items()}
    words = [w for w in words if all(w in tokens for tokens in ids.values())]
    if len(words) < MIN_WORDS:
        raise AttackError(f"the tokenizer has only {len(words)} words of one token; a search needs {MIN_WORDS}.")
    used = {w for prompt in avoid for w in prompt.lower().split()}
    around = _of_the_empty_prompt(family)
    used |= {w for w in words if any(tokens[w] in around[name] for name, tokens in ids.items())}
    placeholder = next(w for w in reversed(words) if w not in used)
    words.remove(placeholder)
    rows = {}
    for name, encoder in family.text_encoders.items():
        table: Any = token_tables(encoder)[0]
        with torch.no_grad():  # call the layer rather than read its weight, because some layers scale what they return
            rows[name] = table(torch.tensor([ids[name][w] for w in words], device=table.weight.device)).float().cpu()
    return Lexicon(words, rows, placeholder, {n: tokens[placeholder] for n, tokens in ids.items()}, words_first(family))


def words_first(family: Family) -> bool:
    """Return whether words may be added before a prompt: whether its first word is split as it is further inside."""
    tokenizer = next(iter(family.tokenizers.values()))
    alone, before, inside = tokenizer(["cat", NEUTRAL_WORD, f"{NEUTRAL_WORD} cat"], add_special_tokens=False).input_ids
    return bool(alone == inside[len(before) :])


def put_to(words: str, prompt: str, front: bool) -> str:
    """Return a prompt with words added before (`front`) or behind it; either text may be empty."""
    parts = (words, prompt) if front else (prompt, words)
    return " ".join(p for p in parts if p)


def condition_on(family: Family, lexicon: Lexicon, prompts: Sequence[str], vectors: Mapping[str, Tensor]) -> Condition:
    """Return the condition of prompts in which vectors stand in place of the placeholder; gradients reach the vectors.

    Args:
        prompts: B prompts, each with the placeholder k times.
        vectors: by text encoder (B, k, e), or (k, e) for all prompts.

    Raises:
        AttackError: a prompt holds the placeholder more or fewer than k times.
    """
    # A neutral word goes before a placeholder that would be split differently at the very front.
    led = [p if lexicon.front or not p.startswith(lexicon.placeholder) else f"{NEUTRAL_WORD} {p}" for p in prompts]
    with _embedded(family, lexicon, vectors):
        return family.live_condition(led)


@contextmanager
def _embedded(family: Family, lexicon: Lexicon, vectors: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside the block, embed each placeholder as its vector."""

    def hook(name: str) -> Any:
        def replace_rows(module: Any, inputs: Any, output: Tensor) -> Tensor:
            here = inputs[0] == lexicon.placeholder_ids[name]
            if int(here.sum()) == 0:  # the empty prompt of guidance
                return output
            own = vectors[name].to(output)
            rows = own if own.ndim == 3 else own.expand(len(output), *own.shape)
            if bool((here.sum(dim=1) != rows.shape[1]).any()):
                raise AttackError(
                    f"a prompt does not have {rows.shape[1]} places for the vectors that stand in it: it is too long, "
                    "or it names the target more than once."
                )
            return output.masked_scatter(here[..., None], rows.reshape(-1, rows.shape[-1]))

        return replace_rows

    with _on_tables(family, hook):
        yield


@contextmanager
def _on_tables(family: Family, hook: Callable[[str], Any]) -> Iterator[None]:
    """Inside the block, `hook` of an encoder's name is a forward hook on its token table."""
    with ExitStack() as stack:
        for name, encoder in family.text_encoders.items():
            for table in token_tables(encoder):
                stack.callback(table.register_forward_hook(hook(name)).remove)
        yield


def _of_the_empty_prompt(family: Family) -> dict[str, set[int]]:
    """By text encoder, the tokens that stand around every prompt, as those of a chat template do."""
    seen: dict[str, set[int]] = {name: set() for name in family.text_encoders}

    def hook(name: str) -> Any:
        return lambda module, inputs, output: seen[name].update(inputs[0].flatten().tolist())

    with _on_tables(family, hook), torch.no_grad():
        family.live_condition([""])
    return seen


def mixed_embeddings(lexicon: Lexicon, weights: Tensor) -> dict[str, Tensor]:
    """Return, by text encoder, sums of word embeddings (..., e) weighted by `weights` (..., n)."""
    return {name: weights @ rows.to(weights) for name, rows in lexicon.rows.items()}


def one_hot(lexicon: Lexicon, numbers: Tensor) -> Tensor:
    """Return the weights (..., n) of single words, given by their numbers (...)."""
    return torch.nn.functional.one_hot(numbers, len(lexicon.words)).float()


def _single_tokens(tokenizer: Any, words: Sequence[str]) -> dict[str, int]:
    """Return, of those words that are one token inside a prompt, the token."""
    before = tokenizer([NEUTRAL_WORD], add_special_tokens=False).input_ids[0]
    prompts = [f"{NEUTRAL_WORD} {w}" for w in words]
    rows = tokenizer(prompts, add_special_tokens=False).input_ids if words else []
    pairs = zip(words, rows, strict=True)
    return {w: row[-1] for w, row in pairs if len(row) == len(before) + 1 and row[:-1] == before}
