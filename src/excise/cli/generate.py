"""excise generate: draw images with a model, with or without edits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from excise.cli import options as o
from excise.cli.keeping import ForceOption, asked, finished

if TYPE_CHECKING:
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

    Example: excise generate --prompt "a cat in neon style" --seed 7 --out pictures
    """
    from excise.errors import ConceptError

    if not all(p.strip() for p in options.prompt):
        raise ConceptError("a prompt is empty; say what to draw, for example: --prompt 'a cat'")
    options.source.check(options.model)
    request, names = asked("generate", options), _names(options)
    images = [f"{IMAGES}/{name}.png" for name in names]
    if (earlier := finished(options.out, request, force=options.force, writes=images)) is not None:
        _print(options, {name: earlier[name] for name in RESULT}, "nothing to do: drawn by this very request, ")
        return
    _print(options, _draw(options, request, names))


def _draw(options: GenerateOptions, request: Asked, names: list[str]) -> dict[str, Any]:
    """Draw the images, write the run folder, and return the document of `--json`."""
    from excise.cli import show
    from excise.edits.edit import applied, check_strength
    from excise.support.files import make_folder
    from excise.support.runs import write_images, write_run

    check_strength(options.strength)
    edits = o.load_edits(options.edit)
    make_folder(options.out)
    family = options.source.load(options.model)
    prompts = [p for p in options.prompt for _ in range(options.count)]
    seeds = [options.seed + i for _ in options.prompt for i in range(options.count)]
    sampling = {"steps": options.steps, "guidance": options.guidance}
    with (
        applied(family, edits, options.strength, allow_other_base=options.allow_other_base),
        show.progress("drawing") as advance,
    ):
        images = family.sample(prompts, seeds, **sampling, batch=8, progress=advance)
    folder = write_images(options.out, names, images)
    files = [str(folder / f"{name}.png") for name in names]
    result = {
        "model": options.model,
        "edits": options.edit or [],
        "strength": options.strength,
        **sampling,
        "images": [{"file": f, "prompt": p, "seed": s} for f, p, s in zip(files, prompts, seeds, strict=True)],
    }
    write_run(options.out, "generate", {**result, **request.entries()})
    return result


def _names(options: GenerateOptions) -> list[str]:
    """The stems of the images' files, in order."""
    seeds = [options.seed + i for _ in options.prompt for i in range(options.count)]
    return [f"{i:04d}-seed{seed}" for i, seed in enumerate(seeds)]


def _print(options: GenerateOptions, result: dict[str, Any], before: str = "") -> None:
    from excise.cli import show

    if options.as_json:
        show.print_json(result)
    else:
        show.say(f"{before}{len(result['images'])} images in {options.out / IMAGES}")
