"""Protocols for a request in the layouts of published benchmarks: EMMA, HUB and EraseEval."""

from __future__ import annotations

import json

import published
import pytest
from conftest import tiny_pipe

from excise import Concept, erase, evaluate
from excise.errors import ConceptError, JudgeError
from excise.evaluation.plan import concept_plan
from excise.families import family_of
from excise.protocols.concept import NO_JUDGE, PICTURES
from excise.protocols.emma import OTHERS

pytestmark = pytest.mark.usefixtures("few_steps")


@pytest.fixture(scope="module")
def pipe(tokenizer):
    return tiny_pipe(tokenizer)


@pytest.fixture(scope="module")
def family(pipe):
    return family_of(pipe)


@pytest.fixture
def files(tmp_path, monkeypatch):
    published.set_variables(monkeypatch, tmp_path)
    return tmp_path


def groups(plan):
    return {g: [i for i in plan.items if i.group == g] for g in dict.fromkeys(i.group for i in plan.items)}


class Sees:
    """Sees what is asked for in every picture but of the names given."""

    def __init__(self, *missed):
        self.name, self.missed = "sees", missed

    def sees(self, images, names):
        return [n not in self.missed for n in names]


class Gone(Sees):
    """Sees what is asked for in the first pictures that it is shown, and then nothing."""

    def __init__(self, first):
        super().__init__()
        self.left = first

    def sees(self, images, names):
        self.left -= len(images)
        return [self.left + len(images) > 0] * len(names)


def test_emma_has_seven_levels_of_any_concept(family, monkeypatch):
    monkeypatch.delenv("EXCISE_EMMA", raising=False)
    plan = concept_plan(family, [Concept("red panda", synonyms=("firefox",))], protocol="emma")
    by_level = groups(plan)
    assert set(by_level) == {"target", "prefix", "variant", "short", "long", "random", "hard"}
    for level in ("target", "prefix", "variant", "short", "long"):
        assert len(by_level[level]) == PICTURES
        assert {i.asked["concept"] for i in by_level[level]} == {"red panda"}
        assert {i.target for i in by_level[level]} == {None if level == "target" else "red panda"}
    assert all(i.prompt.endswith("redpanda") and not i.prompt.endswith(" redpanda") for i in by_level["prefix"])
    assert {i.prompt for i in by_level["variant"]} == {"an image of the firefox"}
    for level, count in OTHERS.items():
        assert len({i.asked["concept"] for i in by_level[level]}) == count
    assert len({plan.seed(i) for i in plan.items}) == len({(i.prompt, i.index) for i in plan.items})
    fewer = groups(concept_plan(family, ["red panda"], pictures=3, protocol="emma"))
    assert "variant" not in fewer  # no synonym is known
    assert len(fewer["short"]) == 3


def test_emma_takes_the_benchmarks_prompts_where_it_has_them(family, files):
    by_level = groups(concept_plan(family, ["Stop Sign"], protocol="emma"))
    assert [i.prompt for i in by_level["target"]] == ["an image of the stop sign"]
    assert [i.prompt for i in by_level["prefix"]] == [
        "an image of the happystop sign",
        "an image of the understop sign",
    ]
    assert [i.prompt for i in by_level["short"]] == ["A small animal with whiskers."]
    assert [i.asked for i in by_level["random"]] == [{"concept": "cat"}]  # the dog is asked for as a hard one
    assert [i.asked for i in by_level["hard"]] == [{"concept": "dog"}, {}]  # what it names is none of the benchmark's
    artist = groups(concept_plan(family, [Concept("Salvador Dalí", "style")], protocol="emma"))
    assert set(artist) == {"target", "prefix", "random"}
    assert artist["random"][0].asked == {"concept": "Paul Cezanne"}
    both = groups(concept_plan(family, ["cat", "dog"], protocol="emma"))
    assert {i.asked.get("concept") for i in (*both["random"], *both["hard"])} == {"stop sign", None}
    more = groups(concept_plan(family, ["cat"], preserve=["zebra"], pictures=3, protocol="emma"))
    assert [i.index for i in more["prefix"]] == [0, 0, 1]  # two prompts, three pictures
    assert more["random"][-1].asked == {"concept": "zebra"}
    assert len(groups(concept_plan(family, ["heron"], protocol="emma"))["prefix"]) == PICTURES  # templates


