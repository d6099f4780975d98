"""EraseAnything: both levels beside references from the formula, the mended defects apart, and whose turn it is."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from situations import stopping_at
from torch.testing import assert_close

from excise import Concept, erase
from excise.edits.deltas import LowRank
from excise.errors import SettingError
from excise.families import family_of
from excise.families.trajectories import partial_denoise
from excise.methods.base import Context
from excise.methods.trained.eraseanything import (
    EraseAnything,
    Level,
    Turns,
    log_share,
    mass,
    preserve_loss,
    unrelated_names,
)
from excise.methods.trained.eraseanything import levels as levels_of
from excise.methods.trained.eraseanything_config import EraseAnythingConfig
from excise.methods.trained.material import trajectories
from excise.training.adapters import Adapter
from excise.training.problem import TrainingProblem

SMALL = {"steps": 2, "lr": 1e-2, "sampler_steps": 3, "pictures": 2, "unrelated": 1, "vocabulary": None}
KEEP = {"preserve": ["dog", "tree"]}
TEMPLATES = ("a photo of a {}", "{} at night")


@pytest.fixture(params=["flux-dev", "sd3"])
def pipe(request, make):
    return make(request.param)


@pytest.fixture(autouse=True)
def few(few_steps):
    """Pictures are drawn in two steps."""


class Bench:
    """A LoRA that does something, the untouched model beside it, and one batch."""

    def __init__(self, pipe, config: EraseAnythingConfig, concept: Concept) -> None:
        self.config, self.concept = config, concept
        self.frozen = family_of(copy.deepcopy(pipe))
        self.family = family_of(pipe)
        self.problem = TrainingProblem(self.family, [concept], {"object": TEMPLATES}, preserve=("dog", "tree"))
        self.weights = Adapter(self.family, EraseAnything().targets(self.family, config), 2, 0)

    def __enter__(self) -> Bench:
        self.weights.__enter__()
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for p in self.weights.parameters.values():
                p.add_(0.2 * torch.randn(p.shape, generator=generator))
        pictures = torch.randn(2, *self.family.latent_shape, generator=generator)
        names = [unrelated_names(self.problem, self.concept)]
        kept = (["a red car", "a tree"], pictures)
        (self.level,) = levels_of(self.problem, self.config, self.weights, names, kept)
        self.batch = self.level.source.batch(torch.Generator().manual_seed(0))
        return self

    def __exit__(self, *error: object) -> None:
        self.weights.__exit__(*error)

    def prompts(self, word: str) -> list[str]:
        """A name in the templates of the batch's rows."""
        return [TEMPLATES[row % 2].replace("{}", word) for row in self.batch.concept.rows.tolist()]

    def words(self) -> list[str]:
        """The concept's words in the batch's rows."""
        return [self.concept.words[row // 2] for row in self.batch.concept.rows.tolist()]

    def texts(self, words: list[str]) -> list[str]:
        rows = self.batch.concept.rows.tolist()
        return [TEMPLATES[row % 2].replace("{}", w) for row, w in zip(rows, words, strict=True)]


def maps_of(family, condition, x, t, monkeypatch) -> tuple[list[torch.Tensor], torch.Tensor]:
    """What the fused kernel of each joint layer weighs by, picture to text, and the prediction."""
    seen: list[torch.Tensor] = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def spy(query, key, value, attn_mask=None, **more):
        picks = torch.eye(key.shape[-2]).expand(*key.shape[:-2], -1, -1)
        seen.append(fused(query, key, picks, attn_mask=attn_mask))
        return fused(query, key, value, attn_mask=attn_mask, **more)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
        prediction = family.predict(x, t, condition)
    text = condition.inputs["encoder_hidden_states"].shape[1]
    count = len([m for m in family.maps("joint") if m.part == "add_k"])
    joint = [m for m in seen if m.shape[-1] > text][:count]
    picture = joint[0].shape[-1] - text
    last = family.name == "sd3"  # where the text's rows stand behind those of the picture
    return [m[..., :picture, picture:] if last else m[..., text:, :text] for m in joint], prediction


def tokens(family, texts: list[str], words: list[str]) -> list[list[int]]:
    chosen = family.encode(texts, words).chosen(range(len(texts)), "subject")
    return [row.nonzero().flatten().tolist() for row in chosen]


def test_the_erase_level_is_that_of_the_formula(pipe, monkeypatch):
    config = EraseAnythingConfig(
        batch=2, sampler_steps=3, eta=0.7, erase_weight=0.8, attention_weight=0.3, temperature=0.5
    )
    with Bench(pipe, config, Concept("cat", synonyms=("kitty",), anchor="dog")) as bench:
        batch, frozen, family = bench.batch, bench.frozen, bench.family
        loss = EraseAnything().loss(batch, config)
        texts, x, t = bench.texts(bench.words()), batch.x_t, batch.t
        maps, prediction = maps_of(family, family.condition(texts), x, t, monkeypatch)
        suppressed = 0.0
        for attention in maps:
            for b, positions in enumerate(tokens(family, texts, bench.words())):
                for token in positions:
                    squares = [v**2 for v in attention[b, :, :, token].flatten().tolist()]
                    suppressed += math.sqrt(sum(squares)) / (len(maps) * len(texts))
        neutral = frozen.predict(x, t, frozen.condition(bench.prompts("dog")))
        of_c = frozen.predict(x, t, frozen.condition(texts))
        negated = neutral - 0.7 * (of_c - neutral)
        wanted = 0.8 * (prediction - negated).square().mean() + 0.3 * suppressed
        assert suppressed > 0
        assert_close(loss, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("synonyms", [(), ("kitty",)])
@pytest.mark.parametrize("one_sided", [False, True])
def test_the_preserve_level_is_that_of_the_formula(pipe, monkeypatch, synonyms, one_sided):
    config = EraseAnythingConfig(
        batch=2,
        sampler_steps=3,
        flow_weight=0.4,
        contrast_weight=0.6,
        temperature=0.5,
        unrelated=2,
        one_sided=one_sided,
    )
    with Bench(pipe, config, Concept("cat", synonyms=synonyms)) as bench:
        batch, family, x, t = bench.batch, bench.family, bench.batch.x_t, bench.batch.t
        loss = preserve_loss(bench.level, batch, torch.Generator().manual_seed(5), config)
        draws = torch.Generator().manual_seed(5)
        rows = torch.randint(2, (2,), generator=draws)
        noise = torch.randn(2, *family.latent_shape, generator=draws)
        s = family.noising.times(2, generator=draws)
        share = (s / 1000).view(-1, 1, 1, 1)
        clean = bench.level.pictures[rows]
        guess = family.predict(
            (1 - share) * clean + share * noise, s, family.condition([["a red car", "a tree"][i] for i in rows])
        )
        flow = (guess - (noise - clean)).square().mean()

        def read(model, words: list[str]) -> torch.Tensor:
            """F: over layers and positions, the mean over heads and tokens."""
            texts = bench.texts(words)
            maps, _ = maps_of(model, model.condition(texts), x, t, monkeypatch)
            places = tokens(model, texts, words)
            parts = [[m[b][:, :, at].mean(dim=(0, 2)) for m in maps] for b, at in enumerate(places)]
            return torch.stack([torch.cat(part) for part in parts])

        words = bench.words()
        other = [w if not synonyms else {"cat": "kitty", "kitty": "cat"}[w] for w in words]
        own, synonym = read(family, words), read(bench.frozen, other)
        unrelated = [read(family, [name] * 2) for name in ("dog", "tree")]
        total = 0.0
        for b in range(2):
            centre, one = (synonym[b], own[b]) if one_sided else (own[b], synonym[b])
            near = [torch.cosine_similarity(centre, o, dim=0) for o in (one, *(u[b] for u in unrelated))]
            z = [math.exp(float(value) / 0.5) for value in near]
            total += math.log(z[0] / sum(z)) / 2
        assert_close(loss, 0.4 * flow + 0.6 * total, rtol=1e-4, atol=1e-6)


def test_the_contrast_by_hand_and_its_direction():
    centre = torch.tensor([[1.0, 0.0]], requires_grad=True)
    one, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]], requires_grad=True)
    value = log_share(centre, one, [other, other], 1.0)
    assert float(value) == pytest.approx(math.log(math.e / (math.e + 2)))
    value.backward()
    assert float(centre.grad[0, 1]) < 0  # a step down takes the centre towards what is unrelated,
    assert float(other.grad[0, 0]) < 0  # and that towards the centre


