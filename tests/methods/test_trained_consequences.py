"""What each trained method promises, seen on a tiny model: the consequence that its paper is about.

SPM's gate, Receler's silence outside its mask, masks that leave weights bit-equal and blocks at zero have files of
their own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from situations import every_second
from torch import Tensor

from excise import Edit, erase
from excise.attacks.tokens import lexicon
from excise.concepts.concept import Concept
from excise.errors import SettingError
from excise.families import family_of
from excise.methods.base import Context
from excise.methods.trained.advunlearn import attack, led_by
from excise.methods.trained.advunlearn_config import AdvUnlearnConfig
from excise.methods.trained.base import Stepped
from excise.methods.trained.material import Material, source_of
from excise.methods.trained.slug import Layer, searched
from excise.methods.trained.slug_config import SLUGConfig
from excise.methods.trained.trce import TRCE
from excise.methods.trained.trce_config import TRCEConfig
from excise.training.adapters import FullWeights
from excise.training.attention import captured, reading_layers
from excise.training.losses import attention_norm
from excise.training.probes import Probe, Rates
from excise.training.problem import TrainingProblem, TrainingResult

SMALL: dict[str, Any] = {"steps": 40, "lr": 3e-3, "batch": 4, "vocabulary": None, "preserve": ["dog", "tree"]}
CAT, CAR = "a photo of a cat", "a photo of a car"
LATE, EARLY = 100, 900  # timesteps

Measure = Callable[[Any], float]


@pytest.fixture
def pipe(make):
    """A tiny model that hears its prompt: random values of cross-attention are too weak to tell one from another."""
    pipe = make("sd")
    with torch.no_grad():
        for m in family_of(pipe).maps("cross"):
            if m.part in ("v", "out"):
                family_of(pipe).parameter(m.path).mul_(6)
    return pipe


def latents(family: Any, n: int = 8) -> Tensor:
    return torch.randn(n, *family.latent_shape, generator=torch.Generator().manual_seed(7))


@torch.no_grad()
def predicted(family: Any, text: str | None, t: int | None = None) -> Tensor:
    """What the model predicts for a prompt, or for none, at latents that are always the same."""
    x = latents(family)
    times = torch.linspace(50, 950, len(x)).long() if t is None else torch.full((len(x),), t)
    condition = family.unconditional() if text is None else family.condition([text])
    return family.predict(x, times, condition[[0] * len(x)])


def under(pipe: Any, edit: Edit, measure: Callable[[Any], Any]) -> tuple[Any, Any]:
    """A measure of the model without and with an edit."""
    family = family_of(pipe)
    before = measure(family)
    with edit.apply(pipe):
        return before, measure(family)


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean())


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("concept-ablation", {"pictures": 4}),
        ("salun", {"pictures": 4, "mask_passes": 2, "lr": 3e-4}),
        ("sculpting-memory", {"pictures": 4, "mask_passes": 2, "lr": 3e-4}),
        ("realera", {"sampler_steps": 3, "retain_scale": 0.0, "ridge": 100.0}),
    ],
)
def test_the_target_is_predicted_as_its_anchor(pipe, method, settings):
    edit = erase(pipe, ["cat"], method, anchor="car", **{**SMALL, **settings})
    before, after = under(pipe, edit, lambda f: apart(predicted(f, CAT), predicted(f, CAR)))
    assert after < 0.8 * before


def test_sdd_predicts_the_target_as_no_prompt(pipe):
    edit = erase(pipe, ["cat"], "esd", target="self", by="mean", ema=0.5, sampler_steps=3, **SMALL)
    before, after = under(pipe, edit, lambda f: apart(predicted(f, CAT), predicted(f, None)))
    assert after < 0.8 * before


def test_all_but_one_takes_the_guidance_alone(pipe):
    """The target's guidance becomes the anchor's, and what no prompt predicts hardly moves."""
    family = family_of(pipe)
    empty, goal = predicted(family, None), predicted(family, CAR) - predicted(family, None)
    edit = erase(pipe, ["cat"], "esd", target="guidance", anchor="car", sampler_steps=3, **SMALL)
    before, after = under(pipe, edit, lambda f: apart(predicted(f, CAT) - predicted(f, None), goal))
    assert after < 0.8 * before
    drift = under(pipe, edit, lambda f: apart(predicted(f, None), empty))[1]
    assert drift < 0.5 * before


def test_ace_moves_what_guidance_starts_from_towards_the_concept_and_esd_does_not(pipe):
    """An editor guides f(0) + s (f(p) - f(0)) with a prompt p of its own: the concept in f(0) is what s takes away."""
    family = family_of(pipe)
    empty = predicted(family, None)
    direction = predicted(family, CAT) - empty

    def along(f: Any) -> float:
        return float(((predicted(f, None) - empty) * direction).sum() / direction.square().sum())

    more = {**SMALL, "sampler_steps": 3}
    # In a random model all prompts point the same way, so that what is kept is not to be taken off the concept.
    settings: dict[str, dict[str, Any]] = {"ace": {"eta_prior": 0.0, "uncond_share": 0.8}, "esd": {}}
    after = {name: under(pipe, erase(pipe, ["cat"], name, **more, **s), along)[1] for name, s in settings.items()}
    assert after["ace"] > 0.3
    assert after["ace"] > after["esd"] + 0.2


def test_ant_turns_late_steps_and_leaves_early_ones(pipe):
    family = family_of(pipe)

    def along(f: Any, t: int) -> float:
        """The concept's guidance along what it was, 1 where nothing changed."""
        direction = was[t]
        return float(((predicted(f, CAT, t) - predicted(f, None, t)) * direction).sum() / direction.square().sum())

    was = {t: predicted(family, CAT, t) - predicted(family, None, t) for t in (LATE, EARLY)}
    more = {**SMALL, "sampler_steps": 6, "steps": 60, "mask": "none"}
    edit = erase(pipe, ["cat"], "ant", **more)
    with edit.apply(pipe):
        late, early = along(family, LATE), along(family, EARLY)
    assert late < 0.7
    assert late < early - 0.1


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("forget-me-not", {"pictures": 4}),
        ("mace-full", {"pictures": 4, "ridge": 100.0, "threshold": 0.1}),
    ],
)
def test_pictures_pay_less_attention_to_the_words(pipe, method, settings):
    words = family_of(pipe).encode([CAT], ["cat"]).chosen([0], "subject")

    def attention(f: Any) -> float:
        with captured(f, reading_layers(f)) as capture:
            predicted(f, CAT)
        maps = [*capture.maps.values()]
        told = torch.nn.functional.pad(words, (0, maps[0].shape[-1] - words.shape[1]))
        return float(attention_norm(maps, told.expand(len(maps[0]), -1)))

    edit = erase(pipe, ["cat"], method, **{**SMALL, "steps": 60, **settings})
    before, after = under(pipe, edit, attention)
    assert after < 0.9 * before


