"""excise canvas: train the built-in models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from excise.cli import options as o

app = typer.Typer(no_args_is_help=True, help="The built-in world: train its models.")


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder for the finished weights.")] = Path("canvas-weights"),
    work: Annotated[Path, typer.Option(help="Folder for checkpoints and caches; training resumes from it.")] = Path(
        ".canvas"
    ),
    without: Annotated[
        Optional[list[str]], typer.Option(help="A concept the denoiser never sees (an oracle); repeatable.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="canvas-sd with its judges, or canvas-sdxl or canvas-sana beside them.")
    ] = "canvas-sd",
    start: Annotated[
        Optional[str],
        typer.Option(help="Of an oracle of canvas-sdxl: one of canvas-sd without the same concepts, to begin with."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the denoiser.")] = 0,
    steps: Annotated[Optional[int], typer.Option(min=1, help="Denoiser steps; more than before continues.")] = None,
    device: o.DeviceOption = "auto",
) -> None:
    """Train the built-in world, stage by stage, or with --without an oracle: the model as it were without a concept.

    Interrupt it whenever you like and call it again.

    Example: excise canvas train --without cat --seed 1 --out oracle
    """
    from dataclasses import replace

    from excise.canvas import world
    from excise.cli import show
    from excise.errors import ConceptError, unknown
    from excise.families.built_in import BUILT_IN
    from excise.families.load import pick_device, quiet
    from excise.support.files import make_folder

    known = [*world.drawables(), *world.STYLES]
    for concept in without or []:
        if concept not in known:
            raise unknown("Canvas concept", concept, known)
    if model not in BUILT_IN:
        raise unknown("built-in model", model, BUILT_IN)
    if start is not None and not (without and model == "canvas-sdxl"):
        raise ConceptError("--start is for an oracle of canvas-sdxl, which may begin with one of canvas-sd.")
    make_folder(work)
    make_folder(out)
    with quiet():  # importing pipelines brings notices of libraries that are not needed here
        from excise.canvas.build import Steps, train_oracle, train_sana, train_sdxl, train_world

    plan = Steps() if steps is None else replace(Steps(), denoiser=steps, denoiser_sdxl=steps, denoiser_sana=steps)
    where = pick_device(device)
    beside = {"canvas-sdxl": train_sdxl, "canvas-sana": train_sana}
    if without:
        train_oracle(model, work, out, plan, seed=seed, without=without, start=start, device=where, report=show.say)
    elif model in beside:
        beside[model](work, out, plan, seed=seed, device=where, report=show.say)
    else:
        train_world(work, out, plan, seed=seed, device=where, report=show.say)
    show.say(f"weights in {out}; check the gates: excise evaluate --model {out / model}")
