"""The common end of the commands that make an edit: save it, write the run folder, and print the result."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from excise.support.counts import size_text
from excise.support.runs import EDIT_NAME, RUN_NAME

if TYPE_CHECKING:
    from excise.cli.keeping import Asked
    from excise.edits.edit import Edit
    from excise.families.base import Family
    from excise.report.run_page import Steps


@dataclass(frozen=True)
class Making:
    """The request of a command that makes an edit.

    Attributes:
        verb: the command. model: the model's name. out: the run folder.
        preserve: names to draw for the preview.
        preview: draw a few images before and after the edit; None does so on built-in models.
        earlier: edit files that are applied below the new one.
        load_options: how the model was loaded, as further options of the printed commands.
        as_json: print the result as JSON.
        request: as `run.json` keeps it, so that the same request is known again.
    """

    verb: str
    model: str
    out: Path
    preserve: tuple[str, ...] = ()
    preview: bool | None = None
    earlier: tuple[str, ...] = ()
    load_options: str = ""
    as_json: bool = False
    request: Asked | None = None

    @property
    def draws(self) -> bool:
        """Whether a preview is drawn."""
        from excise.families.built_in import names_built_in

        return self.preview if self.preview is not None else names_built_in(self.model)


def finish(
    making: Making,
    family: Family,
    edit: Edit,
    seconds: Mapping[str, float],
    probe_images: Mapping[str, Any] | None = None,
) -> None:
    """Write edit, images, report and `run.json` to the run folder, and print the result.

    Args:
        seconds: durations by stage.
        probe_images: images that a trained method drew to choose blocks, for the report.
    """
    from excise.cli import show
    from excise.support.runs import write_run

    _write_report(making, family, edit, probe_images)  # it may draw for long; an interrupted command begins again
    asked = making.request.entries() if making.request is not None else {}
    record = edit.record.model_dump(mode="json")
    remembered = {"load_options": making.load_options.strip()}  # `Source.remembering` reads them
    path = making.out / EDIT_NAME
    with _replacing(path):
        result = erase_result(edit, edit.save(path), seconds)
        write_run(making.out, making.verb, {**result, **remembered, "record": record, **asked})
    if making.as_json:
        show.print_json(result)
        return
    show.say(
        f"edit written, not yet verified: {path} ({size_text(path.stat().st_size)}) removes "
        f"{_names(record)} from {making.model} with {edit.record.method} ({sum(seconds.values()):.1f} s)"
    )
    _print_next(making, record, path)


@contextmanager
def _replacing(path: Path) -> Iterator[None]:
    """Write an edit and its `run.json` in the block; where it breaks off, no `run.json` tells of another edit."""
    run, is_new = path.parent / RUN_NAME, not path.exists()
    before = (run.read_bytes(), path.stat().st_mtime_ns) if run.exists() and not is_new else None
    run.unlink(missing_ok=True)
    try:
        yield
    except BaseException:
        if is_new:  # without run.json nothing tells of what request it is
            path.unlink(missing_ok=True)
        elif before is not None and path.stat().st_mtime_ns == before[1]:  # the earlier edit is still there
            run.write_bytes(before[0])
        raise


def answer(making: Making, run: Mapping[str, Any]) -> None:
    """Print the result of a finished run of the same request; nothing is loaded or written.

    Args:
        run: the content of its `run.json`.
    """
    from excise.cli import show

    if making.as_json:
        show.print_json({name: run[name] for name in RESULT if name in run})
        return
    record, path = run["record"], Path(run["edit"])
    show.say(
        f"nothing to do: {path} was made by this very request ({run['created']}) and removes {_names(record)} from "
        f"{making.model} with {record['method']}; --force makes it again"
    )
    _print_next(making, record, path)


def _write_report(making: Making, family: Family, edit: Edit, probe_images: Mapping[str, Any] | None) -> None:
    """Write the report, and the images of the preview where one is drawn."""
    from excise.cli import show
    from excise.report.run_page import erase_page
    from excise.support.runs import write_images

    request = (family, edit, making.model, making.out, making.preserve)
    steps = _next_steps(making, edit.record.model_dump(mode="json"), making.out / EDIT_NAME)
    if not making.draws:
        erase_page(*request, None, probe_images, steps)
        return
    with show.waiting(f"loading the rest of {making.model}, to draw a preview"):
        family.complete()
    with show.progress("drawing a preview") as advance:
        pairs = erase_page(*request, advance, probe_images, steps)
    names = [f"{i:02d}-{when}" for i in range(len(pairs)) for when in ("before", "after")]
    write_images(making.out, names, [image for p in pairs for image in (p.before, p.after)])


def _names(record: Mapping[str, Any]) -> str:
    """The concepts of a record, as JSON holds it."""
    from excise.concepts.concept import listed

    return listed([c["name"] for c in record["concepts"]])


def _print_next(making: Making, record: Mapping[str, Any], path: Path) -> None:
    """Print where the report is, and the command to look at the edit next."""
    from excise.cli import show
    from excise.concepts.concept import Concept
    from excise.concepts.vocabulary import check_prompts
    from excise.families.built_in import names_built_in

    show.say(f"report:   {making.out / 'report.html'}")
    name, kind = record["concepts"][0]["name"], record["concepts"][0]["kind"]
    start, built_in = _start(making, path), names_built_in(making.model)
    verify = _verifying(making, record, path)
    if _known_on_canvas(making, name):
        show.say(f"verify:   {verify}")
        return
    prompt = check_prompts(Concept(name, kind), built_in)[0]
    pictures = shlex.quote(str(free_folder(f"{making.out}-pictures")))
    show.say(f"look:     excise generate {start} --prompt {shlex.quote(prompt)} --out {pictures}")
    judge = "" if built_in else "  # add --judge FOLDER, a CLIP model, for a verdict"
    show.say(f"verify:   {verify}{judge}")


def _start(making: Making, path: Path) -> str:
    """The options that every command on the new edit begins with."""
    edits = " ".join(f"--edit {shlex.quote(str(e))}" for e in [*making.earlier, path])
    return f"--model {shlex.quote(making.model)}{making.load_options} {edits}"


def _known_on_canvas(making: Making, name: str) -> bool:
    from excise.families.built_in import names_built_in
    from excise.protocols.canvas import canvas_mini

    return names_built_in(making.model) and canvas_mini().knows(name)


def _verifying(making: Making, record: Mapping[str, Any], path: Path) -> str:
    """The command that measures the edit."""
    name, out = record["concepts"][0]["name"], shlex.quote(str(free_folder(f"{making.out}-evaluation")))
    concept = f" --concept {shlex.quote(name)}" if _known_on_canvas(making, name) else ""
    return f"excise evaluate {_start(making, path)}{concept} --out {out}"


def _next_steps(making: Making, record: Mapping[str, Any], path: Path) -> Steps:
    """The commands that the report names for what it does not know yet."""
    from excise.families.built_in import names_built_in
    from excise.report.run_page import Steps, attack_command

    name, out = record["concepts"][0]["name"], str(free_folder(f"{making.out}-attacked"))
    judge = "" if names_built_in(making.model) else " --judge FOLDER"
    attack = "" if making.earlier else attack_command(making.model, str(path), name, out, judge + making.load_options)
    return Steps(making.load_options, _verifying(making, record, path), attack)


def free_folder(folder: str) -> Path:
    """The folder, or where a run of something else may be in it already the first of folder-2, folder-3, ..."""
    names = itertools.chain([folder], (f"{folder}-{number}" for number in itertools.count(2)))
    return next(path for path in map(Path, names) if not path.exists())


RESULT = ("edit", "method", "concepts", "seconds", "delta")
"""The keys of the JSON document of commands that make an edit."""


def erase_result(edit: Edit, path: Path, seconds: Mapping[str, float]) -> dict[str, Any]:
    """The JSON document of `excise erase` and of the other commands that make an edit."""
    from excise.edits.deltas import TextMap, total_bytes

    kinds = {type(d).__name__ for d in edit.modules.values()} | ({TextMap.__name__} if edit.text_maps else set())
    return {
        "edit": str(path),
        "method": edit.record.method,
        "concepts": [c.name for c in edit.record.concepts],
        "seconds": {**{k: round(v, 3) for k, v in seconds.items()}, "total": round(sum(seconds.values()), 3)},
        "delta": {
            "kinds": sorted(kinds),
            "modules": len(edit.paths),
            "bytes": total_bytes(t.float() for t in edit.tensors().values()),
        },
    }