def test_mass_is_of_the_words_tokens_alone():
    maps, words = [torch.rand(2, 3, 4, 5)], torch.tensor([[True, False, False, False, False]] * 2)
    louder = [maps[0].clone()]
    louder[0][..., 1:] *= 7
    assert_close(mass(maps, words), mass(louder, words))
    assert_close(mass([2 * maps[0]], words), 2 * mass(maps, words))
    assert float(mass(maps, words & False)) == 0


def test_only_the_texts_queries_and_keys_are_trained_and_levels_alternate(pipe):
    edit = erase(pipe, ["cat"], "eraseanything", **{**SMALL, **KEEP, "steps": 4, "attention_weight": 0.0})
    family = family_of(pipe)
    assert set(edit.paths) == {m.path for m in family.maps("joint") if m.part in ("add_q", "add_k")}
    assert all(path.endswith(("add_q_proj", "add_k_proj")) for path in edit.paths)
    assert {type(d) for d in edit.modules.values()} == {LowRank}
    assert all(0 < line["gradient"] < math.inf for line in edit.record.measured["losses"])


def test_turns_are_of_steps_not_of_passes():
    turns = Turns(2)
    assert [turns.erases() for _ in range(7)] == [True, True, False, False, True, True, False]
    again = Turns(2)
    again.load_state_dict(turns.state_dict())
    assert [again.erases() for _ in range(3)] == [turns.erases() for _ in range(3)] == [False, True, True]


