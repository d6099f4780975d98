"""Where the subject of a prompt stands among its tokens, by ordinary names and by names with marks."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import excise
from excise.canvas import vocabulary, world
from excise.concepts.concept import CHECKS, TEMPLATES
from excise.errors import ConceptError
from excise.families import family_of
from excise.families.subjects import find_words, subject_spans

PROMPTS = sorted(
    {t for some in (*TEMPLATES.values(), *CHECKS.values()) for t in some} | {*vocabulary.contexts("object")}
)
ORDINARY = (
    *world.OBJECTS,
    *list(world.NAMES)[:60],
    *world.STYLES,
    "Vincent van Gogh",
    "R2-D2",
    "it's",
    "Café",
    "7 dwarfs",
)
MARKED = (
    "cat!",
    "Tom & Jerry",
    "AC/DC",
    'the "cat"',
    "St. Bernard",
    "(cat)",
    "Martin Luther King Jr.",
    "cat\\dog",
    "<3",
)


def by_tokens(tokenizer, text: str, name: str) -> tuple[int, int]:
    """The naive way: the last place where the tokens of the name stand among those of the prompt."""
    row, words = tokenizer(text).input_ids, tokenizer(name, add_special_tokens=False).input_ids
    found = [i for i in range(len(row)) if row[i : i + len(words)] == words]
    return found[-1], found[-1] + len(words) - 1


def span(tokenizer, text: str, name: str) -> tuple[int, int]:
    first, last, _ = subject_spans(tokenizer, [text], [name], 77)
    return int(first), int(last)


@given(st.sampled_from(PROMPTS), st.sampled_from(ORDINARY))
def test_ordinary_names_stand_where_their_tokens_stand(tokenizer, template, name):
    text = template.replace("{}", name)
    assert span(tokenizer, text, name) == by_tokens(tokenizer, text, name)
    slow = without_offsets(tokenizer)
    assert span(slow, text, name) == by_tokens(tokenizer, text, name)


@given(st.sampled_from(PROMPTS), st.sampled_from(ORDINARY))
def test_gemma_has_the_same_words(gemma_tokenizer, template, name):
    text = template.replace("{}", name).lower()
    place = list(re.finditer(rf"(?<!\w){re.escape(name.lower())}(?!\w)", text))[-1]
    assert find_words(text, name.lower()) == place.span()


@pytest.mark.parametrize("name", MARKED)
@pytest.mark.parametrize("template", ["{}", "a {}, colourful", '"{}"', "in {} style", "({})!"])
def test_names_with_marks_hold_all_of_their_characters(any_pipe, name, template):
    family, text = family_of(any_pipe), template.replace("{}", name)
    found = family.encode([text], [name])
    first, last = int(found.first[0]), int(found.last[0])
    prompt = text.lower() if family.name == "sana" else text
    offsets = next(iter(family.tokenizers.values()))(prompt, return_offsets_mapping=True).offset_mapping
    begin, stop = find_words(prompt, name)
    assert prompt[begin:stop].lower() == name.lower()
    assert offsets[first][0] <= begin < offsets[first][1]
    assert offsets[last][0] < stop <= offsets[last][1]


@pytest.mark.parametrize("name", MARKED)
def test_names_with_marks_are_erased_on_every_family(any_pipe, name):
    assert excise.erase(any_pipe, [name], method="uce", vocabulary=None, preserve=["dog & bone"]).paths


def test_words_of_their_own():
    assert find_words("a cat, a Cat's tail", "cat") == (9, 12)
    assert find_words("van  gogh", "Van Gogh") == (0, 9)
    for text, name in (("a cathedral", "cat"), ("a concat", "cat"), ("77", "7"), ("a dog", "cat"), ("a dog", " ")):
        with pytest.raises(ConceptError, match="does not stand as words of its own"):
            find_words(text, name)


def test_a_name_without_tokens_is_refused(tokenizer):
    def deaf(texts, **options):
        found = tokenizer(texts, **options)
        return SimpleNamespace(input_ids=found.input_ids, offset_mapping=[[(0, 0)] * len(r) for r in found.input_ids])

    deaf.is_fast = True
    with pytest.raises(ConceptError, match="tokenizer has no token for 'cat'"):
        subject_spans(deaf, ["a cat"], ["cat"], 77)


def without_offsets(tokenizer):
    """The same tokenizer as one that knows no offsets."""

    def slow(texts, return_offsets_mapping=False, **options):
        assert not return_offsets_mapping
        return tokenizer(texts, **options)

    slow.is_fast = False
    return slow
