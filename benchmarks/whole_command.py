"""Time whole commands of two builds in turn, on folders of real models' shapes with random weights.

    python -m benchmarks.whole_command --shapes shapes --out whole-command.jsonl
    python -m benchmarks.whole_command --rows sd15-uce-10 methods --repeats 2

Each command runs as a process of its own, first in the base build (a git commit), then in this working tree, and so on.
Printed are CPU seconds (user and system), wall seconds and peak memory with their ratios, and the target beside them.
Rows of growth run in this working tree alone; their floor is what the command has to read over the disk's speed, plus
its multiplications over the machine's own matrix product, both measured here. With --out, rows that are already
measured of the same two builds are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.model_folders import names

ROOT = Path(__file__).parent.parent
BASE = "e03a948"
MEBIBYTE = 2**20
KEPT = 103
START = "from excise.cli.main import run; run()"  # as the installed program starts, in every build
ERASE = (
    "erase --model {model} --method {method} --concept-file {concepts} --kind object --preserve-file {kept} "
    "--out {out} --no-preview"
)


@dataclass(frozen=True)
class Row:
    """A command that is timed.

    Attributes:
        command: with the names of `_words` in braces.
        shape: the model; "" where the command reads none.
        concepts, kept: how many names are erased and preserved.
        cpu, memory: targets, as ratios to the base build; None where there is none.
        base: the command line of the base build, where it differs; None where only this build runs.
        stage: measured instead of the CPU time: "solve" of the run's own record, or "wall".
        growth: whether a floor is printed.
    """

    command: str
    shape: str = ""
    method: str = ""
    concepts: int = 10
    kept: int = KEPT
    cpu: float | None = None
    memory: float | None = None
    base: str | None = ""
    stage: str = "cpu"
    growth: bool = False


def _rows() -> dict[str, Row]:
    rows = {}
    for method in ("uce", "speed"):
        rows[f"sd15-{method}-10"] = Row(ERASE, "sd15", method, cpu=0.08, memory=0.18)
        rows[f"sd15-{method}-100"] = Row(ERASE, "sd15", method, 100, cpu=0.05, memory=0.18)
    rows["sdxl-uce-10"] = Row(ERASE, "sdxl", "uce", cpu=0.07, memory=0.25)
    for method in ("rece", "cure", "scapre"):
        rows[f"sd15-{method}-10"] = Row(ERASE, "sd15", method, cpu=0.4, memory=0.25)
    rows["sd15-scapre-100-solve"] = Row(ERASE, "sd15", "scapre", 100, cpu=0.5, memory=0.5, stage="solve")
    export = "export {edit} --model {model} --format kohya-lora --out {out}"
    rows["export"] = Row(export, "sd15", cpu=0.3, memory=0.12)
    rows["doctor"] = Row("doctor --model {model}", "sd15", cpu=0.4, memory=0.15)
    rows["methods"] = Row("methods uce", cpu=0.25, memory=0.3)
    rows["inspect"] = Row("inspect {edit}", "sd15", cpu=0.25, memory=0.3)
    drawing = "evaluate --model canvas-sd --protocol canvas-mini --out {out}"
    rows["drawing"] = Row(drawing, cpu=1 / 1.5, memory=1.0, stage="wall")
    for count in (1, 10, 100, 1000):
        rows[f"growth-concepts-{count}"] = Row(ERASE, "sd15", "uce", count, base=None, growth=True)
    for count in (10, 1000):
        rows[f"growth-kept-{count}"] = Row(ERASE, "sd15", "uce", kept=count, base=None, growth=True)
    rows["growth-shape-sdxl"] = Row(ERASE, "sdxl", "uce", base=None, growth=True)
    return rows


ROWS = _rows()


@dataclass(frozen=True)
class Builds:
    """The two builds: folders that go into PYTHONPATH, and the names under which results are kept."""

    base: Path
    base_name: str
    this: Path
    this_name: str


@contextmanager
def builds(base: str) -> Iterator[Builds]:
    """Unpack the base commit into a temporary folder."""
    commit = _git("rev-parse", "--short", base)
    this = _git("rev-parse", "--short", "HEAD")
    if _git("status", "--porcelain", "--untracked-files=no", "src"):
        this += "+changes"
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "base.tar"  # not read into this process, whose peak memory its children would show
        subprocess.run(["git", "archive", "-o", packed, commit, "src"], cwd=ROOT, check=True)
        subprocess.run(["tar", "-xf", packed, "-C", folder], check=True)
        packed.unlink()
        yield Builds(Path(folder) / "src", commit, ROOT / "src", this)


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def run(row: Row, words: dict[str, str], source: Path, command: str) -> dict[str, float]:
    """Run a command once as a process, and return seconds of CPU and wall, its peak memory in MiB, and its stages.

    Raises:
        RuntimeError: it failed; the message has the end of what it said.
    """
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "said").open("w+b") as said:
        out = Path(folder) / "out"
        filled = [word.format(**words, out=out, method=row.method) for word in command.split()]
        environment = {**os.environ, "PYTHONPATH": str(source), "HF_HUB_OFFLINE": "1"}
        began = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, "-c", START, *filled], env=environment, cwd=folder, stdout=said, stderr=said
        )
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            said.seek(0)
            text = said.read().decode(errors="replace")
            raise RuntimeError(f"excise {' '.join(filled)} ended with {child.returncode}: {text[-2000:]}")
        record = out / "run.json"
        stages = json.loads(record.read_text()).get("seconds", {}) if record.is_file() else {}
    cpu = usage.ru_utime + usage.ru_stime
    return {"cpu": cpu, "wall": wall, "memory": usage.ru_maxrss / 1024, "solve": stages.get("solve", 0.0)}


def _words(row: Row, shapes: Path, base: Builds) -> dict[str, str]:
    """What stands for the names in braces; folders and files are made where they are not there."""
    model = shapes / row.shape
    if row.shape:
        _python(
            "from pathlib import Path; from benchmarks.model_folders import build; "
            f"build({row.shape!r}, Path({str(shapes)!r}))"
        )
    listed = names(row.concepts + row.kept)
    words = {"model": str(model), "edit": str(shapes / "edit" / "edit.safetensors")}
    for name, chosen in (("concepts", listed[: row.concepts]), ("kept", listed[row.concepts :])):
        path = shapes / f"{name}-{row.concepts}-{row.kept}.txt"
        path.write_text("\n".join(chosen) + "\n", encoding="utf-8")
        words[name] = str(path)
    if "{edit}" in row.command and not Path(words["edit"]).exists():
        made = Row(ERASE, row.shape, "uce")
        command = ERASE.replace("{out}", str(shapes / "edit"))
        run(made, words, base.base, command)
    return words


def _python(code: str) -> str:
    """Run code in a process of its own: the peak memory of a child counts from that of its parent."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def floor(row: Row, shapes: Path, speeds: tuple[float, float]) -> float:
    """The least seconds of a closed form: bytes it must read, and multiplications of encoders and of the solve.

    Args:
        speeds: bytes a second of the disk, multiplications a second of the machine's matrix product.
    """
    from excise.concepts.concept import TEMPLATES
    from excise.support.headers import read_header

    read, encoders, width = 0, 0, 0
    for path in sorted((shapes / row.shape).rglob("*.safetensors")):
        for name, entry in read_header(path).tensors.items():
            size = entry.end - entry.begin
            if path.parent.name.startswith("text_encoder"):
                read += size
                if len(entry.shape) == 2 and "embedding" not in name:
                    encoders += entry.shape[0] * entry.shape[1]
            elif "attn2.to_k" in name or "attn2.to_v" in name:
                read, width = read + size, entry.shape[1]
    texts = [template.format(name) for name in names(row.concepts + row.kept) for template in TEMPLATES["object"]]
    prefixes = {tuple(text.split()[:end]) for text in texts for end in range(len(text.split()) + 1)}
    multiplications = len(prefixes) * encoders + (10 / 3) * width**3
    return read / speeds[0] + multiplications / speeds[1]


