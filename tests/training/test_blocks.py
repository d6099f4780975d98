"""Batches of distilled methods: student, teacher and retain loss beside naive references, in every network."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from excise.errors import SettingError
from excise.families import family_of
from excise.training.adapters import Adapter, FullWeights
from excise.training.blocks import empty_prompt, prompts_of
from excise.training.losses import push_away
from excise.training.sources import Kept, Trajectories


@pytest.fixture
def family(any_pipe):
    return family_of(any_pipe)


def paths(family, role: str) -> list[str]:
    return [m.path for m in family.maps(role)]


def moved(weights) -> None:
    """Give what is trained another value than the untouched one."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in weights.parameters.values():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))


def batch_of(weights, by: str = "student", retain=("a dog",)):
    concept, anchor = prompts_of(weights, ["a cat", "cat"]), prompts_of(weights, ["a tree", "tree"])
    kept = prompts_of(weights, retain) if retain else None
    source = Trajectories(weights, [concept], [anchor], empty_prompt(weights), Kept(kept), 3, by, 4, 2.0)
    return source.batch(torch.Generator().manual_seed(0))


@pytest.mark.parametrize("role", ["cross", "text_mlp", "text_all"])
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_student_and_its_teacher_are_the_edited_and_the_untouched_model(family, role, kind):
    weights = Adapter(family, paths(family, role), 2, 0) if kind == "lora" else FullWeights(family, paths(family, role))
    texts = ["a cat", "cat"]
    frozen = family.condition(texts)
    with weights:
        moved(weights)
        batch = batch_of(weights)
        teacher, student = batch.teacher(batch.concept), batch.student(batch.concept)
        anchor, kept = batch.teacher(batch.anchor), batch.retain_loss()
        now = family.condition(texts)
        rows = batch.concept.rows
        assert_close(student, family.predict(batch.x_t, batch.t, now[rows]), rtol=1e-4, atol=1e-5)
        dog = family.predict(batch.x_t, batch.t, family.condition(["a dog"] * 3))
        gradients = torch.autograd.grad(student.sum() + kept, list(weights.parameters.values()), allow_unused=True)
    assert not teacher.requires_grad
    assert not torch.equal(student, teacher)
    assert_close(teacher, family.predict(batch.x_t, batch.t, frozen[rows]), rtol=0, atol=0)
    trees = family.condition(["a tree", "tree"])
    assert torch.equal(anchor, family.predict(batch.x_t, batch.t, trees[rows]))
    before = family.predict(batch.x_t, batch.t, family.condition(["a dog"] * 3))
    assert_close(kept, (dog - before).square().mean(), rtol=1e-4, atol=1e-7)
    assert any(g is not None and bool(g.any()) for g in gradients)


@pytest.mark.parametrize("role", ["cross", "text_mlp"])
def test_latents_come_from_whom_the_setting_names(family, role):
    with Adapter(family, paths(family, role), 2, 0) as weights:
        same = batch_of(weights, "student").x_t, batch_of(weights, "teacher").x_t
        assert torch.equal(*same)
        moved(weights)
        student, teacher = batch_of(weights, "student"), batch_of(weights, "teacher")
    assert torch.equal(student.t, teacher.t)
    assert torch.equal(teacher.x_t, same[1])
    assert not torch.equal(student.x_t, teacher.x_t)


def test_a_batch_without_prompts_to_retain_has_no_retain_loss(family):
    with Adapter(family, paths(family, "cross"), 2, 0) as weights:
        batch = batch_of(weights, retain=())
    with pytest.raises(ValueError, match="no prompts to retain"):
        batch.retain_loss()


def test_pushing_away_by_hand():
    empty, concept = torch.tensor([1.0]), torch.tensor([3.0])
    assert float(push_away(empty, concept, empty, 1.0)) == 1 - (3 - 1)
    assert torch.equal(push_away(empty, concept, concept, 2.0), push_away(empty, concept, empty, 1.0))


def test_weights_of_two_networks_at_once(family):
    both = [*paths(family, "cross_kv"), *paths(family, "text_mlp")]
    owned = {id(p) for part in (family.denoiser, *family.text_encoders.values()) for p in part.parameters()}
    latents, t = torch.randn(1, *family.latent_shape, generator=torch.Generator().manual_seed(0)), torch.tensor([500])

    def predict():
        return family.predict(latents, t, family.condition(["a cat"]))

    before = predict()
    with Adapter(family, both, 2, 0) as weights:
        assert torch.equal(predict(), before)
        moved(weights)
        after = predict()
        assert not torch.equal(after, before)
        with weights.teacher():
            assert torch.equal(predict(), before)
        deltas = weights.deltas()
    assert set(deltas) == set(both)
    assert torch.equal(predict(), before)
    assert owned == {id(p) for part in (family.denoiser, *family.text_encoders.values()) for p in part.parameters()}


def test_nothing_but_what_is_trained_gets_gradients(family):
    parts = [family.denoiser, *family.text_encoders.values()]
    for part in parts:
        part.requires_grad_(True)
    with FullWeights(family, paths(family, "text_mlp")) as weights:
        batch = batch_of(weights)
        batch.student(batch.concept).sum().backward()
    assert all(p.grad is None for part in parts for p in part.parameters())
    assert all(p.requires_grad for part in parts for p in part.parameters())


def test_a_table_of_tokens_is_trained_whole(family):
    table = paths(family, "embedding")
    with pytest.raises(SettingError, match="train it whole"):
        Adapter(family, table, 2, 0)
    before = family.condition(["a cat"]).inputs["encoder_hidden_states"]
    with FullWeights(family, table) as weights:
        moved(weights)
        assert not torch.equal(family.condition(["a cat"]).inputs["encoder_hidden_states"], before)
    assert torch.equal(family.condition(["a cat"]).inputs["encoder_hidden_states"], before)