def test_emma_refuses_another_folder(family, files, monkeypatch):
    monkeypatch.setenv("EXCISE_EMMA", str(files / "hub"))
    with pytest.raises(ConceptError, match="1_name.json; expected a copy of https"):
        concept_plan(family, ["cat"], protocol="emma")
    monkeypatch.setenv("EXCISE_EMMA", str(files / "emma"))
    (files / "emma" / "object" / "4_short.json").write_text('{"cat": "a cat"}')
    with pytest.raises(ConceptError, match="4_short.json; expected a JSON list"):
        concept_plan(family, ["cat"], protocol="emma")


def test_hub_has_a_group_for_each_task(family, files):
    plan = concept_plan(family, ["snoopy"], protocol="hub")
    tasks = groups(plan)
    assert [i.prompt for i in tasks["target"]] == ["Snoopy in a park, running.", "Snoopy at sea", "Snoopy at sea"]
    assert [i.index for i in tasks["target"]] == [0, 0, 1]
    nouns = list(dict.fromkeys(i.asked["concept"] for i in tasks["pinpoint"]))
    assert nouns[:3] == ["dog", "teddy bear", "noun0"]  # without the concept itself
    assert len(tasks["pinpoint"]) == 99 * 10  # of the first hundred
    assert [i.prompt for i in tasks["german"]] == ["Snoopy 0 German", "Snoopy 1 German"]
    assert {i.target for i in (*tasks["german"], *tasks["attack"])} == {"snoopy"}
    assert [i.prompt for i in tasks["attack"]] == ["snoop moussnowy ...", ", peanuts ]"]
    assert [(i.prompt, i.asked) for i in tasks["selective"]] == [("Snoopy at sea", {"concept": "sea"})]
    assert (plan.steps, plan.guidance) == (50, 7.5)
    assert "selective" not in plan.groups
    # What a judge chooses among are ordinary names, whatever is drawn.
    assert not {"sea", "teddy bear", "noun0"} & set(plan.labels["concept"])
    few = concept_plan(family, ["snoopy"], pictures=15, protocol="hub")
    assert len(groups(few)["pinpoint"]) == 15
    assert few.labels == plan.labels


def test_hub_asks_for_no_concept_of_the_request_as_another_thing(family, files):
    published.hub(files / "hub", "Mario")
    nouns = files / "hub" / "prompts" / "pinpoint_ness" / "Mario.csv"
    nouns.write_text("noun,similarity\nsnoopy,1\nluigi,1\n")
    plan = concept_plan(family, ["Snoopy", "Mario"], protocol="hub")
    of_mario = [i.asked["concept"] for i in plan.items if i.group == "pinpoint" and i.asked["concept"][:4] != "noun"]
    assert list(dict.fromkeys(of_mario)) == ["dog", "teddy bear", "luigi"]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("hub/prompts/target_image/Snoopy.csv", '"\n\n', "HUB has no prompts for 'Snoopy'"),
        ("hub/prompts/selective_alignment/Snoopy.json", '[{"prompt": "a", "nouns": "sea"}]', "a list of texts `nouns`"),
        ("hub/prompts/selective_alignment/Snoopy.json", "[" * 100_000, "expected a JSON list"),
        ("hub/prompts/pinpoint_ness/Snoopy.csv", "noun\n" + "x" * 140_000, "Expected a CSV file, a copy of"),
        ("emma/object/1_name.json", '[{"cat": "an image of the cat"}]', "the list of its prompts"),
        ("emma/object/1_name.json", "[]", "the list of its prompts"),
        ("emma/object/1_name.json", "[" * 100_000, "expected a JSON list"),
        ("eraseeval/protocol1.json", '{"Snoopy": " "}', "JSON with a prompt by concept"),
    ],
)
def test_files_that_hold_something_else_are_refused(family, files, file, text, message):
    (files / file).write_text(text)
    with pytest.raises(ConceptError, match=message):
        concept_plan(family, ["Snoopy"], protocol=file.split("/")[0])


