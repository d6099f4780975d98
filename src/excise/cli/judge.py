"""excise judge: measure pictures that any program drew."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from excise.cli import options as o
from excise.cli.keeping import ForceOption, asked, finished

if TYPE_CHECKING:
    from excise.evaluation.folder import Drawn
    from excise.evaluation.result import Evaluated


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """The options of `excise judge`."""

    folder: Annotated[Path, typer.Argument(help="Folder with the pictures.")]
    before: Annotated[
        Optional[Path],
        typer.Option(help="Folder with pictures of the same prompts and seeds by the untouched model."),
    ] = None
    concept: Annotated[
        Optional[list[str]], typer.Option("--concept", "-c", help="A concept that should be gone; repeatable.")
    ] = None
    judge: Annotated[
        Optional[Path],
        typer.Option(
            help="Name of a judge (excise doctor --judges), or folder of a CLIP model. Pictures of the built-in models "
            "have their own."
        ),
    ] = None
    judge_weights: Annotated[Optional[Path], typer.Option(help="Folder of the judge's weights.")] = None
    prompts: Annotated[
        Optional[Path],
        typer.Option(
            help="CSV or JSON file that tells of each picture file, prompt and seed, and, if you like, name (what it "
            "should show). By default pictures.csv in the folder, or the names of the files."
        ),
    ] = None
    protocol: Annotated[
        Optional[str], typer.Option(help="A protocol whose prompts and seeds the pictures are, see excise protocols.")
    ] = None
    group: Annotated[Optional[list[str]], typer.Option(help="A part of the protocol; repeatable.")] = None
    rate: Annotated[
        Optional[Path],
        typer.Option(help="HTML page to write, on which people rate the pictures that ask for the concept."),
    ] = None
    ratings: Annotated[
        Optional[list[Path]],
        typer.Option(help="A file that the page of --rate saved, in the place of --judge; repeatable."),
    ] = None
    require: o.RequireOption = None
    out: Annotated[Optional[Path], typer.Option(help="Folder for the report and run.json.")] = None
    force: ForceOption = False
    as_json: o.JsonOption = False


@o.command
def judge(options: JudgeOptions) -> None:
    """Measure a folder of pictures as excise evaluate measures those that it draws.

    Prompts and seeds come from a listing beside the pictures, from excise's own run.json, or from file names such as
    a-cat-seed7.png. With --before, pictures of the same prompts and seeds are compared.

    Example: excise judge pictures --before untouched --concept nudity --judge nudenet --out runs/judged
    """
    from excise.cli import evidence, gates, measured

    required = gates.parse_all(options.require or [])
    _check(options)
    if options.rate is not None:
        _write_rating_page(options, options.rate)
        return
    o.check_judge(options.judge)
    o.check_weights(options.judge_weights)
    if options.out is not None:
        finished(options.out, asked("judge", options), force=options.force)
    document = _run(options)
    more = "add pictures whose prompts ask for it in other words, or give another judge (--judge)"
    measured.print_evaluation(document, options.out, as_json=options.as_json, next_step=more)
    evidence.note_gates(options.out, required, document["metrics"])
    measured.check_gates(required, document)


def _check(options: JudgeOptions) -> None:
    """Refuse options that do not go together.

    Raises:
        SettingError: they do not.
    """
    from excise.errors import SettingError

    if options.rate is not None and (options.before is None or len(options.concept or []) != 1):
        raise SettingError("--rate makes a page of pairs that ask for one concept; give --before and one --concept.")
    if options.rate is not None and options.rate.suffix.lower() not in (".html", ".htm"):
        raise SettingError(f"--rate writes an HTML page, and {options.rate} has another ending; name it .html.")
    if options.ratings and options.judge is not None:
        raise SettingError("--ratings takes the place of --judge; give one of them.")
    people = "--rate" if options.rate is not None else "--ratings" if options.ratings else ""
    if people and (options.protocol or options.group):
        raise SettingError(f"{people} goes by what the pictures ask for; leave --protocol and --group out.")
    aside = {
        "--out": options.out,
        "--require": options.require,
        "--json": options.as_json,
        "--judge": options.judge,
        "--ratings": options.ratings,
    }
    if options.rate is not None and (given := [name for name, value in aside.items() if value]):
        raise SettingError(f"--rate writes the page and measures nothing; leave {' and '.join(given)} out.")
    if options.rate is None and not (options.concept or options.before or options.protocol):
        raise SettingError("there is nothing to measure; give --concept, --before or --protocol.")
    for folder in (options.folder, options.before):
        if options.out is not None and folder is not None and options.out.resolve().is_relative_to(folder.resolve()):
            raise SettingError(f"--out is in {folder}, among the pictures that are judged; choose another folder.")


def _write_rating_page(options: JudgeOptions, page: Path) -> None:
    """Write the page on which people rate pictures."""
    from excise.cli import show
    from excise.evaluation.judge_folder import asking_pairs
    from excise.report.rating_page import write_rating_page
    from excise.support.counts import counted

    pictures, before = _folders(options)
    (concept,) = options.concept or [""]
    pairs = asking_pairs(pictures, before, concept)
    write_rating_page([(a.prompt, b.path, a.path) for a, b in pairs], concept, page, options.force)
    show.say(f"{counted(len(pairs), 'pair')} in {page}; open it in a browser, and give the files it saves as --ratings")


def _folders(options: JudgeOptions) -> tuple[list[Drawn], list[Drawn]]:
    """The pictures, and those of the untouched model."""
    from excise.evaluation.folder import read_folder

    pictures = read_folder(options.folder, options.prompts)
    before = read_folder(options.before, options.prompts, own_first=True) if options.before is not None else []
    return pictures, before


def _run(options: JudgeOptions) -> dict[str, Any]:
    """Judge the pictures, write the run folder, and return the document of `--json`."""
    from excise.cli import show
    from excise.evaluation.judge_folder import judge_pictures
    from excise.judges.raters import read_ratings
    from excise.support.runs import run_folder

    pictures, before = _folders(options)
    raters = read_ratings(options.ratings) if options.ratings else None
    with run_folder(options.out) if options.out is not None else nullcontext():
        with show.stages() as say:
            evaluated = judge_pictures(
                pictures,
                options.concept or [],
                before=before,
                protocol=options.protocol,
                groups=options.group,
                judge=raters or options.judge,
                judge_weights=options.judge_weights,
                say=say,
            )
        if options.out is not None:
            _write(options, options.out, evaluated)
    return evaluated.result.model_dump(mode="json", exclude={"shown"})


def _write(options: JudgeOptions, out: Path, evaluated: Evaluated) -> None:
    """Write the run folder: the report, and last run.json, which marks the folder as complete."""
    from excise.report.run_page import evaluation_section, write_page
    from excise.support.runs import write_run

    result = evaluated.result
    title = f"{options.folder} without {', '.join(result.concepts)}" if result.concepts else str(options.folder)
    section = evaluation_section("Results", evaluated.before, evaluated, None, [])
    write_page(title, "Pictures drawn elsewhere, measured by excise judge.", [section], result, out / "report.html")
    write_run(out, "judge", {**result.model_dump(mode="json"), **asked("judge", options).entries()})
