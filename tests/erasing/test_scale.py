"""Many concepts: from files, changed later, fused; text states kept between calls."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from conftest import tiny_pipe
from entry_points import Entry
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field
from torch.testing import assert_close

from excise import Concept, Edit, advise, erase, fuse, update
from excise.concepts.concept import TEMPLATES, as_concepts, fill
from excise.concepts.concept_file import read_concepts
from excise.erasing.advise import Point, between, knee
from excise.erasing.erase import Naming, decide
from excise.errors import ConceptError, ExciseWarning, IllConditionedError, SettingError, WrongBaseError
from excise.families import family_of
from excise.families.text_cache import encode_known
from excise.linalg.solves import solve_spd
from excise.methods import METHODS
from excise.methods.base import Context
from excise.methods.closed_form.text_problem import encode
from excise.methods.closed_form.uce import UCE
from excise.methods.closed_form.uce_config import UCEConfig
from excise.registry import Record
from excise.support.settings import Usual


@pytest.fixture(scope="module")
def mixed_pipe(tokenizer):
    return tiny_pipe(tokenizer)


CLOSED = ("cure", "mace", "rece", "scapre", "speed", "uce")


def deltas(edit: Edit, pipe) -> dict[str, torch.Tensor]:
    return {p: edit.delta(p, family_of(pipe).denoiser.get_submodule(p).weight.double()) for p in edit.paths}


def alike(one: Edit, two: Edit, pipe) -> None:
    first, second = deltas(one, pipe), deltas(two, pipe)
    assert first.keys() == second.keys()
    for path, delta in first.items():
        assert_close(delta, second[path], rtol=1e-5, atol=1e-6 * float(1 + delta.abs().max()))


def test_concepts_from_every_kind_of_file(tmp_path):
    text, table, yaml = (tmp_path / f"c.{end}" for end in ("txt", "csv", "yaml"))
    text.write_text("# asked for in March\ncat\n\n  red panda \n", encoding="utf-8")
    table.write_text('name, kind, synonyms, anchor\ncat,,"kitty; mog",\n"Gogh, Vincent van",style,,art\n,,,\n')
    yaml.write_text("- cat\n- {name: Van Gogh, kind: style, synonyms: [Vincent], anchor: ''}\n")
    assert read_concepts(text) == [Concept("cat"), Concept("red panda")]
    assert read_concepts(table) == [
        Concept("cat", "object", None, ("kitty", "mog")),
        Concept("Gogh, Vincent van", "style", "art"),
    ]
    assert read_concepts(yaml, "instance") == [
        Concept("cat", "instance"),
        Concept("Van Gogh", "style", "", ("Vincent",)),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.txt", "# nothing\n", "holds no concepts"),
        ("c.csv", "who\ncat\n", "has the columns who; expected `name`"),
        ("c.csv", "name\ncat,dog\n", "line 2: more cells than the header"),
        ("c.csv", "name,kin\ncat,object\n", "entry 1: unknown key 'kin'. Did you mean 'kind'"),
        ("c.csv", "name,kind\ncat,objekt\n", "Did you mean 'object'"),
        ("c.yaml", "cat: 1\n", "holds dict; expected a list"),
        ("c.yaml", "- [cat\n", "is no YAML"),
        ("c.yaml", "- {name: 3}\n", "entry 1: 'name': input should be a valid string"),
        ("c.txt", "cat\n{dog\n", "entry 2: the concept '{dog' contains '{'"),
        ("c.csv", "name,kind\ncat,\ndog,objekt\n", "entry 2: .*no concept kind 'objekt'"),
    ],
)
def test_bad_files_are_refused_by_the_row(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(Exception, match=message) as found:
        read_concepts(tmp_path / name)
    assert "excise.errors" in type(found.value).__module__
    with pytest.raises(ConceptError, match="cannot read concepts"):
        read_concepts(tmp_path / "none.txt")


def test_one_word_cannot_belong_to_two_concepts():
    with pytest.raises(ConceptError, match="'kitty' belongs to 'cat' and to 'kitty'"):
        as_concepts([Concept("cat", synonyms=("kitty",)), "kitty"])
    with pytest.raises(ConceptError, match="'Pet' belongs to 'cat' and to 'dog'"):
        as_concepts([Concept("cat", synonyms=("pet",)), Concept("dog", synonyms=("Pet",))])


@pytest.mark.parametrize("method", CLOSED)
def test_an_updated_edit_is_the_one_made_from_scratch(any_pipe, method):
    settings = {"threshold": 5.0} if method == "speed" else {}
    start = erase(any_pipe, ["cat", "house", "tree"], method=method, preserve=["dog"], **settings)
    cat = Concept("fish", synonyms=("car",))
    now = update(any_pipe, start, add=[cat], drop=["house"])
    scratch = erase(any_pipe, ["cat", "tree", cat], method=method, preserve=["dog"], **settings)
    assert now.record == scratch.record
    assert all(torch.equal(t, scratch.tensors()[k]) for k, t in now.tensors().items())


MIXED = [
    Concept("cat"),
    Concept("dog", "instance"),
    Concept("fish", "style"),
    Concept("tree", "style", "a drawing"),
    Concept("house", "object", ""),
    Concept("car", "person", None, ("boat",)),
]


@settings(max_examples=12)
@given(data=st.data())
def test_an_edit_of_mixed_kinds_updated_in_any_order_is_the_one_made_from_scratch(mixed_pipe, data):
    """What presets of one kind decided does not reach the concepts of another."""
    method = data.draw(st.sampled_from(["uce", "scapre"]))
    more = data.draw(st.sampled_from([{}, {"anchor": "bird"}, {"preset": "style"} if method == "uce" else {}]))
    first = data.draw(st.lists(st.sampled_from(MIXED), min_size=1, unique=True))
    edit, now = erase(mixed_pipe, first, method, vocabulary=None, preserve=["sun"], **more), list(first)
    for _ in range(data.draw(st.integers(1, 3))):
        dropped = data.draw(st.lists(st.sampled_from(now), unique=True, max_size=len(now)))
        absent = [c for c in MIXED if c not in now]
        added = data.draw(st.lists(st.sampled_from(absent), unique=True)) if absent else []
        if not (dropped or added) or not [c for c in now if c not in dropped] + added:
            continue
        edit = update(mixed_pipe, edit, added, [c.name for c in dropped])
        now = [c for c in now if c not in dropped] + added
    scratch = erase(mixed_pipe, now, method, vocabulary=None, preserve=["sun"], **more)
    assert edit.record == scratch.record
    assert all(torch.equal(t, scratch.tensors()[k]) for k, t in edit.tensors().items())


def test_an_edit_whose_record_does_not_tell_what_was_given_is_updated_by_the_presets(mixed_pipe):
    start = erase(mixed_pipe, [MIXED[0], MIXED[3]], "uce", vocabulary=None, preserve=["sun"], erase_scale=0.5)
    old = replace(start, record=start.record.model_copy(update={"given": None}))
    now = update(mixed_pipe, old, add=[MIXED[2]], drop=["cat"])
    scratch = erase(mixed_pipe, [MIXED[3], MIXED[2]], "uce", vocabulary=None, preserve=["sun"], erase_scale=0.5)
    assert now.record.concepts == scratch.record.concepts
    assert all(torch.equal(t, scratch.tensors()[k]) for k, t in now.tensors().items())


def test_a_setting_of_a_record_that_nothing_reads_does_not_keep_an_edit_from_being_updated(mixed_pipe):
    """Earlier versions took such settings, and whoever updates the edit cannot take them out of it."""
    start = erase(mixed_pipe, [MIXED[0], MIXED[3]], "rece", vocabulary=None, preserve=["sun"], rounds=0)
    given = start.record.given.model_copy(update={"settings": {"rounds": 0, "hold": 0.5}})
    now = update(mixed_pipe, replace(start, record=start.record.model_copy(update={"given": given})), drop=["cat"])
    scratch = erase(mixed_pipe, [MIXED[3]], "rece", vocabulary=None, preserve=["sun"], rounds=0)
    assert now.record == scratch.record
    assert all(torch.equal(t, scratch.tensors()[k]) for k, t in now.tensors().items())


def test_a_setting_must_be_read_by_the_kind_whose_settings_are_used():
    """ScaPre's program scores rows for objects, and not for explicit content, of which the anchor alone is taken."""
    mixed, given = [Concept("cat"), Concept("nudity", "explicit")], {"preset": "official", "temperature": 0.5}
    with pytest.warns(ExciseWarning, match="kind explicit have other settings of scapre than object"):
        _, config = decide(mixed, "scapre", given, Naming(vocabulary=None), Usual())
    assert config.temperature == 0.5
    with pytest.raises(SettingError, match="'temperature' is read with relevance=mask, and relevance is 'none'"):
        decide(mixed[::-1], "scapre", given, Naming(vocabulary=None), Usual())


