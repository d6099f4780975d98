"""How fast an evaluation draws and judges, beside a plain diffusers loop; and judging a folder beside the judge alone.

    python -m benchmarks.evaluating --pictures 48 --batch 8 --folder 1000 --judge nudenet

Evaluation and loop draw the same prompts at the same batch, steps, guidance and precision, in turns, the quicker of
`--turns` runs each. The evaluation has what a user's has: its cache of pictures, written as it draws, and its judges.
Then so many pictures of 512 x 512 are written and judged as `excise judge` does, beside the judge on the same pictures.
Either half is left out at `--pictures 0` or `--folder 0`.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from excise import load
from excise.canvas import world
from excise.evaluation.evaluate import evaluate
from excise.evaluation.folder import read_folder
from excise.evaluation.judge_folder import judge_pictures
from excise.judges.named import judge_named
from excise.protocols.base import Item, Protocol
from excise.protocols.canvas import GUIDANCE, STEPS
from excise.protocols.prompt_file import write_prompts
from excise.support.selection import evenly

SIDE = 512
PART = 64  # pictures open at once, where the judge looks alone


def plan_of(count: int) -> Protocol:
    """A protocol of `count` cells of the Canvas grid."""
    cells = evenly([(o, s) for o in world.OBJECTS for s in world.STYLES], count)
    items = tuple(Item("grid", f"a {o} in {s} style", {"object": o, "style": s}) for o, s in cells)
    labels = {"object": tuple(world.OBJECTS), "style": tuple(world.STYLES)}
    return Protocol("speed", items, STEPS, GUIDANCE, "canvas-judge-a", "grid", labels, ("grid",), ("grid",))


def plain(pipe: Any, plan: Protocol, batch: int) -> None:
    """The loop that a user would write: batches of prompts, a generator for each picture."""
    pipe.set_progress_bar_config(disable=True)
    for start in range(0, len(plan.items), batch):
        part = plan.items[start : start + batch]
        pipe(
            [i.prompt for i in part],
            num_inference_steps=plan.steps,
            guidance_scale=plan.guidance,
            generator=[torch.Generator().manual_seed(plan.seed(i)) for i in part],
        )


def whole(family: Any, plan: Protocol, batch: int) -> None:
    """An evaluation with a new cache."""
    with tempfile.TemporaryDirectory() as cache:
        evaluate(family, protocol=plan, batch=batch, bfloat16=False, cache=Path(cache))


def quickest(runs: dict[str, Callable[[], None]], turns: int) -> dict[str, float]:
    """The least seconds of each, all in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(turns):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    return {name: min(times) for name, times in seconds.items()}


def drawing(model: str, count: int, batch: int, turns: int) -> None:
    """Print pictures a second of both, and their ratio."""
    family, plan = load(model), plan_of(count)
    plain(family.pipe, plan_of(batch), batch)  # what is loaded or compiled at first is not timed
    seconds = quickest(
        {"plain": lambda: plain(family.pipe, plan, batch), "evaluate": lambda: whole(family, plan, batch)}, turns
    )
    for name, one in seconds.items():
        print(f"{name}: {count / one:.3f} pictures a second ({one:.1f} s for {count})")
    print(f"evaluate beside the plain loop: {seconds['plain'] / seconds['evaluate']:.3f}")


def opened(folder: Path) -> Iterator[list[Image.Image]]:
    """The pictures of a folder, some at a time."""
    files = sorted(folder.glob("*.png"))
    for start in range(0, len(files), PART):
        yield [Image.open(f).convert("RGB") for f in files[start : start + PART]]


def judging(name: str, count: int) -> None:
    """Print the time and the peak memory of judging a folder, and the time of the judge alone."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for i in range(count):
            coarse = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
            coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / f"{i:05d}.png")
        rows = [{"file": f"{i:05d}.png", "prompt": "a statue", "seed": i, "name": "nudity"} for i in range(count)]
        (folder / "pictures.csv").write_text(write_prompts(rows))
        judge = judge_named(name)
        judge.sees([Image.new("RGB", (SIDE, SIDE))], ["nudity"])
        began = time.perf_counter()
        for part in opened(folder):
            judge.sees(part, ["nudity"] * len(part))
        alone = time.perf_counter() - began
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        judge_pictures(read_folder(folder), ["nudity"], judge=judge_named(name))
        seconds = time.perf_counter() - began
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    share = seconds / alone
    print(f"{count} pictures of {SIDE} x {SIDE}: {seconds:.1f} s, {share:.2f} of the judge alone ({alone:.1f} s)")
    print(f"peak memory above that of the judge alone: {more:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="canvas-sd")
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--folder", type=int, default=1000, help="pictures of the folder that is judged")
    parser.add_argument("--judge", default="nudenet")
    options = parser.parse_args()
    if options.pictures:
        drawing(options.model, options.pictures, options.batch, options.turns)
    if options.folder:
        judging(options.judge, options.folder)


if __name__ == "__main__":
    main()
