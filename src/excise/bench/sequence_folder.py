"""The run folder of deletions one after another: what is in it, and what goes when another run begins there."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from excise.bench.sequence_result import Step
from excise.errors import OutputError
from excise.support.runs import RUN_NAME, STATES

EDITS, STEPS, TRAINING, PAGE = "edits", "steps", "training", "report.html"


def clear(out: Path) -> None:
    """Remove what an earlier run left, first what tells that it is finished.

    Raises:
        OutputError: something cannot be removed.
    """
    try:
        for file in (RUN_NAME, PAGE):
            (out / file).unlink(missing_ok=True)
        for folder in (EDITS, STEPS, TRAINING, STATES):
            if (out / folder).exists():
                shutil.rmtree(out / folder)
    except OSError as error:
        raise OutputError(f"cannot remove the earlier run in {out}: {error}. Choose another --out.") from error


def remove_others(out: Path, steps: Sequence[Step]) -> None:
    """Remove edits and steps that an interrupted run of another request left; `steps` are those that stay."""
    own = {out / s.edit for s in steps} | {out / STEPS / f"{s.step:02d}.json" for s in steps}
    left = [*(out / EDITS).glob("[0-9]*.safetensors"), *(out / STEPS).glob("[0-9]*.json")]
    for path in left:
        if path not in own:
            path.unlink(missing_ok=True)
