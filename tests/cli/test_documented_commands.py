"""Every command that README and docs print: all are parsed, and those of the README run, in small sizes."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import typer
from documented import commands

from excise.cli.main import app
from excise.protocols import canvas

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
EVERY = [pytest.param(line, id=f"{page.stem}: {line[:60]}") for page in PAGES for line in commands(page)]


@pytest.mark.parametrize("line", EVERY)
def test_every_documented_command_has_arguments_that_exist(line):
    command, args = typer.main.get_command(app), shlex.split(line)[1:]
    while args and args[0] in getattr(command, "commands", {}):
        command, args = command.commands[args[0]], args[1:]
    command.make_context("excise", args)


def test_the_pages_print_commands():
    assert len(EVERY) > 30


def test_what_the_readme_prints_runs(excise, few_steps, model, clip_folder, tmp_path, monkeypatch):
    """In the order of the page; the model of one's own is a tiny one, and protocols of Canvas have a few cells."""
    monkeypatch.setattr(canvas, "STEPS", 2)
    monkeypatch.setattr(
        canvas, "_cells", lambda: [("cat", "neon"), ("dog", "neon"), ("cat", "sketch"), ("car", "dots")]
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stable-diffusion-v1-5").symlink_to(model)
    (tmp_path / "clip-vit-large-patch14").symlink_to(clip_folder)
    (tmp_path / "artists.txt").write_text("Claude Monet\nEdgar Degas\n")
    lines = commands(ROOT / "README.md")
    assert len(lines) >= 7
    for line in lines:
        args = shlex.split(line)[1:]
        if args[0] == "generate":
            args[args.index("--steps") + 1] = "2"
        status, _, error = excise(*args)
        assert status == 0, f"{line}: {error}"
    for made in ("runs/cat/report.html", "runs/van-gogh-evaluation/report.html", "pictures", "shipped"):
        assert (tmp_path / made).exists()
