"""Protocols for real models: what they fix, what they ask for when it is missing, and what their judges make of images.

Stand-in weights have the right architecture and random values; nothing here looks at a network.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from excise.errors import ConceptError, ModelError
from excise.evaluation.evaluate import evaluate
from excise.evaluation.scoring import Shown, score
from excise.judges import FEATURES, JUDGES, NONE, local, resnet, vit
from excise.judges.canvas import CanvasJudge
from excise.judges.clip import Clip, ClipScore, ClipZeroShot
from excise.judges.local import Classifier, MissingFilesError, find_files, read_state
from excise.metrics.images import cmmd, kid
from excise.protocols import PROTOCOLS, imagenette, unlearncanvas
from excise.training.scorers import ClipScorer

PEOPLE = {"erased": ["Ada Lovelace", "Alan Turing"], "kept": ["Grace Hopper"]}


@pytest.fixture
def people(tmp_path, monkeypatch):
    """Name lists where `celebrity` looks for them."""
    folder = tmp_path / "people"
    folder.mkdir()
    for group, names in PEOPLE.items():
        (folder / f"{group}.txt").write_text("# of our choice\n" + "\n".join(names) + "\n")
    monkeypatch.setenv("EXCISE_CELEBRITY", str(folder))
    return folder


@pytest.fixture
def captions(tmp_path, monkeypatch):
    """Writes a captions file where `coco` looks for it."""

    def write(name, text):
        (tmp_path / name).write_text(text)
        monkeypatch.setenv("EXCISE_COCO", str(tmp_path / name))

    return write


@pytest.fixture
def smaller(monkeypatch):
    """Cuts a protocol down to some items and two steps, under its own name."""

    def cut(name, keep):
        plan = PROTOCOLS.load(name)()
        small = replace(plan, items=tuple(filter(keep, plan.items)), steps=2)
        module, attribute = PROTOCOLS.record(name).target.split(":")
        monkeypatch.setattr(import_module(module), attribute, lambda: small)
        return small

    return cut


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory, tokenizer):
    """A CLIPModel of a few thousand weights, as transformers saves it."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    block = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 16, "eos_token_id": tokenizer.eos_token_id}
    ends = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    vision = {"image_size": 32, "patch_size": 16}
    config = CLIPConfig(text_config={**block, **text, **ends}, vision_config={**block, **vision}, projection_dim=16)
    folder = tmp_path_factory.mktemp("clip")
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pictures(count, side=40):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)]


class Says(nn.Module):
    """A network that gives one output, for every image, a logit above the others."""

    def __init__(self, index, outputs, logit=20.0):
        super().__init__()
        self.logits = torch.zeros(outputs)
        self.logits[index] = logit

    def forward(self, x):
        return self.logits.to(x).expand(len(x), -1)


def needed(module, why):
    """The module, or the test is skipped."""
    try:
        return import_module(module)
    except (ImportError, RuntimeError, OSError) as error:
        pytest.skip(f"{why}: {str(error).splitlines()[0]}")


# --- what the protocols fix ---


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


# --- what is missing ---


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
    with pytest.raises(ConceptError, match=rf"cannot read captions from {tmp_path / 'none.csv'}"):
        PROTOCOLS.load("coco")()


def test_a_person_is_named_once(people):
    (people / "kept.txt").write_text("ada  lovelace\n")
    with pytest.raises(ConceptError, match="'ada  lovelace' stands twice"):
        PROTOCOLS.load("celebrity")()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "text\nhello\n", "row 1 of .* has no caption"),
        ("a.csv", "caption,seed\na cat,1\na dog,-3\n", "row 2 of .* has the seed '-3'"),
        ("a.csv", "caption\n", "holds no captions"),
        ("a.json", "{}", "holds no captions"),
        ("a.json", '["a cat"]', "row 1 of .* has no caption"),
        ("a.json", "[", "cannot read captions"),
    ],
)
def test_captions_that_cannot_be_used(captions, name, text, message):
    captions(name, text)
    with pytest.raises(ConceptError, match=message):
        PROTOCOLS.load("coco")()