def test_what_no_formula_shows_changes_what_is_trained(make):
    def trained(**more):  # a LoRA begins with no change, so that the first step has nothing to take back
        return erase(make("flux-dev"), ["cat"], "eraseanything", **{**SMALL, "steps": 3, **KEEP, **more})

    plain = trained()
    settings = {
        "balance": "implicit",
        "teacher_lora": True,
        "matched_time": False,
        "one_sided": True,
        "retain_weight": 10.0,
    }
    for name, value in settings.items():
        other = trained(**{name: value})
        assert all(0 < line["gradient"] < math.inf for line in other.record.measured["losses"]), name
        assert plain.paths == other.paths
        assert any(not torch.equal(t, other.tensors()[path]) for path, t in plain.tensors().items()), name


def test_official_and_mended_draw_the_same(pipe):
    """Defects differ in nothing but themselves: the same target, noise, prompts and names for the same seed."""

    def drawn(**defects) -> tuple[Level, torch.Tensor]:
        config = EraseAnythingConfig(batch=2, sampler_steps=3, by="teacher", **defects)
        with Bench(pipe, config, Concept("cat")) as bench:
            return bench.batch.concept.rows, bench.batch.x_t, bench.batch.t

    rows, _, t = drawn()
    same_rows, x_end, other_t = drawn(matched_time=False)
    assert torch.equal(rows, same_rows)
    assert not torch.equal(t, other_t)
    config = EraseAnythingConfig(batch=2, sampler_steps=3, by="teacher")
    with Bench(pipe, config, Concept("cat")) as bench:
        source = bench.level.source
        draws = torch.Generator().manual_seed(0)
        torch.randint(1, (1,), generator=draws), torch.randint(2, (2,), generator=draws)
        torch.randint(3, (1,), generator=draws)
        noise = torch.randn(2, *bench.family.latent_shape, generator=draws)
        c, free = source.concepts[0][rows].teacher, source.empty[torch.zeros(2, dtype=torch.long)].teacher
        with bench.weights.teacher():
            end, last = partial_denoise(bench.family, c, free, noise, steps=3, done=3, guidance=1.0)
    assert_close(x_end, end)
    assert last.tolist() == [0, 0]


@pytest.mark.parametrize("defect", [{"matched_time": False}, {"teacher_lora": True}, {"one_sided": True}])
def test_a_defect_leaves_the_draws_of_the_preserve_level_alone(make, monkeypatch, defect):
    draws: list[torch.Tensor] = []

    def recorded(family, plan, clean, noise, t, condition):
        draws.append(torch.cat([noise.flatten(), clean.flatten(), t]))
        return torch.zeros(len(noise), requires_grad=True)

    monkeypatch.setattr("excise.methods.trained.eraseanything.errors", recorded)
    for settings in ({}, defect):
        config = EraseAnythingConfig(batch=2, sampler_steps=3, balance="implicit", **settings)
        with Bench(make("flux-dev"), config, Concept("cat")) as bench:
            step = EraseAnything().steps([bench.level], Turns(1), config)
            step(torch.Generator().manual_seed(7))
    assert torch.equal(*draws)


def test_a_published_defect_makes_the_teacher_follow_the_student(pipe):
    config = EraseAnythingConfig(batch=2, sampler_steps=3, eta=0.0, attention_weight=0.0, teacher_lora=True)
    with Bench(pipe, config, Concept("cat", anchor="cat")) as bench:
        assert float(EraseAnything().loss(bench.batch, config)) == 0  # whatever the LoRA is
        mended = config.model_copy(update={"teacher_lora": False})
        assert float(EraseAnything().loss(bench.batch, mended)) > 0


