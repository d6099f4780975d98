"""The rows of `benchmarks.whole_command`: command lines, what they need, and the targets that they are held to."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

KEPT = 103
Reader = Callable[[str, Path], tuple[float | None, float | None]]


@dataclass(frozen=True)
class Target:
    """A bound on the ratio of this build to the base.

    Attributes:
        of: the field of a run. name: in words. unit: of the field.
        bound: the ratio, or None for none.
        at_least: the ratio is base to this build, and the bound is its least value (pictures a second).
        official: the official program's figure as a ratio to the base's on one machine, or None.
        official_bound: largest ratio of this build to the official program.
    """

    of: str
    name: str
    unit: str
    bound: float | None
    at_least: bool = False
    official: float | None = None
    official_bound: float | None = None


@dataclass(frozen=True)
class Row:
    """A command.

    Attributes:
        name, title: a short name, and one for people.
        arguments: of `excise`, with {model}, {erased} and {kept} (files of names), {edit} and {out}.
        targets: the bounds.
        shape: of the model, or "".
        erased, kept: the counts of names in these files; 0 for no file.
        of_base: other arguments for the base build, where it lacks an option.
        module: the arguments are Python's, not excise's.
        cold: the model's files are read from the disk, not from the memory of earlier runs.
        read: takes the output and the folder of {out}; returns the seconds and megabytes that the output tells.
    """

    name: str
    title: str
    arguments: tuple[str, ...]
    targets: tuple[Target, ...] = ()
    shape: str = ""
    erased: int = 0
    kept: int = 0
    of_base: tuple[str, ...] = ()
    module: bool = False
    cold: bool = False
    read: Reader | None = None


def whole(cpu: float, memory: float, official: tuple[float, float] | None = None) -> tuple[Target, ...]:
    """Return the targets of a whole process; `official` are the program's CPU time and memory as ratios to the base."""
    time, peak = official or (None, None)
    bounds = (0.22, 0.95) if official else (None, None)
    return (
        Target("cpu", "CPU", "s", cpu, official=time, official_bound=bounds[0]),
        Target("wall", "wall", "s", None),
        Target("peak_mb", "peak", "MB", memory, official=peak, official_bound=bounds[1]),
    )


def erasing(method: str) -> tuple[str, ...]:
    """Return the arguments of a command that erases names from a model without drawing."""
    files = ("--concept-file", "{erased}", "--preserve-file", "{kept}", "--vocabulary", "none")
    start = ("erase", "--model", "{model}", *files, "--method", method)
    return (*start, "--device", "cpu", "--no-preview", "--out", "{out}")


def solve_alone(text: str, folder: Path) -> tuple[float | None, float | None]:
    """Return what `benchmarks.closed_form` wrote: seconds and extra memory."""
    line = json.loads((folder / "out").read_text(encoding="utf-8").splitlines()[-1])
    return float(line["seconds"]), float(line["peak_extra_mb"])


def drawing(text: str, folder: Path) -> tuple[float | None, float | None]:
    """Return the seconds of drawing and judging that `excise evaluate --json` prints after its messages."""
    document, _ = json.JSONDecoder().raw_decode(text[text.index("{") :])
    return float(document["seconds"]["draw"] + document["seconds"]["judge"]), None


def _closed_form(
    method: str, count: int, cpu: float, memory: float, official: tuple[float, float] | None = None
) -> Row:
    title = f"SD1.5, {method}, {count} concepts, {KEPT} kept"
    return Row(f"{method}-{count}", title, erasing(method), whole(cpu, memory, official), "sd15", count, KEPT)


_SOLVE = (
    *("-m", "benchmarks.closed_form", "--shape", "sd15", "--concepts", "100", "--method", "scapre", "--literal", "0"),
)
_DRAW = ("evaluate", "--model", "canvas-sd", "--protocol", "canvas-mini", "--device", "cpu", "--no-cache", "--json")
ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        # The official programs' figures beside the base's, both from one machine (two quiet cores): UCE's and SPEED's.
        _closed_form("uce", 10, 0.08, 0.18, (45.5 / 112.2, 1.24 / 6.52)),
        _closed_form("speed", 10, 0.08, 0.18, (41.7 / 116.2, 1.83 / 6.51)),
        _closed_form("uce", 100, 0.05, 0.18, (56.0 / 205.3, 1.23 / 6.63)),
        _closed_form("speed", 100, 0.05, 0.18, (79.1 / 214.7, 1.98 / 6.63)),
        Row(
            "sdxl-10",
            f"SDXL, half-precision files, uce, 10 concepts, {KEPT} kept",
            erasing("uce"),
            whole(0.07, 0.25),
            "sdxl",
            10,
            KEPT,
        ),
        _closed_form("rece", 10, 0.4, 0.25),
        _closed_form("cure", 10, 0.4, 0.25),
        _closed_form("scapre", 10, 0.4, 0.25),
        Row(
            "scapre-solve-100",
            "SD1.5, ScaPre 100 concepts, solve alone",
            (*_SOLVE, "--out", "{out}"),
            (Target("figure", "time", "s", 0.5), Target("figure_mb", "extra memory", "MB", 0.5)),
            module=True,
            read=solve_alone,
        ),
        Row(
            "export",
            "export to kohya LoRA, SD1.5",
            ("export", "{edit}", "--format", "kohya-lora", "--device", "cpu", "--out", "{out}"),
            whole(0.3, 0.12),
            "sd15",
        ),
        Row("doctor", "doctor, SD1.5", ("doctor", "--model", "{model}", "--device", "cpu"), whole(0.4, 0.15), "sd15"),
        Row("methods", "methods uce", ("methods", "uce"), whole(0.25, 0.3)),
        Row("inspect", "inspect", ("inspect", "{edit}"), whole(0.25, 0.3), "sd15"),
        Row(
            "drawing",
            "drawing and judging canvas-mini",
            _DRAW,
            (
                Target("figure", "pictures a second", "s in all", 1.5, at_least=True),
                Target("peak_mb", "peak", "MB", 1.0),
            ),
            read=drawing,
        ),
    )
}


def _transformer(shape: str, title: str, erased: int, kept: int) -> Row:
    arguments = (*erasing("uce"), "--dtype", "bfloat16")
    return Row(f"{shape}-{erased}", f"{title}, {erased} concepts, {kept} kept", arguments, (), shape, erased, kept)


# Of diffusion transformers: with the time of encoding every padded prompt beside (benchmarks/padded_prompts.py).
TRANSFORMERS: dict[str, Row] = {
    row.name: row
    for row in (
        _transformer("zimage", "Z-Image", 10, 100),
        _transformer("flux1", "FLUX.1", 10, 100),
        _transformer("flux1", "FLUX.1", 1, 2),
    )
}


def _growing(name: str, title: str, shape: str, erased: int, kept: int = KEPT) -> Row:
    return Row(name, f"{title}, {erased} concepts, {kept} kept", erasing("uce"), (), shape, erased, kept, cold=True)


GROWTH: dict[str, Row] = {
    row.name: row
    for row in (
        *(_growing(f"concepts-{n}", "SD1.5", "sd15", n) for n in (1, 10, 100, 1000)),
        *(_growing(f"kept-{n}", "SD1.5", "sd15", 10, n) for n in (10, 1000)),
        _growing("shape-sdxl", "SDXL", "sdxl", 10),
        _growing("shape-sana", "SANA 1.6B", "sana", 10),
    )
}
