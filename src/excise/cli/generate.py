"""excise generate: images from a model, with or without edits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from excise.cli import options as o


@o.with_source
def generate(
    prompt: Annotated[list[str], typer.Option("--prompt", "-p", help="What to draw; repeatable.")],
    out: Annotated[Path, typer.Option(help="Folder to write the images to.")],
    model: o.ModelOption = "canvas-sd",
    edit: o.EditsOption = None,
    seed: Annotated[int, typer.Option(help="Of the first image; each further one counts up.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="Images a prompt.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Sampling steps.")] = 20,
    guidance: Annotated[float, typer.Option(min=0.0, help="Classifier-free guidance; 1 is off.")] = 4.0,
    strength: Annotated[float, typer.Option(help="How much of the edits to apply; 0 none, 1 all.")] = 1.0,
    allow_other_base: o.OtherBaseOption = False,
    as_json: o.JsonOption = False,
    *,
    source: o.Source,
) -> None:
    """Draw images; the same seed gives the same image, alone or in a batch.

    Example: excise generate --prompt "a cat in neon style" --seed 7 --out pictures
    """
    from excise.cli import show
    from excise.edits.edit import applied, check_strength
    from excise.errors import ConceptError
    from excise.support.files import make_folder
    from excise.support.runs import write_images, write_run

    if not all(p.strip() for p in prompt):
        raise ConceptError("a prompt is empty; say what to draw, for example: --prompt 'a cat'")
    check_strength(strength)
    make_folder(out)
    edits = o.load_edits(edit)
    family = source.load(model)
    prompts = [p for p in prompt for _ in range(count)]
    seeds = [seed + i for _ in prompt for i in range(count)]
    with applied(family, edits, strength, allow_other_base=allow_other_base), show.progress("drawing") as advance:
        images = family.sample(prompts, seeds, steps=steps, guidance=guidance, batch=8, progress=advance)
    names = [f"{i:04d}-seed{s}" for i, s in enumerate(seeds)]
    folder = write_images(out, names, images)
    made = [
        {"file": str(folder / f"{n}.png"), "prompt": p, "seed": s}
        for n, p, s in zip(names, prompts, seeds, strict=True)
    ]
    result = {"model": model, "edits": edit or [], "strength": strength, "steps": steps, "guidance": guidance}
    write_run(out, "generate", {**result, "images": made})
    if as_json:
        show.print_json({**result, "images": made})
    else:
        show.say(f"{len(images)} images in {folder}")