def test_unrelated_names_learn_unless_the_contrast_is_one_sided(pipe):
    def reached(one_sided: bool) -> bool:
        config = EraseAnythingConfig(batch=1, sampler_steps=3, flow_weight=0.0, one_sided=one_sided)
        with Bench(pipe, config, Concept("cat")) as bench:
            condition = bench.level.unrelated.frozen
            states = condition.inputs["encoder_hidden_states"].requires_grad_(True)
            preserve_loss(bench.level, bench.batch, torch.Generator().manual_seed(0), config).backward()
            return states.grad is not None and float(states.grad.abs().max()) > 0

    assert reached(False)
    assert not reached(True)


def test_the_concepts_tokens_lose_attention(make):
    pipe = make("flux-dev")
    family = family_of(pipe)
    x, t = torch.randn(4, *family.latent_shape, generator=torch.Generator().manual_seed(0)), torch.full((4,), 500)

    def attended() -> float:
        texts, patch = ["a photo of a cat"] * 4, pytest.MonkeyPatch()
        maps, _ = maps_of(family, family.condition(texts), x, t, patch)
        at = tokens(family, texts, ["cat"] * 4)[0]
        return float(sum(m[..., at].sum() for m in maps))

    before = attended()
    settings = {**SMALL, **KEEP, "steps": 8, "lr": 3e-2, "balance": "implicit"}
    weights = {"erase_weight": 0.0, "attention_weight": 1.0, "flow_weight": 0.0}
    with erase(pipe, ["cat"], "eraseanything", **settings, **weights).apply(pipe):
        assert attended() < 0.9 * before


def test_an_interrupted_training_keeps_its_turn(make, tmp_path):
    settings = {**SMALL, **KEEP, "steps": 6, "save_every": 3}

    with pytest.raises(KeyboardInterrupt):
        erase(
            make("flux-dev"), ["cat"], "eraseanything", context=Context(folder=tmp_path, say=stopping_at(4)), **settings
        )
    resumed = erase(make("flux-dev"), ["cat"], "eraseanything", context=Context(folder=tmp_path), **settings)
    whole = erase(make("flux-dev"), ["cat"], "eraseanything", **settings)
    assert all(torch.equal(t, resumed.tensors()[name]) for name, t in whole.tensors().items())


def test_noised_pictures_are_refused(pipe):
    """Its latents are denoised; those of by=images would be passed over."""
    with pytest.raises(SettingError, match="by was images"):
        erase(pipe, ["cat"], "eraseanything", by="images", **SMALL, **KEEP)


def test_names_that_do_not_fit_are_left_out_and_none_at_all_is_refused(pipe):
    family = family_of(pipe)
    problem = TrainingProblem(
        family, [Concept("cat")], {"object": TEMPLATES}, candidates={"cat": ["dog", "q z " * 45, "cat"]}
    )
    assert unrelated_names(problem, problem.concepts[0]) == ["dog"]
    with pytest.raises(SettingError, match="nothing is known that 'cat' could be contrasted with"):
        unrelated_names(replace(problem, candidates={}), problem.concepts[0])


def test_recomputing_between_layers_changes_memory_alone(make):
    def losses(**more):
        edit = erase(make("flux-dev"), ["cat"], "eraseanything", **{**SMALL, **KEEP, "balance": "implicit", **more})
        return [line["loss"] for line in edit.record.measured["losses"]]

    assert losses(checkpointing=True) == pytest.approx(losses(), rel=1e-4)


def test_words_are_looked_up_only_where_a_method_asks(pipe):
    config = EraseAnythingConfig(batch=1, sampler_steps=3)
    with Bench(pipe, config, Concept("cat")) as bench:
        plain = trajectories(bench.problem, config, bench.weights).batch(torch.Generator().manual_seed(0))
        with pytest.raises(ValueError, match="were not looked up"):
            _ = plain.concept.words
        assert bench.batch.concept.words.any()


def test_a_model_in_half_precision_is_trained(make):
    pipe = make("flux-dev").to(torch.bfloat16)
    edit = erase(pipe, ["cat"], "eraseanything", **{**SMALL, **KEEP, "balance": "implicit"})
    assert all(0 < line["gradient"] < math.inf for line in edit.record.measured["losses"])
