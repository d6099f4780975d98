"""SPM: the loss beside the formula, the gate beside a naive one, and pictures that a shut gate leaves alone."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checks import check
from safetensors.torch import load_file
from torch.testing import assert_close

from excise import Edit, erase, export
from excise.concepts.concept import Concept
from excise.edits import verified
from excise.edits.deltas import LowRank
from excise.errors import ExciseWarning, ModelError
from excise.families import family_of
from excise.importing.import_edit import import_edit
from excise.methods.trained.material import Material, source_of, weights_of
from excise.methods.trained.spm import SPM, anchoring_loss, erase_loss, random_states, shut
from excise.methods.trained.spm_config import SPMConfig
from excise.methods.trained.spm_gate import PAD, PromptGate, gate_of
from excise.training.pictures import Sampling
from excise.training.probes import Probe
from excise.training.problem import TrainingProblem

SMALL = {"steps": 3, "lr": 0.05, "batch": 2, "sampler_steps": 3, "vocabulary": None, "preserve": ["dog", "tree"]}


@pytest.fixture(params=["sd", "sdxl"])
def pipe(request, make):
    return make(request.param)


def draw(pipe, prompt: str):
    return np.asarray(family_of(pipe).sample([prompt], [0], steps=2, guidance=2.0, batch=1)[0])


def test_the_loss_is_that_of_the_formula(make):
    pipe = make("sd")
    frozen, family = family_of(copy.deepcopy(pipe)), family_of(pipe)
    config = SPMConfig(batch=2, sampler_steps=3, eta=0.7)
    problem = TrainingProblem(family, [Concept("cat")], {"object": ["{}"]})
    with weights_of(problem, config, SPM().targets(family, config)) as weights:
        with torch.no_grad():
            for p in weights.parameters.values():
                p.add_(0.05)
        batch = source_of(problem, config, weights, Material()).batch(torch.Generator().manual_seed(0))
        z = random_states(batch.concept.teacher, torch.Generator().manual_seed(1))
        x, t = batch.x_t, batch.t
        cat, nothing = frozen.condition(["cat"] * 2), frozen.unconditional()[[0, 0]]
        of_cat, of_nothing = frozen.predict(x, t, cat), frozen.predict(x, t, nothing)
        goal = of_nothing - 0.7 * (of_cat - of_nothing)
        assert_close(erase_loss(batch, 0.7), (family.predict(x, t, cat) - goal).square().mean())
        assert_close(anchoring_loss(batch, z), (family.predict(x, t, z) - frozen.predict(x, t, z)).square().mean())
    own, drawn = (c.inputs["encoder_hidden_states"].flatten(1).norm(dim=1) for c in (cat, z))
    assert bool(((drawn / own >= 0.79) & (drawn / own <= 1.21)).all())


def test_the_gate_by_hand():
    """Beside loops over prompts, names and tokens."""
    generator = torch.Generator().manual_seed(0)
    pooled, states = torch.randn(5, 8, generator=generator), torch.randn(3, 8, generator=generator)
    ids = torch.randint(10, (5, 6), generator=generator)
    tokens = torch.tensor([[3.0, PAD], [4.0, 7.0], [9.0, 9.0]])
    gates = gate_of(pooled, ids, states, tokens, 0.1, 0.4)
    for row, prompt, gate in zip(pooled, ids.tolist(), gates.tolist(), strict=True):
        near, shared = [], []
        for state, name in zip(states, tokens.tolist(), strict=True):
            near.append((float(F.cosine_similarity(row, state, dim=0)) - 0.1) / 0.9)
            own = [int(n) for n in name if n != PAD]
            shared.append(sum(n in prompt for n in own) / len(own))
        assert gate == pytest.approx(min(1.0, max(0.0, max(near), (max(shared) - 0.4) / 0.6)), abs=1e-5)


def test_a_retained_prompt_that_shares_a_word_of_the_name_is_drawn_bit_for_bit(make):
    pipe = make("sd")
    before = {prompt: draw(pipe, prompt) for prompt in ("dog tree", "cat tree")}
    edit = erase(pipe, ["cat tree"], "spm", **{**SMALL, "preserve": ["dog tree"]})
    with edit.apply(pipe):
        assert np.array_equal(draw(pipe, "dog tree"), before["dog tree"])
        assert not np.array_equal(draw(pipe, "cat tree"), before["cat tree"])


def test_a_far_prompt_is_drawn_bit_for_bit_and_the_concept_is_not(pipe, tmp_path):
    before = {prompt: draw(pipe, prompt) for prompt in ("dog", "cat", "a photo of a cat")}
    edit = erase(pipe, ["cat"], "spm", **SMALL)
    (hook,) = edit.hooks
    assert isinstance(hook, PromptGate)
    assert not edit.modules
    with Edit.load(edit.save(tmp_path / "edit.safetensors")).apply(pipe):
        assert np.array_equal(draw(pipe, "dog"), before["dog"])
        assert not np.array_equal(draw(pipe, "cat"), before["cat"])
        assert not np.array_equal(draw(pipe, "a photo of a cat"), before["a photo of a cat"])
    assert np.array_equal(draw(pipe, "cat"), before["cat"])


def test_the_gate_reads_what_the_second_encoder_reads_and_any_layer(make):
    pipe = make("sdxl")

    def drawn(**prompts) -> np.ndarray:
        torch.manual_seed(0)
        options = {"num_inference_steps": 2, "guidance_scale": 2.0, "height": 32, "width": 32}
        return pipe(**prompts, **options, generator=torch.Generator().manual_seed(0), output_type="np").images[0]

    asked = ({"prompt": "dog"}, {"prompt": "dog", "prompt_2": "cat"}, {"prompt": "dog", "clip_skip": 1})
    before = [drawn(**prompts) for prompts in asked]
    with erase(pipe, ["cat"], "spm", **SMALL).apply(pipe):
        same = [np.array_equal(drawn(**prompts), was) for prompts, was in zip(asked, before, strict=True)]
    assert same == [True, False, True]


def test_an_open_gate_is_the_change_of_the_weights(make):
    """Where prompts are unknown to the gate, as learnt states are, the model is as with the adapters merged."""
    pipe = make("sd")
    family = family_of(pipe)
    gated = erase(pipe, ["cat"], "spm", **SMALL)
    plain = erase(pipe, ["cat"], "spm", gate=False, **SMALL)
    assert {type(d) for d in plain.modules.values()} == {LowRank}
    x, t = torch.randn(2, *family.latent_shape, generator=torch.Generator().manual_seed(0)), torch.tensor([300, 700])
    condition = family.condition(["a cat", "a dog"])
    shifted = condition.inputs["encoder_hidden_states"] + 0.1
    unknown = type(condition)({"encoder_hidden_states": shifted})
    results = []
    for edit in (gated, plain):
        with edit.apply(pipe):
            results.append(family.predict(x, t, unknown))
    assert_close(*results, rtol=1e-3, atol=1e-4)


def test_an_export_has_no_gate_and_says_so(make, tmp_path):
    pipe = make("sd")
    gated = erase(pipe, ["cat"], "spm", **SMALL)
    plain = erase(pipe, ["cat"], "spm", gate=False, **SMALL)
    half = gated.scaled(0.5)
    file = half.save(tmp_path / "edit.safetensors")
    verified.keep(file, check())  # with its gate
    with pytest.warns(ExciseWarning, match="its changes act on every prompt"):
        exported = export(half, pipe, tmp_path / "gated", source=file)
    expected = export(plain.scaled(0.5), pipe, tmp_path / "plain")
    one, two = (load_file(e.path) for e in (exported, expected))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert "act on every prompt" in " ".join(exported.card.read_text().split())
    assert exported.ungated
    assert "Not yet verified" in exported.card.read_text()
    assert not expected.ungated
    with pytest.warns(ExciseWarning, match="was exported without the gates of its edit"):
        import_edit(exported.path, pipe)
    with pytest.raises(ModelError, match="an export holds weights alone"):
        export(erase(pipe, ["cat"], "sld"), pipe, tmp_path / "other")


def test_a_model_without_clip_has_plain_adapters(make):
    edit = erase(make("sana"), ["cat"], "spm", **SMALL)
    assert not edit.hooks
    assert {d.a.shape[0] for d in edit.modules.values()} == {1}


def test_checkpoints_are_judged_behind_the_gate(make):
    family = family_of(make("sd"))
    retain = ["a photo of a dog", "a dog", "a tree"]
    problem = TrainingProblem(family, [Concept("cat")], {"object": ["{}"]}, retain=retain)
    prompts = [*retain, "a cat", "a photo of a cat in the snow"]
    assert shut(problem, prompts) == [True, True, True, False, False]
    probes = [Probe(p, "cat" if "cat" in p else "dog", "target" if "cat" in p else "related") for p in prompts]
    scorer = SimpleNamespace(name="any", sees=lambda images, names: [True] * len(images))
    seen = replace(problem, probes={"cat": probes}, scorer=scorer, sampling=Sampling(2, 1.0))
    for config, left in ((SPMConfig(), [True, True, True, False, False]), (SPMConfig(gate=False), [False] * 5)):
        assert SPM().preview(seen, config).left == left
