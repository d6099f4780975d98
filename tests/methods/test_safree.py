"""SAFREE: its projections and tests against naive forms, and what the model reads while it draws."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from excise import erase
from excise.errors import ModelError
from excise.families import family_of
from excise.methods.inference.safree_filter import (
    Filtering,
    calmed,
    filtered,
    last_step,
    row_space,
    triggers,
    without,
)

GENTLE = {"reattention": False, "negative": False}


def projector(rows):
    """E (E^T E)^+ E^T with E = rows^T."""
    E = rows.double().mT
    return E @ torch.linalg.pinv(E.mT @ E) @ E.mT


@given(st.integers(1, 4), st.integers(0, 10_000))
def test_states_are_projected_as_the_matrices_do(count, seed):
    g = torch.Generator().manual_seed(seed)
    concept, prompt, text = (torch.randn(n, 12, generator=g) for n in (count, 5, 7))
    P_C, P_I = projector(concept), projector(prompt)
    new = filtered(text, row_space(prompt), row_space(concept))
    assert_close(new.double(), text.double() @ (P_I @ (torch.eye(12) - P_C)), rtol=1e-3, atol=1e-4)
    assert (new @ row_space(concept)).abs().max() < 1e-4  # nothing of the concept is left


@given(st.integers(2, 6), st.integers(0, 10_000), st.floats(0, 0.2))
def test_triggers_are_found_by_leaving_one_out(count, seed, alpha):
    g = torch.Generator().manual_seed(seed)
    masked, concept = torch.randn(count, 8, generator=g), torch.randn(2, 8, generator=g)
    far = [float(((torch.eye(8) - projector(concept)) @ m.double()).norm()) for m in masked]
    wanted = [far[i] >= (1 + alpha) * np.mean([d for j, d in enumerate(far) if j != i]) for i in range(count)]
    assert triggers(masked, row_space(concept), alpha).tolist() == wanted


def test_the_only_token_is_a_trigger():
    assert triggers(torch.randn(1, 8), row_space(torch.randn(1, 8)), 0.01).tolist() == [True]


def test_the_more_a_prompt_changes_the_longer_it_is_filtered():
    text = torch.eye(4)
    assert last_step(text, text, Filtering()) == 0
    assert last_step(text, -text, Filtering()) == 10
    assert last_step(text, text, Filtering(midpoint=0.0)) == 5  # half of the bound
    assert last_step(text, text, Filtering(validate=False)) > 1000


def test_low_frequencies_are_scaled_where_they_exceed_the_reference():
    small, large = torch.full((1, 1, 8, 8), 1.0), torch.full((1, 1, 8, 8), 3.0)  # the lowest frequency alone
    assert_close(calmed(large, small, 0.5), large / 2)
    assert_close(calmed(small, large, 0.5), small)
    x = torch.randn(2, 3, 8, 8)
    assert_close(calmed(x, x, 0.1), x)
    high = x - calmed(x, torch.zeros_like(x), 0.0)
    assert torch.fft.fft2(high).abs().gt(1e-3).sum(dim=(-2, -1)).max() <= 9  # a window in the middle moves, no more


@pytest.fixture(params=["sd", "sdxl"])
def family(request, make):
    return family_of(make(request.param))


def edit_of(family, **more):
    return erase(family, ["cat"], method="safree", vocabulary=None, **more)


class Read:
    """What a denoiser read in each guided call."""

    def __init__(self, family):
        self.rows: list[dict[str, torch.Tensor]] = []
        self._handle = family.denoiser.register_forward_hook(self._see, with_kwargs=True)

    def _see(self, module, args, kwargs, output):
        self.rows.append(
            {"encoder_hidden_states": kwargs["encoder_hidden_states"], **(kwargs["added_cond_kwargs"] or {})}
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._handle.remove()


def draw(family, prompts=("a cat", "a dog"), **more):
    options = {"steps": 3, "guidance": 3.0, "batch": 2, **more}
    drawn = family.sample(list(prompts), list(range(len(prompts))), **options)
    return np.stack([np.asarray(i) for i in drawn]).astype(int)


def test_a_triggers_state_loses_the_concept_and_all_others_stay(family):
    edit = edit_of(family, **GENTLE, validate_steps=False, alpha=-1.0)  # every token is a trigger
    states = family.condition(["a cat"]).inputs["encoder_hidden_states"]
    end = int(family.encode(["a cat"]).end[0])
    with edit.apply(family), Read(family) as read:
        draw(family, ["a cat"], batch=1)
    empty, own = read.rows[0]["encoder_hidden_states"]
    assert torch.equal(empty, family.unconditional().inputs["encoder_hidden_states"][0])
    assert torch.equal(own[0], states[0, 0])
    assert torch.equal(own[end:], states[0, end:])
    begin = 0
    for rows in edit.hooks[0].concepts.values():
        width = rows.shape[1]
        part = own[1:end, begin : begin + width]
        assert (part @ row_space(rows)).abs().max() < 1e-3 * part.abs().max()
        begin += width
    if family.name == "sdxl":
        pooled = family.condition(["a cat"]).inputs["text_embeds"]
        assert_close(
            read.rows[0]["text_embeds"][1:], without(pooled, row_space(edit.hooks[0].pooled)), rtol=1e-3, atol=1e-4
        )
    with edit_of(family, **GENTLE, spread=True, validate_steps=False, alpha=-1.0).apply(family), Read(family) as read:
        draw(family, ["a cat"], batch=1)
    assert not torch.isclose(read.rows[0]["encoder_hidden_states"][1, end:], states[0, end:]).all()


def test_steps_behind_the_last_one_read_the_prompt_as_it_is(family):
    edit = edit_of(family, **GENTLE, bound=0, alpha=-1.0)  # the first step alone
    states = family.condition(["a cat"]).inputs["encoder_hidden_states"][0]
    with edit.apply(family), Read(family) as read:
        draw(family, ["a cat"], batch=1)
        draw(family, ["a cat"], batch=1)
    changed = [not torch.equal(r["encoder_hidden_states"][1], states) for r in read.rows]
    assert changed == [True, False, False] * 2


def test_the_concept_takes_the_place_of_the_negative_prompt(family):
    with edit_of(family, project=False).apply(family), Read(family) as read:
        draw(family)
    wanted = family.condition(["cat"]).inputs
    for rows in read.rows:
        for name, row in wanted.items():
            assert torch.equal(rows[name][:2], row.expand_as(rows[name][:2]))
            assert torch.equal(rows[name][2:], family.condition(["a cat", "a dog"]).inputs[name])


def test_prompts_that_no_tokens_made_pass_untouched(family):
    condition = family.condition(["a cat"])
    own = type(condition)({n: t + 0.1 for n, t in condition.inputs.items()})
    with edit_of(family, **GENTLE, alpha=-1.0).apply(family), Read(family) as read:
        family.render(own, family.unconditional(), [0], steps=1, guidance=3.0)
    assert torch.equal(read.rows[0]["encoder_hidden_states"][1], own.inputs["encoder_hidden_states"][0])


def test_batches_do_not_matter_and_generations_are_equal(family):
    with edit_of(family, alpha=-1.0).apply(family):
        whole = draw(family)
        assert np.array_equal(draw(family), whole)
        assert np.abs(draw(family, batch=1) - whole).max() <= 2


def test_skip_features_are_filtered_in_the_steps_of_the_filter(family):
    with edit_of(family, negative=False, alpha=-1.0).apply(family):
        calm = draw(family)
    with edit_of(family, **GENTLE, alpha=-1.0).apply(family):
        assert not np.array_equal(draw(family), calm)
    with edit_of(family, negative=False, alpha=-1.0, deep=1.0, shallow=1.0).apply(family):
        same = draw(family)
    with edit_of(family, **GENTLE, alpha=-1.0).apply(family):
        assert np.abs(draw(family) - same).max() <= 1


def test_a_stock_call_is_filtered_too(pipe):
    def stock():
        g = torch.Generator().manual_seed(0)
        return pipe("a cat", num_images_per_prompt=2, num_inference_steps=2, generator=g, output_type="np").images

    before = stock()
    with edit_of(family_of(pipe), negative=False, alpha=-1.0).apply(pipe):
        assert np.abs(stock() - before).max() > 0
    assert np.array_equal(stock(), before)


def test_models_without_clip_are_refused(make):
    with pytest.raises(ModelError, match="safree needs .*clip_text.*adavd.*sld"):
        edit_of(family_of(make("sana")))


def stock(pipe, prompt: str, guidance: float = 3.0) -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    images = pipe(prompt, num_inference_steps=3, guidance_scale=guidance, generator=generator).images
    return np.asarray(images[0]).astype(int)


def test_a_deep_copy_filters_prompts_that_only_it_has_read(pipe):
    with erase(pipe, ["cat"], method="safree", vocabulary=None).apply(pipe):
        other = copy.deepcopy(pipe)
        copied = stock(other, "a cat")
        assert np.array_equal(copied, stock(pipe, "a cat"))


def test_a_generation_that_failed_leaves_nothing_to_the_next(pipe):
    with erase(pipe, ["cat"], method="safree", vocabulary=None).apply(pipe):
        before = stock(pipe, "a cat", guidance=1.0)

        def fail(*args):
            raise KeyboardInterrupt

        calls = iter([None])
        handle = pipe.unet.conv_out.register_forward_pre_hook(lambda *args: next(calls, fail) and fail())
        with pytest.raises(KeyboardInterrupt):
            stock(pipe, "a cat")
        handle.remove()
        assert np.array_equal(stock(pipe, "a cat", guidance=1.0), before)


def test_a_pipeline_that_reads_prompts_by_another_text_encoder_is_refused(pipe):
    """It shares the denoiser alone: the hooks see no token of its prompts, so it would draw unfiltered."""
    shared = type(pipe)(**pipe.components)
    other = type(pipe)(**{**pipe.components, "text_encoder": copy.deepcopy(pipe.text_encoder)})
    with erase(pipe, ["cat"], method="safree", vocabulary=None).apply(pipe):
        assert np.array_equal(stock(shared, "a cat"), stock(pipe, "a cat"))
        with pytest.raises(ModelError, match="'text_encoder' of its own"):
            stock(other, "a cat")
    stock(other, "a cat")