@pytest.mark.parametrize("method", ["few-shot", "rgd"])
def test_the_target_is_denoised_worse(pipe, method):
    family = family_of(pipe)
    family_pictures = family.latents(family.sample([CAT] * 2, [0, 1], steps=3, guidance=2.0, batch=2))

    @torch.no_grad()
    def error(f: Any) -> float:
        plan = f.noising
        clean = family_pictures.repeat(4, 1, 1, 1)
        noise, t = latents(f, len(clean)), torch.linspace(50, 950, len(clean)).long()
        guess = f.predict(plan.add(clean, noise, t), t, f.condition([CAT])[[0] * len(clean)])
        return apart(guess, plan.target(clean, noise, t))

    edit = erase(pipe, ["cat"], method, **{**SMALL, "pictures": 4, "bound": 1e6})
    if method == "few-shot":
        assert all(path.startswith("text_encoder.") for path in edit.paths)
    before, after = under(pipe, edit, error)
    assert after > 1.2 * before


def test_slug_changes_one_layer_by_a_step_along_its_gradient(pipe):
    sees = Context(judge=every_second)
    edit = erase(pipe, ["cat"], "slug", context=sees, pictures=2, steps=1, vocabulary=None, preserve=["dog"])
    evidence = edit.record.measured
    assert edit.paths == [evidence["layer"]]
    (path,) = edit.paths
    weight = family_of(pipe).parameter(path).detach()
    assert float(edit.delta(path, weight).norm() / weight.norm()) == pytest.approx(evidence["share"], rel=1e-3)
    importance, alignment = ([c[name] for c in evidence["candidates"]] for name in ("importance", "alignment"))
    assert importance == sorted(importance, reverse=True)
    assert alignment == sorted(alignment, reverse=True)


