"""Pixel-grounded localisation: which attention blocks, trained alone, lose the target and keep the rest.

Every block gets a short training run of its own; what its pictures show decides. Many blocks can suppress a target, few
of them leave the rest alone, so erasing is a threshold and retaining the ranking.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from excise.edit import original_weights
from excise.errors import SettingError
from excise.families.base import fingerprint
from excise.files import write_json
from excise.training.adapters import Adapter, blocks, choose_maps
from excise.training.injection import strongest
from excise.training.loop import Step, fit
from excise.training.probes import Look
from excise.training.problem import TrainingProblem, digest
from excise.training.run import passes

SHARE = 0.2  # of the steps of a full run
ENOUGH = 0.8  # of the best block's erasing


@dataclass(frozen=True)
class Table:
    """What was found: by block, erase and retain.

    `pictures` holds what it was read from, `concept` whom it was found for; one found earlier has no pictures.
    """

    rows: list[dict[str, Any]]
    concept: str
    pictures: dict[str, list[Image.Image]] = field(default_factory=dict)


def localise(
    problem: TrainingProblem, config: Any, look: Look | None, step_of: Callable[[Adapter], Step]
) -> tuple[list[str], Table | None]:
    """The blocks that a setting asks for: all, named ones, random ones, or those that the pictures choose.

    Raises:
        SettingError: blocks that cannot be chosen as asked.
    """
    known = blocks(problem.family)
    wanted = config.blocks
    if wanted == "all":
        return known, None
    if wanted.startswith("random:"):
        order = torch.randperm(len(known), generator=torch.Generator().manual_seed(problem.seed)).tolist()
        return [known[i] for i in order[: _number(wanted)]], None
    if wanted != "auto" and not wanted.startswith("worst:"):
        return [b.strip() for b in wanted.split(",")], None
    if look is None:
        raise SettingError(
            "without a judge no blocks can be localised; give one, or name the blocks with --set blocks=all (or "
            "their names)."
        )
    kept = _kept(problem, config)
    table = _read(kept) if config.reuse_blocks else None
    if table is None:
        table = probe(problem, config, look, step_of)
        if kept is not None:
            write_json(kept, {"concept": table.concept, "rows": table.rows})
    if wanted == "auto":
        return choose(table.rows, config.keep_blocks), table
    return choose(table.rows, _number(wanted), worst=True), table


def probe(problem: TrainingProblem, config: Any, look: Look, step_of: Callable[[Adapter], Step]) -> Table:
    """Train every block alone for a while and look."""
    rows, pictures = [], {}
    known = blocks(problem.family)
    if config.inject:
        known = strongest(problem, look, known)
    for i, block in enumerate(known):
        problem.say("localising", i, len(known))
        paths = [m.path for m in choose_maps(problem.family, config.modules, [block])]
        with Adapter(problem.family, paths, config.rank, problem.seed) as adapter:
            with passes(problem.family, config):
                fit(adapter, step_of(adapter), config.plan(max(1, round(SHARE * config.steps))), seed=problem.seed)
            pictures[block] = look.draw()
        rates = look.rates(pictures[block])
        rows.append({"block": block, "erase": rates.erase, "retain": rates.retain, **vars(rates)})
    problem.say("localising", len(known), len(known))
    return Table(rows, ", ".join(c.name for c in problem.concepts), pictures)


def choose(rows: Sequence[dict[str, Any]], count: int, worst: bool = False) -> list[str]:
    """Of the blocks that erase nearly as well as the best, those that retain best (or worst, for comparison)."""
    best = max(r["erase"] for r in rows)
    able = [r for r in rows if r["erase"] >= ENOUGH * best]
    ranked = sorted(able, key=lambda r: r["retain"] if worst else -r["retain"])  # stable: earlier blocks first
    return [r["block"] for r in ranked[:count]]


def _kept(problem: TrainingProblem, config: Any) -> Path | None:
    """Where the localisation of this model, kind and training is kept: blocks serve every concept of a kind."""
    if problem.cache is None:
        return None
    elsewhere = {"blocks", "keep_blocks", "reuse_blocks", "calibrate", "anchor", "tracker"}
    own = config.model_dump(mode="json", exclude=elsewhere)
    kinds = sorted({c.kind for c in problem.concepts})
    what = [fingerprint(original_weights(problem.family)), kinds, own]
    return problem.cache / "localisation" / f"{digest(what)[:32]}.json"


def _read(path: Path | None) -> Table | None:
    """A localisation kept earlier; None where there is none, or it is damaged."""
    if path is None or not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rows = [{"block": str(r["block"]), **{k: float(r[k]) for k in r if k != "block"}} for r in found["rows"]]
        return Table(rows, str(found["concept"])) if rows else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _number(text: str) -> int:
    tail = text.partition(":")[2]
    if not tail.isdigit() or int(tail) < 1:
        raise SettingError(f"blocks was '{text}'; expected a number after the colon, for example random:2")
    return int(tail)
