"""Prompts inside chat templates: what the tokenizer makes of a turn, and where a prompt's subject stands in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from excise.errors import ConceptError, ModelError
from excise.families.subjects import find_words, holding
from excise.families.text_tree import Tokens
from excise.support.counts import counted

_PROMPT = "\N{REPLACEMENT CHARACTER}"  # stands for a prompt in an empty template


@dataclass(frozen=True)
class Template:
    """What stands before and after every prompt.

    Attributes:
        render: from a prompt to the text that is tokenised.
        before: number of characters before the prompt.
        cut: number of tokens at the front that the denoiser is not given.
    """

    render: Callable[[str], str]
    before: int
    cut: int = 0

    @classmethod
    def of(cls, render: Callable[[str], str], cut: int = 0) -> Template:
        """The template behind a function that renders prompts.

        Raises:
            ModelError: it fails, or puts a prompt nowhere, or in two places.
        """
        from jinja2 import TemplateError

        try:
            parts = render(_PROMPT).split(_PROMPT)
        except TemplateError as error:
            raise ModelError(
                f"the tokenizer's chat template fails on a prompt ({error}); load the model with the tokenizer that "
                "came with it."
            ) from error
        if len(parts) != 2:
            raise ModelError(
                f"the tokenizer's chat template repeats a prompt {len(parts) - 1} times; expected once. Load the "
                "tokenizer that belongs to the model."
            )
        return cls(render, len(parts[0]), cut)


def chat_render(tokenizer: Any, system: str | None = None, **options: Any) -> Callable[[str], str]:
    """A function that renders a prompt as a user's turn, after a system message if there is one.

    Raises:
        ModelError: the tokenizer has no chat template.
    """
    check_chat(tokenizer)
    before = [] if system is None else [{"role": "system", "content": system}]

    def render(prompt: str) -> str:
        turns = [*before, {"role": "user", "content": prompt}]
        text: str = tokenizer.apply_chat_template(turns, tokenize=False, **options)
        return text

    return render


def check_chat(tokenizer: Any) -> None:
    """Refuse a tokenizer without a chat template.

    Raises:
        ModelError: it has none.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            f"the model's {type(tokenizer).__name__} has no chat template, in which this model's prompts stand; load "
            "the model with the tokenizer folder that came with it (chat_template.jinja or tokenizer_config.json)."
        )


def check_cut(tokenizer: Any, instruction: str, cut: int) -> None:
    """Refuse a tokenizer with which a pipeline would cut something else than its instruction before a prompt.

    Args:
        cut: number of tokens that the pipeline cuts at the front.

    Raises:
        ModelError: the instruction has another number of tokens.
    """
    count = len(tokenizer(instruction).input_ids)
    if count != cut:
        raise ModelError(
            f"the tokenizer makes {counted(count, 'token')} of the instruction before every prompt; expected {cut}, "
            "which the pipeline cuts off. Load the tokenizer that came with the model."
        )


def template_tokens(
    tokenizer: Any,
    texts: Sequence[str],
    subjects: Sequence[str | int | None] | None,
    template: Template,
    limit: int,
    **options: Any,
) -> Tokens:
    """The tokens of prompts in a template, and where their subjects stand among them; nothing is padded.

    Args:
        limit: number of tokens that fit, template included, but for those at its front that are cut.
        options: of the tokenizer's call.

    Raises:
        ConceptError: a prompt does not fit, or does not contain its subject.
    """
    rows, places = list[Tensor](), list[tuple[int, int, int]]()
    for text, subject in zip(texts, subjects or [None] * len(texts), strict=True):
        rendered = template.render(text)
        encoded = tokenizer(rendered, return_offsets_mapping=True, verbose=False, **options)
        length = len(encoded.input_ids) - template.cut
        if length > limit:
            raise ConceptError(
                f"'{text[:60]}' has {length} tokens with its template; {limit} fit; the end would be ignored. Shorten "
                "it."
            )
        rows.append(torch.tensor(encoded.input_ids))
        places.append(_place(encoded.offset_mapping, text, subject, template))
    # Before a prompt whose template is cut off nothing stands, so that an empty subject there is the first token.
    first, last, end = torch.tensor(places, dtype=torch.long).clamp(min=template.cut).unbind(dim=1)
    lengths = torch.tensor([len(row) for row in rows])
    padded = pad_sequence(rows, batch_first=True)[..., None]
    read = torch.arange(padded.shape[1]) < lengths[:, None]
    return Tokens(padded, first, last, end, read, hidden=template.cut, kept=0 if template.cut else 1)


def _place(
    offsets: Sequence[tuple[int, int]], text: str, subject: str | int | None, template: Template
) -> tuple[int, int, int]:
    """First and last token of a subject, and the token behind the prompt."""
    begin, stop = _characters(text, subject)
    front = template.before
    behind = [i for i, (a, b) in enumerate(offsets) if b > a and a >= front + len(text)]
    end = behind[0] if behind else len(offsets) - 1
    tokens = holding(offsets, front + begin, front + stop)
    if not tokens:  # an empty subject: the token before it
        earlier = [i for i, (a, b) in enumerate(offsets) if b > a and b <= front + stop]
        tokens = [max(earlier, default=0)]
    return min(tokens), max(tokens), end


def _characters(text: str, subject: str | int | None) -> tuple[int, int]:
    """First and last character of the subject; an empty subject ends where it begins."""
    if subject is None:
        return 0, len(text)
    if isinstance(subject, int):
        return subject, subject
    return find_words(text, subject)
