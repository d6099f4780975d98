"""Measure whole commands of two builds in turn at the shapes of real models, against the targets of a table.

    python -m benchmarks.whole_command [--rows uce-10] [--repeats 2] [--shapes FOLDER] [--out lines.jsonl]
    python -m benchmarks.whole_command --growth [--rows concepts-100]
    python -m benchmarks.whole_command --transformers --shapes FOLDER [--rows zimage-10]
    python -m benchmarks.whole_command --table lines.jsonl

Models have random weights (`benchmarks/model_folders.py`). Each command is a process of its own with an empty cache
folder: CPU seconds (user and system), wall seconds and peak memory are those of that process. Builds are commits; their
trees are unpacked into a temporary folder. The rows, with the command lines, are in `benchmarks/whole_rows.py`; growth,
against reading and multiplying alone, is in `benchmarks/whole_growth.py`. Diffusion transformers are measured beside
the time in which their pipelines encode every padded prompt (`benchmarks/padded_prompts.py`). With --out, runs that the
file holds are not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import whole_growth
from benchmarks.made_up_words import KEPT_FROM, names
from benchmarks.whole_rows import GROWTH, ROWS, TRANSFORMERS, Row, Target, erasing

ROOT = Path(__file__).parents[1]
BASE = "e03a948"
COMMAND = ("-c", "from excise.cli.main import run; run()")  # the older build has no `python -m excise`


@dataclass(frozen=True)
class Run:
    """One process; `figure` is what its output says of itself, in seconds, and `figure_mb` in megabytes."""

    row: str
    commit: str
    cpu: float
    wall: float
    peak_mb: float
    figure: float | None = None
    figure_mb: float | None = None
    error: str = ""


@dataclass(frozen=True)
class Build:
    """A commit and the folder that its tree lies in."""

    commit: str
    root: Path

    def environment(self, cache: Path) -> dict[str, str]:
        """The environment of its commands."""
        paths = os.pathsep.join([str(self.root / "src"), str(self.root)])
        return {**os.environ, "PYTHONPATH": paths, "XDG_CACHE_HOME": str(cache), "HF_HUB_OFFLINE": "1"}


def commit_of(name: str) -> str:
    """Return the full name of a commit."""
    done = subprocess.run(["git", "rev-parse", f"{name}^{{commit}}"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"there is no commit {name} in {ROOT}; give a commit or a branch.")
    return done.stdout.strip()


def unpacked(commit: str, folder: Path) -> Build:
    """Return a build whose tree is unpacked into `folder` and compiled, as an installed one is."""
    root = folder / commit[:12]
    root.mkdir()
    archive = subprocess.Popen(["git", "archive", commit], cwd=ROOT, stdout=subprocess.PIPE)
    subprocess.run(["tar", "-x", "-C", str(root)], stdin=archive.stdout, check=True)
    if archive.wait():
        sys.exit(f"git cannot unpack {commit}.")
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(root / "src"), str(root / "benchmarks")], check=True)
    return Build(commit, root)


def measured(command: Sequence[str], build: Build) -> tuple[float, float, float, int, str]:
    """Run a command, and return CPU seconds, wall seconds, peak memory in MB, exit status and output.

    The memory that the system reports for a child begins with that of its parent, so nothing large is imported here.
    """
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, *command],
            cwd=build.root,
            env=build.environment(Path(cache)),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        _, status, used = os.wait4(child.pid, 0)
        wall = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read().decode(errors="replace")
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return used.ru_utime + used.ru_stime, wall, used.ru_maxrss / unit, child.returncode, text


def command_of(row: Row, build: Build, work: Path, model: Path | None, out: Path) -> list[str]:
    """Return the command line of a row for a build, with the files that it needs."""
    arguments = row.of_base if row.of_base and build.commit.startswith(BASE) else row.arguments
    values = {"model": str(model), "out": str(out), "edit": str(work / "edit" / "edit.safetensors")}
    values |= {"erased": str(work / f"erased-{row.erased}.txt"), "kept": str(work / f"kept-{row.kept}.txt")}
    start = [] if row.module else list(COMMAND)
    return [*start, *(argument.format(**values) for argument in arguments)]


def run(row: Row, build: Build, work: Path, model: Path | None) -> Run:
    """Run a row's command once with a build."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        command = command_of(row, build, work, model, Path(folder) / "out")
        if row.cold and model is not None:
            whole_growth.forget(model.rglob("*.safetensors"))
        cpu, wall, peak, status, text = measured(command, build)
        if status:
            last = (text.strip().splitlines() or ["no output"])[-1]
            return Run(row.name, build.commit, cpu, wall, peak, error=f"status {status}: {last[:200]}")
        figure, figure_mb = row.read(text, Path(folder)) if row.read else (None, None)
    return Run(row.name, build.commit, round(cpu, 3), round(wall, 3), round(peak, 1), figure, figure_mb)


