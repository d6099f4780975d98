"""CLIP as a judge and a feature space, on a model of a few thousand random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from real_judges import pictures
from safetensors.torch import save_file

from excise.errors import ModelError
from excise.judges import FEATURES, JUDGES, local
from excise.judges.canvas import CanvasJudge
from excise.judges.clip import Clip, ClipScore, ClipZeroShot
from excise.judges.local import read_state
from excise.metrics.images import cmmd, kid
from excise.metrics.unlearning import NONE
from excise.protocols import PROTOCOLS
from excise.training.scorers import ClipScorer


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
    for head, p in judge.scores(images).items():
        alone = torch.cat([judge.scores([image])[head] for image in images])
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
