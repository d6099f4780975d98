"""excise canvas: train the built-in models."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Optional

import typer

from excise.cli import options as o
from excise.cli.keeping import OPTIONS, Asked, continued, digest_of, finished

TRAIN = "canvas train"
WEIGHTS = "model_index.json"  # a file of every finished model
WITH_JUDGES = "canvas-sd"
JUDGES = ("judge-a.safetensors", "judge-b.safetensors", "image-tower.safetensors", "training.json")

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
        typer.Option(help="The model: canvas-sd, with the judges, or after it canvas-sdxl, -sana, -flux or -zimage."),
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
    force: Annotated[
        bool, typer.Option("--force", help="Replace finished weights of another request in --out.")
    ] = False,
) -> None:
    """Train a built-in model stage by stage; with --without, an oracle that is never trained on some concepts.

    The training may be interrupted at any time; the same command resumes it. Finished weights are written at the end;
    those of another request in --out stay, unless --force is given.

    Example: excise canvas train --without cat --seed 1 --out oracle
    """
    from dataclasses import replace

    from excise.cli import show
    from excise.families.load import pick_device, quiet
    from excise.support.files import make_folder
    from excise.support.runs import run_folder, write_run

    without = sorted(set(without or []))
    _check(model, without, start)
    request = _request(model, without, start, seed, steps)
    if _is_there(request, out / model, model, force=force):
        show.say(f"nothing to do: {out / model} was trained by this very request; --force trains it again")
        return
    make_folder(work)
    with run_folder(out), _whole(out, model) as partial:
        with quiet():  # importing pipelines makes libraries print notices
            from excise.canvas.build import DENOISERS, Steps, train_model, train_oracle
            from excise.canvas.loop import Session

        plan = Steps() if steps is None else replace(Steps(), **{DENOISERS[model]: steps})
        session = Session(work, seed, pick_device(device), show.say)
        if without:
            train_oracle(model, session, partial, plan, without=without, start=start)
        else:
            train_model(model, session, partial, plan)
        write_run(partial / model, TRAIN, {"model": model, **request.entries()})
    show.say(f"weights in {out}; check the gates: excise evaluate --model {out / model}")


def _request(model: str, without: list[str], start: str | None, seed: int, steps: int | None) -> Asked:
    """The request as the folder of the weights keeps it."""
    options = {"model": model, "without": without, "start": start, "seed": seed, "steps": steps}
    inputs = {start: found} if start and (found := digest_of(Path(start))) else {}
    given = {name: value for name, value in options.items() if value}
    return Asked(TRAIN, given, {**inputs, "excise": version("excise")})


def _is_there(request: Asked, folder: Path, model: str, *, force: bool) -> bool:
    """Whether the weights were trained by the same request; False also where they are to be trained further.

    Raises:
        OutputError: they, or the judges that are trained with them, are of another request or of unknown origin.
    """
    run = None if force else continued(folder, request, ("steps",))
    if run is not None and _steps(model, run[OPTIONS].get("steps")) < _steps(model, request.options.get("steps")):
        return False
    if finished(folder, request, force=force, writes=[WEIGHTS]) is not None:
        return True
    if model == WITH_JUDGES and "without" not in request.options and not force:
        finished(folder.parent, request, writes=JUDGES)
    return False


def _steps(model: str, steps: int | None) -> int:
    """The steps of the denoiser, those of the program unless they are given."""
    from excise.canvas.build import Steps

    return steps or Steps().of(model)


@contextmanager
def _whole(out: Path, model: str) -> Iterator[Path]:
    """A folder for what is trained, which is moved into `out` when the block ends, the model last; else it goes."""
    partial, old = out / f".partial-{model}", out / f".old-{model}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        for file in partial.iterdir():
            if file.is_file():
                file.replace(out / file.name)
        shutil.rmtree(old, ignore_errors=True)
        if (out / model).exists():
            (out / model).rename(old)
        (partial / model).rename(out / model)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _check(model: str, without: list[str], start: str | None) -> None:
    """Refuse unknown concepts and models, and a start model where none is used."""
    from excise.canvas import world
    from excise.errors import ConceptError, unknown
    from excise.families.built_in import CANVAS

    names = [*world.drawables(), *world.STYLES]
    for concept in without:
        if concept not in names:
            raise unknown("Canvas concept", concept, names)
    if model not in CANVAS:
        raise unknown("built-in model", model, CANVAS)
    if start is not None and not (without and model == "canvas-sdxl"):
        raise ConceptError(
            "--start works only for an oracle of canvas-sdxl, which may start from an oracle of canvas-sd."
        )
