"""Every export has a model card that model hubs read, and never takes the place of a README that is not ours."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml
from checks import check
from huggingface_hub import ModelCard, ModelCardData, metadata_load
from situations import UNET_FORMATS, encoder_edit, uce

from excise import erase, export
from excise.concepts.concept import Concept
from excise.edits import verified
from excise.exporting.card import OURS, licence_of
from excise.families import family_of


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