NEEDS = {
    "unlearncanvas-vit": ["style.safetensors or style.pth", "object.safetensors or object.pth"],
    "imagenet-resnet50": ["resnet50.safetensors or resnet50-*.pth"],
    "celebrity-classifier": ["labels.txt", "classifier.safetensors"],
    "clip-score": ["config.json", "model.safetensors or pytorch_model.bin", "tokenizer.json or vocab.json"],
    "clip-zero-shot": ["labels.json", "config.json", "model.safetensors", "tokenizer.json"],
    "clip-image": ["config.json", "model.safetensors"],
    "inception": ["weights-inception-*.pth or inception.pth"],
}


@pytest.mark.parametrize("name", NEEDS)
def test_every_missing_file_is_named_with_the_place_it_was_looked_for(name, tmp_path):
    load = (JUDGES if name in JUDGES.records() else FEATURES).load(name)
    for folder in (tmp_path, tmp_path / "nowhere", None):
        with pytest.raises(MissingFilesError) as caught:
            load(folder)
        message = str(caught.value)
        assert message.startswith(name)
        assert all(file in message for file in NEEDS[name])
        assert str(folder) in message if folder else "none was named" in message
    assert "which is no folder" not in message


def test_only_what_is_missing_is_named(tmp_path):
    (tmp_path / "style.pth").write_bytes(b"")
    with pytest.raises(MissingFilesError, match=r"does not find object\.safetensors or object\.pth in"):
        JUDGES.load("unlearncanvas-vit")(tmp_path)


def test_one_of_two_candidates_is_not_guessed(tmp_path):
    for version in ("0676ba61", "11ad3fa6"):
        (tmp_path / f"resnet50-{version}.pth").write_bytes(b"")
    with pytest.raises(ModelError, match=r"finds resnet50-0676ba61\.pth and resnet50-11ad3fa6\.pth"):
        find_files("x", tmp_path, ["resnet50-*.pth"])


def test_missing_weights_are_said_before_anything_is_drawn(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr("excise.evaluation.evaluate.draw", lambda *a, **k: pytest.fail("drawn"))
    with pytest.raises(MissingFilesError):
        evaluate(pipe, protocol="imagenette", judge_weights=tmp_path)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ModelError, match=r"inception needs torch_fidelity, .*pip install 'excise\[fid\]'"):
        local.import_optional("torch_fidelity", "fid", "inception")


def test_a_torchvision_of_another_torch_is_named(monkeypatch):
    def broken(module):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(local, "import_module", broken)
    with pytest.raises(ModelError, match=r"nms does not exist.*a torchvision of the same source as torch"):
        local.import_optional("torch_fidelity", "fid", "inception")


# --- checkpoints ---


def test_a_checkpoint_is_unwrapped(tmp_path):
    weight = torch.ones(2, 3, dtype=torch.float16)
    torch.save({"epoch": 3, "model_state_dict": {"module.head.weight": weight}}, tmp_path / "a.pth")
    found = read_state(tmp_path / "a.pth")
    assert list(found) == ["head.weight"]
    assert found["head.weight"].dtype == torch.float32