@pytest.mark.parametrize(
    ("margin", "lost", "share"), [(1.0, 0, 0.25), (1.2, 0, 0.3), (3.0, 0, 0.5), (1.2, 1, 0.3), (1.2, 2, 0.25)]
)
def test_slugs_step_is_the_shortest_that_erases_times_a_margin_that_costs_one_picture(pipe, margin, lost, share):
    """A judge that sees the target until the layer is a fifth of its length away; steps in eighths, 0.5 at most.

    Of four pictures of what is near, some are lost beyond it.
    """
    family = family_of(pipe)
    path = family.maps("cross")[0].path
    before = family.parameter(path).detach().clone()
    length = float(before.norm())

    def rates(far: float) -> Rates:
        return Rates(float(far > 0.2), 1 - lost / 4 if far > 0.28 else 1.0, 1.0)

    probes = [*[Probe("", "", "related")] * 4, *[Probe("", "", "unrelated")] * 9]
    preview = SimpleNamespace(
        probes=probes, family=family, draw=lambda: float((family.parameter(path) - before).norm()) / length, rates=rates
    )
    layer = Layer(path, torch.randn_like(before), torch.ones_like(before), length)
    chosen, seen = searched(layer, preview, SLUGConfig(bisections=2, margin=margin, longest=0.5))  # type: ignore[arg-type]
    assert chosen == pytest.approx(share)
    assert seen == Rates(1.0, 1 - lost / 4 if share > 0.28 else 1.0, 1.0)
    assert torch.equal(family.parameter(path), before)


def test_selective_amnesia_moves_what_matters_for_the_rest_less(pipe):
    family = family_of(pipe)
    more = {**SMALL, "pictures": 4, "weights": "full", "lr": 1e-3, "modules": "cross"}
    held = {0.0: {}, 1e3: {"fisher_passes": 4}}
    edits = {w: erase(pipe, ["cat"], "selective-amnesia", fisher_weight=w, **more, **of) for w, of in held.items()}

    def drift(edit: Edit) -> float:
        return sum(float(edit.delta(p, family.parameter(p).detach()).square().sum()) for p in edit.paths)

    assert drift(edits[1e3]) < 0.8 * drift(edits[0.0])
    assert edits[1e3].record.measured["losses"][-1]["drift"] > 0


def test_docos_discriminator_can_tell_less_and_less(pipe):
    """Of a model in training, against one that stays as it is."""
    more = {**SMALL, "pictures": 4, "warmup": 10, "steps": 60}
    left = {}
    for lr in (1e-9, 3e-3):
        losses = erase(pipe, ["cat"], "doco", anchor="car", **{**more, "lr": lr}).record.measured["losses"]
        left[lr] = sum(step["judge"] for step in losses[-10:])
    assert left[3e-3] > left[1e-9]


def test_trce_brings_guidance_to_the_safe_side(pipe):
    """The target's early prediction is nearer to the safe side, against the unsafe one, than after stage 1 alone."""
    family = family_of(pipe)
    empty, cat, car = (predicted(family, text, EARLY) for text in (None, CAT, CAR))
    safe, unsafe = (p + 2 * (p - empty) for p in (car, cat))
    more = {"anchor": "car", "sampler_steps": 3, "contrast_guidance": 2.0, "retain_weight": 0.0, "ridge": 100.0}
    gaps = []
    for lr in (1e-9, 1e-2):
        edit = erase(pipe, ["cat"], "trce", **{**SMALL, **more, "lr": lr, "margin": 10.0, "steps": 60})
        with edit.apply(pipe):
            now = predicted(family, CAT, EARLY)
        gaps.append(apart(now, safe) - apart(now, unsafe))
    assert gaps[1] < gaps[0]


def test_the_attack_gains_less_after_advunlearn_than_before(pipe):
    """Its own attack, from the same words: how near it brings the prediction to what the untouched model makes."""
    family = family_of(pipe)
    config = AdvUnlearnConfig(batch=4, sampler_steps=3, attack_steps=10, attack_lr=0.05, words=2)
    goal_of = TrainingProblem(family, [Concept("cat")], {"object": ["a photo of a {}"]})
    words = lexicon(family, (), ["cat"])

    def gained(edits: Mapping[str, Edit]) -> dict[str, float]:
        """What is left between the attacked prediction and the untouched model's, by the edit in force."""
        left = {}
        with FullWeights(family, ["mid_block.attentions.0.transformer_blocks.0.attn2.to_k"]) as weights:
            batch = source_of(goal_of, config, weights, Material()).batch(torch.Generator().manual_seed(0))
            goal = batch.teacher(batch.concept)
            for name, edit in edits.items():
                with edit.apply(pipe):
                    found = attack(batch, goal, words, config, torch.Generator().manual_seed(1))
                    with torch.no_grad():
                        left[name] = apart(family.predict(batch.x_t, batch.t, led_by(batch, words, found)), goal)
        return left

    more = {**SMALL, "sampler_steps": 3, "steps": 30, "attack_steps": 5, "attack_lr": 0.05, "words": 2, "lr": 5e-3}
    edits = {
        "before": erase(pipe, ["cat"], "advunlearn", **{**more, "warmup_steps": 30}),  # never attacked in training
        "after": erase(pipe, ["cat"], "advunlearn", **{**more, "warmup_steps": 5}),
    }
    left = gained(edits)
    assert left["after"] > left["before"]


