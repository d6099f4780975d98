"""The command line as a person meets it: bad input is one sentence and exit status 2, and nothing is left behind."""

from __future__ import annotations

import html
import json
import os
import re
import shlex
import subprocess
import sys
import warnings

import diffusers
import pytest
from conftest import tiny_sana

from excise.families import FAMILIES
from excise.methods import METHODS
from excise.methods.fitting import methods_for


@pytest.fixture
def edit(excise, model, tmp_path):
    status, _, err = excise(
        "erase", "--model", model, "-c", "cat", "--method", "uce", "--preserve", "dog", "--out", tmp_path / "run"
    )
    assert status == 0, err
    return tmp_path / "run" / "edit.safetensors"


def sentence(err: str) -> str:
    """Standard error of a refusal: exactly one line."""
    lines = [line for line in err.strip().splitlines() if line]
    assert len(lines) == 1, err
    return lines[0]


BAD_ERASE = [
    (["--model", "canvas-sdd", "-c", "cat"], "no model 'canvas-sdd'. Did you mean 'canvas-sd'?"),
    (["--method", "sped", "-c", "cat"], "no method 'sped'. Did you mean 'speed'?"),
    (["-c", ""], "the concept is empty"),
    (["-c", "a{b}"], "braces and control characters"),
    (["-c", "cat", "-c", "Cat"], "given twice"),
    (["-c", "cat", "-p", "cat"], "to be erased and to be preserved at once"),
    (["-c", "cat", "--kind", "thing"], "no concept kind 'thing'"),
    (["-c", "cat", "--set", "rigde=1"], "no setting 'rigde'. Did you mean 'ridge'?"),
    (["-c", "cat", "--set", "ridge=strong"], "setting 'ridge' was 'strong'"),
    (["-c", "cat", "--set", "ridge=-1"], "setting 'ridge' was -1"),
    (["-c", "cat", "--set", "ridge"], "expected key=value"),
    (["-c", "cat", "--set", "ridge=1", "--set", "ridge=2"], "names 'ridge' twice"),
    (["-c", "cat", "--set", "preset=celebrity"], "no preset 'celebrity'"),
    (["-c", "cat", "--vocabulary", "wordnet"], "no vocabulary 'wordnet'"),
    (["-c", "cat", "--anchor", "cat"], "itself to be erased"),
    (["-c", "cat " * 40], "tokens; 32 fit"),
    (["-c", "cat", "--preserve-file", "missing.txt"], "cannot read names from missing.txt"),
    (["-c", "cat", "--dtype", "float8"], "no dtype 'float8'"),
    (["-c", "cat", "--device", "abacus"], "device 'abacus' cannot be used here"),
    (["--model", "nobody/nothing", "--local-files-only", "-c", "cat"], "cannot load 'nobody/nothing' from the hub"),
]


@pytest.mark.parametrize(("args", "message"), BAD_ERASE, ids=[m for _, m in BAD_ERASE])
def test_bad_requests(excise, model, tmp_path, args, message):
    if "--model" not in args:
        args = ["--model", model, *args]
    if "-p" not in args:  # else it is said that the built-in list of names is kept
        args = [*args, "-p", "dog"]
    status, out, err = excise("erase", *args, "--out", tmp_path / "out")
    assert status == 2
    assert message in sentence(err)
    assert out == ""
    assert not (tmp_path / "out" / "edit.safetensors").exists()


def test_a_hub_id_without_network(excise, tmp_path, monkeypatch):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    status, _, err = excise("erase", "--model", "nobody/nothing", "-c", "cat", "--out", tmp_path)
    assert status == 2
    assert "is there a network" in sentence(err)


def test_bad_edit_files(excise, model, edit, tmp_path, tokenizer):
    from conftest import tiny_pipe

    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(edit.read_bytes()[:200])
    pickle = tmp_path / "edit.pt"
    pickle.write_bytes(b"PK\x03\x04")
    tiny_pipe(tokenizer, seed=9).save_pretrained(tmp_path / "other")
    for file, to, message in (
        (cut, model, "damaged or cut short"),
        (pickle, model, "is a pickle"),
        (tmp_path / "none.safetensors", model, "there is no edit file"),
        (edit, tmp_path / "other", "was made for"),
    ):
        status, _, err = excise("generate", "--model", to, "--edit", file, "-p", "x", "--out", tmp_path / "g")
        assert (status, message in err) == (2, True), err
    status, _, err = excise("inspect", cut)
    assert (status, "damaged" in sentence(err)) == (2, True)