class _Runs:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_a_checkpoint_never_runs_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"head.weight": _Runs()}, "a.pth")
    with pytest.raises(ModelError, match=r"cannot read a\.pth"):
        read_state(Path("a.pth"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [{}, {"a": 1}, [1, 2]])
def test_a_file_without_tensors_is_no_checkpoint(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ModelError, match="holds no state dict"):
        read_state(tmp_path / "a.pth")


def test_a_checkpoint_of_other_labels_is_refused(tmp_path):
    for name in ("style", "object"):
        save_file({"head.weight": torch.zeros(61, 64)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ModelError, match="tells 61 labels apart; the style head of unlearncanvas-vit has 51"):
        JUDGES.load("unlearncanvas-vit")(tmp_path)
    save_file({"fc.weight": torch.zeros(10, 64)}, tmp_path / "resnet50.safetensors")
    with pytest.raises(ModelError, match="tells 10 labels apart; imagenet-resnet50 has 1000"):
        JUDGES.load("imagenet-resnet50")(tmp_path)
    save_file({"classifier.weight": torch.zeros(1000, 64)}, tmp_path / "resnet50.safetensors")
    with pytest.raises(ModelError, match=r"has no 'fc\.weight'; expected a ResNet"):
        JUDGES.load("imagenet-resnet50")(tmp_path)


def test_a_name_the_classifier_cannot_say_is_refused(people, tmp_path):
    (tmp_path / "labels.txt").write_text("ada_lovelace\nGrace Hopper\n")
    save_file({"fc.weight": torch.zeros(2, 64)}, tmp_path / "classifier.safetensors")
    with pytest.raises(ModelError, match="lacks Ada Lovelace, Alan Turing, .*would count as erased"):
        JUDGES.load("celebrity-classifier")(tmp_path)


# --- verdicts ---


def test_a_verdict_below_the_threshold_is_an_abstention():
    def judge(logit, below):
        return Classifier(
            "x", {"a": (Says(1, 3, logit), "rst")}, local.resized_square(8, (0.5,) * 3, (0.5,) * 3), below
        )

    images = pictures(local.BATCH + 1)
    assert judge(0.1, 0.5).verdicts(images) == {"a": [NONE] * len(images)}
    assert judge(0.1, 0.0).verdicts(images) == {"a": ["s"] * len(images)}
    assert judge(9.0, 0.5).verdicts(images) == {"a": ["s"] * len(images)}
    assert judge(float("nan"), 0.0).verdicts(images[:1]) == {"a": [NONE]}


def test_pictures_are_squashed_or_cropped_as_the_networks_learnt_it():
    wide = Image.new("RGB", (80, 40), (255, 0, 0))
    wide.paste((0, 0, 255), (0, 0, 20, 40))  # left quarter
    squashed = local.resized_square(8, (0.5,) * 3, (0.5,) * 3)([wide])
    assert squashed.shape == (1, 3, 8, 8)
    assert squashed[0, :, 4, 0].tolist() == [-1, -1, 1]
    assert squashed[0, :, 4, 7].tolist() == [1, -1, -1]
    cropped = local.central_crop(10, 8, (0.0,) * 3, (1.0,) * 3)([wide])
    assert cropped.shape == (1, 3, 8, 8)
    assert cropped[0, 0].min() == 1  # the left quarter lies outside of the central square


@pytest.mark.parametrize("index", [867, 864, 555, 852, 722, 429, 497])
def test_no_class_is_hit_by_a_part_of_its_name(index, tmp_path, monkeypatch):
    # 867 trailer truck, 864 tow truck, 555 fire engine; 852 tennis ball, 722 ping-pong ball, 429 baseball
    monkeypatch.setattr(resnet, "network", lambda state, path: Says(index, 1000))
    save_file({"fc.weight": torch.zeros(1000, 8)}, tmp_path / "resnet50.safetensors")
    judge = JUDGES.load("imagenet-resnet50")(tmp_path)
    seen = judge.verdicts(pictures(1))["class"][0]
    assert seen == ("church" if index == 497 else f"imagenet-{index}")
    asked = [
        Shown(group="grid", prompt=n, seed=0, asked={"class": n}, saw={"class": seen}) for n in judge.labels["class"]
    ]
    assert sum(s.right("class") for s in asked if not s.prompt.startswith("imagenet")) == (index == 497)


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


def test_clip_score_is_the_cosine_and_never_negative(clip_folder, tokenizer):
    from transformers import CLIPModel

    judge = ClipScore(clip_folder)
    images, prompts = pictures(local.BATCH + 2, side=32), [f"{'very ' * n}red cat" for n in range(local.BATCH + 2)]
    assert judge.verdicts(images) == {}
    scores = judge.values(images, prompts)["clip_score"]

    model = CLIPModel.from_pretrained(clip_folder)
    expected = []
    for image, prompt in zip(images, prompts, strict=True):
        tokens = tokenizer([prompt], return_tensors="pt", truncation=True, max_length=16)
        with torch.no_grad():
            out = model(**tokens, pixel_values=judge.clip.prepare([image]))
        cosine = torch.cosine_similarity(out.image_embeds, out.text_embeds).item()
        expected.append(100 * max(cosine, 0))
    assert scores == pytest.approx(expected, abs=1e-3)
    judge.clip.model.visual_projection.weight.neg_()  # every cosine changes its sign
    assert all(a * b == 0 for a, b in zip(scores, judge.values(images, prompts)["clip_score"], strict=True))
    assert judge.name == "clip-score ViT-32/16@32"


def test_clip_pixels_are_those_of_the_published_processor(clip_folder):
    from transformers import CLIPImageProcessor

    try:
        processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    except ImportError as error:
        pytest.skip(f"transformers' processor is not available: {str(error).splitlines()[0]}")
    image = pictures(1, side=48)[0]
    ours = Clip("x", clip_folder).prepare([image])
    torch.testing.assert_close(ours, processor(images=image, return_tensors="pt").pixel_values, atol=0.02, rtol=0)


def test_clip_zero_shot_chooses_among_the_labels_of_a_protocol(clip_folder, people):
    plan = PROTOCOLS.load("celebrity")()
    judge = ClipZeroShot.of(plan, clip_folder, abstain_below=0.0)
    assert judge.labels == {"person": ("Ada Lovelace", "Alan Turing", "Grace Hopper")}
    assert set(judge.verdicts(pictures(3))["person"]) <= set(judge.labels["person"])
    never = ClipZeroShot.of(plan, clip_folder, abstain_below=1.01)
    assert never.verdicts(pictures(3)) == {"person": [NONE] * 3}
    with pytest.raises(ModelError, match="needs at least two"):
        ClipZeroShot({"object": ["cat"]}, clip_folder)


def test_another_clip_of_the_same_make_is_another_scorer(clip_folder, tmp_path):
    from transformers import CLIPModel

    other = CLIPModel.from_pretrained(clip_folder)
    with torch.no_grad():
        other.logit_scale.add_(1.0)
    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    other.save_pretrained(tmp_path)
    first, again, second = (ClipScorer(folder) for folder in (clip_folder, clip_folder, tmp_path))
    assert first.key == again.key
    assert first.name == second.name
    assert second.key != first.key


def test_what_a_picture_shows_does_not_depend_on_the_others_asked_about(clip_folder, monkeypatch):
    """A picture a little like a cat and more like a car shows a cat, whether or not another is asked about a car."""
    words = ("cat", "car", "dog", "else")
    scorer = ClipScorer(clip_folder, ["cat", "dog"])
    monkeypatch.setattr(
        scorer.clip, "embed_texts", lambda texts: torch.eye(4)[[words.index(t.split()[-1]) for t in texts]]
    )
    monkeypatch.setattr(
        scorer.clip, "prepare", lambda images: torch.tensor([0.6, 0.8, 0.0, 0.0]).expand(len(images), 4)
    )
    monkeypatch.setattr(scorer.clip, "embed_images", lambda pixels: pixels)
    image = pictures(1)[0]
    assert scorer.sees([image], ["cat"]) == [True]
    assert scorer.sees([image, image, image], ["cat", "car", "dog"]) == [True, True, False]


def test_a_score_does_not_depend_on_the_batch(clip_folder):
    images, prompts = pictures(local.BATCH + 2), [f"{'very ' * (n % 7)}red cat" for n in range(local.BATCH + 2)]
    judge = ClipScore(clip_folder)
    alone = [judge.values([i], [p])["clip_score"][0] for i, p in zip(images, prompts, strict=True)]
    assert judge.values(images, prompts)["clip_score"] == pytest.approx(alone, abs=1e-3)


@pytest.mark.parametrize("letter", ["a", "b"])
def test_a_canvas_judge_does_not_depend_on_the_batch(letter):
    judge, images = CanvasJudge(letter), pictures(9, side=64)
    for head, p in judge.probabilities(images).items():
        alone = torch.cat([judge.probabilities([image])[head] for image in images])
        torch.testing.assert_close(p, alone, atol=1e-5, rtol=1e-4)


def test_clip_zero_shot_by_name_reads_its_labels(clip_folder, tmp_path):
    for file in clip_folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "labels.json").write_text('{"object": ["cat", "dog"], "style": ["neon", "pastel"]}')
    judge = JUDGES.load("clip-zero-shot")(tmp_path)
    assert {a: len(v) for a, v in judge.verdicts(pictures(2)).items()} == {"object": 2, "style": 2}
    (tmp_path / "labels.json").write_text('["cat"]')
    with pytest.raises(ModelError, match="no labels by attribute"):
        JUDGES.load("clip-zero-shot")(tmp_path)


def test_a_clip_that_lacks_weights_is_refused(clip_folder, tmp_path):
    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = {k: v for k, v in read_state(tmp_path / "model.safetensors").items() if "visual_projection" not in k}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks weights of a CLIPModel \(visual_projection"):
        ClipScore(tmp_path)


def test_clip_features_serve_kid_and_cmmd(clip_folder):
    features = FEATURES.load("clip-image")(clip_folder)(pictures(8))
    assert features.shape == (8, 16)
    assert features.dtype == np.float64
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)
    assert cmmd(features, features) == 0
    assert kid(features, features).n == 8


# --- end to end ---


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


# --- the real architectures: published layouts with random values, against their formulas in plain torch ---


def transformer(outputs, width=128, depth=2, patch=32, inner=192, side=224):
    """A state dict as timm's VisionTransformer gives it; its tokens vary so little that the eps of a norm matters."""
    tokens = (side // patch) ** 2 + 1
    state = {"cls_token": torch.randn(1, 1, width) * 1e-3, "pos_embed": torch.randn(1, tokens, width) * 1e-3}
    linear = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    linear |= {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
    rows = {f"blocks.{n}.{row}": shape for n in range(depth) for row, shape in linear.items()}
    for row, shape in {**rows, "head": (outputs, width)}.items():
        state[f"{row}.weight"] = torch.randn(shape) * 2 / shape[1] ** 0.5
        state[f"{row}.bias"] = torch.randn(shape[0])
    state["patch_embed.proj.weight"] = torch.randn(width, 3, patch, patch) * 1e-4
    state["patch_embed.proj.bias"] = torch.randn(width) * 1e-3
    for row in [f"blocks.{n}.norm{i}" for n in range(depth) for i in (1, 2)] + ["norm"]:
        state[f"{row}.weight"], state[f"{row}.bias"] = torch.rand(width) + 0.5, torch.randn(width)
    return state


def transformer_forward(state, x, head_width=64):
    def linear(x, row):
        return F.linear(x, state[f"{row}.weight"], state[f"{row}.bias"])

    def norm(x, row):
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * state[f"{row}.weight"]
            + (state[f"{row}.bias"])
        )

    weight = state["patch_embed.proj.weight"]
    x = F.conv2d(x, weight, state["patch_embed.proj.bias"], stride=weight.shape[-1]).flatten(2).transpose(1, 2)
    x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x], dim=1) + state["pos_embed"]
    for block in sorted({k.split(".norm1")[0] for k in state if ".norm1" in k}):
        qkv = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv")
        q, k, v = qkv.unflatten(-1, (3, -1, head_width)).permute(2, 0, 3, 1, 4)
        seen = (q @ k.transpose(-2, -1) / head_width**0.5).softmax(dim=-1) @ v
        x = x + linear(seen.transpose(1, 2).flatten(2), f"{block}.attn.proj")
        inner = linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")
        x = x + linear(inner * (1 + torch.erf(inner / 2**0.5)) / 2, f"{block}.mlp.fc2")
    return linear(norm(x, "norm")[:, 0], "head")


