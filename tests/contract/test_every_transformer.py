"""Every diffusion transformer goes the whole way: doctor, erase, apply, draw, undo, export, import, evaluate, attack.

The steps of a case share one tiny pipeline and its folder; what they promise alone stands in the tests of each step.
"""

from __future__ import annotations

import json
import warnings
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import worlds
from attack_runs import run as attacked
from dit_edits import assert_same_deltas
from dits import CASES, FIRST, Case
from test_every_method import SETTINGS, SHORT

from excise import Edit, erase, export, load
from excise.edits.originals import original_weights
from excise.errors import ExciseWarning
from excise.exporting.layouts import TRANSFORMERS
from excise.families import FAMILIES, family_of
from excise.families.base import Family
from excise.families.whole import absent_parts
from excise.importing.import_edit import import_edit
from excise.methods.fitting import methods_for

PROMPT = "a photo of a cat"
KEPT: dict[str, object] = {"preserve": ["dog", "tree"], "vocabulary": None}
CLOSED = ("uce", "speed", "scapre")
NARROW = {method: {"retain_tokens": "last"} for method in CLOSED}
"""In the narrow text space of a tiny random encoder, all tokens of what is kept would leave no room."""


@pytest.fixture(params=CASES, ids=str)
def name(request) -> str:
    return request.param


@pytest.fixture
def case(name) -> Case:
    return CASES[name]


@pytest.fixture
def saved(case, tmp_path) -> Path:
    """The tiny pipeline as a folder."""
    case.build().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def family(saved) -> Family:
    """That folder, loaded as the command line loads it."""
    return load(saved, device="cpu")


def drawn(family: Family) -> np.ndarray:
    return np.asarray(family.sample([PROMPT], [0], steps=2, guidance=2.0, batch=1)[0]).astype(int)


def stock(pipe, case: Case) -> np.ndarray:
    """A picture that the pipeline draws when it is called as its users do."""
    side = dict.fromkeys(("height", "width"), family_of(pipe).image_size)
    generator = torch.Generator().manual_seed(0)
    pipe.set_progress_bar_config(disable=True)
    image = pipe(prompt=PROMPT, num_inference_steps=2, generator=generator, **side, **case.call(2.0)).images[0]
    return np.asarray(image).astype(int)


def weights(family: Family) -> dict[str, torch.Tensor]:
    parts = {"denoiser": family.denoiser, **family.text_encoders}
    return {f"{part}.{path}": w for part, net in parts.items() for path, w in net.named_parameters()}


def made(family: Family, method: str, shape: str = "closed-form") -> Edit:
    settings = {**SHORT.get(shape, {}), **SETTINGS.get(method, {}), **NARROW.get(method, {})}
    if method == "surgun":
        settings["steps"] = 2
    return erase(family, ["cat"], method, **KEPT, **settings)


def comes_and_goes(family: Family, edit: Edit, before: np.ndarray) -> np.ndarray:
    """The edited picture, after the edit was applied and every parameter was as it had been again."""
    old = {path: (w, w.detach().clone()) for path, w in weights(family).items()}
    with edit.apply(family.pipe):
        after = drawn(family)
    for path, w in weights(family).items():
        assert w is old[path][0]
        assert torch.equal(w, old[path][1]), path
    assert edit.paths
    assert np.abs(after - before).max() > 1, f"{edit.record.method} changes nothing that is drawn"
    assert np.array_equal(drawn(family), before)
    return after


