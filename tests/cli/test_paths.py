"""The path of a user, command by command, on a model folder of their own; every next step that is printed runs."""

from __future__ import annotations

import json
import re
import shlex
import sys

import pytest
import worlds
import yaml
from plugins import NUDGE, install

from excise import Edit
from excise.evaluation.evaluate import evaluate

pytestmark = pytest.mark.usefixtures("few_steps")
STEP = re.compile(r"(?:^|[:#] +|^ *)(excise [a-z]+ .*)$", re.MULTILINE)
JUDGED = (0, 1)  # a random CLIP model may see the concepts nowhere, which fails their gates
POLICY = """
schema: 1
model: {model}
judge: {clip}
methods: {{default: uce}}
preserve: [tree, dog]
gates: {{erased: 0, retained: 0}}
concepts:
  - {{name: Pikachu, kind: instance, requested_by: "The Company", date: 2026-03-01, reference: T-1}}
  - {{name: fox}}
"""


@pytest.fixture
def half_model(pipe, tmp_path):
    """The model as a folder of half-precision files."""
    folder = tmp_path / "half model"
    pipe.save_pretrained(folder, variant="fp16")
    return folder


def steps(text: str) -> list[list[str]]:
    """The commands that a text names, as arguments; their placeholders are none of ours."""
    return [shlex.split(line, comments=True)[1:] for line in STEP.findall(text)]


def run(excise, *args, statuses=(0,)):
    status, out, error = excise(*args)
    assert status in statuses, error
    return out + error


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_a_host_takes_a_concept_down_and_shows_it(excise, request, variant, clip_folder, tmp_path, monkeypatch):
    """Doctor, erase, look, verify, gate, ship; what each command prints as the next step runs as it is printed."""
    monkeypatch.chdir(tmp_path)
    folder = request.getfixturevalue("half_model" if variant else "model")
    load = ["--variant", variant] if variant else []
    run(excise, "doctor", "--model", folder, *load)
    made = run(
        excise, "erase", "--model", folder, *load, "--concept", "Pikachu", "--method", "uce",
        "--preserve", "dog", "--out", tmp_path / "run",
    )  # fmt: skip
    assert "not yet verified" in made
    (verify,) = [step for step in steps(made) if step[0] == "evaluate"]
    printed = run(excise, *verify)
    assert "not verified: there is no judge" in printed
    assert "Not verified" in (tmp_path / "run-evaluation" / "report.html").read_text()
    seen = run(excise, *verify[:-1], tmp_path / "judged", "--judge", clip_folder, "--pictures", "4")
    assert re.search(r"Pikachu: (verified|not \w+):", seen)
    page = (tmp_path / "run" / "report.html").read_text()
    for step in steps(re.sub(r"<[^>]*>", "", page).replace("&#39;", "'")):
        run(excise, *step)


def test_a_host_keeps_a_policy(excise, model, clip_folder, tmp_path):
    """Apply, add five names, withdraw one, audit."""
    path, out = tmp_path / "policy.yaml", tmp_path / "out"
    path.write_text(POLICY.format(model=model, clip=clip_folder))
    planned = run(excise, "apply", path, "--out", out, "--dry-run")
    assert re.search(r"to remove +.*Pikachu", planned)
    assert not out.exists()
    printed = run(excise, "apply", path, "--out", out, statuses=JUDGED)
    assert "Pikachu" in printed
    for step in steps(printed):
        run(excise, *step)
    assert (out / "audit.html").exists()
    status, _, error = excise("ledger", out, "--concept", "Pikchu")
    assert (status, "Did you mean 'Pikachu'?" in error) == (2, True)
    page = (out / "report.html").read_text()
    assert "verified as removed" in page
    assert "The Company" in page
    path.write_text(path.read_text() + "".join(f"  - {n}\n" for n in ("owl", "lion", "boat", "lamp", "kite")))
    assert "5 new" in run(excise, "apply", path, "--out", out, statuses=JUDGED)
    path.write_text(path.read_text().replace("  - {name: fox}\n", ""))
    assert re.search(r"to give back +fox", run(excise, "apply", path, "--out", out, "--dry-run"))
    assert "1 restored: fox" in run(excise, "apply", path, "--out", out, statuses=JUDGED)
    assert "restored" in (out / "report.html").read_text()
    story = json.loads(run(excise, "ledger", out, "--json"))
    assert [e["removed"] for e in story] == [[], [], ["fox"]]


def test_a_gate_that_cannot_pass_is_refused_before_anything_is_drawn(excise, model, clip_folder, tmp_path):
    run(excise, "erase", "--model", model, "--concept", "cat", "--method", "uce", "--out", tmp_path / "run")
    ask = ["evaluate", "--model", model, "--edit", tmp_path / "run" / "edit.safetensors", "--judge", clip_folder]
    status, _, error = excise(*ask, "--pictures", "3", "--require", "ua>=0.5", "--out", tmp_path / "one")
    assert status == 2
    assert "ua>=0.5 cannot pass: with 3 images" in error
    assert not (tmp_path / "one").exists()
    status, _, error = excise(*ask[:-2], "--require", "ua>=0.5", "--out", tmp_path / "one")
    assert status == 2
    assert "nothing measures ua" in error
    for bound, advice in ((0.9, "--protocol canvas-full"), (0.99, "a protocol with more images")):
        status, _, error = excise("evaluate", "-c", "cat", "--require", f"ua>={bound}", "--out", tmp_path / "one")
        assert (status, "with 10 images, all as wished, its interval begins at 0.722" in error) == (2, True)
        assert advice in error
    status, _, error = excise("evaluate", "--protocol", "canvas-mini", "--ask", "prompts.txt")
    assert status == 2
    assert "add --protocol concept" in error


def sees_dogs(images, names):
    """A judge of one's own: a plain function."""
    return [name == "dog" for name in names]


def test_a_student_compares_a_method_of_their_own(excise, pipe, model, tmp_path, monkeypatch):
    """A package with a method, an edit by it, a bench beside another method, tables, notebook objects, an own judge."""
    worlds.register(monkeypatch)
    source = (NUDGE / "nudge.py").read_text(encoding="utf-8")
    monkeypatch.syspath_prepend(
        str(install(tmp_path / "site", "nudge", {"nudge.py": source}, {"nudge": "nudge:Nudge"}))
    )
    monkeypatch.delitem(sys.modules, "nudge", raising=False)
    assert "nudge" in run(excise, "methods")
    run(
        excise,
        "erase",
        "--model",
        model,
        "-c",
        "cat",
        "--method",
        "nudge",
        "--preserve",
        "dog",
        "--out",
        tmp_path / "run",
    )
    edit = Edit.load(tmp_path / "run" / "edit.safetensors")
    assert "nudge removes cat" in repr(edit)
    assert "nudge removes cat" in edit._repr_html_()
    recipe = {
        "schema": 1, "name": "mine", "models": [str(model)], "protocols": ["small-world"],
        "methods": ["nudge", "uce"], "concepts": ["cat"], "vocabulary": "none",
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    run(excise, "bench", tmp_path / "recipe.yaml", "--out", tmp_path / "bench")
    for name in ("table.md", "table.csv", "table.tex", "table.html"):
        run(excise, "compare", tmp_path / "bench", "--out", tmp_path / name)
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "nudge" in text
        assert "uce" in text
    evaluated = evaluate(pipe, ["cat"], protocol="small-world", edits=[edit], judge=sees_dogs)
    assert evaluated.result.metrics["ua"]["value"] == 1
    assert "cat" in evaluated._repr_html_()
    sys.modules.pop("nudge", None)