def residual(outputs, deep=True, stem=8, widths=(16, 32, 48, 64), depths=(1, 2, 1, 1)):
    """A state dict as torchvision's ResNet gives it, of Bottleneck blocks or of BasicBlock."""
    layers, before = {"conv1": (stem, 3, 7, 7)}, stem
    for n, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
        for block in range(depth):
            name, inner = f"layer{n}.{block}", width // 4
            if deep:
                layers[f"{name}.conv1"], layers[f"{name}.conv2"] = (inner, before, 1, 1), (inner, inner, 3, 3)
                layers[f"{name}.conv3"] = (width, inner, 1, 1)
            else:
                layers[f"{name}.conv1"], layers[f"{name}.conv2"] = (width, before, 3, 3), (width, width, 3, 3)
            if block == 0 and (n > 1 or before != width):
                layers[f"{name}.downsample.0"] = (width, before, 1, 1)
            before = width
    state = {}
    for name, shape in layers.items():
        state[f"{name}.weight"] = torch.randn(shape) * (2 / (shape[1] * shape[2] * shape[3])) ** 0.5
        normed = name.replace("conv", "bn").replace("downsample.0", "downsample.1")
        for part in ("weight", "running_var"):
            state[f"{normed}.{part}"] = torch.rand(shape[0]) + 0.5
        for part in ("bias", "running_mean"):
            state[f"{normed}.{part}"] = torch.randn(shape[0]) / 4
        state[f"{normed}.num_batches_tracked"] = torch.tensor(7)
    return state | {"fc.weight": torch.randn(outputs, before) / 4, "fc.bias": torch.randn(outputs)}