@pytest.mark.parametrize("method", ["uce", "scapre", "cure"])
def test_the_order_of_concepts_does_not_matter_where_nothing_is_drawn(pipe, method):
    settings = {"relevance": "cosine", "mu": 0.1} if method == "scapre" else {}
    one, two = (erase(pipe, names, method=method, **settings) for names in (["cat", "dog"], ["dog", "cat"]))
    alike(one, two, pipe)


def test_with_kept_states_only_the_new_concept_is_encoded(any_pipe, tmp_path, monkeypatch):
    family = family_of(any_pipe)
    start = erase(family, ["cat", "house"], method="uce", preserve=["dog"], context=Context(states=tmp_path))
    encoded: list[str] = []
    tokenizer, run = next(iter(family.tokenizers.values())), type(family)._token_states

    def counting(self, ids, positions, mask):
        encoded.append(tokenizer.decode(ids[..., 0].flatten()))
        return run(self, ids, positions, mask)

    monkeypatch.setattr(type(family), "_token_states", counting)
    more = update(family, start, add=["neon fish"], states=tmp_path)
    assert "neon" in "".join(encoded)
    assert not any(word in "".join(encoded) for word in ("house", "dog"))
    encoded.clear()
    back = update(family, more, drop=["neon fish"], states=tmp_path)
    assert not encoded
    assert all(torch.equal(t, start.tensors()[k]) for k, t in back.tensors().items())
    monkeypatch.undo()
    alike(more, erase(family, ["cat", "house", "neon fish"], method="uce", preserve=["dog"]), any_pipe)


