"""Which calls of a denoiser are guided ones, and what their rows are."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPAGPipeline
from dits import CASES
from tiny_pixart import build

from excise.errors import ModelError
from excise.families import family_of
from excise.families.conditions import Condition
from excise.families.guidance import (
    GuidedCall,
    GuidedCalls,
    conditional_rows,
    rows_of,
    running_pipeline,
    with_condition,
    with_rows,
)


class Watch:
    """What `GuidedCalls` says in each call of a denoiser."""

    def __init__(self, family):
        self.seen: list[tuple[int, int] | None] = []
        self._calls = GuidedCalls()
        self._handle = family.denoiser.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, module, args, kwargs):
        rows = rows_of(args, kwargs)
        call = self._calls.current(rows)
        self.seen.append(call and (call.step, call.rows))
        if call:
            assert conditional_rows(rows) == call.conditional == slice(call.rows, rows)
        else:
            assert conditional_rows(rows) == slice(0, rows)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._handle.remove()


@pytest.fixture(params=["sd", "sdxl", "sana"])
def family(request, make):
    return family_of(make(request.param))


def test_steps_are_counted_anew_in_every_generation(family):
    with Watch(family) as watch:
        for _ in range(2):
            family.sample(["a cat", "a dog", "a tree"], [0, 1, 2], steps=2, guidance=3.0, batch=2)
    assert watch.seen == [(0, 2), (1, 2), (0, 1), (1, 1)] * 2


def test_what_is_not_guided_is_never_taken_for_it(family):
    with Watch(family) as watch:
        family.sample(["a cat"], [0], steps=1, guidance=3.0, batch=1)  # leaves its guidance scale behind
        family.predict(torch.randn(2, *family.latent_shape), torch.tensor([500, 500]), family.condition(["a", "b"]))
        family.sample(["a cat", "a dog"], [0, 1], steps=1, guidance=1.0, batch=2)
    assert watch.seen == [(0, 1), None, None]
    assert running_pipeline() is None


def test_a_pipeline_that_keeps_its_guidance_to_its_call_is_asked_too():
    family = family_of(build())
    with Watch(family) as watch:
        family.sample(["a cat", "a dog"], [0, 1], steps=1, guidance=3.0, batch=2)
        family.sample(["a cat", "a dog"], [0, 1], steps=1, guidance=1.0, batch=2)
    assert watch.seen == [(0, 2), None]


def test_another_pipeline_of_the_same_parts_is_asked_itself(pipe):
    family = family_of(pipe)
    other = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    image = family.sample(["a cat"], [0], steps=1, guidance=1.0, batch=1)[0]
    with Watch(family) as watch:
        other("a cat", image=image, num_inference_steps=2, strength=1.0, guidance_scale=2.0)
    assert watch.seen == [(0, 1), (1, 1)]


@pytest.mark.parametrize("name", ["flux-undistilled", "flux2-klein", "qwenimage", "krea2"])
def test_halves_in_two_calls_are_refused_and_never_taken_for_pictures(name):
    family = family_of(CASES[name].build())
    with Watch(family) as watch:
        family.sample(["a cat", "a dog"], [0, 1], steps=1, guidance=1.0, batch=2)
        assert watch.seen == [None]
        with pytest.raises(ModelError, match="both halves of guidance one after the other"):
            family.sample(["a cat", "a dog"], [0, 1], steps=1, guidance=3.0, batch=2)
    assert watch.seen == [None]


def test_a_third_part_of_guidance_is_refused(pipe):
    family = family_of(pipe)
    other = StableDiffusionPAGPipeline(**pipe.components, requires_safety_checker=False, pag_applied_layers="mid")
    other.set_progress_bar_config(disable=True)
    with Watch(family), pytest.raises(ModelError, match="perturbed-attention guidance.*pag_scale=0"):
        other("a cat", num_inference_steps=1)


def test_conditions_go_where_the_denoiser_reads_them():
    kwargs = {
        "encoder_hidden_states": torch.zeros(4, 3, 2),
        "added_cond_kwargs": {"text_embeds": torch.zeros(4, 5), "time_ids": torch.arange(4)[:, None]},
    }
    one = Condition({"encoder_hidden_states": torch.ones(1, 3, 2), "text_embeds": torch.ones(1, 5)})
    new = with_condition(kwargs, one, slice(2, 4))
    assert new["encoder_hidden_states"][:, 0, 0].tolist() == [0, 0, 1, 1]
    assert new["added_cond_kwargs"]["text_embeds"][:, 0].tolist() == [0, 0, 1, 1]
    assert kwargs["encoder_hidden_states"].sum() == 0
    calls = GuidedCalls()
    assert calls.current(4) is None
    with pytest.raises(ModelError, match=r"prompts of shape \(3, 2\), the edit holds one of \(4, 2\)"):
        with_condition(kwargs, Condition({"encoder_hidden_states": torch.ones(1, 4, 2)}), slice(0, 2))
    with pytest.raises(ModelError, match="hands no 'mask' to its denoiser"):
        with_condition(kwargs, Condition({"mask": torch.ones(1, 4)}), slice(0, 2))


def test_half_a_call_is_its_prompts_under_another_condition():
    kwargs = {
        "encoder_hidden_states": torch.zeros(4, 3, 2),
        "extra": (torch.arange(4), None),
        "scale": torch.tensor(2.0),
    }
    one = Condition({"encoder_hidden_states": torch.ones(1, 7, 2)})
    args, new = with_rows((torch.arange(4), torch.tensor(500)), kwargs, GuidedCall(0, 2), one)
    assert args[0].tolist() == [2, 3]
    assert int(args[1]) == 500
    assert new["encoder_hidden_states"].shape == (2, 7, 2)
    assert new["extra"][0].tolist() == [2, 3]
    assert new["scale"] == 2.0