def test_pickled_model_and_unsupported_family(excise, tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x02")
    status, _, err = excise("erase", "--model", tmp_path / "model.ckpt", "-c", "cat", "--out", tmp_path / "o")
    assert (status, "is a pickle" in sentence(err)) == (2, True)
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=8, block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",)
    )
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "ddpm")
    status, _, err = excise("erase", "--model", tmp_path / "ddpm", "-c", "cat", "--out", tmp_path / "o")
    assert (status, "DDPMPipeline is not supported yet; supported are" in err) == (2, True), err


def test_no_place_to_write(excise, model, tmp_path):
    (tmp_path / "file").write_text("in the way")
    status, _, err = excise("erase", "--model", model, "-c", "cat", "--method", "uce", "--out", tmp_path / "file")
    assert (status, "cannot write to" in sentence(err)) == (2, True)


@pytest.mark.skipif(not os.path.isdir("/proc/self") or os.geteuid() != 0, reason="root writes anywhere but in /proc")
def test_no_permission(excise, model):
    status, _, err = excise("erase", "--model", model, "-c", "cat", "--method", "uce", "--out", "/proc/excise")
    assert (status, "cannot write to /proc/excise" in sentence(err)) == (2, True)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_leaves_nothing(excise, model, tmp_path, monkeypatch):
    def to_full_disk(tensors, path, metadata):
        path.write_bytes(b"x" * 1000)
        with open("/dev/full", "wb", buffering=0) as disk:
            disk.write(b"x")

    monkeypatch.setattr("safetensors.torch.save_file", to_full_disk)
    status, _, err = excise("erase", "--model", model, "-c", "cat", "--method", "uce", "--out", tmp_path / "run")
    assert (status, "No space left on device" in err) == (2, True)
    assert not (tmp_path / "run").exists()


def test_erase_json_is_one_document_of_the_agreed_shape(excise, model, tmp_path):
    status, out, _ = excise(
        "erase", "--model", model, "-c", "cat", "--method", "speed", "--set", "threshold=5", "-p", "dog",
        "--out", tmp_path / "run", "--json",
    )  # fmt: skip
    document = json.loads(out)
    assert status == 0
    assert set(document) >= {"edit", "method", "concepts", "seconds", "delta"}
    assert set(document["seconds"]) == {"encode", "solve", "total"}
    assert document["delta"]["kinds"] == ["LowRank"]
    assert document["delta"]["modules"] > 0
    run_file = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run_file["record"]["concepts"][0]["name"] == "cat"
    assert run_file["schema_version"] == 1
    assert (tmp_path / "run" / "report.html").exists()


def test_preserve_file_and_preview(excise, model, tmp_path):
    (tmp_path / "keep.csv").write_text("name\ndog\ntree\n")
    status, _, err = excise(
        "erase", "--model", model, "-c", "cat", "--method", "uce", "--preserve-file", tmp_path / "keep.csv",
        "--preview", "--out", tmp_path / "run",
    )  # fmt: skip
    assert status == 0, err
    record = json.loads((tmp_path / "run" / "run.json").read_text())["record"]
    assert record["preserve"] == ["dog", "tree"]
    assert len(list((tmp_path / "run" / "images").iterdir())) == 2 * (2 + 2)
    assert "data:image/webp" in (tmp_path / "run" / "report.html").read_text()


def test_several_names_in_one_text_are_said_once_and_beside_the_json(excise, model, tmp_path):
    # Libraries change Python's filters when they are first imported, after which it says again what it has said.
    warnings.simplefilter("always")
    status, out, err = excise(
        "erase", "--model", model, "-c", "cat, dog", "-p", "car; tree", "--method", "uce", "--out", tmp_path, "--json"
    )
    assert (status, json.loads(out)["concepts"]) == (0, ["cat, dog"])
    assert err.count("'cat, dog' is taken as one phrase") == 1
    assert err.count("--preserve car --preserve tree") == 1
    status, _, err = excise("update", tmp_path, "--add", "fox, hat", "--model", model)
    assert (status, err.count("'fox, hat' is taken as one phrase")) == (0, 1), err