def test_a_damaged_state_is_made_again(any_pipe, tmp_path):
    family = family_of(any_pipe)
    wanted = encode_known(family, ["a cat", "a dog"], ["cat", None], tmp_path)
    for path in tmp_path.rglob("*.safetensors"):
        path.write_bytes(b"cut short")
    found = encode_known(family, ["a cat", "a dog"], ["cat", None], tmp_path)
    direct = family.encode(["a cat", "a dog"], ["cat", None])
    for one in (wanted, found):
        assert_close(one.states, direct.states)
        assert torch.equal(one.read, direct.read)
        assert (one.pooled is None) == (direct.pooled is None)
        for place in ("first", "last", "end"):
            assert torch.equal(getattr(one, place), getattr(direct, place))


def test_updates_that_cannot_be(pipe):
    edit = erase(pipe, ["cat", "dog"], method="uce")
    with pytest.raises(ConceptError, match="'cow' is not in this edit, which erases cat, dog"):
        update(pipe, edit, drop=["cow"])
    with pytest.raises(ConceptError, match="'Cat' is in this edit already"):
        update(pipe, edit, add=["Cat"])
    with pytest.raises(ConceptError, match="nothing would be left"):
        update(pipe, edit, drop=["cat", "dog"])
    assert [c.name for c in update(pipe, edit, add=["cat"], drop=["cat"]).record.concepts] == ["dog", "cat"]
    with pytest.raises(ConceptError, match="was scaled"):
        update(pipe, edit.scaled(0.5), add=["fish"])
    trained = Edit(edit.record.model_copy(update={"method": "esd"}), edit.text_maps)
    with pytest.raises(ConceptError, match=r"made by esd \(trained\)"):
        update(pipe, trained, add=["fish"])
    from excise import stack

    with pytest.raises(ConceptError, match="a stack of several"):
        update(pipe, stack([edit, edit]), add=["fish"])


