"""How many pictures a gate needs, and how long they take, is said before the first is drawn."""

from __future__ import annotations

import math

import pytest
import torch

from excise import erase
from excise.errors import ExciseError
from excise.evaluation.cost import drawing_cost
from excise.evaluation.plan import concept_plan
from excise.families import family_of

pytestmark = pytest.mark.usefixtures("few_steps")


def test_many_pictures_are_counted_and_timed_and_a_few_are_not_worth_a_word(pipe, monkeypatch):
    monkeypatch.setattr("excise.evaluation.cost.seconds_per_pass", lambda family: 1.0)
    family = family_of(pipe)
    for pictures, untouched in ((200, False), (200, True), (10, False)):
        plan = concept_plan(family, ["cat"], pictures=pictures)
        found = drawing_cost(family, plan, [plan.target_of("cat")], untouched=untouched)
        count = len(plan.items) * (1 + untouched)
        if count < 100:
            assert found is None
        else:
            assert found is not None
            assert found.startswith(f"{count} pictures to draw, about {math.ceil(count * 4 / 60)} min here at most")


def test_a_pass_is_timed_in_the_precision_that_is_drawn_in(pipe, monkeypatch):
    timed = []

    def seconds_per_pass(family):
        out = []
        family.denoiser.conv_in.register_forward_hook(lambda module, args, output: out.append(output.dtype))
        family.predict(torch.zeros(1, *family.latent_shape), torch.tensor([5]), family.condition(["a"]))
        timed.extend(out)
        return 1.0

    monkeypatch.setattr("excise.evaluation.cost.seconds_per_pass", seconds_per_pass)
    family = family_of(pipe)
    plan = concept_plan(family, ["cat"], pictures=200)
    for half in (False, True):
        assert drawing_cost(family, plan, [plan.target_of("cat")], bfloat16=half)
        family.denoiser.conv_in._forward_hooks.clear()
    assert timed == [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("verb", ["evaluate", "apply"])
def test_the_commands_say_it_before_they_draw(excise, pipe, model, tmp_path, monkeypatch, verb):
    def draw(*_, **__):
        raise ExciseError("drawing begins.")

    monkeypatch.setattr("excise.evaluation.evaluate.draw", draw)
    monkeypatch.setattr("excise.evaluation.cost.seconds_per_pass", lambda family: 0.0)
    if verb == "evaluate":
        monkeypatch.setattr("excise.cli.gates.check_possible", lambda *_: None)  # it has no judge
        edit = erase(pipe, ["cat"], "uce", vocabulary=None, model_name=str(model)).save(tmp_path / "edit.safetensors")
        words = ("--model", model, "--edit", edit, "--require", "ua>=0.97", "--out", tmp_path / "out")
    else:
        monkeypatch.setattr("excise.cli.apply._draws", lambda policy: True)
        monkeypatch.setattr("excise.policy.apply._scorer", lambda *_: lambda images, names: [True] * len(images))
        (tmp_path / "policy.yaml").write_text(
            f"schema: 1\nmodel: {model}\nconcepts: [{{name: cat}}]\nmethods: {{object: uce}}\ngates: {{erased: 0.97}}\n"
        )
        words = (tmp_path / "policy.yaml", "--out", tmp_path / "out")
    status, _, err = excise(verb, *words)
    before, _, _ = err.partition("drawing begins")
    assert (status, "pictures to draw, about 10 s here at most" in before) == (2, True), err
