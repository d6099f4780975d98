"""What the command, the record and the report show of SurgUn."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from conftest import tiny_pipe
from surgun_help import SMALL, erasure

from excise import erase
from excise.concepts.concept import TEMPLATES, fill
from excise.families import family_of
from excise.methods.base import Context
from excise.training.adapters import blocks
from excise.training.pictures import SAMPLING, picture_seed


@pytest.fixture
def family(tokenizer):
    return family_of(tiny_pipe(tokenizer))


def test_the_command_trains_shows_its_losses_and_ships(any_pipe, excise, tmp_path):
    any_pipe.save_pretrained(tmp_path / "model")
    knobs = {**SMALL, "confine": "false", "blocks": "all"}
    del knobs["vocabulary"]  # an option of its own
    settings = [part for k, v in knobs.items() for part in ("--set", f"{k}={v}")]
    run = tmp_path / "run"
    status, out, err = excise(
        "erase", "--model", tmp_path / "model", "--method", "surgun", "-c", "cat", "--out", run, "--json", *settings
    )
    assert status == 0, err
    result = json.loads(out)
    assert result["method"] == "surgun"
    assert result["delta"]["kinds"] == ["LowRank"]
    assert result["seconds"]["train"] > 0
    page = (run / "report.html").read_text()
    assert "Losses by step" in page
    assert page.count("<polyline") == 2
    assert (run / "training" / "losses.jsonl").exists()
    shipped = tmp_path / "shipped"
    status, out, err = excise("export", run / "edit.safetensors", "--model", tmp_path / "model", "--out", shipped)
    assert status == 0, err
    before = (run / "edit.safetensors").read_bytes()
    command = ["erase", "--model", tmp_path / "model", "--method", "surgun", "-c", "cat", "--out", run, "--json"]
    status, out, err = excise(*command, *settings)  # the checkpoints of a finished run are all there is to do
    assert status == 0, err
    assert (run / "edit.safetensors").read_bytes() == before


def test_inspect_leaves_tables_to_the_report(any_pipe, excise, tmp_path):
    edit = erase(any_pipe, ["cat"], "surgun", preserve=["ox"], confine=False, blocks="all", **SMALL)
    edit.save(tmp_path / "edit.safetensors")
    _, out, _ = excise("inspect", tmp_path / "edit.safetensors")
    assert "distractors" in out
    assert "losses" not in out
    _, out, _ = excise("inspect", tmp_path / "edit.safetensors", "--json")
    assert len(json.loads(out)["record"]["measured"]["losses"]) == SMALL["steps"]


def test_what_each_block_of_a_confined_edit_does_alone_is_drawn_for_the_report(any_pipe, tmp_path):
    from excise.report.run_page import erase_page

    def edit_and_pictures(charts: bool):
        context = Context(judge=lambda images, names: [True] * len(names), charts=charts)
        erased = erasure(any_pipe, ["cat"], preserve=["dog", "car"], context=context, **SMALL)
        return erased.edit, erased.pictures

    (edit, pictures), (plain, empty) = edit_and_pictures(True), edit_and_pictures(False)
    assert {p: d.b.tolist() for p, d in edit.modules.items()} == {p: d.b.tolist() for p, d in plain.modules.items()}
    assert "by_block" not in plain.record.measured
    assert not empty
    family = family_of(any_pipe)
    for row, block in zip(edit.record.measured["by_block"], blocks(family), strict=True):
        assert row["block"] == block
        paths = {m.path for m in family.attention_maps() if m.block == block}
        part = replace(edit, modules={p: d for p, d in edit.modules.items() if p in paths})
        with part.apply(any_pipe):
            now = SAMPLING.draw(family, fill(TEMPLATES["object"][:1], "cat"), [picture_seed(0, "probe", 0)])
        difference = np.abs(np.asarray(now[0], float) - np.asarray(pictures["by_block"][block][0], float))
        assert difference.max() <= 1
    erase_page(family, edit, "tiny", tmp_path, ["dog"], None, pictures)
    page = (tmp_path / "report.html").read_text()
    assert "Where it acts" in page
    assert page.count('alt="' + blocks(family)[0]) > 0


def test_the_report_shows_blocks_and_the_calibration(family, tmp_path):
    from excise.report.run_page import erase_page

    context = Context(judge=lambda images, names: [True] * len(names))
    erased = erasure(family, ["cat"], preserve=["dog", "car"], context=context, confine=False, keep_blocks=1, **SMALL)
    edit = erased.edit
    erase_page(family, edit, "tiny", tmp_path, ["dog"], None, erased.pictures)
    page = (tmp_path / "report.html").read_text()
    assert "Calibration on prompts and seeds of no test" in page
    assert page.count('class="kept"') == 1
    assert page.count("<tr") >= 1 + len(edit.record.measured["localisation"])
    assert "the step that was kept" in page
    drawn = set(re.findall(r"(?:fill|line)\d", page[page.index("<polyline") :]))
    assert {"line0", "line4"} <= drawn
    assert all(f".{name} {{" in page for name in drawn)  # every line has its colour
