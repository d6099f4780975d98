"""Whole commands of two builds: their models can be loaded, their runs are kept, and a table holds them to targets."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks import model_folders, padded_prompts, whole_command, whole_growth
from benchmarks.made_up_words import ADJECTIVES, KEPT_FROM, NOUNS, names, qwen_tokenizer, t5_tokenizer
from benchmarks.whole_command import Build, Run, table
from benchmarks.whole_rows import GROWTH, ROWS, TRANSFORMERS, Row, Target, drawing, solve_alone, whole
from excise.concepts.concept import read_names
from excise.concepts.vocabulary import LISTS
from excise.support.headers import read_header


def tiny_clip() -> CLIPTextModel:
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return CLIPTextModel(CLIPTextConfig(vocab_size=20, **sizes))


@pytest.fixture
def toy(monkeypatch):
    """A shape of one network, in shards of two kilobytes."""
    part = model_folders.Part(tiny_clip, "text_model.")
    shape = model_folders.Shape("SomePipeline", "float16", {"text_encoder": part}, ("PNDMScheduler", {}), {}, {}, 2000)
    monkeypatch.setattr(model_folders, "shapes", lambda: {"toy": shape})


def test_a_folder_has_published_names_and_loads_whole(toy, tmp_path):
    path = model_folders.build("toy", tmp_path)
    files = sorted((path / "text_encoder").glob("*.safetensors"))
    held = {name: tensor for file in files for name, tensor in read_header(file).tensors.items()}
    index = json.loads((path / "text_encoder" / "model.safetensors.index.json").read_text())
    assert len(files) > 1
    assert index["weight_map"].keys() == held.keys()
    assert all(name.startswith("text_model.") for name in held)
    assert index["metadata"]["total_size"] == sum(t.end - t.begin for t in held.values())
    loaded, report = CLIPTextModel.from_pretrained(path / "text_encoder", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert loaded.dtype == torch.float16
    kept = (path / "model_index.json").stat().st_mtime_ns
    assert model_folders.build("toy", tmp_path) == path
    assert (path / "model_index.json").stat().st_mtime_ns == kept


def test_a_transformer_gets_as_many_blocks_as_the_disk_holds():
    parts = {"transformer": model_folders.Part(lambda: nn.Linear(100, 100, bias=False))}
    parts["text_encoder"] = model_folders.Part(lambda: nn.Linear(10, 10, bias=False))
    shape = model_folders.Shape("SomePipeline", "float16", parts, ("PNDMScheduler", {}), {}, {})
    free = model_folders.RESERVE + 200 + 10_000
    assert model_folders.share_that_fits(shape, free) == 0.5
    assert model_folders.share_that_fits(shape, 2 * free) == 1
    assert model_folders.share_that_fits(shape, 0) == 0
    assert model_folders._fewer({"num_layers": 19, "n_refiner_layers": 2, "guidance_embeds": True}, 0.25) == {
        "num_layers": 4,
        "n_refiner_layers": 1,
        "guidance_embeds": True,
    }


def test_words_of_requests_are_whole_tokens_of_t5_and_qwen():
    t5, qwen = t5_tokenizer(), qwen_tokenizer()
    assert len(t5("a picture of the amber anchor").input_ids) == 7
    assert len(qwen("a picture of the amber anchor").input_ids) == 6
    turn = [{"role": "user", "content": "cat"}]
    text = qwen.apply_chat_template(turn, tokenize=False, add_generation_prompt=True, enable_thinking=True)
    assert text == "<|im_start|>user\ncat<|im_end|>\n<|im_start|>assistant\n"


def test_padded_prompts_are_the_distinct_ones_of_a_request():
    found = padded_prompts.prompts_of(["cat", "car"], ["dog", "cat"])
    assert len(found) == 4 * 5
    assert "" in found


def test_names_to_erase_and_to_keep_are_different_words_from_those_of_the_ordinary_list():
    erased, kept = names(KEPT_FROM), names(1000, KEPT_FROM)
    assert len({*erased, *kept}) == 2000
    assert not {*ADJECTIVES, *NOUNS} & set(read_names(LISTS / "object.txt"))
    with pytest.raises(ValueError, match="are asked for"):
        names(10_000)


def test_every_row_names_only_what_can_be_filled_in():
    values = dict.fromkeys(("model", "erased", "kept", "edit", "out"), "x")
    for name, row in {**ROWS, **GROWTH, **TRANSFORMERS}.items():
        assert name == row.name
        for argument in (*row.arguments, *row.of_base):
            argument.format(**values)
        assert row.shape or "{model}" not in row.arguments


def test_a_table_tells_ratios_and_whether_targets_are_met():
    row = Row("one", "One", (), whole(0.25, 0.3, (0.5, 0.4)))
    fast = Row("two", "Two", (), (Target("figure", "pictures a second", "s", 1.5, at_least=True),))
    runs = [
        *(Run("one", "aaa", cpu, 4.0, 1000.0) for cpu in (9.0, 10.0, 30.0)),
        Run("one", "bbb", 2.0, 2.0, 400.0),
        Run("two", "aaa", 1.0, 1.0, 1.0, figure=30.0),
        Run("two", "bbb", 1.0, 1.0, 1.0, figure=10.0),
        Run("two", "bbb", 1.0, 1.0, 1.0, error="status 2: no"),
    ]
    lines = table(runs, "aaa", "bbb", {"one": row, "two": fast}).splitlines()[2:]
    assert lines[0] == "| One, CPU | s | 10.00 | 2.00 | 0.200 | <= 0.25 | met | 0.400 | <= 0.22 | missed |"
    assert lines[1] == "| One, wall | s | 4.00 | 2.00 | 0.500 | – |  | – | – |  |"
    assert lines[2].startswith(
        "| One, peak | MB | 1,000 | 400.00 | 0.400 | <= 0.3 | missed | 1.000 | <= 0.95 | missed |"
    )
    assert lines[3].startswith("| Two, pictures a second | s | 30.00 | 10.00 | 3.000 | >= 1.5 | met |")
    assert lines[4] == "| `two` | bbb failed: status 2: no |"
    alone = table(runs[:3], "aaa", "bbb", {"one": row}).splitlines()[2]
    assert alone.startswith("| One, CPU | s | 10.00 | – | – | <= 0.25 |  |")


def test_builds_run_in_turn_and_runs_of_a_file_are_not_run_again(tmp_path, monkeypatch):
    order = []

    def run(row: Row, build: Build, work: Path, model: Path | None) -> Run:
        order.append(build.commit)
        return Run(row.name, build.commit, 1.0, 1.0, 1.0)

    monkeypatch.setattr(whole_command, "run", run)
    monkeypatch.setattr(whole_command, "prepare", lambda *_: None)
    out, builds = tmp_path / "lines.jsonl", [Build("aaa", tmp_path), Build("bbb", tmp_path)]
    earlier = [Run("one", "aaa", 5.0, 1.0, 1.0), Run("one", "bbb", 5.0, 1.0, 1.0, error="status 2: no")]
    out.write_text("".join(json.dumps(asdict(r)) + "\n" for r in earlier), encoding="utf-8")
    options = Namespace(out=out, repeats=2, shapes=tmp_path)
    runs = whole_command.measure([Row("one", "One", ())], builds, options, tmp_path)
    assert order == ["bbb", "aaa", "bbb"]
    assert len(runs) == len(whole_command.stored(out)) == 5
    whole_command.measure([Row("one", "One", ())], builds, options, tmp_path)
    assert len(order) == 3


def test_a_process_is_measured_alone_and_a_failure_is_told(tmp_path):
    build = Build("aaa", tmp_path)
    busy = "import time; held = bytearray(10**8); t = time.process_time()\nwhile time.process_time() < t + 0.2: pass"
    cpu, wall, peak, status, _ = whole_command.measured(("-c", busy), build)
    assert 0.2 <= cpu <= wall + 0.5
    assert peak > 100
    assert status == 0
    row = Row("no", "No", ("-c", "print('one'); raise SystemExit('because')"), module=True)
    assert whole_command.run(row, build, tmp_path, None).error == "status 1: because"


def test_figures_are_read_from_what_commands_print_and_write(tmp_path):
    assert drawing('a note\n{"seconds": {"draw": 2.5, "judge": 0.5}}\nmore', tmp_path) == (3.0, None)
    (tmp_path / "out").write_text('{"seconds": 9, "peak_extra_mb": 9}\n{"seconds": 1.5, "peak_extra_mb": 2}\n')
    assert solve_alone("", tmp_path) == (1.5, 2.0)


def test_beginnings_of_prompts_are_counted_once(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["a", "an", "image", "of", "picture", "the", "red", "blue", "vase", "drum"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    (tmp_path / "tokenizer").mkdir()
    tokenizer.save(str(tmp_path / "tokenizer" / "tokenizer.json"))
    # Four heads ("", "a", "an image of a", "a picture of the") share "a": 1 + 4 + 3 tokens; then a name each.
    heads = 8
    assert whole_growth.nodes(tmp_path, ["red vase"], []) == 1 + heads + 4 * 2
    assert whole_growth.nodes(tmp_path, ["red vase"], ["red drum", "blue vase"]) == 1 + heads + 4 * 5
