"""excise generate: draw images with a model, with or without edits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from excise.cli import options as o
from excise.cli.keeping import ForceOption, asked, continued, finished
from excise.support.counts import counted
from excise.support.slugs import slug

if TYPE_CHECKING:
    from PIL.Image import Image

    from excise.cli.keeping import Asked

IMAGES = "images"  # the folder inside the run folder
BATCH = 8
GUIDANCE = 4.0


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """The options of `excise generate`."""

    prompt: Annotated[Optional[list[str]], typer.Option("--prompt", "-p", help="A prompt to draw; repeatable.")] = None
    prompts: Annotated[
        Optional[Path],
        typer.Option(help="CSV or JSON file of prompts, each with its seed if you like, or text with one a line."),
    ] = None
    negative: Annotated[str, typer.Option(help="A prompt that guidance leads away from.")] = ""
    width: Annotated[Optional[int], typer.Option(min=8, help="Width in pixels; by default the model's own.")] = None
    height: Annotated[Optional[int], typer.Option(min=8, help="Height in pixels; by default the model's own.")] = None
    out: Annotated[Path, typer.Option(help="Folder to write the images to.")]
    model: o.ModelOption = "canvas-sd"
    edit: o.EditsOption = None
    seed: Annotated[int, typer.Option(help="Seed of the first image; each further image of a prompt adds 1.")] = 0
    count: Annotated[int, typer.Option(min=1, help="Number of images for each prompt.")] = 1
    steps: Annotated[int, typer.Option(min=1, help="Number of sampling steps.")] = 20
    guidance: Annotated[float, typer.Option(min=0.0, help="Classifier-free guidance scale; 1 turns it off.")] = GUIDANCE
    strength: Annotated[float, typer.Option(help="Strength of the edits: 0 for none, 1 for the whole edit.")] = 1.0
    allow_other_base: o.OtherBaseOption = False
    force: ForceOption = False
    as_json: o.JsonOption = False
    source: o.Source


@o.command
def generate(options: GenerateOptions) -> None:
    """Draw images. The same seed gives the same image, alone or in a batch.

    Images of the same model and settings that are in --out already stay, and only the others are drawn: after an
    interruption, for a larger --count, or for a further --prompt.

    Example: excise generate --prompt "a cat in neon style" --seed 7 --out pictures
    """
    from excise.cli import show

    options.source.check(options.model)
    wanted = _requests(options)
    request = asked("generate", options)
    there = _there(options, request)
    pictures = _pictures(options, wanted, there)
    missing = [p for p in pictures if not p.there]
    if not there:
        finished(options.out, request, force=options.force, writes=[f"{IMAGES}/{p.name}" for p in pictures])
    if missing:
        _draw(options, request, there, missing)
    result = _result(options, [p.entry(options.out) for p in pictures])
    if options.as_json:
        show.print_json(result)
        return
    kept = len(pictures) - len(missing)
    before = f"{kept} of these were there: " if missing else "nothing to do, these were there: "
    show.say(f"{before if kept else ''}{counted(len(pictures), 'image')} in {options.out / IMAGES}")


def _requests(options: GenerateOptions) -> list[tuple[str, int]]:
    """The prompts with their seeds; of a file's own seed further images add 1 each, as of --seed.

    Raises:
        ConceptError: there is no prompt, or an empty one, or the file cannot be read.
    """
    from excise.errors import ConceptError, SettingError

    rows: list[tuple[str, int]] = [(prompt, options.seed) for prompt in options.prompt or []]
    if not all(prompt.strip() for prompt, _ in rows):
        raise ConceptError("a prompt is empty; say what to draw, for example: --prompt 'a cat'")
    if options.prompts is not None:
        rows += _listed(options.prompts, options.seed)
    if options.negative and options.guidance <= 1:
        raise SettingError("--guidance 1 leads away from nothing; raise it, or leave --negative out.")
    if not rows:
        raise ConceptError("there is nothing to draw; give --prompt 'a cat', or --prompts FILE.")
    return [(prompt, seed + i) for prompt, seed in rows for i in range(options.count)]


def _listed(file: Path, seed: int) -> list[tuple[str, int]]:
    """The prompts of a file, each with its own seed or the one that is given."""
    from excise.protocols.prompt_file import read_prompts

    if file.suffix.lower() == ".txt":
        return [(line, seed) for line in o.own_prompts(file)]
    return [(row.prompt, seed if row.seed is None else row.seed) for row in read_prompts(file)]


@dataclass(frozen=True)
class _Picture:
    """One image of the request: its file in the folder of images, and whether an earlier run has drawn it."""

    prompt: str
    seed: int
    name: str
    there: bool = False

    def entry(self, out: Path) -> dict[str, Any]:
        """The image as `run.json` lists it."""
        return {"file": str(out / IMAGES / self.name), "prompt": self.prompt, "seed": self.seed}


def _draw(options: GenerateOptions, request: Asked, there: Sequence[_Picture], missing: Sequence[_Picture]) -> None:
    """Draw images batch by batch. After each, `run.json` lists all that are there, so that none is lost or repeated."""
    from excise.cli import show
    from excise.edits.edit import applied, check_strength
    from excise.errors import SettingError
    from excise.families.base import split
    from excise.families.distilled import warn_of_guidance
    from excise.support.runs import run_folder, write_run

    check_strength(options.strength)
    edits = o.load_edits(options.edit)
    with run_folder(options.out):
        family = options.source.load(options.model)
        if options.guidance != GUIDANCE:  # the user's own
            warn_of_guidance(family, options.guidance)
        if options.negative and not family.guides:
            raise SettingError(f"{options.model} is distilled and reads no negative prompt; leave --negative out.")
        size = (options.width or family.image_size, options.height or family.image_size)
        parts, done = split(missing, BATCH), 0
        with (
            applied(family, edits, options.strength, allow_other_base=options.allow_other_base),
            show.progress("drawing") as advance,
        ):
            drawn = family.batches(
                [[(p.prompt, p.seed) for p in part] for part in parts],
                steps=options.steps,
                guidance=options.guidance,
                negative=options.negative,
                size=size if (options.width or options.height) else None,
                watch=lambda share: advance(done + share * min(BATCH, len(missing) - done), len(missing)),
            )
            for part, images in zip(parts, _in_size(drawn, size), strict=True):
                _write(options.out, part, images)
                done += len(part)
                entries = [p.entry(options.out) for p in (*there, *missing[:done])]
                write_run(options.out, "generate", {**_result(options, entries), **request.entries()})
                advance(done, len(missing))


def _in_size(drawn: Iterator[list[Image]], size: tuple[int, int]) -> Iterator[list[Image]]:
    """The batches as they are drawn.

    Raises:
        SettingError: the pipeline does not draw in this size.
    """
    from excise.errors import SettingError

    try:
        yield from drawn
    except ValueError as error:
        if "divisible" not in str(error):
            raise
        raise SettingError(f"the model does not draw {size[0]} x {size[1]}: {error}") from error


def _write(out: Path, pictures: Sequence[_Picture], images: list[Image]) -> None:
    """Write a batch of images; where that breaks off, none of them stays, for no run would tell of it."""
    from excise.support.runs import write_images

    new = [path for picture in pictures if not (path := out / IMAGES / picture.name).exists()]
    try:
        write_images(out, [Path(p.name).stem for p in pictures], images)
    except BaseException:
        for path in new:
            path.unlink(missing_ok=True)
        raise


def _result(options: GenerateOptions, images: list[dict[str, Any]]) -> dict[str, Any]:
    """The document of `--json`, and what `run.json` tells of the images."""
    return {
        "model": options.model,
        "edits": options.edit or [],
        "strength": options.strength,
        "steps": options.steps,
        "guidance": options.guidance,
        **({"negative": options.negative} if options.negative else {}),
        **({"width": options.width, "height": options.height} if options.width or options.height else {}),
        "images": images,
    }


def _pictures(options: GenerateOptions, wanted: Sequence[tuple[str, int]], there: Sequence[_Picture]) -> list[_Picture]:
    """The images of the request, in order. Those of an earlier run keep their names, and new ones are numbered on."""
    known: dict[tuple[str, int], list[_Picture]] = {}
    for picture in there:
        known.setdefault((picture.prompt, picture.seed), []).append(picture)
    taken = (
        {path.name.partition("-")[0] for path in (options.out / IMAGES).glob("*")} if there else set()
    )  # nothing is replaced
    numbers = (number for number in count() if f"{number:04d}" not in taken)
    pictures = []
    for prompt, seed in wanted:
        if same := known.get((prompt, seed)):
            pictures.append(same.pop(0))
            continue
        words = slug(prompt)
        name = f"{next(numbers):04d}{'-' if words else ''}{words}-seed{seed}.png"
        pictures.append(_Picture(prompt, seed, name))
    return pictures


def _there(options: GenerateOptions, request: Asked) -> list[_Picture]:
    """The images of a finished run that differs from the request by prompts and seeds alone."""
    run = None if options.force else continued(options.out, request, ("prompt", "prompts", "seed", "count"))
    images = [] if run is None else run["images"]
    pictures = [_Picture(i["prompt"], i["seed"], Path(i["file"]).name, there=True) for i in images]
    return [p for p in pictures if (options.out / IMAGES / p.name).exists()]