def residual_forward(state, x):
    def normed(x, conv, bn, stride=1):
        weight = state[f"{conv}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, var, scale, bias = (
            state[f"{bn}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + bias

    x = F.max_pool2d(normed(x, "conv1", "bn1", 2).relu(), 3, stride=2, padding=1)
    for block in sorted({k.split(".conv1")[0] for k in state if ".conv1" in k}):
        stride = 1 if block.startswith("layer1.") or not block.endswith(".0") else 2
        short, count = x, 3 if f"{block}.conv3.weight" in state else 2
        if f"{block}.downsample.0.weight" in state:
            short = normed(x, f"{block}.downsample.0", f"{block}.downsample.1", stride)
        halving = 2 if count == 3 else 1  # the 3x3 convolution of a bottleneck, the first of a basic block
        for i in range(1, count + 1):
            x = normed(x, f"{block}.conv{i}", f"{block}.bn{i}", stride if i == halving else 1)
            x = x.relu() if i < count else (x + short).relu()
    return F.linear(x.mean(dim=(2, 3)), state["fc.weight"], state["fc.bias"])


def test_the_vision_transformers_of_unlearncanvas(pipe, smaller, tmp_path):
    torch.manual_seed(0)
    states = {name: transformer(outputs) for name, outputs in (("style", 51), ("object", 20))}
    torch.save({"model_state_dict": states["style"]}, tmp_path / "style.pth")
    save_file(states["object"], tmp_path / "object.safetensors")
    judge = JUDGES.load("unlearncanvas-vit")(tmp_path)
    x = judge.prepare(pictures(3))
    verdicts = judge.verdicts(pictures(3))
    for attribute, state in states.items():
        expected = transformer_forward(state, x)
        with torch.no_grad():
            found = judge.networks[attribute](x.to(local.device())).cpu()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert verdicts[attribute] == [judge.labels[attribute][i] for i in expected.argmax(dim=-1)]
    smaller("unlearncanvas", few)
    result = evaluate(pipe, ["Dogs"], protocol="unlearncanvas", judge_weights=tmp_path).result
    assert {"ua", "ira", "cra", "h"} <= set(result.metrics)


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("stem", [8, 16])
def test_residual_networks_of_torchvision(deep, stem):
    torch.manual_seed(0)
    state, x = residual(11, deep, stem), torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        found = resnet.network(state, Path("x"))(x.to(local.device())).cpu()
    torch.testing.assert_close(found, residual_forward(state, x), rtol=1e-4, atol=1e-4)


def test_residual_networks_judge_classes_and_people(pipe, people, smaller, tmp_path):
    torch.manual_seed(0)
    state = residual(1000)
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "resnet50-19c8e357.pth")
    judge = JUDGES.load("imagenet-resnet50")(tmp_path)
    index = residual_forward(state, judge.prepare(pictures(3))).argmax(dim=-1)
    assert judge.verdicts(pictures(3))["class"] == [judge.labels["class"][i] for i in index]
    smaller("imagenette", lambda i: i.index < 1)
    assert evaluate(pipe, protocol="imagenette", judge_weights=tmp_path).result.metrics["accuracy"]["n"] == 10

    (tmp_path / "labels.txt").write_text("\n".join([*PEOPLE["erased"], *PEOPLE["kept"]]))
    save_file(residual(3, deep=False), tmp_path / "classifier.safetensors")
    smaller("celebrity", lambda i: i.index < 1 and "sketch" in i.prompt)
    assert evaluate(pipe, protocol="celebrity", judge_weights=tmp_path).result.metrics["acc_e"]["n"] == 2


def test_published_sizes_are_read_off_the_checkpoint():
    with torch.device("meta"):
        large = transformer(1000, width=1024, depth=24, patch=16, inner=4096)
        fifty = residual(1000, stem=64, widths=(256, 512, 1024, 2048), depths=(3, 4, 6, 3))
        eighteen = residual(1000, deep=False, stem=64, widths=(64, 128, 256, 512), depths=(2, 2, 2, 2))
    learnt = [
        sum(v.numel() for k, v in s.items() if "running" not in k and "tracked" not in k)
        for s in (large, fifty, eighteen)
    ]
    assert learnt == [304_326_632, 25_557_032, 11_689_512]  # as published
    config = vit.config_of(large, Path("x"))
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (1024, 24, 16)
    assert (config.intermediate_size, config.patch_size, config.num_labels) == (4096, 16, 1000)
    config = resnet.config_of(fifty, Path("x"))
    assert (config.layer_type, config.depths, config.hidden_sizes) == (
        "bottleneck",
        [3, 4, 6, 3],
        [256, 512, 1024, 2048],
    )
    config = resnet.config_of(eighteen, Path("x"))
    assert (config.layer_type, config.depths, config.hidden_sizes) == ("basic", [2, 2, 2, 2], [64, 128, 256, 512])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm.bias": None}, "norm.bias is missing"),
        ({"blocks.0.attn.qkv.bias": None}, "blocks.0.attn.qkv.bias is missing"),
        ({"blocks.0.ls1.gamma": (128,)}, "blocks.0.ls1.gamma is not part of it"),
        ({"head_dist.weight": (20, 128)}, "head_dist.weight is not part of it"),
        ({"pos_embed": (1, 145, 128)}, r"pos_embed has the shape \(1, 145, 128\) for \(1, 50, 128\)"),
        ({"blocks.1.mlp.fc2.weight": (128, 99)}, "blocks.1.mlp.fc2.weight has the shape"),
        ({"blocks.3.norm1.bias": (128,)}, r"blocks.2.norm1.weight is missing.* and \d+ more"),
    ],
)
def test_a_transformer_of_another_architecture_is_refused(change, message):
    state = transformer(20) | {k: torch.zeros(v or 0) for k, v in change.items()}
    state = {k: v for k, v in state.items() if change.get(k, ()) is not None}
    with pytest.raises(ModelError, match=f"x.pth is not a Vision Transformer in the layout of timm's .*: .*{message}"):
        vit.network(state, Path("x.pth"))