def test_on_top_of_a_closed_form_the_concept_itself_is_negated(pipe, monkeypatch):
    """The goal is made by the model before the closed form, to which the concept does not read as its anchor."""
    from excise.methods.trained.esd import ESD

    frozen = family_of(copy.deepcopy(pipe))
    seen = []
    loss = ESD.loss

    def looked(self, batch, config):
        condition = frozen.condition(batch.concept.texts)
        with torch.no_grad():
            untouched = frozen.predict(batch.x_t, batch.t, condition)
        seen.append(
            (apart(batch.originals(batch.concept)[0], untouched), apart(batch.teacher(batch.concept), untouched))
        )
        return loss(self, batch, config)

    monkeypatch.setattr(ESD, "loss", looked)
    more = {**SMALL, "steps": 2, "sampler_steps": 3, "anchor": "car", "first": "uce", "weights": "full", "lr": 1e-9}
    erase(pipe, ["cat"], "esd", **more)
    for original, teacher in seen:
        assert original < 1e-8
        assert teacher > 1e-5


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("receler", {"ema": 0.9}, "does not read 'ema'"),
        ("slug", {"lr": 1e-3}, "does not read 'lr'"),
        ("ace", {"retain_weight": 0.0, "combine": "project"}, "'combine' is read with retain_weight above 0"),
        ("salun", {"retain_weight": 0.0, "retain_on": "anchor"}, "'retain_on' is read with retain_weight above 0"),
        ("esd", {"sparsity": 1.0, "ema": 0.9}, "'sparsity' is read with .* ema is 0.9"),
        ("selective-amnesia", {"retain_on": "latents"}, "does not tell what matters"),
        ("slug", {"retain_on": "latents"}, "retain_on was latents"),
        ("slug", {"retain_weight": 3.0}, "does not read 'retain_weight'"),
        ("slug", {"sampler_steps": 3}, "does not read 'sampler_steps'"),
        ("slug", {"guidance": 1.0}, "does not read 'guidance'"),
        ("slug", {"tracker": "tensorboard"}, "does not read 'tracker'|no tracker"),
        ("slug", {"by": "student"}, "by was student"),
        ("receler", {"by": "mean"}, "by=mean needs a running mean of the weights, and this method keeps none"),
        ("spm", {"weights": "full"}, "the gate opens adapters"),
        ("realera", {"near": 2.0, "far": 1.0}, "near was 2 and far 1"),
        ("esd", {"target": "guidance", "train": "text_encoder", "anchor": "car"}, "use train=denoiser"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(pipe, method, settings, message):
    sees = Context(judge=lambda images, names: [True] * len(images))
    with pytest.raises(SettingError, match=message):
        erase(pipe, ["cat"], method, context=sees, vocabulary=None, preserve=["dog"], **settings)


@pytest.mark.parametrize("method", ["forget-me-not", "mace-full"])
def test_attention_is_trained_with_checkpointing_too(pipe, method):
    edits = [
        erase(pipe, ["cat"], method, **{**SMALL, "steps": 2, "pictures": 2}, checkpointing=on) for on in (False, True)
    ]
    for path in edits[0].paths:
        weight = family_of(pipe).parameter(path).detach()
        torch.testing.assert_close(edits[1].delta(path, weight), edits[0].delta(path, weight), rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings("error:.*checkpointing.*deprecated")
def test_words_are_learnt_with_checkpointing_too(pipe):
    more = {**SMALL, "steps": 2, "sampler_steps": 3, "warmup_steps": 0, "attack_steps": 2}
    plain, again = (erase(pipe, ["cat"], "advunlearn", **more, checkpointing=on) for on in (False, True))
    for path in plain.paths:
        weight = family_of(pipe).parameter(path).detach()
        torch.testing.assert_close(again.delta(path, weight), plain.delta(path, weight), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("erase_loss", "warned"), [(0.0, True), (0.1, False)])
def test_a_second_stage_that_finds_nothing_to_do_says_so(monkeypatch, recwarn, erase_loss, warned):
    losses = [{"step": 1, "loss": 0.5, "erase": 0.0, "retain": 0.5}, {"step": 2, "loss": 0.5, "erase": erase_loss}]
    monkeypatch.setattr(Stepped, "train", lambda self, problem, config: TrainingResult({}, {"losses": losses}))
    TRCE().train(None, TRCEConfig())
    assert any("first stage alone" in str(w.message) for w in recwarn) == warned
