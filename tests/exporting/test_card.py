"""Every export has a model card that model hubs read, and never takes the place of a README that is not ours."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import yaml
from checks import check
from huggingface_hub import ModelCard, ModelCardData, metadata_load
from situations import UNET_FORMATS, encoder_edit, uce

from excise import erase, export
from excise.concepts.concept import Concept
from excise.edits import verified
from excise.edits.record import Base, EditRecord, Target
from excise.exporting.card import OURS, Card, licence_of, text
from excise.exporting.usage import EDIT
from excise.families import family_of
from excise.families.model_names import base_name, is_local


def front_matter(text: str) -> dict:
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


@pytest.mark.parametrize("format", UNET_FORMATS)
def test_every_format_has_a_card(pipe, tmp_path, format):
    edit = uce(pipe)
    hub = edit.record.base.model_copy(update={"model": "org/name"})
    edit = replace(edit, record=edit.record.model_copy(update={"base": hub}))
    done = export(edit, pipe, tmp_path, format)
    assert done.card == tmp_path / "README.md"
    text = done.card.read_text()
    content = front_matter(text)
    card = ModelCard(text, ignore_metadata_errors=False)  # as the hub reads it
    assert ModelCardData(**content).to_dict() == card.data.to_dict() == metadata_load(done.card)
    assert (card.data.library_name, card.data.base_model) == ("diffusers", "org/name")
    lora = format.endswith("lora")
    assert content["base_model"] == "org/name"
    assert content["base_model_relation"] == ("adapter" if lora else "finetune")
    assert content["pipeline_tag"] == "text-to-image"
    assert ("lora" in content["tags"]) is lora
    assert "license" not in content
    for part in (
        "| cat | object | nothing (the empty prompt) |",
        "Method: `uce`",
        edit.record.base.weights,
        "Not yet verified",
        "ComfyUI",
    ):
        if part != "ComfyUI" or format in ("kohya-lora", "single-file"):
            assert part in text, part
    assert "dog" in text
    assert "## How to undo it" in text
    assert ("unload_lora_weights" in text) is lora
    assert export(edit, pipe, tmp_path, format).card == done.card  # ours is replaced


def test_a_card_tells_what_was_verified_and_what_failed(pipe, tmp_path):
    edit = uce(pipe)
    file = edit.save(tmp_path / "run" / "edit.safetensors")
    verified.keep(file, check())
    text = export(edit, pipe, tmp_path / "a", source=file).card.read_text()
    assert "cat: verified: 10 of 10 clean (at least 72 %)" in text
    assert "ua&gt;=0.7 passed: 1.000, 95 % interval 0.723 to 1.000, n = 10" in text
    assert "(`ua`) | 100.0 % | 72.2 to 100.0 % | 10 |" in text  # the figure behind the verdict, with its interval
    assert check().hash[:12] in text
    assert check().judge in text
    assert "Not yet verified" not in text
    assert "gate failed" not in text
    verified.keep(file, check(gates=(verified.Gate(gate="ua>=0.9", metric="ua", passed=False),)))
    assert "At least one gate failed" in export(edit, pipe, tmp_path / "a", source=file).card.read_text()
    assert "Not yet verified" in export(edit, pipe, tmp_path / "a").card.read_text()


def test_another_readme_stays(pipe, tmp_path):
    edit = uce(pipe)
    (tmp_path / "README.md").write_text("mine")
    done = export(edit, pipe, tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    assert done.card == tmp_path / "EXCISE.md"
    assert export(edit, pipe, tmp_path).card == done.card
    done.card.write_text(done.card.read_text().replace(OURS + "\n", ""))  # taken over by its reader
    assert export(edit, pipe, tmp_path).card is None
    assert OURS not in done.card.read_text()


def test_names_are_text_and_nothing_else(pipe, tmp_path):
    odd = Concept("<b>a | b</b> `c` [d](e)", "object", "*f*")
    text = export(erase(pipe, [odd], "uce", vocabulary=None), pipe, tmp_path).card.read_text()
    assert "<b>" not in text
    row = next(line for line in text.splitlines() if "&lt;b&gt;" in line and line.startswith("|"))
    assert row.replace("\\|", "").count("|") == 5
    assert "\\`c\\`" in row
    assert "\\[d\\]" in row


def test_the_licence_of_a_local_base_goes_along_and_its_folder_does_not(model, tmp_path):
    from excise import load

    (model / "README.md").write_text("---\nlicense: openrail++\nlicense_name: x\n---\n# a model\n")
    family = load(model, device="cpu")
    assert licence_of(family) == {"license": "openrail++", "license_name": "x"}
    text = export(uce(family.pipe), family, tmp_path / "out").card.read_text()
    assert front_matter(text)["license"] == "openrail++"
    assert "base_model" not in front_matter(text)
    assert str(tmp_path) not in text
    (model / "README.md").write_text("---\n- [\n---\n")
    assert licence_of(family) == {}


def test_the_program_of_for_is_explained_first(pipe, tmp_path):
    edit = uce(pipe)
    for program, words in (("comfyui", "ComfyUI"), ("webui", "AUTOMATIC1111"), ("diffusers", "diffusers")):
        text = export(edit, pipe, tmp_path / program, for_=program).card.read_text()
        usage = text.partition("## How to load it")[2]
        assert usage.index("**") == usage.index(f"**{words}")


def test_an_edit_without_names_has_a_card_too(pipe, tmp_path):
    assert family_of(pipe).name == "sd"
    assert "what its record does not name" in export(encoder_edit(pipe), pipe, tmp_path).card.read_text()


def test_a_card_names_the_other_exports_of_its_folder(pipe, tmp_path):
    tree = export(erase(pipe, ["tree"], "uce", vocabulary=None), pipe, tmp_path, "diffusers-lora")
    before = tree.card.read_text()
    cat = export(uce(pipe), pipe, tmp_path, "kohya-lora")
    assert "`pytorch_lora_weights.safetensors` removes tree" in cat.card.read_text()
    assert (tree.card.name, cat.card.name) == ("README.md", "excise_cat_kohya_lora.md")
    assert tree.card.read_text() == before  # each file keeps its card


def test_a_received_record_cannot_write_into_its_card():
    odd = "x`\n\n# Free money <img src=a> | [b](c) `"
    base = Base(model="/m/`$(rm -rf x)`", family=odd, weights=odd, weights_bfloat16="0", text_encoder=odd, revision=odd)
    record = EditRecord(excise=odd, base=base, method=odd, settings={odd: odd}, concepts=(), vocabulary=odd)
    record = record.model_copy(update={"stack": (record,), "preserve": (odd,)})
    for kind in (EDIT, "kohya-lora"):
        card = text(Card(record, (), kind, f"{odd}.safetensors", "P", ("excise", "webui"), {}, odd, {odd: (odd,)}))
        body = card.split("---\n", 2)[2]
        headings = [line for line in body.splitlines() if line.startswith("#")]
        assert (len(headings), [line for line in headings if "Free" in line]) == (7, headings[:0])
        outside = re.sub(r"```.*?```|(?<!\\)`[^`\n]*`", "", body, flags=re.DOTALL)
        assert "<img" not in outside
        assert not re.search(r"(?<!\\)\[b", outside)
        assert "`" not in outside.replace("\\`", "")
        assert "$(" not in body.partition("## How to load it")[2].partition("## How to undo")[0]


def test_figures_say_under_which_conditions_they_were_taken():
    base = Base(model="org/name", family="sd", weights="0", weights_bfloat16="0", text_encoder="0")
    record = EditRecord(excise="1", base=base, method="uce", concepts=())
    checks = [check(), check(beside=("0" * 64, "1" * 64)), check(model="/home/someone/other", other_base=True)]
    rows = [line for line in edit_card_text(record, checks).splitlines() if "(`ua`)" in line]
    assert "with" not in rows[0]
    assert "with 2 more edits applied" in rows[1]
    assert "on other, which may be another model than the edit was made for" in rows[2]
    assert "someone" not in edit_card_text(record, checks)


def edit_card_text(record, checks) -> str:
    return text(Card(record, checks, EDIT, "edit.safetensors", "", ("excise",)))


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("org/name", "org/name"),
        ("canvas-sd", "canvas-sd"),
        ("/home/me/sd", "sd"),
        ("models/of/mine/", "mine"),
        ("../sd", "sd"),
        ("models/sd.safetensors", "sd.safetensors"),
        (r"C:\models\sd", "sd"),
        ("~/sd", "sd"),
        ("sd", "sd"),
    ],
)
def test_a_base_is_named_as_strangers_may_read_it(model, name):
    assert base_name(model) == name
    assert is_local(model) is (model not in ("org/name", "canvas-sd"))
    record = EditRecord(
        excise="1",
        base=Base(model=model, family="sd", weights="0", weights_bfloat16="0", text_encoder="0"),
        method="uce",
        settings={"folder": "/home/me/pictures"},
        concepts=(Target(name="/r/cats", kind="object", anchor=""),),
    )
    content = edit_card_text(record, (check(judge="clip of /home/me/clip", protocol="/home/me/prompts.csv"),))
    assert "| /r/cats |" in content  # a name, which no card changes
    assert ("base_model" in front_matter(content)) is (model == "org/name")
    assert "/home/me" not in content