def test_a_transformer_whose_heads_are_unknown_is_refused():
    with pytest.raises(ModelError, match="is 96 wide; .* a multiple of 64"):
        vit.network(transformer(20, width=96), Path("x.pth"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bn1.bias": None}, "bn1.bias is missing"),
        ({"layer2.0.downsample.0.weight": None}, "layer2.0.downsample.0.weight is missing"),
        ({"layer1.0.conv4.weight": (4, 4, 1, 1)}, "layer1.0.conv4.weight is not part of it"),
        ({"layer2.1.conv2.weight": (8, 1, 3, 3)}, "layer2.1.conv2.weight has the shape"),  # in groups, as a ResNeXt
        ({"layer1.0.conv1.weight": (8, 8, 1, 1)}, "layer1.0.conv1.weight has the shape"),  # as a wide ResNet
    ],
)
def test_a_residual_network_of_another_architecture_is_refused(change, message):
    state = residual(20) | {k: torch.zeros(v or 0) for k, v in change.items()}
    state = {k: v for k, v in state.items() if change.get(k, ()) is not None}
    with pytest.raises(ModelError, match=rf"x.pth is not a ResNet in the layout of torchvision: .*{message}"):
        resnet.network(state, Path("x.pth"))


def test_weights_that_transformers_does_not_know_are_never_left_random():
    from transformers import ResNetForImageClassification

    state = residual(20)
    with pytest.raises(ModelError, match=r"cannot hold the weights of x\.pth \(.*constraints\.txt"):
        local.load_classifier(ResNetForImageClassification, resnet.config_of(state, Path("x")), state, Path("x.pth"))