@pytest.mark.parametrize("method", ["uce", "speed", "surgun"])
def test_fusion_equals_its_formula(any_pipe, method):
    """W' = (sum_i (W + D_i) S_i + p W S_R + lambda W) (sum_i S_i + p S_R + lambda I)^-1, dense; the rest adds up."""
    family = family_of(any_pipe)
    few = {"steps": 2, "save_every": 2, "lr": 3e-2, "batch": 2, "pictures": 2, "count": 2}
    settings = {
        "uce": {"pooled": False},
        "speed": {"pooled": False, "threshold": 5.0},
        "surgun": {"preserve": ["car"], "confine": False, "blocks": "all", **few},
    }[method]
    edits = [erase(family, [name], method=method, **settings) for name in ("cat", "dog")]
    fused = fuse(family, edits, preserve=["tree"], vocabulary=None, retain_scale=0.7, ridge=0.3)

    def moment(word: str) -> torch.Tensor:
        prompts = Concept(word).prompts()
        states = family.encode(prompts)
        return sum(s.mT @ s for s in (states.span(i, "all").double() for i in range(len(prompts))))

    S, kept = [moment("cat"), moment("dog")], moment("tree")
    eye = torch.eye(len(kept), dtype=torch.float64)
    reading = {p.path for p in family.projections("kv")}
    assert reading & set(fused.paths)
    for path in fused.paths:
        W = family.denoiser.get_submodule(path).weight.double()
        if path not in reading:
            assert_close(fused.delta(path, W), sum(e.delta(path, W) for e in edits))
            continue
        left = sum((W + e.delta(path, W)) @ s for e, s in zip(edits, S, strict=True)) + W @ (0.7 * kept + 0.3 * eye)
        wanted = left @ torch.linalg.inv(S[0] + S[1] + 0.7 * kept + 0.3 * eye) - W
        assert_close(fused.delta(path, W), wanted, rtol=1e-4, atol=1e-6 * float(1 + wanted.abs().max()))
    assert fused.record.method == "fusion"
    assert [r.concepts[0].name for r in fused.record.stack] == ["cat", "dog"]


def test_fusing_needs_two_edits_of_one_model(pipe, tokenizer):
    edit = erase(pipe, ["cat"], method="uce")
    with pytest.raises(ConceptError, match="1 edit given"):
        fuse(pipe, [edit])
    with pytest.raises(ConceptError, match="erased and to be preserved"):
        fuse(pipe, [edit, erase(pipe, ["dog"], method="uce")], preserve=["dog"])
    with pytest.raises(WrongBaseError):
        fuse(pipe, [edit, erase(tiny_pipe(tokenizer, seed=1), ["dog"], method="uce")])


def test_systems_beyond_use_are_said_or_refused():
    a = torch.diag(torch.tensor([1.0, 1e-14]).double())
    with pytest.warns(ExciseWarning, match="condition number above 1e"):
        solve_spd(a, torch.ones(2, 1).double())
    with pytest.warns(ExciseWarning, match="condition number above 1e"):  # positive definite with jitter alone
        solve_spd(torch.diag(torch.tensor([1.0, -1e-11]).double()), torch.ones(2, 1).double())
    with pytest.raises(IllConditionedError, match="raise the method's ridge"):
        solve_spd(torch.diag(torch.tensor([1.0, -1.0]).double()), torch.ones(2, 1).double())


def test_every_kind_has_its_own_anchor_and_the_settings_that_cannot_be_shared_are_said(pipe):
    both = [Concept("cat"), Concept("neon", "style")]
    edit = erase(pipe, both, method="uce", vocabulary=None, preserve=["tree"])
    assert [(c.name, c.anchor) for c in edit.record.concepts] == [("cat", ""), ("neon", "art")]
    alike(edit, erase(pipe, both[::-1], method="uce", vocabulary=None, preserve=["tree"]), pipe)
    with pytest.warns(ExciseWarning, match="kind person have other settings of speed than object"):
        erase(pipe, ["cat", Concept("fish", "person")], method="speed", vocabulary=None, threshold=5.0)


def test_what_is_kept_is_kept_in_the_words_of_every_kind(pipe, monkeypatch):
    asked: list[str] = []
    real = encode
    monkeypatch.setattr(
        "excise.methods.closed_form.base.encode",
        lambda f, c, retain, *a: asked.extend(retain) or real(f, c, retain, *a),
    )
    erase(pipe, [Concept("neon", "style"), Concept("cat")], method="uce", vocabulary=None, preserve=["tree"])
    for kind in ("style", "object"):
        assert set(fill(TEMPLATES[kind], "tree")) <= set(asked)


def test_speed_says_where_it_has_no_room(pipe):
    match = r"SPEED moves what the model reads of the targets by 0.0% of the way .* raise --set threshold"
    with pytest.warns(ExciseWarning, match=match):
        edit = erase(pipe, ["cat"], method="speed", vocabulary="canvas", threshold=1e-9)
    assert not any(delta.any() for delta in deltas(edit, pipe).values())


