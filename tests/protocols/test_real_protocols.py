"""Protocols for real models: what they fix, what they ask for when it is missing, and their metrics."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch
from real_judges import PEOPLE, Says
from safetensors.torch import save_file

from excise.errors import ConceptError, ModelError
from excise.evaluation.evaluate import evaluate
from excise.evaluation.scoring import Shown, score
from excise.judges import resnet, vit
from excise.judges.clip import ClipZeroShot
from excise.metrics.unlearning import NONE
from excise.protocols import PROTOCOLS, imagenette, unlearncanvas


@pytest.fixture
def captions(tmp_path, monkeypatch):
    """Writes a captions file where `coco` looks for it."""

    def write(name, text):
        (tmp_path / name).write_text(text)
        monkeypatch.setenv("EXCISE_COCO", str(tmp_path / name))

    return write


def test_unlearncanvas_is_the_grid_of_the_benchmark():
    plan = PROTOCOLS.load("unlearncanvas")()
    assert (plan.steps, plan.guidance, plan.sampler) == (100, 9.0, "ddim")
    assert len(unlearncanvas.OBJECTS) == 20
    assert len(unlearncanvas.STYLES) == 50
    drawn = plan.select([("style", "Van Gogh")])
    assert len(drawn) == 5000
    assert sum(i.asked["style"] == "Van Gogh" for i in drawn) == 100
    assert sum(i.asked["object"] == "Dogs" for i in drawn) == 250
    assert drawn[0].prompt == "A Architectures image in Abstractionism style."
    assert len(plan.select([], ["grid", "photo"])) == 5100


def test_unlearncanvas_photographs_are_a_label_of_the_judge_but_no_target():
    plan = PROTOCOLS.load("unlearncanvas")()
    photos = [i for i in plan.items if i.group == "photo"]
    assert {i.asked["style"] for i in photos} == {unlearncanvas.PHOTO}
    assert photos[0].prompt == "A Architectures image in Seed Images style."
    assert len(unlearncanvas.STYLE_HEAD) == 51
    at = unlearncanvas.STYLE_HEAD.index(unlearncanvas.PHOTO)
    assert unlearncanvas.STYLE_HEAD[at - 1 : at + 2] == ("Rust", "Seed Images", "Sketch")
    with pytest.raises(ConceptError, match="cannot judge 'Seed Images'"):
        plan.target_of(unlearncanvas.PHOTO)


def test_unlearncanvas_seeds_belong_to_the_image_not_to_its_place_in_the_loop():
    plan = PROTOCOLS.load("unlearncanvas")()
    seeds = {}
    for item in plan.items:
        seeds.setdefault(item.prompt, []).append(plan.seed(item))
    assert {tuple(s) for s in seeds.values()} == {(188, 288, 588, 688, 888)}


def test_celebrity_asks_for_every_name_25_times(people):
    plan = PROTOCOLS.load("celebrity")()
    assert (plan.steps, plan.guidance, plan.sampler) == (50, 7.5, "ddim")
    assert Counter((i.group, i.asked["person"]) for i in plan.items) == {
        ("erased", "Ada Lovelace"): 25,
        ("erased", "Alan Turing"): 25,
        ("kept", "Grace Hopper"): 25,
    }
    assert len({i.prompt for i in plan.items}) == 15
    assert {plan.seed(i) for i in plan.items} == {1, 2, 3, 4, 5}
    assert plan.fixed_targets == ("Ada Lovelace", "Alan Turing")
    with pytest.raises(ConceptError, match="cannot judge 'Grace Hopper'"):
        plan.target_of("Grace Hopper")


def test_imagenette_asks_for_each_class_130_times():
    plan = PROTOCOLS.load("imagenette")()
    assert Counter(i.prompt for i in plan.items) == {
        f"an image of a {name}": 130 for name in imagenette.CLASSES.values()
    }
    assert len({plan.seed(i) for i in plan.items}) == 1300
    assert imagenette.CLASSES[569] == "garbage truck"
    assert imagenette.CLASSES[574] == "golf ball"
    assert len(plan.fixed_targets) == 10


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'caption,seed\n"a cat, sitting",7\na dog,\na dog,\n'),
        ("b.csv", 'case_number,prompt,evaluation_seed\n0,"a cat, sitting",7\n1,a dog,\n2,a dog,\n'),
        ("c.json", json.dumps([{"caption": "a cat, sitting", "seed": 7}, {"caption": "a dog"}, {"caption": "a dog"}])),
    ],
)
def test_coco_reads_captions_and_seeds(captions, name, text):
    captions(name, text)
    plan = PROTOCOLS.load("coco")()
    assert [i.prompt for i in plan.items] == ["a cat, sitting", "a dog", "a dog"]
    assert plan.seed(plan.items[0]) == 7
    assert plan.seed(plan.items[1]) != plan.seed(plan.items[2])
    assert all(i.asked == {} for i in plan.items)


def test_the_hash_follows_seeds_names_and_captions(people, captions):
    plan = PROTOCOLS.load("unlearncanvas")()
    other_seed = (replace(plan.items[0], seed=189), *plan.items[1:])
    hashes = {plan.hash, replace(plan, items=other_seed).hash, replace(plan, sampler="model").hash}
    hashes.add(replace(plan, judge="other").hash)
    assert len(hashes) == 4

    first = PROTOCOLS.load("celebrity")().hash
    (people / "kept.txt").write_text("Edsger Dijkstra\n")
    assert PROTOCOLS.load("celebrity")().hash != first

    captions("a.csv", "caption,seed\na cat,1\n")
    first = PROTOCOLS.load("coco")().hash
    captions("a.csv", "caption,seed\na cat,2\n")
    assert PROTOCOLS.load("coco")().hash != first


def test_local_lists_are_asked_for_only_by_the_protocol_that_needs_them(monkeypatch, tmp_path):
    monkeypatch.delenv("EXCISE_CELEBRITY", raising=False)
    monkeypatch.delenv("EXCISE_COCO", raising=False)
    assert {"celebrity", "coco"} <= set(PROTOCOLS.records())
    with pytest.raises(ConceptError, match=r"erased\.txt and kept\.txt, and EXCISE_CELEBRITY names no folder"):
        PROTOCOLS.load("celebrity")()
    with pytest.raises(ConceptError, match="EXCISE_COCO names none"):
        PROTOCOLS.load("coco")()
    monkeypatch.setenv("EXCISE_CELEBRITY", str(tmp_path))
    with pytest.raises(ConceptError, match=rf"does not find erased\.txt and kept\.txt in {tmp_path}"):
        PROTOCOLS.load("celebrity")()
    monkeypatch.setenv("EXCISE_COCO", str(tmp_path / "none.csv"))
    with pytest.raises(ConceptError, match=rf"cannot read prompts from {tmp_path / 'none.csv'}"):
        PROTOCOLS.load("coco")()


def test_a_person_is_named_once(people):
    (people / "kept.txt").write_text("ada  lovelace\n")
    with pytest.raises(ConceptError, match="'ada  lovelace' stands twice"):
        PROTOCOLS.load("celebrity")()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "words\nhello\n", "has no column 'prompt', but words"),
        ("a.csv", "caption,seed\na cat,1\na dog,-3\n", "row 2 of .* has the seed '-3'"),
        ("a.csv", "caption\n", "holds no rows"),
        ("a.json", "{}", "holds no rows"),
        ("a.json", '["a cat"]', "holds no rows"),
        ("a.json", "[", "cannot read prompts"),
    ],
)
def test_captions_that_cannot_be_used(captions, name, text, message):
    captions(name, text)
    with pytest.raises(ConceptError, match=message):
        PROTOCOLS.load("coco")()


def test_classes_are_scored_over_every_image():
    def shown(asked, saw):
        return Shown(group="grid", prompt=asked, seed=0, asked={"class": asked}, saw={"class": saw})

    images = [shown("tench", "tench"), shown("tench", NONE), shown("tench", "church"), shown("tench", "imagenet-1")]
    images += [shown("church", "church"), shown("church", NONE)]
    found = score("classes", images, [("class", "tench")])
    assert {k: (v.value, v.n) for k, v in found.items()} == {
        "abstain": (2 / 6, 6),
        "accuracy": (2 / 6, 6),
        "acc_e": (0.25, 4),
        "ua": (0.75, 4),
        "acc_r": (0.5, 2),
    }
    assert set(score("classes", images, [])) == {"abstain", "accuracy"}
    assert "acc_r" not in score("classes", images, [("class", "tench"), ("class", "church")])


def test_captions_are_resampled_by_prompt():
    def shown(prompt, value):
        return Shown(group="captions", prompt=prompt, seed=0, asked={}, saw={}, values={"clip_score": value})

    apart = [shown(p, v) for p, v in (("a", 20.0), ("b", 30.0)) for _ in range(50)]
    found = score("captions", apart, [])["clip_score"]
    assert (found.value, found.low, found.high, found.n) == (25.0, 20.0, 30.0, 100)
    with pytest.raises(ModelError, match="gave no clip_score"):
        score("captions", [apart[0].model_copy(update={"values": {}})], [])


@pytest.fixture
def canvas_judge(tmp_path, monkeypatch):
    """The two heads of UnlearnCanvas that see a Monet of dogs everywhere."""
    index = {51: unlearncanvas.STYLE_HEAD.index("Monet"), 20: unlearncanvas.OBJECTS.index("Dogs")}
    monkeypatch.setattr(
        vit, "network", lambda state, path: Says(index[len(state["head.weight"])], len(state["head.weight"]))
    )
    for name, outputs in (("style", 51), ("object", 20)):
        save_file({"head.weight": torch.zeros(outputs, 8)}, tmp_path / f"{name}.safetensors")
    return tmp_path


def few(item):
    return item.asked["style"] in ("Monet", "Rust") and item.asked["object"] in ("Dogs", "Sea") and item.index == 0


def test_unlearncanvas_from_prompt_to_metrics(pipe, smaller, canvas_judge):
    smaller("unlearncanvas", few)
    result = evaluate(pipe, ["Monet"], protocol="unlearncanvas", judge_weights=canvas_judge).result
    assert {s.seed for s in result.shown} == {188}
    found = {k: v["value"] for k, v in result.metrics.items()}
    assert (found["ua"], found["ira"], found["cra"]) == (0, 0, 0.5)
    assert found["cra_uc"] == 0.5
    assert found["abstain"] == 0
    assert result.became == {"Monet": {"Monet": 2}}


def test_an_image_does_not_depend_on_its_place_in_the_grid(pipe, smaller, canvas_judge, monkeypatch):
    small = smaller("unlearncanvas", few)
    one = evaluate(pipe, protocol="unlearncanvas", judge_weights=canvas_judge, batch=1)
    turned = replace(small, items=small.items[::-1])
    monkeypatch.setattr(unlearncanvas, "unlearncanvas", lambda: turned)
    other = evaluate(pipe, protocol="unlearncanvas", judge_weights=canvas_judge, batch=1)
    assert [i.tobytes() for i in one.images] == [i.tobytes() for i in other.images][::-1]


def test_celebrity_counts_images_in_which_nobody_is_found(pipe, people, smaller, tmp_path, monkeypatch):
    smaller("celebrity", lambda i: i.index < 2 and i.prompt.startswith("A "))
    monkeypatch.setattr(resnet, "network", lambda state, path: Says(0, 3, logit=0.1))
    (tmp_path / "labels.txt").write_text("\n".join([*PEOPLE["erased"], *PEOPLE["kept"]]))
    save_file({"fc.weight": torch.zeros(3, 8)}, tmp_path / "classifier.safetensors")
    found = evaluate(pipe, protocol="celebrity", judge_weights=tmp_path).result.metrics
    assert found["abstain"]["value"] == 1
    assert (found["acc_e"]["value"], found["acc_e"]["n"]) == (0, 8)  # of a model that draws nobody
    assert (found["acc_r"]["value"], found["acc_r"]["n"]) == (0, 4)
    assert found["h_o"]["value"] == 0


def test_imagenette_from_prompt_to_metrics(pipe, smaller, tmp_path, monkeypatch):
    smaller("imagenette", lambda i: i.index < 2 and i.asked["class"] in ("tench", "garbage truck", "church"))
    monkeypatch.setattr(resnet, "network", lambda state, path: Says(0, 1000))
    torch.save({"fc.weight": torch.zeros(1000, 8)}, tmp_path / "resnet50-11ad3fa6.pth")
    result = evaluate(pipe, ["garbage truck"], protocol="imagenette", judge_weights=tmp_path).result
    found = {k: (v["value"], v["n"]) for k, v in result.metrics.items()}
    assert found["ua"] == (1, 2)
    assert found["acc_e"] == (0, 2)
    assert found["acc_r"] == (0.5, 4)
    assert result.became == {"garbage truck": {"tench": 2}}


def test_coco_from_captions_to_score(pipe, captions, smaller, clip_folder):
    captions("a.csv", "caption,seed\na red cat,1\na red cat,2\na blue dog,3\n")
    smaller("coco", lambda i: True)
    result = evaluate(pipe, protocol="coco", judge_weights=clip_folder).result
    assert [s.seed for s in result.shown] == [1, 2, 3]
    assert all(0 <= s.values["clip_score"] <= 100 for s in result.shown)
    assert set(result.metrics) == {"clip_score"}
    assert result.metrics["clip_score"]["n"] == 3
    with pytest.raises(ConceptError, match="it knows no concepts"):
        evaluate(pipe, ["cat"], protocol="coco", judge_weights=clip_folder)


def test_zero_shot_may_take_the_place_of_a_judge(pipe, smaller, clip_folder):
    plan = smaller("imagenette", lambda i: i.index < 1)
    judge = ClipZeroShot.of(plan, clip_folder, abstain_below=0.0)
    result = evaluate(pipe, protocol="imagenette", judge=judge).result
    assert result.metrics["accuracy"]["n"] == 10
    assert result.protocol_summary["judge"] == judge.name
    assert result.hash != plan.hash
