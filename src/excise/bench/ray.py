"""The cells of a recipe over a cluster, each a Ray task; Ray does the scheduling. Optional: `pip install excise[ray]`.

The result folder must be one that every node sees. Cells and lines are those of a run in one process.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from excise.bench import run as bench
from excise.bench.recipe import Cell, Recipe, cells
from excise.errors import ModelError
from excise.support.files import make_folder, write_json
from excise.support.runs import locked


def run(recipe: Recipe, out: Path, *, say: Callable[[str], None] = lambda _: None) -> list[bench.Done]:
    """Run what `out` does not hold yet on the Ray cluster in reach (a local one is started where there is none).

    Raises:
        ModelError: Ray is not installed.
        OutputError: another process is at work in `out`.
    """
    try:
        import ray
    except ImportError as error:
        raise ModelError("--engine ray needs Ray; install it with: pip install 'excise[ray]'") from error
    planned = list(cells(recipe))
    make_folder(out)
    with locked(out):
        write_json(out / "recipe.json", recipe.model_dump(mode="json", by_alias=True))
        done = {c.key: kept for c in planned if (kept := bench.read_cell(out, c)) is not None}
        missing = [c for c in planned if c.key not in done]
        if missing and not ray.is_initialized():
            ray.init(include_dashboard=False, log_to_driver=False)
        # As many threads as here: results do not depend on who computed them.
        threads = torch.get_num_threads()
        needs: dict[str, Any] = {"num_gpus": 1} if torch.cuda.is_available() else {"num_cpus": threads}
        task = ray.remote(**needs)(_cell)
        waiting = [task.remote(c.model_dump_json(), str(out.resolve()), threads) for c in missing]
        while waiting:
            ready, waiting = ray.wait(waiting)
            key = ray.get(ready[0])
            cell = next(c for c in missing if c.key == key)
            kept = bench.read_cell(out, cell)
            assert kept is not None, f"the task of {cell.title} ended without a result"
            done[key] = kept
            say(f"{len(done)}/{len(planned)} {cell.title}")
        ordered = [done[c.key] for c in planned]
        bench.write_results(out, ordered)
    return ordered


def _cell(text: str, out: str, threads: int) -> str:
    """One task: run a cell, keep it, say which."""
    torch.set_num_threads(threads)
    done = bench.run_cell(Cell.model_validate_json(text), Path(out))
    bench.keep(Path(out), done)
    return done.cell.key