def test_more_concepts_than_directions_are_said(pipe):
    width = family_of(pipe).text_width
    words = ("cat", "dog", "tree", "car", "fish", "house")
    names = [f"{a} {b} {c}" for a in words for b in words for c in words][: width + 1]
    assert len(names) > width
    with pytest.warns(ExciseWarning, match=f"{width + 1} concepts are more than the {width} directions"):
        erase(pipe, names, method="uce")


def test_update_and_fuse_from_the_command_line(excise, model, tmp_path):
    listed = tmp_path / "asked.csv"
    listed.write_text("name,synonyms\ncat,kitty\ndog,\n")
    runs = [tmp_path / r for r in ("one", "two", "both")]
    status, out, _ = excise("erase", "--model", model, "--concept-file", listed, "--method", "uce", "--keep-states",
                            "--preserve", "fish", "--out", runs[0], "--json")  # fmt: skip
    assert status == 0
    assert json.loads(out)["concepts"] == ["cat", "dog"]
    status, out, _ = excise("update", runs[0], "--add", "tree", "--drop", "cat", "--json")
    assert status == 0
    assert json.loads(out)["concepts"] == ["dog", "tree"]
    assert (runs[0] / "states").is_dir()
    assert excise("erase", "--model", model, "-c", "car", "--method", "uce", "--out", runs[1])[0] == 0
    files = [r / "edit.safetensors" for r in runs[:2]]
    status, out, _ = excise("fuse", *files, "--preserve", "fish", "--out", runs[2], "--json")
    assert status == 0
    assert json.loads(out)["method"] == "fusion"
    before = files[0].read_bytes()
    for wrong, message in (
        (("update", runs[0], "--drop", "cow"), "is not in this edit"),
        (("update", runs[0]), "nothing to change"),
        (("update", runs[0], "--add", "fish"), "is among the names that this edit preserves"),
        (("update", tmp_path / "none", "--drop", "cow"), "edit.safetensors"),
        (("fuse", files[0], "--out", runs[2]), "needs at least two"),
        (("erase", "--model", model, "--out", runs[2]), "no concept given"),
    ):
        status, _, error = excise(*wrong)
        assert status == 2
        assert message in error
    assert files[0].read_bytes() == before


class Lazy:
    """A judge that goes by how far a picture is from the first one it saw of the same thing."""

    name = "lazy"

    def __init__(self, far: float) -> None:
        self.far, self.known = far, {}

    def sees(self, images, names):
        found = []
        for i, (image, name) in enumerate(zip(images, names, strict=True)):
            x = torch.tensor(list(image.tobytes()), dtype=torch.float)
            found.append(bool((self.known.setdefault((i, name), x) - x).norm() <= self.far))
        return found


@pytest.mark.parametrize("method", CLOSED)
def test_a_strength_is_swept_and_the_best_balance_taken(pipe, method):
    pipe.set_progress_bar_config(disable=True)
    settings = {"vocabulary": None, **({"threshold": 5.0} if method == "speed" else {})}
    advice = advise(pipe, ["cat"], method, preserve=["dog", "tree"], context=Context(judge=Lazy(60.0)), **settings)
    setting, values = METHODS.load(method).Config.sweep
    assert advice.setting == setting
    tried = [p.value for p in advice.curve]
    assert tried == sorted(tried, reverse=values[0] > values[-1])
    swept = [p for p in advice.curve if p.value in values]
    assert [p.value for p in swept] == list(values)
    assert [p.value for p in advice.curve if p not in swept] == sorted(between(swept), reverse=values[0] > values[-1])
    best = max(p.h for p in advice.curve)
    chosen = next(p for p in advice.curve if p.value == advice.chosen)
    assert chosen.h >= best - 0.01
    assert advice.edit.record.settings[setting] == advice.chosen
    assert advice.edit.record.measured["advice"]["judge"] == "lazy"
    alone = erase(pipe, ["cat"], method, preserve=["dog", "tree"], **{**settings, setting: advice.chosen})
    assert all(torch.equal(t, alone.tensors()[k]) for k, t in advice.edit.tensors().items())