@pytest.mark.parametrize(
    ("size", "resized", "corner"),
    [((300, 300), (232, 232), (4, 4)), ((512, 384), (309, 232), (42, 4)), ((233, 500), (232, 497), (4, 136))],
)
def test_pixels_are_those_of_torchvision(size, resized, corner):
    # Resize(232), CenterCrop(224), ToTensor(), Normalize(); the sizes and corners are torchvision's
    image = pictures(1, side=512)[0].resize(size)
    left, top = corner
    square = np.asarray(image.resize(resized, Image.Resampling.BILINEAR))[top : top + 224, left : left + 224]
    expected = (square / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    found = local.central_crop(232, 224, *local.IMAGENET)([image])[0].permute(1, 2, 0)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    expected = np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR)) / 127.5 - 1
    found = local.resized_square(224, (0.5,) * 3, (0.5,) * 3)([image])[0].permute(1, 2, 0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


# --- where torch-fidelity can be imported ---


def test_inception_features_of_torch_fidelity(tmp_path):
    needed("torch_fidelity", "torch-fidelity cannot be imported next to this torch")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Inception

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Inception, "load_state_dict", lambda *a, **k: None)
        torch.save({}, tmp_path / "empty.pth")
        random = Inception("x", ["2048"], feature_extractor_weights_path=str(tmp_path / "empty.pth"))
    torch.save(random.state_dict(), tmp_path / "inception.pth")
    images = [*pictures(2, side=64), *pictures(1, side=80)]
    features = FEATURES.load("inception")(tmp_path)(images)
    assert features.shape == (3, 2048)
    pixels = torch.from_numpy(np.array(images[2])).permute(2, 0, 1)[None]
    with torch.no_grad():
        np.testing.assert_allclose(features[2], random(pixels)[0][0], rtol=1e-4, atol=1e-5)
    torch.save({"fc.weight": torch.zeros(1, 1)}, tmp_path / "inception.pth")
    with pytest.raises(ModelError, match="is not the Inception network of torch-fidelity"):
        FEATURES.load("inception")(tmp_path)
