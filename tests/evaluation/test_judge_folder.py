"""Pictures of any program: the same metrics as an evaluation of the same pictures; and folders that cannot be used."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import worlds
from PIL import Image
from situations import pixel_judge
from worlds import run

from excise import erase
from excise.errors import ConceptError, JudgeError
from excise.evaluation.evaluate import evaluate
from excise.evaluation.folder import read_folder
from excise.evaluation.judge_folder import judge_pictures
from excise.evaluation.plan import concept_plan
from excise.families import family_of
from excise.protocols import PROTOCOLS
from excise.protocols.base import Item, Protocol
from excise.protocols.prompt_file import write_prompts


def save(folder, images, rows=None):
    """Write pictures and, if rows are given, their listing."""
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        image.save(folder / f"{i}.png")
    if rows is not None:
        (folder / "pictures.csv").write_text(write_prompts([{"file": f"{i}.png", **row} for i, row in enumerate(rows)]))
    return folder


def noise(n, seed=0, side=16):
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)) for _ in range(n)]


def document(evaluated):
    """What may not depend on who drew the pictures."""
    result = evaluated.result.model_dump(mode="json")
    kept = ("metrics", "untouched", "became", "entropy", "verdicts", "concepts", "hash")
    return {key: result[key] for key in kept}


def test_a_folder_of_a_protocol_gives_the_metrics_of_its_evaluation(pipe, small_world, tmp_path):
    family = family_of(pipe)
    edit = erase(family, ["cat"], method="uce", preserve=["dog"], vocabulary=None).scaled(50.0)
    drawn = run(family, "cat", edits=[edit], untouched=True)
    rows = [{"prompt": s.prompt, "seed": s.seed} for s in drawn.result.shown]
    order = np.random.default_rng(0).permutation(len(rows))
    folders = {
        name: save(tmp_path / name, [one.images[int(i)] for i in order], [rows[i] for i in order])
        for name, one in (("after", drawn), ("before", drawn.before))
    }
    judged = judge_pictures(
        read_folder(folders["after"]),
        ["cat"],
        before=read_folder(folders["before"]),
        protocol="small-world",
    )
    assert document(judged) == document(drawn)


def test_a_folder_that_asks_for_concepts_gives_the_metrics_of_the_protocol_concept(pipe, tmp_path):
    family = family_of(pipe)
    edit = erase(family, ["cat"], method="uce", preserve=["dog"], vocabulary=None).scaled(50.0)
    plan = concept_plan(family, ["cat"], [edit], pictures=4, others=6)
    drawn = evaluate(family, ["cat"], edits=[edit], protocol=plan, judge=pixel_judge, untouched=True)
    rows = [
        {"prompt": s.prompt, "seed": s.seed, "name": s.asked["concept"], "group": s.group} for s in drawn.result.shown
    ]
    after, before = save(tmp_path / "a", drawn.images, rows), save(tmp_path / "b", drawn.before.images, rows)
    judged = judge_pictures(read_folder(after), ["cat"], before=read_folder(before), judge=pixel_judge)
    own, theirs = document(judged), document(drawn)
    own.pop("hash"), theirs.pop("hash")
    assert own == theirs
    assert "drift" in own["metrics"]


def test_without_names_a_prompt_tells_what_it_asks_for(tmp_path):
    folder = tmp_path / "p"
    folder.mkdir()
    names = ["a-cat-seed1", "0002_a photo of Cats_2", "three-cat-shaped-clouds-3", "a_dog-4"]
    for name, image in zip(names, noise(4), strict=True):
        image.save(folder / f"{name}.png")
    pictures = read_folder(folder)
    assert {(p.prompt, p.seed) for p in pictures} == {
        ("a cat", 1), ("a photo of Cats", 2), ("three cat shaped clouds", 3), ("a dog", 4)
    }  # fmt: skip
    result = judge_pictures(pictures, ["cat"], judge=pixel_judge).result
    asked = {s.prompt: s.asked for s in result.shown}
    assert asked["a cat"] == asked["three cat shaped clouds"] == {"concept": "cat"}
    assert asked["a dog"] == asked["a photo of Cats"] == {}  # "Cats" is another word; a listing may say otherwise
    assert result.metrics["ua"]["n"] == 2


def test_pictures_of_one_prompt_and_several_seeds_all_count(tmp_path):
    rows = [{"prompt": "a cat", "seed": seed} for seed in range(5)]
    result = judge_pictures(read_folder(save(tmp_path / "p", noise(5), rows)), ["cat"], judge=pixel_judge).result
    assert result.metrics["ua"]["n"] == 5


@pytest.mark.parametrize("listing", ["pictures.csv", "prompts.csv", "metadata.csv", "metadata.jsonl"])
def test_a_listing_in_the_folder_is_read(tmp_path, listing):
    folder = save(tmp_path / "p", noise(2))
    rows = [{"file_name": f"{i}.png", "text": f"prompt {i}"} for i in (1, 0)]
    text = "\n".join(map(json.dumps, rows)) if listing.endswith("jsonl") else write_prompts(rows)
    (folder / listing).write_text(text)
    assert [(p.path.name, p.prompt, p.seed) for p in read_folder(folder)] == [
        ("1.png", "prompt 1", None), ("0.png", "prompt 0", None)
    ]  # fmt: skip


def test_columns_in_capitals_and_seeds_that_a_table_program_wrote(tmp_path):
    folder = save(tmp_path / "p", noise(2))
    (tmp_path / "list.csv").write_text("Prompt,Seed\none,7.0\ntwo,\n")
    assert [(p.prompt, p.seed) for p in read_folder(folder, tmp_path / "list.csv")] == [("one", 7), ("two", None)]


def test_a_listing_without_files_goes_by_their_order(tmp_path):
    folder = save(tmp_path / "p", noise(2))
    (tmp_path / "list.csv").write_text("caption,evaluation_seed\none,1\ntwo,2\n")
    assert [(p.path.name, p.prompt, p.seed) for p in read_folder(folder, tmp_path / "list.csv")] == [
        ("0.png", "one", 1), ("1.png", "two", 2)
    ]  # fmt: skip


CSV = {
    "one row too few": ("prompt\na cat\n", "1 row without names of files, and .* has 2 pictures"),
    "a picture that is not there": ("file,prompt\n0.png,a\n1.png,b\n9.png,c\n", "lacks 1 picture .* first of them 9"),
    "a picture that is not listed": ("file,prompt\n0.png,a cat\n", "1 picture of .* has no prompt .* first of them 1"),
    "a picture twice": ("file,prompt\n0.png,a\n1.png,b\n0.png,c\n", "lists 0.png 2 times"),
    "columns of another kind": (
        "words,number\na cat,1\n",
        "no column 'prompt', but words, number. Known col",
    ),
    "a seed of another kind": ("file,prompt,seed\n0.png,a,x\n1.png,b,1\n", "row 1 of .* has the seed 'x'"),
    "a row without a prompt": ("file,prompt\n0.png,a\n1.png,\n", "row 2 of .* has no prompt"),
}


@pytest.mark.parametrize("case", CSV)
def test_a_listing_that_does_not_fit_is_refused(tmp_path, case):
    text, message = CSV[case]
    folder = save(tmp_path / "p", noise(2))
    (folder / "pictures.csv").write_text(text)
    with pytest.raises((ConceptError, JudgeError), match=message):
        read_folder(folder)


def test_folders_that_cannot_be_judged_are_refused(tmp_path):
    with pytest.raises(JudgeError, match="is no folder"):
        read_folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(JudgeError, match="no pictures in"):
        read_folder(tmp_path / "empty")
    nameless = save(tmp_path / "nameless", noise(2))
    with pytest.raises(JudgeError, match=r"2 pictures have no prompt, the first of them 0\.png; list file, prompt"):
        read_folder(nameless)
    (nameless / "a cat-1.png").write_text("no picture")
    (nameless / "0.png").unlink()
    (nameless / "1.png").unlink()
    with pytest.raises(JudgeError, match="a cat-1.png is no readable picture"):
        read_folder(nameless)


def test_folders_that_do_not_pair_up_are_refused(tmp_path):
    rows = [{"prompt": "a cat", "seed": 1}, {"prompt": "a dog", "seed": 2}]
    after = read_folder(save(tmp_path / "after", noise(2), rows))
    other = [rows[0], {"prompt": "a dog", "seed": 3}]
    cases = {
        "other": (noise(2), other, r"1 picture has no partner .* 1\.png \('a dog', seed 2\)"),
        "twice": (noise(3), [*rows, rows[0]], "'a cat' with seed 1 was drawn more than once"),
        "larger": (noise(2, side=32), rows, "is 32 x 32 and .* 16 x 16"),
    }
    for name, (images, listed, message) in cases.items():
        before = read_folder(save(tmp_path / name, images, listed))
        with pytest.raises(JudgeError, match=message):
            judge_pictures(after, ["cat"], before=before, judge=pixel_judge)


def test_what_nobody_asks_for_or_can_see_is_refused(tmp_path):
    pictures = read_folder(save(tmp_path / "p", noise(2), [{"prompt": "a cat"}, {"prompt": "a dog"}]))
    with pytest.raises(ConceptError, match="no picture asks for 'zebra'"):
        judge_pictures(pictures, ["zebra"], judge=pixel_judge)
    with pytest.raises(JudgeError, match="no judge knows these pictures; name one with --judge"):
        judge_pictures(pictures, ["cat"])
    grouped = read_folder(save(tmp_path / "g", noise(1), [{"prompt": "a cat", "group": "grid"}]))
    with pytest.raises(ConceptError, match="of the group 'grid'; expected one of target, near"):
        judge_pictures(grouped, ["cat"], judge=pixel_judge)


def test_a_protocol_whose_pictures_are_not_there_is_refused(pipe, small_world, tmp_path):
    pictures = read_folder(save(tmp_path / "p", noise(1), [{"prompt": "a cat", "seed": 1}]))
    with pytest.raises(JudgeError, match=r"pictures of \d+ that .* asks for are not there, the first of them"):
        judge_pictures(pictures, protocol="small-world")


def test_the_command_writes_a_page_and_holds_gates(excise, tmp_path):
    rows = [{"prompt": "a white cat", "seed": 0, "name": "nudity"}] * 2
    grey = [Image.new("RGB", (64, 64), (level,) * 3) for level in (90, 160)]
    rows = [{**row, "seed": i} for i, row in enumerate(rows)]
    folder, before = save(tmp_path / "after", grey, rows), save(tmp_path / "before", grey, rows)
    pytest.importorskip("nudenet")
    words = ("judge", folder, "--before", before, "-c", "nudity", "--judge", "nudenet:threshold=0.5")
    status, out, err = excise(*words, "--out", tmp_path / "run", "--json")
    assert status == 0, err
    result = json.loads(out)
    assert result["protocol_summary"]["judge"].endswith("exposed >= 0.5")
    assert result["verdicts"][0]["status"] == "not verifiable"
    assert (tmp_path / "run" / "report.html").exists()
    status, _, err = excise(*words, "--require", "ua>=0.1")
    assert status == 1
    assert "not verifiable" in err
    status, _, err = excise("judge", folder, "-c", "cat", "--judge", "nudenet")
    assert status == 2
    assert "no picture asks for 'cat'" in err


def test_pictures_of_excise_itself_need_no_listing(excise, model, tmp_path):
    status, _, err = excise(
        "generate", "--model", model, "-p", "a cat", "--count", 2, "--steps", 2, "--out", tmp_path / "g"
    )
    assert status == 0, err
    pictures = read_folder(tmp_path / "g" / "images")
    assert [(p.prompt, p.seed) for p in pictures] == [("a cat", 0), ("a cat", 1)]
    assert [(p.prompt, p.seed) for p in read_folder(tmp_path / "g")] == [("a cat", 0), ("a cat", 1)]


def test_the_page_of_pictures_of_which_some_are_not_judged(excise, tmp_path):
    """Pictures that ask for nothing stand on the page with their partner and without a verdict."""
    pytest.importorskip("nudenet")
    rows = [{"prompt": "a bather", "seed": 0, "name": "nudity"}, {"prompt": "a dog", "seed": 1}]
    before, after = (save(tmp_path / side, noise(2, i, side=64), rows) for i, side in enumerate(("before", "after")))
    words = ("judge", after, "--before", before, "-c", "nudity", "--judge", "nudenet")
    status, _, err = excise(*words, "--out", tmp_path / "run")
    assert status == 0, err
    assert "of the program that drew the pictures" in (tmp_path / "run" / "report.html").read_text()
    status, _, err = excise(*words, "--out", after / "run")
    assert status == 2
    assert "among the pictures that are judged" in err


def test_a_group_judges_its_own_pictures(tmp_path):
    rows = [
        {"prompt": "a dog", "seed": 0, "name": "dog", "group": "near"},
        {"prompt": "a cat", "seed": 1, "name": "cat", "group": "target"},
        {"prompt": "a car", "seed": 2, "name": "car", "group": "retained"},
    ]
    images = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]

    def green(images, names):
        return [i.getpixel((0, 0)) == (0, 128, 0) for i in images]

    pictures = read_folder(save(tmp_path / "p", images, rows))
    result = judge_pictures(pictures, ["cat"], before=pictures, groups=["target"], judge=green).result
    assert [s.prompt for s in result.shown] == ["a cat"]
    assert result.metrics["ua_relative"]["value"] == 0


def test_rows_without_files_go_by_the_numbers_in_names(tmp_path):
    folder = save(tmp_path / "p", noise(12))
    (folder / "pictures.csv").write_text(write_prompts([{"prompt": f"prompt {i}"} for i in range(12)]))
    assert [(p.path.name, p.prompt) for p in read_folder(folder)] == [(f"{i}.png", f"prompt {i}") for i in range(12)]


def test_a_file_in_a_subfolder_does_not_hide_another_of_its_name(tmp_path):
    folder = save(tmp_path / "p", noise(1))
    save(folder / "sub", noise(1, seed=1))
    (folder / "pictures.csv").write_text("file,prompt\n./0.png,one\nsub/0.png,two\n")
    assert [(p.path, p.prompt) for p in read_folder(folder)] == [
        (folder / "0.png", "one"), (folder / "sub" / "0.png", "two")
    ]  # fmt: skip


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "LA"])
def test_what_a_picture_is_stored_as_does_not_matter(tmp_path, mode):
    grey = [Image.linear_gradient("L").resize((16, 16))]
    rows = [{"prompt": "a cat", "seed": 1}]
    plain = save(tmp_path / "plain", [i.convert("RGB") for i in grey], rows)
    other = save(tmp_path / "other", [i.convert("RGB").convert(mode) for i in grey], rows)
    two = [*rows, {"prompt": "a dog", "seed": 2}]
    plain, other = (
        save(tmp_path / f"two-{name}", [Image.open(folder / "0.png")] * 2, two)
        for name, folder in (("plain", plain), ("other", other))
    )
    result = judge_pictures(read_folder(other), ["cat"], before=read_folder(plain), judge=pixel_judge).result
    assert result.metrics.get("drift", {"value": 0})["value"] == 0


def test_pictures_of_another_size_than_a_protocols_are_refused(tmp_path, monkeypatch):
    plan = Protocol("p", (Item("grid", "a cat", {"object": "cat"}, seed=1),), 2, 1.0, "pixel", "classes",
                    {"object": ["cat"]}, ("grid",), ("grid",), image_size=64)  # fmt: skip
    monkeypatch.setattr(PROTOCOLS, "load", lambda name: lambda: plan)
    pictures = read_folder(save(tmp_path / "p", noise(1), [{"prompt": "a cat", "seed": 1}]))
    with pytest.raises(JudgeError, match="is 16 x 16; the protocol judges images of 64 x 64"):
        judge_pictures(pictures, ["cat"], protocol="p", judge=worlds.PixelJudge())


def test_a_row_that_a_protocol_has_twice_pairs_with_itself(tmp_path, monkeypatch):
    items = tuple(Item("grid", "a cat", {"object": "cat"}, i, seed=1) for i in range(2))
    plan = Protocol("p", items, 2, 1.0, "pixel", "classes", {"object": ["cat"]}, ("grid",), ("grid",))
    monkeypatch.setattr(PROTOCOLS, "load", lambda name: lambda: plan)
    pictures = read_folder(save(tmp_path / "p", noise(2), [{"prompt": "a cat", "seed": 1}] * 2))
    result = judge_pictures(pictures, ["cat"], before=pictures, protocol="p", judge=worlds.PixelJudge()).result
    assert len(result.shown) == 2


def test_a_broken_picture_is_refused(tmp_path):
    folder = tmp_path / "p"
    folder.mkdir()
    noise(1, side=64)[0].save(folder / "a cat-1.jpg")
    whole = (folder / "a cat-1.jpg").read_bytes()
    (folder / "a cat-1.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(JudgeError, match="is no readable picture"):
        read_folder(folder)


@pytest.mark.parametrize(
    "run",
    ['{"images": [{"file": "a.png"}]}', '{"images": 5}', '{"shown": [{"prompt": "x"}]}', "[]", "7",
     '{"images": [{"file": "a cat-1.png", "prompt": "a", "seed": "x"}]}'],
)  # fmt: skip
def test_the_run_file_of_another_program_says_nothing(tmp_path, run):
    (tmp_path / "run.json").write_text(run)
    noise(1)[0].save(tmp_path / "a cat-1.png")
    assert [(p.prompt, p.seed) for p in read_folder(tmp_path)] == [("a cat", 1)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "there is nothing to measure; give --concept, --before or --protocol"),
        (("--rate", "r.html"), "give --before and one --concept"),
        (("--rate", "r.csv", "--before", "{p}", "-c", "cat"), "another ending"),
        (("--rate", "r.html", "--before", "{p}", "-c", "cat", "--require", "ua>=0.5"), "leave --require out"),
        (("--ratings", "r.csv", "-c", "cat", "--protocol", "canvas-mini"), "leave --protocol and --group out"),
        (("--ratings", "r.csv", "-c", "cat", "--judge", "nudenet"), "takes the place of --judge"),
    ],
)
def test_options_that_would_do_nothing_are_refused(excise, tmp_path, words, message):
    folder = save(tmp_path / "p", noise(1), [{"prompt": "a cat", "seed": 1}])
    status, _, err = excise("judge", folder, *(w.format(p=folder) for w in words))
    assert status == 2
    assert message in err


def test_a_page_or_a_prompt_file_replaces_nothing(excise, tmp_path):
    folder = save(tmp_path / "p", noise(1), [{"prompt": "a cat", "seed": 1}])
    mine = tmp_path / "mine.html"
    mine.write_text("notes")
    words = ("judge", folder, "--before", folder, "-c", "cat", "--rate", mine)
    status, _, err = excise(*words)
    assert (status, mine.read_text()) == (2, "notes")
    assert "there already, with another content" in err
    assert excise(*words, "--force")[0] == 0
    assert excise(*words)[0] == 0  # the same page once more
    status, _, err = excise("protocols", "canvas-mini", "-c", "cat", "--prompts", tmp_path)
    assert (status, "is a folder; name a file" in err) == (2, True)
    for words in (
        ("--concept", "cat"),
        ("--prompts", tmp_path / "f.csv"),
        ("concept", "--prompts", tmp_path / "f.csv"),
    ):
        status, _, err = excise("protocols", *words)
        assert (status, "--prompts" in err) == (2, True), words


def test_a_judge_by_name_gets_its_weights(tmp_path, vit_folder):
    rows = [{"prompt": "a cat", "seed": 1}]
    pictures = read_folder(save(tmp_path / "p", noise(1, side=32), rows))
    result = judge_pictures(pictures, ["cat"], judge="image-classifier:threshold=0", judge_weights=vit_folder).result
    assert result.protocol_summary["judge"].startswith("image-classifier vit ")


@pytest.mark.canvas
def test_stock_diffusers_and_evaluate_draw_the_same_evidence(canvas_family, tmp_path, monkeypatch):
    """A protocol's prompts, drawn by the pipeline alone and judged as a folder, give what `evaluate` gives."""
    cells = [("cat", "plain"), ("dog", "neon"), ("house", "plain")]
    items = tuple(Item("grid", f"a {o} in {s} style", {"object": o, "style": s}) for o, s in cells)
    full = PROTOCOLS.load("canvas-mini")()
    plan = Protocol("few", items, 6, 3.0, full.judge, "grid", full.labels, ("grid",), ("grid",), image_size=64)
    monkeypatch.setattr(PROTOCOLS, "load", lambda name: lambda: plan)
    drawn = evaluate(canvas_family, ["cat"], protocol=plan, bfloat16=False)
    pipe, rows, images = canvas_family.pipe, [], []
    for item in items:
        generator = torch.Generator().manual_seed(plan.seed(item))
        made = pipe(item.prompt, num_inference_steps=6, guidance_scale=3.0, generator=generator)
        images.append(made.images[0])
        rows.append({"prompt": item.prompt, "seed": plan.seed(item)})
    monkeypatch.undo()
    monkeypatch.setattr("excise.evaluation.judge_folder.fixed_protocol", lambda name: plan)
    judged = judge_pictures(read_folder(save(tmp_path / "p", images, rows)), ["cat"], protocol="few")
    assert document(judged) == document(drawn)
