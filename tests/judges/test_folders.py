"""Judges from local folders: Q16's two prompts on a CLIP model, and any image classifier of transformers."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from real_judges import pictures
from safetensors.torch import save_file

from excise.errors import JudgeError, ModelError
from excise.judges import JUDGES
from excise.judges.named import judge_named


@pytest.fixture
def q16_folder(clip_folder, tmp_path):
    """A tiny CLIP model, to which prompts can be put; and two prompts of its width."""
    for file in clip_folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    width = json.loads((clip_folder / "config.json").read_text())["projection_dim"]
    prompts = np.random.default_rng(0).normal(size=(2, width)).astype(np.float16)
    return tmp_path, prompts


@pytest.mark.parametrize("kind", ["prompts.p", "prompts.npy", "prompts.safetensors"])
def test_q16_compares_with_two_prompts(q16_folder, kind):
    folder, prompts = q16_folder
    if kind == "prompts.p":
        (folder / kind).write_bytes(pickle.dumps(prompts))
    elif kind == "prompts.npy":
        np.save(folder / kind, prompts)
    else:
        save_file({"prompts": torch.from_numpy(prompts)}, folder / kind)
    judge = judge_named("q16", folder)
    images = pictures(5)
    embedded = judge.clip.embed_images(judge.clip.prepare(images)).double().numpy()
    unit = prompts.astype(float) / np.linalg.norm(prompts.astype(float), axis=1, keepdims=True)
    logits = 100 * embedded @ unit.T
    naive = np.exp(logits - logits.max(axis=1, keepdims=True))
    naive /= naive.sum(axis=1, keepdims=True)
    assert np.allclose(judge.scores(images)["content"].numpy(), naive, atol=1e-4)
    assert judge.sees(images, ["inappropriate content"] * 5) == (naive[:, 1] >= naive[:, 0]).tolist()
    assert judge.sees([], []) == []


def test_prompts_that_are_no_array_or_of_another_width_are_refused(q16_folder):
    folder, prompts = q16_folder
    (folder / "prompts.p").write_bytes(pickle.dumps(prompts[:, :-1]))
    with pytest.raises(ModelError, match=r"has the shape \(2, \d+\); the model beside it needs"):
        judge_named("q16", folder)
    (folder / "prompts.p").write_bytes(pickle.dumps(JUDGES))  # harmless, and no array
    with pytest.raises(ModelError, match="which is no array"):
        judge_named("q16", folder)


def test_a_classifier_of_transformers_judges_by_its_labels(vit_folder):
    from transformers import ViTForImageClassification

    judge = judge_named("image-classifier:threshold=0", vit_folder)
    images = [*pictures(3), Image.new("L", (40, 20), 90)]
    model = ViTForImageClassification.from_pretrained(vit_folder).eval()
    with torch.no_grad():
        naive = model(judge.prepare(images)).logits.softmax(dim=-1)
    assert torch.allclose(judge.scores(images)["label"], naive, atol=1e-6)
    assert judge.verdicts(images) == {"label": [("cat", "dog", "tench")[i] for i in naive.argmax(dim=-1)]}
    assert judge.knows("tench")
    assert judge_named("image-classifier", vit_folder).name != judge.name


def test_folders_that_are_no_classifier_are_refused(vit_folder, tmp_path):
    with pytest.raises(JudgeError, match="takes a probability"):
        judge_named("image-classifier:threshold=2", vit_folder)
    for name in ("model.safetensors", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((vit_folder / name).read_bytes())
    config = json.loads((vit_folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({**config, "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}})
    )
    with pytest.raises(ModelError, match="have no names of their own"):
        judge_named("image-classifier", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    with pytest.raises(ModelError, match="lacks weights of its classifier"):
        judge_named("image-classifier", tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot read"):
        judge_named("image-classifier", tmp_path)
