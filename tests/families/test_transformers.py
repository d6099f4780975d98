"""What the adapter of every diffusion transformer promises: what its pipeline itself would have done."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dits import CASES, Case
from torch import Tensor, nn
from torch.testing import assert_close

from excise import Edit, erase, load
from excise.errors import ConceptError
from excise.families import FAMILIES, family_name_of, family_of
from excise.families.capabilities import DUAL_STREAM, GUIDED_CALL, SINGLE_STREAM
from excise.methods.fitting import methods_for

PROMPTS = ["a photo of a cat", "a fire engine in neon style", ""]


@pytest.fixture(params=CASES, ids=str)
def case(request) -> Case:
    return CASES[request.param]


@pytest.fixture
def pipe(case):
    return case.build()


@pytest.fixture
def family(pipe):
    return family_of(pipe)


def stock(case: Case, family, prompt, seeds, guidance: float, **more):
    """What the pipeline gives when it is called as its users do."""
    side = {"height": family.image_size, "width": family.image_size}
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return family.pipe(
        prompt=prompt, num_inference_steps=2, generator=generators, **side, **case.call(guidance), **more
    ).images


def differences(one, other) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max())


def latents_of(family, count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, *family.latent_shape, generator=torch.Generator().manual_seed(seed))


def test_the_registry_tells_the_family(case, family, tmp_path):
    assert family.name == case.family
    assert family.provides == FAMILIES.record(case.family).provides
    family.pipe.save_pretrained(tmp_path)
    assert family_name_of(tmp_path) == case.family
    again = load(tmp_path, device="cpu")
    ours, theirs = (f.sample(["a cat"], [0], steps=2, guidance=1.0, batch=1)[0] for f in (again, family))
    assert differences(ours, theirs) <= 1  # `load` lays out convolutions (of patches) in another way


def test_a_tiny_model_is_always_the_same(case, family):
    for name, tokenizer in family_of(case.build()).tokenizers.items():
        assert tokenizer.get_vocab() == family.tokenizers[name].get_vocab()


def test_streams_are_those_of_its_attention(family):
    sources = {m.source for m in family.attention_maps()}
    assert (SINGLE_STREAM in family.provides) == ("shared" in sources and "joint" not in sources)
    assert "joint" in sources or DUAL_STREAM not in family.provides


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_pictures_are_those_of_the_stock_pipeline(case, family, guidance):
    ours = family.sample(PROMPTS[:2], [3, 4], steps=2, guidance=guidance, batch=2)
    for image, prompt, seed in zip(ours, PROMPTS[:2], [3, 4], strict=True):
        assert differences(image, stock(case, family, prompt, [seed], guidance)[0]) <= 1
    assert family.guides == case.guided
    if guidance > 1 and case.guided:
        assert differences(ours[0], family.sample(PROMPTS[:1], [3], steps=2, guidance=1.0, batch=1)[0]) > 1


def test_calls_with_both_halves_of_guidance_are_made_where_they_are_promised(family, monkeypatch):
    calls, forward = [], family.denoiser.forward

    def watched(*args, **kwargs):
        calls.append(kwargs.get("encoder_hidden_states"))
        return forward(*args, **kwargs)

    if GUIDED_CALL not in family.provides:
        assert "sld" not in methods_for(family.provides)
        return
    monkeypatch.setattr(family.denoiser, "forward", watched)
    family.sample(PROMPTS[:1], [1], steps=2, guidance=3.0, batch=1)
    halves = [family.unconditional(), family.condition(PROMPTS[:1])]
    wanted = torch.cat([half.inputs["encoder_hidden_states"] for half in halves])
    for states in calls:
        assert_close(states, wanted, rtol=1e-4, atol=1e-5)


def test_an_edit_that_guides_acts_and_is_the_same_when_it_is_read_again(family, tmp_path):
    if GUIDED_CALL not in family.provides:
        return

    def drawn():
        return family.sample(PROMPTS[:2], [1, 2], steps=2, guidance=3.0, batch=2)

    before, edit = drawn(), erase(family, ["cat"], "sld", warmup=0)
    with edit.apply(family.pipe):
        one = drawn()
    assert differences(one[0], before[0]) > 1
    with Edit.load(edit.save(tmp_path / "edit.safetensors")).apply(family.pipe):
        two = drawn()
    assert [differences(*pair) for pair in zip(one, two, strict=True)] == [0, 0]


def test_a_picture_does_not_depend_on_its_batch(family):
    together = family.sample(PROMPTS, [1, 2, 3], steps=2, guidance=2.0, batch=3)
    for image, prompt, seed in zip(together, PROMPTS, [1, 2, 3], strict=True):
        assert differences(image, family.sample([prompt], [seed], steps=2, guidance=2.0, batch=1)[0]) <= 1


def test_a_prediction_is_what_the_scheduler_is_given(case, family, monkeypatch):
    steps, step = [], family.pipe.scheduler.step

    def watched(output, t, latents, *args, **kwargs):
        steps.append((output, torch.as_tensor(t), latents))
        return step(output, t, latents, *args, **kwargs)

    monkeypatch.setattr(family.pipe.scheduler, "step", watched)
    stock(case, family, PROMPTS[0], [1], 1.0, output_type="latent")
    condition = family.condition(PROMPTS[:1])
    assert len(steps) == 2
    for output, t, latents in (case.told(*given) for given in steps):
        shaped = [case.natural(x, family.latent_shape) for x in (latents, output)]
        ours = family.predict(shaped[0], t.reshape(1), condition)
        assert_close(ours, shaped[1].float(), rtol=0, atol=case.rounding)


def test_a_condition_does_not_depend_on_its_batch(family):
    together = family.condition(PROMPTS)
    for i, text in enumerate(PROMPTS):
        alone = family.condition([text])
        for name, rows in together[[i]].inputs.items():
            length = alone.inputs[name].shape[1] if rows.dim() > 2 else None
            own = rows if length is None else rows[:, :length]
            if name not in together.masks.values():
                assert_close(own, alone.inputs[name], rtol=1e-4, atol=1e-5)


def test_maps_read_the_states_that_encode_gives(family):
    states = family.encode(PROMPTS[:2])
    for projection in family.projections():
        got = family.inputs([projection.path], PROMPTS[:2])[projection.path]
        width = min(got.rows.shape[1], states.read.shape[1])
        assert torch.equal(got.read[:, :width].cpu(), states.read[:, :width])
        read = states.read[:, :width]
        assert_close(got.rows[:, :width][read], states.states[:, :width][read], rtol=1e-4, atol=1e-5)
    for projection in family.projections("p"):
        got = family.inputs([projection.path], PROMPTS[:2])[projection.path]
        assert_close(got.rows[:, : states.pooled.shape[1]], states.pooled, rtol=1e-4, atol=1e-5)


def linear_inputs(family, condition, latents, time: float) -> dict[str, Tensor]:
    """The input of every linear map of the denoiser in one prediction."""
    found: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_pre_hook(lambda _, args, n=name: found.setdefault(n, args[0].detach().clone()))
        for name, module in family.denoiser.named_modules()
        if isinstance(module, nn.Linear)
    ]
    family.predict(latents, torch.full((len(condition),), time), condition)
    for hook in hooks:
        hook.remove()
    return found


def test_static_maps_read_the_prompt_alone(family):
    cat, dog = family.condition(["a photo of a cat"]), family.condition(["a photo of a dog"])
    one = linear_inputs(family, cat, latents_of(family, 1, 0), 900.0)
    other = linear_inputs(family, cat, latents_of(family, 1, 1), 300.0)
    another = linear_inputs(family, dog, latents_of(family, 1, 0), 900.0)
    for projection in family.projections("kvep"):
        assert torch.equal(one[projection.path], other[projection.path]), projection.path
        assert not torch.equal(one[projection.path], another[projection.path]), projection.path


def test_roles_stand_for_what_attention_reads(family):
    """Doors are what every prompt passes; maps on the text's side of attention read something else for other words."""
    doors, attention = family.door_maps(), family.maps("attention")
    if not doors:
        pytest.skip("cross-attention reads the text in every block")
    assert family.maps("door") == doors
    assert [m.path for m in doors] == [p.path for p in family.projections("ep")]
    assert family.maps("cross_kv") == doors
    assert family.maps("cross") == family.maps("joint")
    cat, dog = family.condition(["a photo of a cat"]), family.condition(["a photo of a dog"])
    one, other = (linear_inputs(family, c, latents_of(family, 1), 900.0) for c in (cat, dog))
    for m in attention:
        differs = one[m.path].shape != other[m.path].shape or not torch.equal(one[m.path], other[m.path])
        assert differs or not (m.part.startswith("add_") or m.source in ("shared", "refiner")), m.path
        assert isinstance(family.module(m.path), nn.Linear)
        assert family.parameter(m.path) is family.module(m.path).weight


