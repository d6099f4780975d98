"""Messages that tell a person to set something name a setting that the method at hand has."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import tiny_pipe
from given import those_read

import excise
from excise import erase
from excise.errors import TrainingError
from excise.families.pipeline import PipelineFamily
from excise.methods import METHODS
from excise.methods.base import Context
from excise.training.config import DistilledConfig

ROOT = Path(excise.__file__).parent
ALL = set(METHODS.records())
TRAINED = {name for name, record in METHODS.records().items() if record.shape == "trained"}
DISTILLED = {m for m in TRAINED if issubclass(METHODS.load(m).Config, DistilledConfig)}
# Whose messages they are, by file; a method's own file is its own.
WHOSE = {
    "cli/methods.py": ALL,
    "cli/erase.py": {m for m in ALL if "robust" in METHODS.load(m).Config.model_fields},  # the help of --robust
    "erasing/erase.py": ALL,
    "exporting/__init__.py": ALL - TRAINED - {"emcid"},
    # Each way is named where its setting is there and set.
    "methods/closed_form/base.py": {m for m in ALL if "fixed" in METHODS.load(m).Config.model_fields},
    "methods/closed_form/text_maps.py": {m for m in ALL if "params" in METHODS.load(m).Config.model_fields},
    "methods/trained/base.py": DISTILLED,
    "methods/trained/material.py": DISTILLED,
    "training/blocks.py": DISTILLED,
    "training/masking.py": DISTILLED,
    "training/config.py": TRAINED,
    "training/loop.py": TRAINED,
}
OF_ALL = {"preset"}  # no setting, but taken by every method that has presets


def advised(path: Path) -> Iterator[tuple[str, str]]:
    """Every setting that a text in a file says to set, and the text."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for name in re.findall(r"--set (\w+)=", node.value):
                yield name, node.value


FILES = [str(p.relative_to(ROOT)) for p in sorted(ROOT.rglob("*.py")) if any(advised(p))]


def whose(file: str) -> set[str]:
    """A method's own file, or any file of its own package, speaks of its settings."""
    places = {part.replace("_", "-") for part in (Path(file).stem, Path(file).parent.name)}
    own = {name for name in ALL if file.startswith("methods/") and name in places}
    return WHOSE.get(file, own)


@pytest.mark.parametrize("file", FILES)
def test_a_message_names_settings_that_its_readers_have(file):
    assert whose(file), f"{file} tells people to set something: say in this test which methods they may be using"
    for method in whose(file):
        fields = METHODS.load(method).Config.model_fields
        for name, text in advised(ROOT / file):
            assert name in fields or name in OF_ALL, f"{method} has no '{name}', but may say: {text}"


WITHOUT_PREDICTIONS = {"slug", "forget-me-not", "mace-full"}
"""Without steps, or with a loss of attention alone."""


@pytest.mark.parametrize("method", sorted(TRAINED - WITHOUT_PREDICTIONS))
def test_what_steadies_a_training_can_be_set(make, few_steps, monkeypatch, method):
    """A loss that is not finite: what the message says to set is there."""

    predict = PipelineFamily.predict
    monkeypatch.setattr(PipelineFamily, "predict", lambda *given: predict(*given) * float("nan"))
    request = {"preserve": ["dog"], "steps": 20, **SMALL.get(method, those_read(method, FEW))}
    with pytest.raises(TrainingError, match="not finite") as error:
        erase(make(MODELS.get(method, "sd")), ["cat"], method, **request)
    names = re.findall(r"--set (\w+)=", str(error.value))
    assert "lr" in names
    assert set(names) <= set(METHODS.load(method).Config.model_fields)


MODELS = {"eraseanything": "flux-dev", "zerase": "zimage"}  # of methods that do not fit Stable Diffusion
FEW = {"sampler_steps": 2, "pictures": 2, "adversary_steps": 1, "attack_steps": 1, "warmup_steps": 1, "warmup": 1}
SMALL = {
    "salun": {"pictures": 2, "mask": "none"},  # a mask is chosen by gradients before there is any step
    "sculpting-memory": {"pictures": 2, "mask": "none"},
    "ant": {"sampler_steps": 2, "mask": "none"},
    "selective-amnesia": {"pictures": 2, "fisher_passes": 1},
    "few-shot": {"pictures": 2, "bound": 0.0},
    "eraseanything": {"sampler_steps": 2, "pictures": 1, "attention_weight": 0.0, "contrast_weight": 0.0},
    "esd": {"sampler_steps": 2},
    "surgun": {"pictures": 4, "distractors": "car,tree", "blocks": "all"},
    "zerase": {"sampler_steps": 2},
}


def test_memory_that_runs_out_in_esd_is_answered_with_its_own_settings(tokenizer, monkeypatch):
    """In the training's own passes, and in the pictures that a judge looks at."""

    def full(*given, **options):
        raise torch.OutOfMemoryError

    pipe = tiny_pipe(tokenizer)
    judge = Context(judge=lambda images, names: [True] * len(names))
    for member, message, context in (("predict", "--set batch=", None), ("sample", "--set draw=1", judge)):
        with monkeypatch.context() as patched:
            patched.setattr(PipelineFamily, member, full)
            with pytest.raises(TrainingError, match=message) as error:
                erase(pipe, ["cat"], "esd", preserve=["dog"], steps=2, sampler_steps=2, context=context)
        names = re.findall(r"--set (\w+)=", str(error.value))
        assert set(names) <= set(METHODS.load("esd").Config.model_fields)