def test_a_missing_task_of_hub_is_named(family, files):
    (files / "hub" / "prompts" / "attack_robustness" / "Snoopy.csv").unlink()
    plan = concept_plan(family, ["Snoopy"], protocol="hub")
    assert "attack" not in plan.groups
    assert plan.notes["missing"] == "no file of attack of Snoopy"


def test_emma_asks_for_names_of_each_kind_in_its_own_template(family, monkeypatch):
    monkeypatch.delenv("EXCISE_EMMA", raising=False)
    plan = concept_plan(family, [Concept("cat"), Concept("Van Gogh", "style")], preserve=["zebra"], protocol="emma")
    styles = {
        i.asked["concept"] for i in plan.items if i.prompt.startswith("a picture in the style of") and not i.target
    }
    things = {i.asked["concept"] for i in plan.items if i.prompt.startswith("an image of the") and not i.target}
    assert styles & things <= {"zebra"}  # what the user preserves is of no known kind
    assert "zebra" in things
    retained = [(i.prompt, i.index) for i in plan.items if i.group in OTHERS]
    assert len(set(retained)) == len(retained)


def test_hub_says_what_is_missing(family, files, monkeypatch):
    with pytest.raises(ConceptError, match=r"HUB has no prompts for 'cat' .* it has Snoopy\."):
        concept_plan(family, ["cat"], protocol="hub")
    languages = files / "hub" / "prompts" / "multilingual_robustness" / "Snoopy.csv"
    languages.write_text("Original,Spanish\na,b\n")
    with pytest.raises(ConceptError, match="no column French, German, Italian, Portuguese, but Original, Spanish"):
        concept_plan(family, ["Snoopy"], protocol="hub")
    monkeypatch.setenv("EXCISE_HUB", str(files / "emma"))
    with pytest.raises(ConceptError, match="holds no folder target_image"):
        concept_plan(family, ["Snoopy"], protocol="hub")
    monkeypatch.delenv("EXCISE_HUB")
    with pytest.raises(ConceptError, match="https://github.com/ml-postech/HUB"):
        concept_plan(family, ["Snoopy"], protocol="hub")


def test_the_tasks_of_hub_become_metrics(pipe, files):
    (files / "hub" / "prompts" / "pinpoint_ness" / "Snoopy.csv").write_text("noun,similarity\ndog,1\nteddy_bear,1\n")
    edit = erase(pipe, ["Snoopy"], "uce")
    plan = concept_plan(family_of(pipe), [], [edit], protocol="hub")
    every = [*plan.groups, "selective"]
    done = evaluate(
        pipe, edits=[edit], protocol=plan, groups=every, untouched=True, judge=Sees("teddy bear"), batch=64
    ).result
    values = {key: (m["value"], m["n"]) for key, m in done.metrics.items()}
    assert values["ua"] == (0.0, 3)
    assert values["ira"] == values["ira_near"] == (0.5, 20)
    assert values["french_rate"] == values["attack_rate"] == (1.0, 2)
    assert values["selective_alignment"] == (1.0, 1)
    assert done.verdicts[0].status == "not removed"


def test_an_image_that_several_items_ask_of_is_drawn_once(pipe, files, monkeypatch):
    path = files / "hub" / "prompts" / "selective_alignment" / "Snoopy.json"
    path.write_text(json.dumps([{"prompt": "Snoopy at sea", "nouns": ["sea", "sky", "boat"]}]))
    plan = concept_plan(family_of(pipe), ["Snoopy"], protocol="hub")
    drawn = []
    real = evaluate.__globals__["draw"]
    monkeypatch.setitem(
        evaluate.__globals__, "draw", lambda f, requests, **kw: drawn.extend(requests) or real(f, requests, **kw)
    )
    done = evaluate(pipe, ["Snoopy"], protocol=plan, groups=["selective"], judge=Sees())
    assert len(drawn) == 1
    assert len(done.images) == len(done.result.shown) == 3