def test_subjects_are_found_among_the_tokens(family):
    """Whatever stands around a prompt, the first row in which two causal prompts differ is the subject's first."""
    states = family.encode(
        ["a photo of a cat", "a photo of a dog", "a fire engine in neon style"], ["cat", "dog", "fire engine"]
    )
    assert states.first[0] == states.first[1]
    assert states.last[0] == states.last[1] == states.first[0]
    assert states.last[2] > states.first[2]
    assert bool((states.end >= states.last).all())  # equal where a prompt has no end token and ends with its subject
    for i in range(3):
        assert bool(states.read[i, states.first[i] : states.last[i] + 1].all())


def test_an_empty_subject_stands_before_the_rest(family):
    whole = family.encode(["a photo on a table", "on a table"], [7, 0])
    word = family.encode(["a photo on a table"], ["photo"])
    assert whole.last[0] == word.last[0]
    assert whole.last[1] <= family.encode(["on a table"], ["on"]).first[0]


def test_a_prompt_that_does_not_fit_is_refused(family):
    with pytest.raises(ConceptError, match=f"{family.max_tokens} fit"):
        family.encode(["a photo of a cat " * family.max_tokens])


def test_gradients_flow_from_a_prediction_to_the_text_encoders(family):
    for encoder in family.text_encoders.values():
        encoder.requires_grad_(True)
    condition = family.live_condition(["a cat"])
    family.predict(latents_of(family, 1), torch.tensor([500.0]), condition).square().mean().backward()
    for name, encoder in family.text_encoders.items():
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in encoder.parameters()), name


def test_latents_and_pictures_are_inverse_in_scale(family):
    pictures = family.sample(["a cat"], [0], steps=1, guidance=1.0, batch=1)
    latents = family.latents(pictures)
    assert latents.shape == (1, *family.latent_shape)
    assert differences(family.decode(latents)[0], family.decode(latents + 1)[0]) > 0