def prepare(row: Row, build: Build, work: Path, shapes: Path) -> Path | None:
    """Write what a row's command reads: the model, files of names, an edit. Return the folder of the model."""
    model = None
    if row.shape:
        subprocess.run(
            [sys.executable, "-m", "benchmarks.model_folders", row.shape, str(shapes)],
            cwd=ROOT,
            env=Build("", ROOT).environment(work),
            check=True,
        )
        model = shapes / row.shape
    work.mkdir(parents=True, exist_ok=True)
    for what, count, first in (("erased", row.erased, 0), ("kept", row.kept, KEPT_FROM)):
        (work / f"{what}-{count}.txt").write_text("\n".join(names(count, first)) + "\n", encoding="utf-8")
    if any("{edit}" in a for a in row.arguments) and not (work / "edit").exists():
        making = Row("edit", "", erasing("uce"), erased=1, kept=1)
        prepare(making, build, work, shapes)
        *_, status, text = measured(command_of(making, build, work, model, work / "edit"), build)
        if status:
            sys.exit(f"the edit that {row.name} reads cannot be made: {text[-500:]}")
    return model


def stored(path: Path | None) -> list[Run]:
    """Return the runs of a file of lines."""
    if path is None or not path.exists():
        return []
    return [Run(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def measure(rows: Iterable[Row], builds: Sequence[Build], options: argparse.Namespace, work: Path) -> list[Run]:
    """Run every row with the builds in turn until each has its repeats, and return all runs."""
    runs = stored(options.out)
    for row in rows:
        for repeat in range(options.repeats):
            for build in builds:
                if sum((r.row, r.commit, r.error) == (row.name, build.commit, "") for r in runs) > repeat:
                    continue
                place = work / build.commit[:12]
                result = run(row, build, place, prepare(row, build, place, options.shapes))
                runs.append(result)
                what = result.error or f"{result.cpu:.2f} CPU s, {result.wall:.2f} s, {result.peak_mb:.0f} MB"
                print(f"{row.name}, {build.commit[:7]}: {what}", file=sys.stderr, flush=True)
                if options.out:
                    with options.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(asdict(result)) + "\n")
    return runs


def beside_padded(rows: Iterable[Row], build: Build, options: argparse.Namespace, work: Path) -> str:
    """Measure commands of diffusion transformers, each beside the encoding of its padded prompts; return a table."""
    lines = [
        "| command | CPU, s | wall, s | peak, MB | prompts | CPU of all padded, s | timed | ratio of CPU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        model = prepare(row, build, work, options.shapes)
        found = run(row, build, work, model)
        if found.error:
            lines.append(f"| {row.title} | failed: {found.error} |")
            continue
        files = [f"--erased={work}/erased-{row.erased}.txt", f"--kept={work}/kept-{row.kept}.txt"]
        *_, status, text = measured(["-m", "benchmarks.padded_prompts", str(model), *files], build)
        if status:
            sys.exit(f"the padded prompts of {row.name} cannot be encoded: {text[-500:]}")
        padded = json.loads(text.strip().splitlines()[-1])
        cells = [row.title, f"{found.cpu:.1f}", f"{found.wall:.1f}", f"{found.peak_mb:,.0f}", str(padded["prompts"])]
        cells += [f"{padded['cpu']:,.1f}", str(padded["sample"]), f"{found.cpu / padded['cpu']:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def middle(runs: Iterable[Run], of: str) -> float | None:
    """Return the median of a field over runs; None where there is none."""
    values = [value for r in runs if not r.error and (value := getattr(r, of)) is not None]
    return statistics.median(values) if values else None


def table(runs: Sequence[Run], base: str, ours: str, rows: Mapping[str, Row] = ROWS) -> str:
    """Return a table of both builds: time and memory, their ratios, and whether the targets are met."""
    lines = [
        "| command | unit | base | now | ratio | target | | of the official program | target | |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        for target in row.targets:
            sides = [middle((r for r in runs if r.row == name and r.commit == c), target.of) for c in (base, ours)]
            if any(r.row == name for r in runs):
                lines.append(_line(row, target, *sides))
        lines += [f"| `{name}` | {r.commit[:7]} failed: {r.error} |" for r in runs if r.row == name and r.error]
    return "\n".join(lines)


def _line(row: Row, target: Target, before: float | None, now: float | None) -> str:
    """One line of the table; a ratio is of what the target speaks of, pictures a second or time."""
    both = before is not None and now is not None and now > 0 and before > 0
    ratio = (before / now if target.at_least else now / before) if both and before and now else None
    cells = [f"{row.title}, {target.name}", target.unit]
    cells += ["–" if side is None else f"{side:,.{2 if side < 1000 else 0}f}" for side in (before, now)]
    cells += ["–" if ratio is None else f"{ratio:.3f}", _bound(target.bound, target.at_least)]
    cells += [_met(ratio, target.bound, target.at_least)]
    official = None if ratio is None or target.official is None else ratio / target.official
    bound = target.official_bound
    cells += ["–" if official is None else f"{official:.3f}", _bound(bound), _met(official, bound)]
    return f"| {' | '.join(cells)} |"


def _bound(bound: float | None, at_least: bool = False) -> str:
    return "–" if bound is None else f"{'>=' if at_least else '<='} {bound}"


def _met(value: float | None, bound: float | None, at_least: bool = False) -> str:
    """Whether a value keeps a bound, in a word."""
    if value is None or bound is None:
        return ""
    return "met" if (value >= bound if at_least else value <= bound) else "missed"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--rows", action="append", choices=[*ROWS, *GROWTH, *TRANSFORMERS], help="measure only this row; repeatable"
    )
    parser.add_argument("--growth", action="store_true", help="measure the rows of growth, with this build alone")
    parser.add_argument("--transformers", action="store_true", help="measure diffusion transformers, with this build")
    parser.add_argument("--draw", type=Path, help="draw the rows of growth into this picture")
    parser.add_argument("--base", default=BASE, help="commit to compare with")
    parser.add_argument("--build", default="HEAD", help="commit to measure")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each build")
    parser.add_argument("--shapes", type=Path, help="folder that keeps the models; otherwise a temporary one")
    parser.add_argument(
        "--out", type=Path, help="append the runs to this file, as JSON; those it holds are not run again"
    )
    parser.add_argument("--table", type=Path, help="print the table of such a file; measure nothing")
    options = parser.parse_args(arguments)
    base, ours = commit_of(options.base), commit_of(options.build)
    if options.table:
        print(table(stored(options.table), base, ours))
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        options.shapes = (options.shapes or work / "shapes").resolve()
        if options.transformers:
            chosen = [row for name, row in TRANSFORMERS.items() if not options.rows or name in options.rows]
            print(beside_padded(chosen, unpacked(ours, work), options, work / "files"))
            return
        if options.growth:
            rows = [row for name, row in GROWTH.items() if not options.rows or name in options.rows]
            runs = measure(rows, [unpacked(ours, work)], options, work)
            products = whole_growth.product_speed()
            found = whole_growth.points([r for r in runs if r.commit == ours], rows, options.shapes, products)
            print(whole_growth.table(found, products))
            if options.draw:
                whole_growth.draw(found, options.draw)
            return
        rows = [row for name, row in ROWS.items() if not options.rows or name in options.rows]
        runs = measure(rows, [unpacked(commit, work) for commit in dict.fromkeys([base, ours])], options, work)
        print(table(runs, base, ours))


if __name__ == "__main__":
    main()