def shipped(edit: Edit, family: Family, out: Path, format: str | None = None):
    """An export, of which is known that some program loses a part."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExciseWarning)
        done = export(edit, family, out, format)
    assert done.error < 1e-4
    return done


def test_a_closed_form_goes_the_whole_way(name, case, saved, family, excise, small_world, few_steps, tmp_path):
    status, out, error = excise("doctor", "--model", saved, "--json")
    assert status == 0, error
    inside = json.loads(out)["model"]
    assert (inside["family"], inside["text width"]) == (case.family, family.text_width)
    assert inside["guidance"].startswith("any scale" if case.guided else "changes nothing")
    assert inside["subject token of 'a cat'"] == family.last_token("a cat", "cat")
    assert set(CLOSED) <= set(inside["methods"].split(", "))

    before = drawn(family)
    edits = {method: made(family, method) for method in CLOSED}
    pictures = {method: comes_and_goes(family, edit, before) for method, edit in edits.items()}

    edit, file = edits["uce"], edits["uce"].save(tmp_path / "edit.safetensors")
    status, _, error = excise("generate", "--model", saved, "--edit", file, "--prompt", PROMPT, "--steps", 2,
                              "--guidance", 2, "--out", tmp_path / "drawn")  # fmt: skip
    assert status == 0, error
    assert ("a guidance of 2 changes nothing here" in " ".join(error.split())) == (not case.guided)
    (picture,) = (tmp_path / "drawn" / "images").glob("*.png")
    assert np.array_equal(read(picture), pictures["uce"])

    the_stock_pipeline_reads_exports(case, saved, family, edit, tmp_path)

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        verdict = worlds.run(family, "cat", edits=[edit])
    assert any("changes nothing here" in str(w.message) for w in said) == (not case.guided)
    assert len(verdict.images) > 0
    suite = attacked(family.pipe, edits=[edit], names=["random words"])
    assert len(suite.results) == 1
    assert np.array_equal(drawn(family), before)


def the_stock_pipeline_reads_exports(case: Case, saved: Path, family: Family, edit: Edit, out: Path) -> None:
    """Its pictures are those of the edit, from a LoRA and from a merged folder; both come back as the edit."""
    kind = type(family.pipe)
    with edit.apply(family.pipe):
        wanted = stock(family.pipe, case)
    merged = shipped(edit, family, out / "merged", "merged")
    pipe = kind.from_pretrained(merged.path, **absent_parts(merged.path))
    told = [f"{name}=None" for name in absent_parts(merged.path) if name not in kind._optional_components]
    assert ", ".join(told) in merged.card.read_text()
    assert np.abs(stock(pipe, case) - wanted).max() <= 1
    assert_same_deltas(import_edit(merged.path, family), edit, family.pipe, 1e-3)

    lora = shipped(edit, family, out / "lora")
    back = import_edit(lora.path, family)
    assert_same_deltas(back, edit, family.pipe)
    assert back.record.concepts == edit.record.concepts
    if "diffusers" not in lora.readers or not lora.readers["diffusers"].whole:
        lora = shipped(edit, family, out / "diffusers", "diffusers-lora") if case.family in TRANSFORMERS else lora
    if case.family not in NO_LOADER:
        pipe = deepcopy(family.pipe)
        pipe.load_lora_weights(str(lora.path.parent), weight_name=lora.path.name)
        assert np.abs(stock(pipe, case) - wanted).max() <= 1


NO_LOADER = ("pixart",)
"""Families whose pipeline in diffusers loads no LoRA."""


def read(path: Path) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(path)).astype(int)


TRAINED = [
    (name, method)
    for family, name in FIRST.items()
    for method in ("esd", "surgun")
    if method in methods_for(FAMILIES.record(family).provides)
]


@pytest.mark.parametrize(("name", "method"), TRAINED)
def test_a_trained_method_changes_pictures_and_goes_again(name, method):
    family = family_of(CASES[name].build())
    comes_and_goes(family, made(family, method, "trained"), drawn(family))


@pytest.mark.parametrize("name", FIRST.values(), ids=str)
def test_a_confined_training_changes_every_door_in_its_own_text_space(name):
    """SurgUn's default: what each door reads of the target, tokens or the whole prompt, tells where it may change."""
    family = family_of(CASES[name].build())
    settings = {**SETTINGS["surgun"], "confine": True, "steps": 2, "lr": 1e-2, "batch": 2, "rank": 4}
    edit = erase(family, ["cat"], "surgun", **KEPT, **settings)
    doors = {m.path: m.part for m in family.maps("cross_kv")}
    assert edit.paths == sorted(doors)
    space = edit.record.measured["text_space"]
    assert ("pooled" in space) == ("p" in doors.values())
    asked, kept = family.encode(["cat"], ["cat"]), family.encode(["dog", "tree", ""])
    for path, weight in original_weights(family, edit.paths).items():
        delta = edit.delta(path, weight).float()
        if doors[path] == "p":
            moved = (asked.pooled @ delta[:, : asked.pooled.shape[1]].T).norm()
            assert moved > 2 * (kept.pooled @ delta[:, : asked.pooled.shape[1]].T).norm(dim=1).mean()
        assert delta.any(), path


@pytest.mark.parametrize("name", FIRST.values(), ids=str)
def test_defaults_are_settings_that_work(name):
    """The preset of the concept's kind, its tokens and its maps fit every family, whatever stands around a prompt."""
    family = family_of(CASES[name].build())
    for method, kind in (("speed", "object"), ("speed", "explicit"), ("uce", "style"), ("scapre", "object")):
        edit = erase(family, ["cat"], method, kind=kind, **KEPT)
        for path, weight in original_weights(family, edit.paths).items():
            delta = edit.delta(path, weight)
            assert bool(torch.isfinite(delta).all())
            assert bool(delta.any()), (method, kind, path)
