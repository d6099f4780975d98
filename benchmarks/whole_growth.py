"""The floor of a closed form's whole command: reading what it needs, and the multiplications that no way avoids.

The floor of `benchmarks.whole_command --growth` is the bytes of the text encoders and of the maps that read text over
the disk's own speed, plus the multiplications over those a second of this machine's own matrix product. A token is run
through the text encoders once for each distinct beginning of a prompt up to the last token of the name; the solve
counts as in `benchmarks/growth.py`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.made_up_words import KEPT_FROM, names
from benchmarks.whole_rows import KEPT, Row
from excise.support.headers import Entry, read_header

if TYPE_CHECKING:
    from benchmarks.whole_command import Run

READ = re.compile(r"attn2\.to_[kv]\.weight$|^add_embedding\.linear_1\.|^caption_(projection|norm)\.")
SAMPLE = 2**30  # bytes read to learn the disk's speed
PRODUCT = 2048  # side of the matrices multiplied to learn the machine's speed
TIMING = f"""
import time, torch
a = torch.randn({PRODUCT}, {PRODUCT}); a @ a
began = time.perf_counter()
for _ in range(4): a @ a
print(4 * {PRODUCT} ** 3 / (time.perf_counter() - began))
"""


@dataclass(frozen=True)
class Work:
    """What a command cannot do without: bytes to read, and multiplications."""

    bytes: int
    products: float


def encoder_files(model: Path) -> list[Path]:
    """Return the weight files of the text encoders."""
    return sorted(model.glob("text_encoder*/*.safetensors"))


def maps_of(model: Path) -> dict[str, Entry]:
    """Return the tensors of the denoiser that read text, by name."""
    files = [*model.glob("unet/*.safetensors"), *model.glob("transformer/*.safetensors")]
    return {name: tensor for file in files for name, tensor in read_header(file).tensors.items() if READ.search(name)}


def nodes(model: Path, erased: Sequence[str], kept: Sequence[str]) -> int:
    """Return the number of distinct beginnings of prompts up to the name's last token, for the first tokenizer."""
    from tokenizers import Tokenizer

    from excise.concepts.concept import TEMPLATES

    tokenizer = Tokenizer.from_file(str(next(iter(sorted(model.glob("tokenizer*/tokenizer.json"))))))
    heads = [template.partition("{}")[0] for template in TEMPLATES["object"]]
    beginnings = set()
    for name in (*erased, *kept):
        for head in heads:
            ids = tuple(tokenizer.encode(head + name, add_special_tokens=False).ids)
            beginnings |= {ids[: i + 1] for i in range(len(ids))}
    return len(beginnings) + 1  # the start token


def work_of(row: Row, model: Path) -> Work:
    """Return the work of a row of growth."""
    erased, kept = names(row.erased), names(row.kept, first=KEPT_FROM)
    maps, files = maps_of(model), encoder_files(model)
    products, read = 0.0, sum(t.end - t.begin for t in maps.values())
    count = nodes(model, erased, kept)
    for file in files:
        tensors = read_header(file).tensors
        read += sum(t.end - t.begin for t in tensors.values())
        matrices = [t.shape for name, t in tensors.items() if len(t.shape) == 2 and "embed" not in name]
        products += count * sum(shape[0] * shape[1] for shape in matrices)
    projections = [t.shape for name, t in maps.items() if len(t.shape) == 2 and "attn2" in name]
    width, rows, tokens = projections[0][1], sum(shape[0] for shape in projections), len(erased)
    products += width**3 / 3 + 2 * min(tokens, width) * width**2 + rows * width * min(tokens, width)
    return Work(read, products)


def forget(files: Iterable[Path]) -> None:
    """Drop files from the system's memory, where it lets us, so that they are read from the disk again."""
    for file in files:
        if sys.platform == "linux":
            with file.open("rb") as f:
                os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@cache
def disk_speed(file: Path) -> float:
    """Return the bytes a second at which the disk itself gives a file."""
    forget([file])
    with file.open("rb", buffering=0) as f:
        began, total, block = time.perf_counter(), 0, bytearray(2**24)
        while total < SAMPLE and (n := f.readinto(block)):
            total += n
        return total / (time.perf_counter() - began)


def product_speed() -> float:
    """Return the multiplications a second of this machine's single-precision matrix product, all threads together."""
    done = subprocess.run([sys.executable, "-c", TIMING], stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


@dataclass(frozen=True)
class Point:
    """A measured row of growth beside its floor; seconds, and megabytes."""

    row: Row
    work: Work
    floor: float
    wall: float
    cpu: float
    peak: float


def points(runs: Iterable[Run], rows: Sequence[Row], shapes: Path, products: float) -> list[Point]:
    """Return the rows that are measured.

    Args:
        products: multiplications a second of this machine.
    """
    from benchmarks.whole_command import middle

    runs, found = list(runs), []
    for row in rows:
        mine, model = [r for r in runs if r.row == row.name], shapes / row.shape
        wall, cpu, peak = (middle(mine, of) for of in ("wall", "cpu", "peak_mb"))
        if wall is None or cpu is None or peak is None:
            continue
        work = work_of(row, model)
        largest = max(model.glob("*/*.safetensors"), key=lambda file: file.stat().st_size)
        floor = work.bytes / disk_speed(largest) + work.products / products
        found.append(Point(row, work, floor, wall, cpu, peak))
    return found


def table(found: Iterable[Point], products: float) -> str:
    """Return a table of the rows of growth beside their floors."""
    lines = [
        f"{products / 1e9:.0f} billion multiplications a second",
        "",
        "| command | read, MB | multiplications, billions | floor, s | wall, s | CPU, s | peak, MB | wall over floor |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for p in found:
        cells = (p.row.title, f"{p.work.bytes / 1e6:,.0f}", f"{p.work.products / 1e9:,.1f}", f"{p.floor:.2f}")
        figures = (f"{p.wall:.2f}", f"{p.cpu:.2f}", f"{p.peak:,.0f}", f"{p.wall / p.floor:.1f}")
        lines.append(f"| {' | '.join((*cells, *figures))} |")
    return "\n".join(lines)


def draw(found: Sequence[Point], path: Path) -> None:
    """Draw seconds over concepts, names kept and bytes read, with logarithmic axes; dashed lines are the floors."""
    import matplotlib.pyplot as plt

    sd15 = [p for p in found if p.row.shape == "sd15"]
    panels: dict[str, list[tuple[float, Point]]] = {
        "concepts": [(p.row.erased, p) for p in sd15 if p.row.kept == KEPT],
        "names kept": [(p.row.kept, p) for p in sd15 if p.row.erased == 10],
        "GB read (SD1.5, SDXL, SANA)": [
            (p.work.bytes / 1e9, p) for p in found if (p.row.erased, p.row.kept) == (10, KEPT)
        ],
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(12, 4), sharey=True, layout="constrained")
    for axis, (label, panel) in zip(axes, panels.items(), strict=True):
        panel = sorted(panel, key=lambda pair: pair[0])
        values = [value for value, _ in panel]
        axis.loglog(values, [p.wall for _, p in panel], "o-", label="whole command", markersize=4)
        axis.loglog(values, [p.floor for _, p in panel], "--", color="C0", label="reading and multiplying alone")
        axis.set_xticks(values, [f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" for value in values])
        axis.minorticks_off()
        axis.set_xlabel(label)
    axes[0].set_ylabel("seconds")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper")
    figure.savefig(path, dpi=110)
