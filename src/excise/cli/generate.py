"""excise generate: draw images with a model, with or without edits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from excise.cli import options as o
from excise.cli.keeping import OPTIONS, ForceOption, asked, continued, finished
from excise.support.counts import counted

if TYPE_CHECKING:
    from PIL.Image import Image

    from excise.cli.keeping import Asked

IMAGES = "images"  # the folder inside the run folder
RESULT = ("model", "edits", "strength", "steps", "guidance", "images")  # keys of the document of --json


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """The options of `excise generate`."""

    prompt: Annotated[list[str], typer.Option("--prompt", "-p", help="A prompt to draw; repeatable.")]
    out: Annotated[Path, typer.Option(help="Folder to write the images to.")]
    model: o.ModelOption = "canvas-sd"
    edit: o.EditsOption = None
    seed: Annotated[int, typer.Option(help="Seed of the first image; each further image of a prompt adds 1.")] = 0
    count: Annotated[int, typer.Option(min=1, help="Number of images for each prompt.")] = 1
    steps: Annotated[int, typer.Option(min=1, help="Number of sampling steps.")] = 20
    guidance: Annotated[float, typer.Option(min=0.0, help="Classifier-free guidance scale; 1 turns it off.")] = 4.0
    strength: Annotated[float, typer.Option(help="Strength of the edits: 0 for none, 1 for the whole edit.")] = 1.0
    allow_other_base: o.OtherBaseOption = False
    force: ForceOption = False
    as_json: o.JsonOption = False
    source: o.Source


@o.command
def generate(options: GenerateOptions) -> None:
    """Draw images. The same seed gives the same image, alone or in a batch.

    A larger --count for a finished run in --out draws the missing images only; those that are there stay.

    Example: excise generate --prompt "a cat in neon style" --seed 7 --out pictures
    """
    from excise.errors import ConceptError

    if not all(p.strip() for p in options.prompt):
        raise ConceptError("a prompt is empty; say what to draw, for example: --prompt 'a cat'")
    options.source.check(options.model)
    request = asked("generate", options)
    pictures = _pictures(options, request)
    images = [f"{IMAGES}/{p.name}" for p in pictures]
    if not any(p.there for p in pictures) or all(p.there for p in pictures):
        earlier = finished(options.out, request, force=options.force, writes=images)
        if earlier is not None:
            _print(options, {name: earlier[name] for name in RESULT}, "nothing to do: drawn by this very request, ")
            return
    there = sum(p.there for p in pictures)
    _print(options, _draw(options, request, pictures), f"{there} of these were there: " if there else "")


@dataclass(frozen=True)
class _Picture:
    """One image of the request: its file in the folder of images, and whether an earlier run has drawn it."""

    prompt: str
    seed: int
    name: str
    there: bool = False


def _draw(options: GenerateOptions, request: Asked, pictures: list[_Picture]) -> dict[str, Any]:
    """Draw the images that are not there, write the run folder, and return the document of `--json`."""
    from excise.cli import show
    from excise.edits.edit import applied, check_strength
    from excise.support.runs import run_folder, write_run

    check_strength(options.strength)
    edits = o.load_edits(options.edit)
    with run_folder(options.out):
        family = options.source.load(options.model)
        missing = [p for p in pictures if not p.there]
        sampling = {"steps": options.steps, "guidance": options.guidance}
        with (
            applied(family, edits, options.strength, allow_other_base=options.allow_other_base),
            show.progress("drawing") as advance,
        ):
            prompts, seeds = [p.prompt for p in missing], [p.seed for p in missing]
            images = family.sample(prompts, seeds, **sampling, batch=8, progress=advance)
        folder = _write(options.out, [Path(p.name).stem for p in missing], images)
        result = {
            "model": options.model,
            "edits": options.edit or [],
            "strength": options.strength,
            **sampling,
            "images": [{"file": str(folder / p.name), "prompt": p.prompt, "seed": p.seed} for p in pictures],
        }
        write_run(options.out, "generate", {**result, **request.entries()})
    return result


def _write(out: Path, names: list[str], images: list[Image]) -> Path:
    """Write the images; where that breaks off, none of the new ones stays, for no run would tell of them."""
    from excise.support.runs import write_images

    new = [path for name in names if not (path := out / IMAGES / f"{name}.png").exists()]
    try:
        return write_images(out, names, images)
    except BaseException:
        for path in new:
            path.unlink(missing_ok=True)
        raise


def _pictures(options: GenerateOptions, request: Asked) -> list[_Picture]:
    """The images of the request, in order. Those of an earlier run keep their names, and new ones are numbered on."""
    there = _there(options, request)
    number = 1 + max((int(name[:4]) for names in there.values() for name in names), default=-1)
    continues, pictures = bool(there), []
    for prompt in options.prompt:
        for seed in range(options.seed, options.seed + options.count):
            if names := there.get((prompt, seed)):
                pictures.append(_Picture(prompt, seed, names.pop(0), True))
                continue
            name = f"{number:04d}-seed{seed}.png"
            while continues and (options.out / IMAGES / name).exists():  # nothing that is no part of the run is lost
                number, name = number + 1, f"{number + 1:04d}-seed{seed}.png"
            pictures.append(_Picture(prompt, seed, name))
            number += 1
    return pictures


def _there(options: GenerateOptions, request: Asked) -> dict[tuple[str, int], list[str]]:
    """The names of images of a finished run of the same request or of fewer images, by prompt and seed."""
    run = None if options.force else continued(options.out, request, "count")
    if run is None or run[OPTIONS].get("count", 1) > options.count:
        return {}
    names: dict[tuple[str, int], list[str]] = {}
    for image in run["images"]:
        name = Path(image["file"]).name
        if (options.out / IMAGES / name).exists():
            names.setdefault((image["prompt"], image["seed"]), []).append(name)
    return names


def _print(options: GenerateOptions, result: dict[str, Any], before: str = "") -> None:
    from excise.cli import show

    if options.as_json:
        show.print_json(result)
    else:
        show.say(f"{before}{counted(len(result['images']), 'image')} in {options.out / IMAGES}")