def test_eraseeval_has_three_criteria(family, files):
    plan = concept_plan(family, ["Snoopy"], protocol="eraseeval")
    parts = groups(plan)
    assert [(i.prompt, i.index) for i in parts["target"]] == [
        ("a dream of Snoopy among the stars", i) for i in range(5)
    ]
    assert {i.target for i in parts["implicit"]} == {"Snoopy"}
    assert "Snoopy" not in parts["implicit"][0].prompt
    assert [(i.prompt, i.seed) for i in parts["captions"]][:2] == [
        ("a street with 0 cars", 0),
        ("a street with 1 cars", 1),
    ]
    with pytest.raises(
        ConceptError, match="protocol1.json of EXCISE_ERASEEVAL has no prompt for 'cat', but for Snoopy"
    ):
        concept_plan(family, ["cat"], protocol="eraseeval")
    (files / "eraseeval" / "protocol2.json").write_text("[1]")
    with pytest.raises(ConceptError, match="expected JSON with a prompt by concept"):
        concept_plan(family, ["Snoopy"], protocol="eraseeval")


def test_eraseeval_needs_embeddings_before_anything_is_drawn(pipe, files):
    with pytest.raises(JudgeError, match="eraseeval compares images by a CLIP model; give its folder"):
        evaluate(pipe, ["Snoopy"], protocol="eraseeval", judge=Sees())


def test_eraseeval_has_four_metrics_and_a_single_score(pipe, files, clip_folder):
    edit = erase(pipe, ["Snoopy"], "uce")
    parts = ("reflected", "implicit_reflected", "alignment_kept", "quality_kept")
    unseen = evaluate(
        pipe, edits=[edit], protocol="eraseeval", untouched=True, judge=Sees("Snoopy"), judge_weights=clip_folder
    ).result
    assert "compared by" in unseen.notes
    assert not {"reflected", "implicit_reflected", "eraseeval", "ua"} & set(unseen.metrics)  # nothing that could go
    assert {"alignment_kept", "quality_kept"} <= set(unseen.metrics)
    done = evaluate(
        pipe, edits=[edit], protocol="eraseeval", untouched=True, judge=Gone(10), judge_weights=clip_folder
    ).result
    assert {*parts, "eraseeval", "implicit_rate", "clip_score"} <= set(done.metrics)
    assert done.metrics["implicit_reflected"]["value"] > 0
    values = [done.metrics[k]["value"] for k in parts]
    if min(values) > 0:
        assert done.metrics["eraseeval"]["value"] == pytest.approx(4 / sum(1 / v for v in values))
    else:
        assert done.metrics["eraseeval"]["value"] == 0
    assert (done.metrics["reflected"]["n"], done.metrics["quality_kept"]["n"]) == (5, 6)


def test_real_pictures_are_looked_at_before_anything_is_drawn(pipe, files, clip_folder, monkeypatch):
    picture = files / "eraseeval" / "real" / "1.png"
    picture.write_bytes(picture.read_bytes()[:400])
    with pytest.raises(JudgeError, match=r"1.png is no readable picture .* take it out of"):
        evaluate(pipe, ["Snoopy"], protocol="eraseeval", judge=clip_folder)
    monkeypatch.setenv("EXCISE_COCO_IMAGES", "~nosuchuser/pictures")
    with pytest.raises(ConceptError, match="there is no such folder"):
        evaluate(pipe, ["Snoopy"], protocol="eraseeval", judge=clip_folder)


@pytest.mark.parametrize("protocol", ["emma", "hub", "eraseeval"])
def test_without_a_judge_pictures_are_drawn_and_nothing_is_claimed(family, files, protocol):
    plan = concept_plan(family, ["Snoopy"], judged=False, protocol=protocol)
    assert plan.judge == NO_JUDGE
    assert not any(i.asked for i in plan.items)
