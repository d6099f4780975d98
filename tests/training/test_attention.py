"""Captured attention maps and masks made of them, beside naive references."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from excise.errors import ModelError
from excise.families import family_of
from excise.training.attention import captured, captured_joint
from excise.training.masks import concept_mask


def cross_layers(family) -> list[str]:
    paths = [m.path for m in family.maps("cross_kv") if m.part == "k"]
    return [path.removesuffix(".to_k") for path in paths]


PROMPTS = ["a cat", "a dog in neon style"]


def run(family, condition=None):
    latents = torch.randn(2, *family.latent_shape, generator=torch.Generator().manual_seed(0))
    return family.predict(latents, torch.tensor([300, 700]), condition or family.condition(PROMPTS))


def test_maps_are_those_of_the_definition_and_change_nothing(any_pipe):
    family = family_of(any_pipe)
    layers = cross_layers(family)
    before = run(family)
    states: dict[str, list[torch.Tensor]] = {path: [] for path in layers}
    with captured(family, layers) as capture:
        hooks = [
            getattr(family.module(path), name).register_forward_hook(
                lambda module, args, out, path=path: states[path].append(out)
            )
            for path in layers
            for name in ("to_q", "to_k")
        ]
        assert torch.equal(run(family), before)
        for hook in hooks:
            hook.remove()
    assert list(capture.maps) == layers
    mask = family.condition(["a cat", "a dog in neon style"]).inputs.get("encoder_attention_mask")
    for path, attention in capture.maps.items():
        q, k = states[path]
        heads = family.module(path).heads
        assert attention.shape == (2, heads, q.shape[1], k.shape[1])
        assert_close(attention.sum(dim=-1), torch.ones(attention.shape[:-1]))
        for b in range(2):
            for h in range(heads):
                part = slice(h * q.shape[2] // heads, (h + 1) * q.shape[2] // heads)
                scores = q[b, :, part] @ k[b, :, part].mT / math.sqrt(q.shape[2] // heads)
                if mask is not None:
                    scores = scores.masked_fill(mask[b] == 0, -math.inf)
                assert_close(attention[b, h], scores.softmax(dim=-1), rtol=1e-4, atol=1e-6)
    assert not any(family.module(path)._forward_hooks for path in layers)


def test_what_was_not_run_or_is_no_softmax_is_refused(make):
    family = family_of(make("sd"))
    with captured(family, cross_layers(family)) as capture, pytest.raises(ModelError, match="no attention map"):
        _ = capture.maps
    linear = family_of(make("sana"))
    (layer, *_) = [m.path.removesuffix(".to_k") for m in linear.maps("self") if m.part == "k"]
    with pytest.raises(ModelError, match="no plain softmax attention"), captured(linear, [layer]):
        pass


def test_a_mask_beside_loops():
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(2, 3, 16, 5, generator=generator), torch.rand(2, 3, 16, 5, generator=generator)]
    tokens = [[1, 2], [4]]
    mask = concept_mask(maps, tokens, (4, 4), 0.7)
    for b in range(2):
        grid = [
            sum(float(m[b, h, q, k]) for m in maps for h in range(3) for k in tokens[b]) / (3 * 2) for q in range(16)
        ]
        wanted = [float(value >= 0.7 * max(grid)) for value in grid]
        assert mask[b].flatten().tolist() == wanted
    assert concept_mask(maps, tokens, (8, 8), 0.0).shape == (2, 1, 8, 8)
    assert bool(concept_mask(maps, tokens, (8, 8), 0.0).all())


def joint_layers(family) -> list[str]:
    return [m.path.removesuffix(".add_k_proj") for m in family.maps("joint") if m.part == "add_k"]


@pytest.mark.parametrize("name", ["flux-dev", "flux-schnell", "chroma", "sd3", "sd3-without-t5"])
def test_joint_maps_are_those_that_the_kernel_applies(make, monkeypatch, name):
    """Beside the model's own fused attention, given values that pick out one key each."""
    family = family_of(make(name))
    layers = joint_layers(family)
    condition = family.condition(PROMPTS)  # before the text encoders' own attention would be seen
    before = run(family, condition)
    seen: list[torch.Tensor] = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def spy(query, key, value, attn_mask=None, **more):
        picks = torch.eye(key.shape[-2]).expand(*key.shape[:-2], -1, -1)
        seen.append(fused(query, key, picks, attn_mask=attn_mask))
        return fused(query, key, value, attn_mask=attn_mask, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    with captured_joint(family, layers) as capture:
        assert torch.equal(run(family, condition), before)
    maps = capture.maps
    assert list(maps) == layers
    text = condition.inputs["encoder_hidden_states"].shape[1]
    picture = seen[0].shape[-1] - text
    joint = [m for m in seen if m.shape[-1] == text + picture]  # without SD 3.5's own attention of the picture
    for attention, whole in zip(maps.values(), joint[: len(layers)], strict=True):
        first = name.startswith("sd3")  # where the picture's rows stand before those of the text
        rows = whole[..., :picture, picture:] if first else whole[..., text:, :text]
        assert attention.shape == rows.shape
        assert_close(attention, rows, rtol=1e-4, atol=1e-6)
    assert not any(family.module(path)._forward_hooks for path in layers)


def test_joint_maps_have_gradients_and_outlive_recomputing(make):
    def gradient(checkpointing: bool) -> torch.Tensor:
        family = family_of(make("flux-dev"))
        if checkpointing:
            family.denoiser.enable_gradient_checkpointing()
        (first, *_) = layers = joint_layers(family)
        weight = family.parameter(f"{first}.add_k_proj").requires_grad_(True)
        with captured_joint(family, layers) as capture:
            run(family)
        sum(m.square().sum() for m in capture.maps.values()).backward()
        return weight.grad

    plain = gradient(False)
    assert float(plain.abs().max()) > 0
    assert_close(gradient(True), plain)


def test_a_layer_without_joint_attention_is_refused(make):
    family = family_of(make("sd"))
    with pytest.raises(ModelError, match="no joint softmax attention"), captured_joint(family, cross_layers(family)):
        pass
    family = family_of(make("flux-dev"))
    with captured_joint(family, joint_layers(family)) as capture, pytest.raises(ModelError, match="no attention map"):
        _ = capture.maps