def test_the_sweep_goes_from_harsh_to_gentle(pipe):
    """At its last value less moves than at its first: of what is kept where its weight is swept, else of the target."""
    family = family_of(pipe)
    encoded = family.encode(["cat", "dog"], ["cat", "dog"])
    cat, dog = (encoded.span(i, "last")[0].double() for i in range(2))
    for method in CLOSED:
        # The empty prompt's states fill so narrow a space: RECE would have no room beside them.
        own = {"speed": {"threshold": 5.0}, "scapre": {"relevance": "none"}, "rece": {"fixed": "start"}}
        settings = own.get(method, {})
        setting, values = METHODS.load(method).Config.sweep
        ends = [
            erase(
                pipe,
                ["cat"],
                method,
                preserve=["dog"],
                vocabulary=None,
                tokens="last",
                **settings,
                **{setting: values[i]},
            )
            for i in (0, -1)
        ]
        watched = dog if setting == "retain_scale" else cat
        moved = [sum(float((d @ watched).norm()) for d in deltas(e, pipe).values()) for e in ends]
        assert moved[0] > moved[1], method


@pytest.mark.parametrize(
    ("points", "wanted"),
    [
        ([(1, 1.0, 0.2), (2, 0.9, 0.9), (3, 0.2, 1.0)], 1),
        ([(1, 1.0, 0.9), (2, 0.9, 1.0)], 1),  # a tie goes to the one that keeps more
        ([(1, 1.0, 1.0), (2, 1.0, 1.0), (3, 0.0, 1.0)], 1),
    ],
)
def test_the_knee(points, wanted):
    assert knee([Point(*p) for p in points]) == wanted


def test_values_between_those_of_a_sweep_are_next_to_its_best():
    def curve(*points):
        return [Point(*p) for p in points]

    assert between(curve((1.0, 1.0, 0.2), (4.0, 0.9, 0.9), (16.0, 0.2, 1.0))) == [2.0, 8.0]
    assert between(curve((0.0, 1.0, 0.9), (4.0, 0.2, 0.9))) == [2.0]  # no geometric mean with zero
    assert between(curve((8.0, 0.0, 1.0), (2.0, 0.5, 0.9), (0.5, 1.0, 0.9))) == [1.0]  # downwards, the best an end


def test_strengths_that_cannot_be_chosen(pipe):
    def judged(by, method="uce", **more):
        return advise(pipe, ["cat"], method, context=Context(judge=by), **{"preserve": ["dog"], **more})

    with pytest.raises(ConceptError, match="without looking; give --judge"):
        judged(None)
    with pytest.raises(ConceptError, match="nothing to keep"):
        judged(Lazy(1.0), preserve=[])
    with pytest.raises(SettingError, match="sweeps 'retain_scale' itself"):
        judged(Lazy(1.0), retain_scale=1.0)
    with pytest.raises(SettingError, match="esd has no strength to sweep"):
        judged(Lazy(1.0), "esd")
    with pytest.raises(ConceptError, match="sees nothing of what is to be kept"):
        judged(lambda images, names: [n == "cat" for n in names])
    with pytest.raises(ConceptError, match="never sees 'cat'"):
        judged(lambda images, names: [False] * len(images))


class Strong(UCEConfig):
    """Settings of a method that has one called strength."""

    strength: float = Field(2.0, description="Strength.")


class StrongUCE(UCE):
    Config = Strong


def test_an_edit_of_a_method_with_a_setting_called_strength_is_scaled_and_updated(pipe, tmp_path, registered):
    record = Record(f"{__name__}:StrongUCE", "a test", shape="closed-form", needs=frozenset({"static_text"}))
    registered(Entry("strong", record))
    edit = erase(pipe, ["cat"], method="strong", strength=3.0, vocabulary=None)
    assert (edit.strength, edit.record.settings["strength"], edit.record.is_scaled) == (1.0, 3.0, False)
    more = update(pipe, edit, add=["dog"])
    assert more.record == erase(pipe, ["cat", "dog"], method="strong", strength=3.0, vocabulary=None).record
    half = Edit.load(edit.scaled(0.5).save(tmp_path / "half.safetensors"))
    assert (half.strength, half.record.settings["strength"], half.record.is_scaled) == (0.5, 3.0, True)
    assert half.scaled(0.5).strength == 0.25
    with pytest.raises(ConceptError, match="was scaled"):
        update(pipe, half, add=["dog"])


def test_the_record_of_any_other_method_has_no_key_for_its_scale(pipe):
    edit = erase(pipe, ["cat"], method="uce")
    assert "scale" not in edit.record.model_dump(mode="json")
    assert "scale" not in edit.scaled(0.5).record.model_dump(mode="json")