def test_a_name_with_marks_is_escaped_wherever_it_is_written(excise, model, tmp_path):
    name = "<b>a/c</b> & 'x' \"$y\""
    status, _, err = excise(
        "erase", "--model", model, "-c", name, "--method", "uce", "-p", "Tom & Jerry", "--out", tmp_path / "run"
    )
    assert status == 0, err
    assert {p.name for p in (tmp_path / "run").glob("[!.]*")} == {"edit.safetensors", "run.json", "report.html"}
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<b>a" not in page
    assert "&lt;b&gt;a/c&lt;/b&gt; &amp; " in page
    printed = next(line for line in err.splitlines() if line.startswith("look:"))
    assert any(name in word for word in shlex.split(printed))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["record"]["concepts"][0]["name"] == name


def test_the_demo_writes_no_folder_by_a_name_that_it_does_not_know(excise, tmp_path):
    status, _, err = excise("demo", "--object", "../dog", "--out", tmp_path / "demo")
    assert (status, "no Canvas object '../dog'" in sentence(err)) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_generate_inspect_export(excise, model, edit, tmp_path):
    status, out, _ = excise(
        "generate", "--model", model, "-p", "a cat", "--count", 2, "--seed", 5, "--out", tmp_path / "g", "--json"
    )
    assert status == 0
    made = json.loads(out)["images"]
    assert [m["seed"] for m in made] == [5, 6]
    assert all(os.path.exists(m["file"]) for m in made)
    status, out, _ = excise("inspect", edit, "--json")
    assert json.loads(out)["record"]["method"] == "uce"
    status, out, _ = excise("inspect", edit)
    assert "cat (object" in out
    for format in ("diffusers-lora", "kohya-lora", "merged", "single-file"):
        status, out, err = excise("export", edit, "--format", format, "--out", tmp_path / format, "--json")
        assert status == 0, err
        assert json.loads(out)["relative_error"] < 1e-4
    status, _, err = excise("export", edit, "--format", "zip", "--out", tmp_path / "z")
    assert (status, "no export format 'zip'" in sentence(err)) == (2, True)


def test_methods_and_doctor(excise, model):
    status, out, _ = excise("methods", "--json")
    assert {"speed", "uce"} <= {m["name"] for m in json.loads(out)}
    status, out, _ = excise("methods", "speed", "--json")
    assert "threshold" in {k["name"] for k in json.loads(out)["settings"]}
    assert "blocks" not in json.loads(out)
    status, out, _ = excise("methods", "salun", "--json")
    assert json.loads(out)["blocks"] == (
        "latents: images of the target; weights: full, mask: saliency; retain: pictures, gradients: sum"
    )
    status, out, _ = excise("methods", "spee")
    assert status == 2
    status, out, _ = excise("doctor", "--model", model, "--json")
    assert json.loads(out)["device"] in ("cpu", "mps", "cuda:0")
    assert json.loads(out)["bfloat16"] in ("fast", "slow here; leave float32")
    assert json.loads(out)["model"]["methods"] == ", ".join(methods_for(FAMILIES.record("sd").provides))


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "SCMScheduler"])
def test_doctor_says_what_works_with_a_scheduler(excise, gemma_tokenizer, tmp_path, name):
    pipe = tiny_sana(gemma_tokenizer)
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    pipe.save_pretrained(tmp_path / "sana")
    status, out, err = excise("doctor", "--model", tmp_path / "sana", "--json")
    assert status == 0, err
    found = json.loads(out)["model"]
    assert found["scheduler"] == name
    fitting = methods_for(FAMILIES.record("sana").provides)
    if "Flow" in name:
        assert found["prediction"] == "flow"
        assert found["methods"] == ", ".join(fitting)
    else:  # it predicts what no training here knows, and all other methods do not ask
        untrained = [m for m in fitting if METHODS.record(m).shape != "trained"]
        assert (found["prediction"], found["methods"]) == ("unknown", ", ".join(untrained))
        trained = ", ".join(m for m in fitting if m not in untrained)
        assert found["not with this scheduler"].startswith(f"{trained}, attacks that ask the denoiser, FADE: ")
        assert "trigflow" in found["not with this scheduler"]