def speeds(shapes: Path) -> tuple[float, float]:
    """Bytes a second of the disk, past the cache of pages, and multiplications a second of a matrix product."""
    path = max((shapes / "sd15").rglob("*.safetensors"), key=lambda p: p.stat().st_size)
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        began, count = time.perf_counter(), 0
        while count < 2**30 and (part := file.read(8 * MEBIBYTE)):
            count += len(part)
    disk = count / (time.perf_counter() - began)
    product = (
        "import time, torch; a = torch.randn(2048, 2048); a @ a; t = time.perf_counter(); [a @ a for _ in range(5)]; "
        "print(5 * 2048**3 / (time.perf_counter() - t))"
    )
    return disk, float(_python(product))


def measure(
    name: str, repeats: int, shapes: Path, both: Builds, done: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield a line for each run of a row that is not done yet, the two builds in turn."""
    row = ROWS[name]
    words: dict[str, str] = {}
    for repeat in range(repeats):
        for build, source in (("base", both.base), ("this", both.this)):
            key = {"row": name, "base": both.base_name, "this": both.this_name, "repeat": repeat, "build": build}
            if (build == "base" and row.base is None) or any(key.items() <= line.items() for line in done):
                continue
            words = words or _words(row, shapes, both)
            command = (row.base or row.command) if build == "base" else row.command
            seen = run(row, words, source, command)
            yield {**key, "command": command, **{k: round(v, 3) for k, v in seen.items()}}


def table(lines: Sequence[dict[str, Any]], chosen: Sequence[str], shapes: Path) -> list[str]:
    """The table of the rows that are measured, and for rows of growth how far each is from its floor."""
    text = [
        "| row | CPU s | wall s | peak MiB | ratio of time | ratio of memory | targets |",
        "|---|---|---|---|---|---|---|",
    ]
    measured: tuple[float, float] | None = None
    for name in chosen:
        row, by = ROWS[name], {}
        for build in ("base", "this"):
            runs = [line for line in lines if line["row"] == name and line["build"] == build]
            if runs:
                by[build] = {k: median(r[k] for r in runs) for k in ("cpu", "wall", "memory", "solve")}
        if "this" not in by:
            continue
        this, base = by["this"], by.get("base")
        cells = [" / ".join(f"{b[k]:,.2f}" for b in (base, this) if b) for k in ("cpu", "wall", "memory")]
        if base:
            time_ratio = this[row.stage] / max(base[row.stage], 1e-9)
            memory = this["memory"] / base["memory"]
            met = [_met(time_ratio, row.cpu), _met(memory, row.memory)]
            cells += [f"{time_ratio:.3f} ({row.stage})", f"{memory:.3f}", ", ".join(met)]
        elif row.growth:
            measured = measured or speeds(shapes)
            least = floor(row, shapes, measured)
            cells += ["-", "-", f"floor {least:.2f} s; wall is {this['wall'] / least:.1f} times that"]
        text.append(f"| {name} | {' | '.join(cells)} |")
    if measured:
        text.append(
            f"\ndisk {measured[0] / 1e9:.2f} GB/s, matrix product {measured[1] / 1e9:.1f} billion multiplications/s"
        )
    return text


def _met(ratio: float, target: float | None) -> str:
    if target is None:
        return "no target"
    return f"<= {target:.2f} {'met' if ratio <= target else 'missed'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW", help=", ".join(ROWS)
    )
    parser.add_argument("--repeats", type=int, default=2, help="runs of each build; the median is printed")
    parser.add_argument("--base", default=BASE, help="the commit to compare with")
    parser.add_argument(
        "--shapes", type=Path, help="keep the folders of models here (8 GB); otherwise a temporary folder"
    )
    parser.add_argument("--out", type=Path, help="JSON lines of every run; rows that are there are not run again")
    given = parser.parse_args()
    shapes = (given.shapes or Path(tempfile.mkdtemp())).resolve()
    shapes.mkdir(parents=True, exist_ok=True)
    try:
        with builds(given.base) as both:
            held = given.out.read_text().splitlines() if given.out and given.out.exists() else []
            lines = [json.loads(line) for line in held]
            lines = [n for n in lines if (n["base"], n["this"]) == (both.base_name, both.this_name)]
            for name in given.rows:
                for line in measure(name, given.repeats, shapes, both, lines):
                    print(f"{name}, {line['build']}: {line['cpu']:.2f} CPU s, {line['memory']:,.0f} MiB", flush=True)
                    lines.append(line)
                    if given.out:
                        with given.out.open("a", encoding="utf-8") as file:
                            file.write(json.dumps(line) + "\n")
            print("\n".join(table(lines, given.rows, shapes)))
    finally:
        if given.shapes is None:
            shutil.rmtree(shapes)


if __name__ == "__main__":
    main()
