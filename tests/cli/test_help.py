"""Help texts are whole sentences, and a record of options becomes the options of a command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from excise.cli import options as o
from excise.cli.groups import GROUPS
from excise.cli.main import app


def commands(group: Any, prefix: str = "") -> dict[str, Any]:
    """Every command of a group by its full name, those of nested groups too."""
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        nested = hasattr(command, "commands")
        found |= commands(command, f"{prefix}{name} ") if nested else {prefix + name: command}
    return found


COMMANDS = commands(typer.main.get_command(app))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_text_is_a_whole_sentence(name):
    command = COMMANDS[name]
    texts = {p.name: p.help for p in command.params if p.name not in ("help",)}
    texts["command"] = command.help.split("\n\n")[0]
    for which, text in texts.items():
        assert text, which
        assert text[0].isupper(), (which, text)
        assert text.endswith("."), (which, text)
        assert not text.startswith(("Of ", "Its ", "What ", "Which ", "See:")), (which, text)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_names_options_that_exist(name):
    command = COMMANDS[name]
    options = {option for p in command.params for option in p.opts}
    examples = [line for line in command.help.splitlines() if line.startswith("Example: ")]
    for example in examples:
        assert example.startswith(f"Example: excise {name} ")
        assert {word for word in example.split() if word.startswith("--")} <= options


FIRST_OPTIONS = 5


@pytest.mark.parametrize("name", GROUPS)
def test_the_help_of_a_long_command_shows_what_matters_first_and_the_rest_in_panels(name):
    options = [p for p in COMMANDS[name].params if p.param_type_name == "option"]
    titles = [getattr(p, "rich_help_panel", None) for p in options]
    first = [p.name for p, title in zip(options, titles, strict=True) if title is None]
    assert 1 <= len(first) <= FIRST_OPTIONS
    assert titles == sorted(titles, key=titles.index)  # no panel is torn apart
    assert first == [p.name for p in options[: len(first)]]
    unknown = {n for names in GROUPS[name].values() for n in names} - {p.name for p in options}
    assert not unknown


def test_every_command_of_many_options_has_panels():
    for name, command in COMMANDS.items():
        count = sum(p.param_type_name == "option" for p in command.params)
        assert count <= 10 or name in GROUPS, name


def test_the_help_of_erase_fits_a_few_screens_and_shows_no_python_types(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    text = CliRunner().invoke(app, ["erase", "--help"]).output
    assert len(text.splitlines()) < 105
    assert "list[" not in text
    assert text.index("--concept") < text.index("--preserve-file") < text.index("--device") < text.index("--charts")


@dataclass(frozen=True)
class Inner:
    """Options that several commands share."""

    depth: Annotated[int, typer.Option(help="A depth.")] = 1
    names: Annotated[list[str] | None, typer.Option("--name", help="A name.")] = None


@dataclass(frozen=True, kw_only=True)
class Outer:
    """The options of one command."""

    file: Annotated[str, typer.Argument(help="A file.")]
    must: Annotated[str, typer.Option(help="A required option.")]
    inner: Inner
    flag: Annotated[bool, typer.Option("--flag", help="A flag.")] = False


def test_a_record_becomes_a_command_with_the_options_of_the_records_in_it():
    received: list[Outer] = []

    def run(options: Outer) -> None:
        """A command."""
        received.append(options)

    small = typer.Typer()
    small.command()(o.command(run))
    call = CliRunner().invoke
    assert call(small, ["f", "--must", "m", "--depth", "3", "--name", "a", "--name", "b", "--flag"]).exit_code == 0
    assert call(small, ["f", "--must", "m"]).exit_code == 0
    assert received == [
        Outer(file="f", must="m", inner=Inner(3, ["a", "b"]), flag=True),
        Outer(file="f", must="m", inner=Inner(1, None)),
    ]
    assert call(small, ["f"]).exit_code == 2
