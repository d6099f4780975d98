"""excise canvas: train the built-in models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from excise.cli import options as o

app = typer.Typer(no_args_is_help=True, help="Train the models of Canvas, the built-in world.")


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder to write the finished weights to.")] = Path("canvas-weights"),
    work: Annotated[
        Path, typer.Option(help="Folder of checkpoints and caches; an interrupted training resumes from it.")
    ] = Path(".canvas"),
    without: Annotated[
        Optional[list[str]],
        typer.Option(help="A concept to leave out of the denoiser's training, which makes an oracle; repeatable."),
    ] = None,
    model: Annotated[
        str,
        typer.Option(help="The model: canvas-sd, which includes the judges, or canvas-sdxl or canvas-sana after it."),
    ] = "canvas-sd",
    start: Annotated[
        Optional[str],
        typer.Option(
            help="For an oracle of canvas-sdxl: an oracle of canvas-sd without the same concepts to start from."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the denoiser.")] = 0,
    steps: Annotated[
        Optional[int], typer.Option(min=1, help="Number of denoiser steps; more than before continues the training.")
    ] = None,
    device: o.DeviceOption = "auto",
) -> None:
    """Train a built-in model stage by stage; with --without, an oracle that is never trained on some concepts.

    The training may be interrupted at any time; the same command resumes it.

    Example: excise canvas train --without cat --seed 1 --out oracle
    """
    from dataclasses import replace

    from excise.cli import show
    from excise.families.load import pick_device, quiet
    from excise.support.files import make_folder

    _check(model, without or [], start)
    make_folder(work)
    make_folder(out)
    with quiet():  # importing pipelines makes libraries print notices
        from excise.canvas.build import Steps, train_oracle, train_sana, train_sdxl, train_world
        from excise.canvas.loop import Session

    plan = Steps() if steps is None else replace(Steps(), denoiser=steps, denoiser_sdxl=steps, denoiser_sana=steps)
    session = Session(work, seed, pick_device(device), show.say)
    if without:
        train_oracle(model, session, out, plan, without=without, start=start)
    else:
        train_model = {"canvas-sdxl": train_sdxl, "canvas-sana": train_sana}.get(model, train_world)
        train_model(session, out, plan)
    show.say(f"weights in {out}; check the gates: excise evaluate --model {out / model}")


def _check(model: str, without: list[str], start: str | None) -> None:
    """Refuse unknown concepts and models, and a start model where none is used."""
    from excise.canvas import world
    from excise.errors import ConceptError, unknown
    from excise.families.built_in import BUILT_IN

    names = [*world.drawables(), *world.STYLES]
    for concept in without:
        if concept not in names:
            raise unknown("Canvas concept", concept, names)
    if model not in BUILT_IN:
        raise unknown("built-in model", model, BUILT_IN)
    if start is not None and not (without and model == "canvas-sdxl"):
        raise ConceptError(
            "--start works only for an oracle of canvas-sdxl, which may start from an oracle of canvas-sd."
        )
