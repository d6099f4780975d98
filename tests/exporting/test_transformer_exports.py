"""Exports of diffusion transformers, as the stock pipelines read them; every key of a file is accounted for."""

from __future__ import annotations

import json
import warnings
from copy import deepcopy
from pathlib import Path

import diffusers
import pytest
import torch
from dit_edits import DOUBLE, assert_same_deltas, built, prediction, uce, wide
from dits import CASES
from safetensors import safe_open
from safetensors.torch import load_file
from torch.testing import assert_close

from excise import export
from excise.edits.edit import Edit
from excise.edits.exports import read_export
from excise.errors import ExciseWarning, OutputError, WrongBaseError
from excise.exporting.layouts import KOHYA_ORIGINAL, NONE, PROGRAMS, TRANSFORMERS, Row, Rule, taken
from excise.exporting.transformer_lora import Layers, account
from excise.families import FAMILIES, family_of
from excise.importing.import_edit import import_edit

NAMES = ["flux-dev", "zimage"]
ROUNDING = {"rtol": 1e-5, "atol": 1e-5}
"""Weights that are read from a file lie elsewhere in memory, and some processors then sum in another order."""
LORAS = ["comfyui-lora", "diffusers-lora", "kohya-lora"]


@pytest.fixture(params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture
def pipe(name):
    return built(name)


def quietly(edit, pipe, out, format=None, **more):
    """An export of which is known that a program loses a part."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExciseWarning)
        return export(edit, pipe, out, format, **more)


def adapted(network) -> set[str]:
    """The modules of a network that carry a LoRA."""
    return {path for path, module in network.named_modules() if "lora_A" in module._modules}


def picture(pipe) -> torch.Tensor:
    family = family_of(pipe)
    case = next(case for case in CASES.values() if case.family == family.name)
    side = {"height": family.image_size, "width": family.image_size}
    drawn = family.pipe(
        prompt="a photo of a cat",
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
        **side,
        **case.call(1.0),
    )
    return drawn.images


@pytest.mark.parametrize("format", LORAS)
@pytest.mark.parametrize("make", [uce, wide])
def test_the_stock_pipeline_loads_every_map_and_draws_the_same(name, pipe, tmp_path, format, make):
    edit = make(pipe)
    if name == "flux-dev" and format == "kohya-lora":  # of which diffusers takes the blocks, single ones at full width
        edit = Edit(edit.record, (), wide(pipe, DOUBLE).modules)
    done = quietly(edit, pipe, tmp_path, format)
    assert done.error < 1e-5
    assert done.readers["diffusers"].whole
    stock = deepcopy(pipe)
    before, drawn = prediction(stock), picture(stock)
    with edit.apply(pipe):
        wanted, wanted_picture = prediction(pipe), picture(pipe)
    stock.load_lora_weights(str(done.path.parent), weight_name=done.path.name)
    assert set(edit.paths) <= adapted(stock.transformer)
    effect, miss = (wanted - before).abs().max(), (prediction(stock) - wanted).abs().max()
    assert effect > 1e-2
    assert miss < 1e-3 * effect
    assert (wanted_picture - drawn).abs().max() > 1e-3
    assert (picture(stock) - wanted_picture).abs().max() < 1e-3
    stock.unload_lora_weights()
    assert torch.equal(prediction(stock), before)


@pytest.mark.parametrize("format", LORAS)
def test_a_lora_comes_back_with_equal_deltas(name, pipe, tmp_path, format):
    for number, edit in enumerate((uce(pipe), wide(pipe))):
        done = quietly(edit, pipe, tmp_path / str(number), format)
        back = import_edit(done.path, pipe)
        assert_same_deltas(back, edit, pipe)
        assert back.record.method == "uce"


def test_a_merged_folder_is_the_edited_pipeline(name, pipe, tmp_path):
    edit = wide(pipe)
    done = export(edit, pipe, tmp_path, "merged")
    assert done.error < 1e-4
    with edit.apply(pipe):
        wanted = prediction(pipe)
    assert_close(prediction(type(pipe).from_pretrained(done.path)), wanted, **ROUNDING)
    assert_same_deltas(import_edit(done.path, pipe), edit, pipe, 1e-3)


def test_a_single_file_holds_the_edited_transformer_under_its_original_names(name, pipe, tmp_path):
    edit = wide(pipe)
    done = export(edit, pipe, tmp_path, "single-file")
    assert done.error < 1e-4
    assert (done.readers["comfyui"].whole, done.readers["diffusers"].whole) == (True, True)
    assert_same_deltas(import_edit(done.path, pipe), edit, pipe, 1e-3)
    keys = load_file(done.path).keys()
    sign = "double_blocks.0.txt_attn.qkv.weight" if name == "flux-dev" else "layers.0.attention.qkv.weight"
    assert sign in keys
    assert not any("to_q" in key for key in keys)
    if name == "zimage":  # diffusers reads FLUX.1 in its one true width alone: tests/families/test_transformer_names.py
        pipe.save_pretrained(tmp_path / "base")
        transformer = diffusers.ZImageTransformer2DModel.from_single_file(
            str(done.path), config=str(tmp_path / "base"), subfolder="transformer"
        )
        with edit.apply(pipe):
            wanted = prediction(pipe)
        stock = deepcopy(pipe)
        stock.transformer = transformer.eval()
        assert_close(prediction(stock), wanted, **ROUNDING)


def test_stacked_maps_are_completed_where_a_reader_needs_all_of_them(tmp_path):
    """stable-diffusion.cpp drops keys and values without queries; a change of nothing keeps them."""
    pipe = built("flux-dev")
    edit = wide(pipe, ["transformer_blocks.0.attn.add_k_proj", "single_transformer_blocks.0.attn.to_v"])
    done = export(edit, pipe, tmp_path)
    state = load_file(done.path)
    single = "transformer.single_transformer_blocks.0."
    ends = [f"{single}{part}" for part in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")]
    ends += [f"transformer.transformer_blocks.0.attn.add_{part}_proj" for part in "qkv"]
    assert {key.rpartition(".lora_")[0] for key in state} == set(ends)
    assert not any(".alpha" in key or ".default" in key or "bias" in key for key in state)
    assert sum(bool(tensor.any()) for key, tensor in state.items() if "lora_B" in key) == 2
    assert done.readers["sd-cpp"].whole
    shipped = read_export(done.path)
    assert shipped is not None
    assert (shipped.format, len(shipped.modules)) == ("comfyui-lora", 2)


def test_a_kohya_file_stacks_the_factors_and_has_an_alpha_for_each(tmp_path):
    pipe = built("flux-dev")
    done = quietly(wide(pipe), pipe, tmp_path, "kohya-lora")
    state = load_file(done.path)
    key = "lora_unet_double_blocks_0_txt_attn_qkv"
    width = pipe.transformer.inner_dim
    up, down = state[f"{key}.lora_up.weight"], state[f"{key}.lora_down.weight"]
    assert up.shape == (3 * width, len(down))
    assert not up[:width].any()  # the queries stay
    assert up[width : 2 * width].any()
    assert all(float(state[f"{stem}.alpha"]) == len(state[f"{stem}.lora_down.weight"]) for stem in stems(state))
    with safe_open(done.path, "pt") as file:
        about = file.metadata()
    assert (about["ss_base_model_version"], about["ss_network_module"]) == ("flux1", "networks.lora_flux")


def stems(state) -> set[str]:
    return {key.partition(".")[0] for key in state}


def test_a_file_that_a_program_passes_over_in_silence_is_not_written_without_saying_so(tmp_path):
    pipe = built("flux-dev")
    with pytest.warns(ExciseWarning, match="diffusers applies 0 of the 2 maps and raises no error") as said:
        done = export(uce(pipe), pipe, tmp_path, "kohya-lora")
    assert any("Nunchaku" in str(warning.message) for warning in said)
    assert done.readers["diffusers"].missed == ("vector_in_in_layer", "txt_in")
    assert done.readers["diffusers"].silent
    assert done.readers["comfyui"].whole
    assert "Not all of it arrives everywhere:** diffusers applies 0" in done.card.read_text()
    before = prediction(pipe)
    pipe.load_lora_weights(str(tmp_path), weight_name=done.path.name)  # what the warning says is what happens
    assert not adapted(pipe.transformer)
    assert torch.equal(prediction(pipe), before)


def test_rules_tell_parts_refusals_and_groups():
    groups = dict.fromkeys(("a.q", "a.k", "a.v"), ("a.q", "a.k", "a.v"))
    layers = ["a.k", "a.v", "b"]
    assert taken(Rule(groups=True), layers, groups, layers) == ["b"]  # keys and values alone do not arrive
    assert taken(Rule(groups=True), layers, groups, [*layers, "a.q"]) == layers
    assert taken(Rule(r"a\..+"), layers, groups, layers) == ["a.k", "a.v"]
    assert taken(Rule(r"a\..+", refuses=True), layers, groups, layers) == []
    assert taken(Rule(r"a\..+", refuses=True), layers[:2], groups, layers) == ["a.k", "a.v"]


def test_the_card_tells_how_the_parts_of_a_transformer_are_loaded(name, pipe, tmp_path):
    edit = uce(pipe)
    kind, network = type(pipe).__name__, type(pipe.transformer).__name__
    text = export(edit, pipe, tmp_path / "file", "single-file").card.read_text()
    assert f'{network}.from_single_file("excise_cat_model.safetensors", config=' in text
    assert f"from diffusers import {kind}, {network}" in text
    assert "`models/diffusion_models` and choose it in *Load Diffusion Model*" in text
    text = export(edit, pipe, tmp_path / "lora").card.read_text()
    assert 'pipe.load_lora_weights(".", weight_name="excise_cat_comfyui_lora.safetensors")' in text
    assert "*LoraLoaderModelOnly*" in text
    assert "Not all of it arrives" not in text


def test_a_kohya_file_of_zimage_loses_its_attention_in_comfyui(tmp_path):
    pipe = built("zimage")
    with pytest.warns(ExciseWarning, match="ComfyUI applies 2 of the 8 maps"):
        done = export(wide(pipe), pipe, tmp_path, "kohya-lora")
    assert (done.readers["musubi"].taken, done.readers["diffusers"].taken) == (7, 8)


def test_nothing_is_said_where_everybody_who_draws_reads_all(name, pipe, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ExciseWarning)
        done = export(wide(pipe), pipe, tmp_path)
    assert done.format == "comfyui-lora"
    assert all(reading.whole for program, reading in done.readers.items() if PROGRAMS[program].draws)


def test_every_program_gets_the_format_that_it_reads_whole(tmp_path):
    pipe = built("flux-dev")
    edit = uce(pipe)
    chosen = {
        p: quietly(edit, pipe, tmp_path / p, for_=p).format for p in PROGRAMS if p not in ("musubi", "ai-toolkit")
    }
    assert chosen == {
        "comfyui": "comfyui-lora",
        "diffusers": "diffusers-lora",
        "sd-cpp": "comfyui-lora",
        "nunchaku": "comfyui-lora",
        "onetrainer": "comfyui-lora",
        "sd-scripts": "kohya-lora",
    }
    with pytest.raises(WrongBaseError, match="ai-toolkit .* reads this edit whole in no format: .* 0 of 2 maps"):
        export(edit, pipe, tmp_path / "no", for_="ai-toolkit")
    for program in ("musubi", "webui"):
        with pytest.raises(
            WrongBaseError, match="is not known to read an edit of the family .flux.; use --for comfyui, d"
        ):
            export(edit, pipe, tmp_path / "no", for_=program)
    assert not (tmp_path / "no").exists()


def test_a_key_without_a_rule_is_an_error(tmp_path):
    layers = Layers(["txt_in"], ["img_in"], {})
    keys = [f"lora_unet_{n}{end}" for n in ("txt_in", "img_in") for end in (*KOHYA_ORIGINAL.factors, ".alpha")]
    state = {key: torch.zeros(1) for key in keys}
    account(tmp_path / "file", state, KOHYA_ORIGINAL, layers)
    for odd in ({**state, "lora_unet_txt_in.lora_up.bias": torch.zeros(1)}, dict(list(state.items())[:-1])):
        with pytest.raises(OutputError, match="no reader's rule is known"):
            account(tmp_path / "file", odd, KOHYA_ORIGINAL, layers)
    with pytest.raises(OutputError, match="'lora_unet_img_in.lora_up.weight', which the edit does not"):
        account(tmp_path / "file", {**state, "lora_unet_img_in.lora_up.weight": torch.ones(1)}, KOHYA_ORIGINAL, layers)


def test_a_family_without_a_loader_of_loras_says_so_and_leaves_merged(tmp_path, monkeypatch):
    monkeypatch.setitem(TRANSFORMERS, "flux", Row("PixArt"))
    pipe = built("flux-dev")
    edit = uce(pipe)
    for format in LORAS:
        with pytest.raises(WrongBaseError, match="loads no LoRA into pipelines of PixArt, .* use --format merged"):
            export(edit, pipe, tmp_path / "no", format)
    with pytest.raises(WrongBaseError, match="no single file of PixArt is written here; use --format merged"):
        export(edit, pipe, tmp_path / "no", "single-file")
    assert not (tmp_path / "no").exists()
    assert export(edit, pipe, tmp_path / "merged").format == "merged"


def test_edits_of_text_encoders_leave_merged(name, pipe, tmp_path):
    edit = uce(pipe)
    path = "text_encoder.encoder.layers.0.mlp.fc2" if name == "flux-dev" else "text_encoder.layers.0.mlp.down_proj"
    edit = Edit(edit.record, (), wide(pipe, [path]).modules)
    for format in (*LORAS, "single-file"):
        with pytest.raises(WrongBaseError, match="use --format merged"):
            export(edit, pipe, tmp_path / "no", format)
    assert not (tmp_path / "no").exists()
    assert export(edit, pipe, tmp_path / "merged", "merged").error < 1e-4


def test_every_format_of_a_row_has_rules_and_every_program_a_format():
    for row in TRANSFORMERS.values():
        assert row.rules.keys() == row.layouts.keys()
        assert all(program in PROGRAMS for rules in row.rules.values() for program in rules)
        assert all(any(rule != NONE for rule in rules.values()) for rules in row.rules.values())


def test_the_command_says_what_is_lost_and_how_to_load(excise, tmp_path):
    model, run = tmp_path / "model", tmp_path / "run"
    built("flux-dev").save_pretrained(model)
    status, _, error = excise("erase", "--model", model, "-c", "cat", "--method", "uce", "--out", run, "--no-preview")
    assert status == 0, error
    status, out, error = excise("export", run, "--for", "comfyui", "--out", tmp_path / "shipped")
    assert (status, "warning" in error) == (0, False)
    words = " ".join((out + error).split())
    assert "All of it is read by ComfyUI, diffusers, stable-diffusion.cpp, Nunchaku, OneTrainer." in words
    assert "LoraLoaderModelOnly" in words
    status, out, error = excise("export", run, "--format", "kohya-lora", "--out", tmp_path / "kohya")
    assert (status, "None of it is read by diffusers" in " ".join((out + error).split())) == (0, True)
    assert "excise: warning: of excise_cat_kohya_lora.safetensors, diffusers applies 0 of the 2 maps" in error
    status, out, _ = excise("export", run, "--format", "single-file", "--out", tmp_path / "file", "--json")
    assert json.loads(out)["readers"]["comfyui"]["taken"] == 2
    status, out, _ = excise("inspect", tmp_path / "shipped", "--json")
    assert json.loads(out)["format"] == "comfyui-lora"


FORM = {"diffusers": "names of diffusers", "original": "original names"}


def documented_layouts(row: Row) -> str:
    """The line of a family in the table of layouts."""
    cells = []
    for format in LORAS:
        layout = row.layouts.get(format)
        cells.append(f"`{layout.prefix}`, {FORM[layout.names]}" if layout else "-")
    return f"| {row.title} | {' | '.join(cells)} | {'the transformer' if row.single else '-'} |"


def documented_readers(row: Row) -> list[str]:
    """The lines of a family in the table of readers; equal formats share one."""
    shared: dict[str, list[str]] = {}
    for format, rules in row.rules.items():
        whole = [PROGRAMS[p].program for p, rule in rules.items() if rule.layers == ".+"]
        no = [PROGRAMS[p].program for p, rule in rules.items() if rule == NONE]
        part = [PROGRAMS[p].program for p in rules if PROGRAMS[p].program not in (*whole, *no)]
        shared.setdefault(" | ".join(", ".join(names) or "-" for names in (whole, part, no)), []).append(format)
    return [f"| {row.title} | {', '.join(f'`{f}`' for f in formats)} | {cells} |" for cells, formats in shared.items()]


def test_the_page_of_exports_has_a_line_for_every_layout_and_reader():
    page = (Path(__file__).parents[2] / "docs" / "exports.md").read_text().splitlines()
    rows = [row for family, row in TRANSFORMERS.items() if FAMILIES.is_built_in(family)]
    assert len(rows) >= 2
    lines = [line for row in rows for line in (documented_layouts(row), *documented_readers(row))]
    assert [line for line in lines if line not in page] == []  # put these lines into the tables of docs/exports.md