def test_two_evaluations_do_not_share_a_folder(excise, tmp_path):
    from excise.support.runs import locked

    with locked(tmp_path):
        status, out, err = excise("evaluate", "--concept", "cat", "--out", tmp_path)
    assert (status, out) == (2, "")
    assert "another process is at work" in err
    assert list(tmp_path.glob("*.json")) == []


def test_gates():
    from excise.cli.gates import parse, parse_all
    from excise.errors import SettingError, UnknownNameError

    metrics = {"ua": {"value": 1.0, "low": 0.9, "high": 1.0, "n": 30}, "kid": {"value": 0.1, "low": 0, "high": 0.2}}
    assert parse("ua >= 0.9").holds(metrics)
    assert not parse("ua>0.9").holds(metrics)  # the lower end of the interval counts
    assert parse("kid<=0.2").holds(metrics)
    assert not parse("kid<=0.15").holds(metrics)  # and of what should be low the upper end
    said = parse("ua>=0.95").explain(metrics)
    assert "low end 0.9000 (n = 30), required >= 0.95: short by 0.0500; the value itself passes" in said
    assert [g.metric for g in parse_all(["ua>=0.9,kid<=0.2", "ira>0"])] == ["ua", "kid", "ira"]
    with pytest.raises(UnknownNameError, match="no metric 'uaa'. Did you mean 'ua'"):
        parse("uaa>=0.9")
    with pytest.raises(UnknownNameError, match="no metric 'ira'. Known: kid, ua"):
        parse("ira>=0.9").holds(metrics)  # a metric, but not one of this protocol
    for bad in ("ua", "ua=1", "ua>=high", "ua>=1.2.3"):
        with pytest.raises(SettingError, match="expected for example"):
            parse(bad)


@pytest.mark.parametrize("args", [["--help"], ["methods"], ["methods", "uce", "--help"]])
def test_light_verbs_do_not_import_torch(args):
    code = (
        f"import sys; sys.argv = ['excise', *{args!r}]\n"
        "from excise.cli.main import run\n"
        "try:\n    run()\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("concept", "kind"), [("AC/DC", "instance"), ("cat", "object")])
def test_every_printed_next_step_runs_as_printed(excise, few_steps, model, tmp_path, concept, kind):
    """With the options that the model was loaded with."""
    options = ["--model", model, "--dtype", "float32", "--prediction", "epsilon", "--vocabulary", "none"]
    out = tmp_path / "a run"
    status, _, err = excise("erase", *options, "-c", concept, "--kind", kind, "--method", "uce", "--out", out)
    assert status == 0, err
    page = html.unescape((out / "report.html").read_text(encoding="utf-8"))
    steps = re.findall(r"excise ((?:generate|evaluate|export) [^<\n]*)", err + page)
    assert {step.split()[0] for step in steps} == {"generate", "evaluate", "export"}
    for i, step in enumerate(steps):
        assert " --dtype float32 --prediction epsilon" in step
        words = shlex.split(step, comments=True)
        words[words.index("--out") + 1] = str(tmp_path / f"next-{i}")
        status, _, err = excise(*words, *(["--steps", "2"] if words[0] == "generate" else []))
        assert status == 0, (step, err)


def test_what_cannot_be_judged_is_said_before_a_folder_is_made(excise, model, tmp_path):
    status, _, err = excise(
        "evaluate", "--model", model, "--protocol", "canvas-mini", "-c", "AC/DC", "--out", tmp_path / "out"
    )
    assert (status, "excise generate" in sentence(err)) == (2, True)
    assert not (tmp_path / "out").exists()


def test_another_prediction_is_another_evaluation(excise, few_steps, model, monkeypatch):
    """What was measured before is not given for a model that is read in another way."""
    from excise.evaluation import result_cache as recall

    asked = []
    monkeypatch.setattr(recall, "request_key", lambda *request: asked.append(request[-1]))
    for more in ([], ["--prediction", "v_prediction"], ["--revision", "main"]):
        excise("evaluate", "--model", model, "-c", "cat", *more)
    assert [(o.get("prediction"), o.get("revision")) for o in asked] == [
        (None, None),
        ("v_prediction", None),
        (None, "main"),
    ]
