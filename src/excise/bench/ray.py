"""The cells of a recipe as tasks of a Ray cluster, which schedules them. Optional: `pip install excise[ray]`.

Every node must see the result folder. Cells and result lines are the same as those of a run in one process.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from excise.bench import run as bench
from excise.bench.recipe import Cell, Recipe, cells
from excise.errors import ModelError
from excise.support.files import write_json
from excise.support.runs import run_folder


def run(recipe: Recipe, out: Path, *, say: Callable[[str], None] = lambda _: None) -> list[bench.CellResult]:
    """Run the cells that `out` does not hold yet on the reachable Ray cluster, or on a local one if there is none.

    Raises:
        ModelError: Ray is not installed.
        OutputError: another process uses `out`, or it cannot be written.
    """
    try:
        import ray
    except ImportError as error:
        raise ModelError("--engine ray needs Ray; install it with: pip install 'excise[ray]'") from error
    planned = list(cells(recipe))
    with run_folder(out, [bench.RECIPE]):
        write_json(out / bench.RECIPE, recipe.model_dump(mode="json", by_alias=True))
        results = {c.key: result for c in planned if (result := bench.read_cell(out, c)) is not None}
        missing = {c.key: c for c in planned if c.key not in results}
        if missing and not ray.is_initialized():
            ray.init(include_dashboard=False, log_to_driver=False)
        # Each task uses as many threads as this process, so that results do not depend on the node.
        threads = torch.get_num_threads()
        needs: dict[str, Any] = {"num_gpus": 1} if torch.cuda.is_available() else {"num_cpus": threads}
        task = ray.remote(**needs)(_run_cell)
        pending = [task.remote(c.model_dump_json(), str(out.resolve()), threads) for c in missing.values()]
        while pending:
            ready, pending = ray.wait(pending)
            cell = missing[ray.get(ready[0])]
            result = bench.read_cell(out, cell)
            assert result is not None, f"the task of {cell.title} ended without a result"
            results[cell.key] = result
            say(f"{len(results)}/{len(planned)} {cell.title}")
        ordered = [results[c.key] for c in planned]
        bench.write_results(out, ordered)
    return ordered


def _run_cell(text: str, out: str, threads: int) -> str:
    """Run one cell, given as JSON, write its result, and return its key."""
    torch.set_num_threads(threads)
    result = bench.run_cell(Cell.model_validate_json(text), Path(out))
    bench.keep(Path(out), result)
    return result.cell.key
