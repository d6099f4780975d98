"""The library as a notebook uses it: public names, results that show themselves, a plain function as a judge."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
import worlds
from attack_runs import SHORT
from PIL import Image

import excise
from excise.attacks import ATTACKS
from excise.attacks.plan import load_attack
from excise.attacks.suite import SuiteResult
from excise.concepts.concept import as_concepts
from excise.errors import ConceptError, JudgeError
from excise.evaluation.evaluate import evaluate as run_protocol
from excise.families import family_of
from excise.judges.base import NamingJudge
from excise.methods.base import Context, Made, Request
from excise.policy.policy import read
from excise.support.display import LINES, WIDTH
from excise.training.scorers import CallableScorer, as_judge, as_scorer


def sees_all(images, names):
    """Sees everything."""
    return [True] * len(images)


def sees_dogs(images, names):
    return [name == "dog" for name in names]


def check_shown(thing, *words: str, pictures: bool = False) -> None:
    """A repr of at most five lines with some words, and HTML that holds them too, with pictures where there are any."""
    lines = repr(thing).split("\n")
    assert len(lines) <= LINES
    assert all(len(line) <= WIDTH for line in lines)
    text = thing._repr_html_()
    for word in words:
        assert word in repr(thing)
        assert word in text
    assert ("data:image/png;base64," in text) is pictures
    assert "<script" not in text


def test_every_public_name_can_be_imported_and_is_documented():
    for name in excise.__all__:
        thing = getattr(excise, name)
        assert inspect.getdoc(thing), name
    assert {"attack", "apply_policy", "judge"} <= set(dir(excise))
    code = "import excise, sys; assert not {'torch', 'diffusers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_edit_shows_itself(pipe):
    edit = excise.erase(pipe, ["cat", "<b>"], method="uce", preserve=["dog"], vocabulary=None)
    check_shown(edit, "removes cat", "keeps", "dog")
    assert "&lt;b&gt;" in edit._repr_html_()
    assert "strength 0.5" in repr(edit.scaled(0.5))
    check_shown(excise.stack([edit, edit]), "stack removes")
    check_shown(excise.erase(pipe, ["cat"], method="sld", vocabulary=None), "sld removes cat", "while drawing: sld")
    applied = edit.apply(pipe)
    assert repr(applied).startswith("In force until remove() is called: Edit: uce removes cat")
    applied.remove()


def test_requests_and_what_methods_make_show_themselves(pipe, monkeypatch):
    from excise.methods.closed_form.uce import UCE

    received: list[Request] = []
    made: list[Made] = []
    make = UCE.make

    def watch(self, request, config, context):
        received.append(request)
        made.append(make(self, request, config, context))
        return made[-1]

    monkeypatch.setattr(UCE, "make", watch)
    excise.erase(pipe, ["cat"], method="uce", preserve=["dog"])
    check_shown(received[0], "erase cat", "dog")
    check_shown(made[0], "Made: ", "took")


def test_what_methods_and_attacks_work_on_shows_its_shapes(pipe):
    from attack_runs import arena_of

    from excise.concepts.concept import Concept
    from excise.families import family_of
    from excise.methods.closed_form.config import MethodConfig
    from excise.methods.closed_form.text_problem import encode, token_problem
    from excise.training.problem import TrainingProblem

    encoded = encode(family_of(pipe), [Concept("cat", anchor="")], ["a dog"], {"object": ["a {}"]}, None)
    check_shown(token_problem(encoded, MethodConfig()), "targets", "of shape (", "32")
    check_shown(TrainingProblem(family_of(pipe), [Concept("cat")], {"object": ["a {}"]}), "erase cat")
    check_shown(arena_of(pipe), "bring back cat")


def test_an_evaluation_shows_its_numbers_and_its_pictures(pipe, monkeypatch):
    worlds.register(monkeypatch)
    edit = excise.erase(pipe, ["cat"], method="uce", preserve=["dog"], vocabulary=None)
    evaluated = excise.evaluate(pipe, ["cat"], edits=[edit], protocol="small-world", untouched=True, model_name="tiny")
    check_shown(evaluated, "tiny without cat", "UA", pictures=True)
    check_shown(evaluated.result, "tiny without cat", "UA")
    assert "untouched" in evaluated._repr_html_()
    assert "verdict" in repr(evaluated)
    assert f"cat: {evaluated.result.verdicts[0].sentence()}"[:60] in evaluated._repr_html_()
    plan = {**evaluated.result.protocol_summary, "judge": "none"}
    nobody = evaluated.result.model_copy(update={"protocol_summary": plan, "verdicts": []})
    check_shown(nobody, "not verified: there is no judge")
    evil = evaluated.result.model_copy(update={"model": "<script>x</script>", "concepts": ["<b>"]})
    assert "&lt;script&gt;" in evil._repr_html_()


def test_an_erasure_and_an_export_show_themselves(pipe, tmp_path):
    from excise.erasing.erase import Naming, make_edit

    erasure = make_edit(family_of(pipe), as_concepts(["cat"]), "uce", {}, Naming(vocabulary=None))
    check_shown(erasure, "uce removes cat", "took")
    exported = excise.export(excise.erase(pipe, ["cat"], "uce", vocabulary=None), pipe, tmp_path / "<b>", "kohya-lora")
    check_shown(exported, "Export: kohya-lora", "ComfyUI", "README.md")
    assert "&lt;b&gt;" in exported._repr_html_()


def test_a_plain_function_judges_a_protocol(pipe, monkeypatch):
    worlds.register(monkeypatch)
    evaluated = run_protocol(pipe, ["cat"], protocol="small-world", judge=sees_dogs)
    assert {s.saw["object"] for s in evaluated.result.shown} == {"dog"}
    assert {s.saw["style"] for s in evaluated.result.shown} == {"none"}
    assert evaluated.result.metrics["ua"]["value"] == 1
    assert evaluated.result.protocol_summary["judge"] == "sees_dogs"
    assert run_protocol(pipe, ["cat"], protocol="small-world", judge=sees_all).result.hash != evaluated.result.hash


def test_a_judge_that_grades_names_the_likeliest_label():
    class Graded:
        name = "graded"

        def sees(self, images, names):
            return [name != "car" for name in names]

        def likelihood(self, images, name):
            return [{"cat": 0.6, "dog": 0.7, "car": 0.9}[name]] * len(images)

    assert NamingJudge(Graded(), {"object": ["cat", "dog", "car"]}).verdicts([1, 2]) == {"object": ["dog", "dog"]}
    assert as_judge(judge := worlds.PixelJudge(), {}) is judge


def test_no_setting_of_an_attack_has_the_name_of_an_argument():
    arguments = set(inspect.signature(excise.attack).parameters)
    assert not {field for name in ATTACKS for field in load_attack(name).Config.model_fields} & arguments


def test_an_attack_is_public_and_shows_itself(pipe):
    edit = excise.erase(pipe, ["cat"], method="uce", preserve=["dog"], vocabulary=None)
    attacked = excise.attack(
        pipe, "cat", "quick", edits=[edit], attacks=["seeds", "random words"], judge=sees_all, others=["dog"],
        tests=1, images=1, **SHORT,
    )  # fmt: skip
    assert isinstance(attacked, SuiteResult)
    assert [r.name for r in attacked.results] == ["seeds", "random words"]
    check_shown(attacked.results[0], "Attack: seeds", "recovered", "100%")
    check_shown(attacked, "2 of 2 attacks brought the concept back", "seeds", pictures=True)
    with pytest.raises(ConceptError, match="without a judge"):
        excise.attack(pipe, "cat")


POLICY = """
schema: 1
model: {}
methods: {{default: uce}}
vocabulary: none
preserve: [tree]
concepts: [cat]
pictures: 4
"""


def test_a_policy_is_applied_from_python_and_shows_itself(pipe, model, tmp_path):
    (tmp_path / "policy.yaml").write_text(POLICY.format(model))
    applied = excise.apply_policy(pipe, tmp_path / "policy.yaml", tmp_path / "out", judge=sees_all)
    assert applied.entry["verified"]["judge"] == "sees_all"
    check_shown(applied, "1 concept", "cat", pictures=True)
    assert (tmp_path / "out" / "edit.safetensors").exists()
    again = excise.apply_policy(pipe, read(tmp_path / "policy.yaml")[0], str(tmp_path / "out"), judge=sees_all)
    assert not again.changed
    check_shown(again, "nothing changed")


def test_pictures_are_judged_by_a_function_a_file_or_the_built_in_judge(tmp_path):
    pictures = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    judged = excise.judge(pictures, "red", lambda images, names: [i.getpixel((0, 0))[0] > 9 for i in images])
    assert (judged.shows, judged.rate.value) == ([True, False], 0.5)
    check_shown(judged, "1 of 2 pictures show red", "50.0%", pictures=True)
    pictures[0].save(tmp_path / "a.png")
    assert excise.judge([tmp_path / "a.png"], "dog", sees_dogs).shows == [True]
    (tmp_path / "b.png").write_text("no picture")
    for images, concept, judge, message in (
        ([], "cat", sees_all, "no pictures"),
        ([tmp_path / "b.png"], "cat", sees_all, "no readable picture"),
        (pictures, "cat", None, "in their own pictures only; give `judge`"),
        (pictures, "cat", lambda images, names: [True], "gave 1 answer for 2 images"),
        (pictures, "cat", lambda images, names: None, "returned a NoneType; expected one boolean"),
        (pictures, "cat", 3, "a int is no judge; expected the name of one, the folder of a CLIP model"),
    ):
        with pytest.raises(JudgeError, match=message):
            excise.judge(images, concept, judge)


@pytest.mark.canvas
def test_the_built_in_judge_knows_its_own_pictures(canvas_family):
    images = canvas_family.sample(["a cat in plain style"] * 2, [0, 1], steps=12, guidance=3.0, batch=2)
    assert excise.judge(images, "cat").judge == "canvas-judge-a"
    with pytest.raises(JudgeError):
        excise.judge(images, "Pikachu")


def test_whatever_judges_is_a_scorer():
    assert isinstance(as_scorer(sees_all, False), CallableScorer)
    labelled = as_scorer(worlds.PixelJudge(), False)
    assert labelled is not None
    assert labelled.sees([Image.new("RGB", (4, 4))], ["nothing"]) == [False]
    for wrong in (3, ["cat"], object()):
        with pytest.raises(JudgeError, match="is no judge"):
            as_scorer(wrong, False)
    with pytest.raises(JudgeError, match="asks no judge for names"):
        as_judge(sees_all, {})


def test_a_plain_function_judges_while_a_strength_is_chosen(pipe):
    advice = excise.advise(pipe, ["cat"], "uce", preserve=["dog", "tree"], vocabulary=None, context=Context(sees_all))
    check_shown(advice, "Advice: ", "sees_all")
