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

from excise.errors import SettingError
from excise.families.fingerprints import fingerprint
from excise.methods.trained.surgun.config import SurgUnConfig
from excise.methods.trained.surgun.injection import strongest
from excise.support.digests import digest
from excise.support.files import write_json
from excise.support.progress import part_of
from excise.training.adapters import Adapter, blocks, choose_maps
from excise.training.loop import Step, Trainer
from excise.training.probes import Preview, Rates
from excise.training.problem import TrainingProblem
from excise.training.run import training_mode

SHARE = 0.2  # of the steps of a full run
ENOUGH = 0.8  # of the best block's erasing


@dataclass(frozen=True)
class Table:
    """A localisation: by block, the rates of erasing and retaining.

    Attributes:
        rows: by block.
        concept: the concepts for which it was made.
        pictures: by block, the pictures of the probes; empty where it was read from the cache.
    """

    rows: list[dict[str, Any]]
    concept: str
    pictures: dict[str, list[Image.Image]] = field(default_factory=dict)


def localise(
    problem: TrainingProblem, config: SurgUnConfig, preview: Preview | None, step_of: Callable[[Adapter], Step]
) -> tuple[list[str], Table | None]:
    """The blocks that a setting asks for: all, named ones, random ones, or those that the pictures choose.

    Raises:
        SettingError: blocks that cannot be chosen as asked.
    """
    wanted = config.blocks
    blocks_by_name = named_blocks(problem, wanted)
    if blocks_by_name is not None:
        return blocks_by_name, None
    check_judge(preview)
    assert preview is not None
    path = _cache_path(problem, config)
    table = _read(path) if config.reuse_blocks else None
    if table is None:
        table = probe(problem, config, preview, step_of)
        if path is not None:
            write_json(path, {"concept": table.concept, "rows": table.rows})
    if wanted == "auto":
        return choose(table.rows, config.keep_blocks), table
    return choose(table.rows, _number(wanted), worst=True), table


def named_blocks(problem: TrainingProblem, wanted: str) -> list[str] | None:
    """The blocks of a setting that needs no pictures: all, random:n, or names; None where they must be localised.

    Raises:
        SettingError: a block that the model does not have, or no number where one belongs.
    """
    every = blocks(problem.family)
    if wanted == "all":
        return every
    if wanted.startswith("random:"):
        order = torch.randperm(len(every), generator=torch.Generator().manual_seed(problem.seed)).tolist()
        return [every[i] for i in order[: _number(wanted)]]
    if wanted.startswith("worst:"):
        _number(wanted)
    elif wanted != "auto":
        chosen = [b.strip() for b in wanted.split(",")]
        choose_maps(problem.family, "attention", chosen)
        return chosen
    return None


def check_judge(judge: object) -> None:
    """Refuse to localise without a judge.

    Raises:
        SettingError: there is none.
    """
    if judge is None:
        raise SettingError(
            "without a judge no blocks can be localised; give one, or name the blocks with --set blocks=all (or "
            "their names)."
        )


def probe(
    problem: TrainingProblem, config: SurgUnConfig, preview: Preview, step_of: Callable[[Adapter], Step]
) -> Table:
    """Train every block alone for a short run and rate its pictures."""
    rows, pictures = [], {}
    probed = list(dict.fromkeys(m.block for m in problem.family.maps(config.modules)))
    if config.inject:
        probed = strongest(problem, preview, probed)
    for i, block in enumerate(probed):
        report = part_of(problem.say, "localising", i, len(probed))
        paths = [m.path for m in choose_maps(problem.family, config.modules, [block])]
        with Adapter(problem.family, paths, config.rank, problem.seed) as adapter:
            with training_mode(problem.family, config.checkpointing):
                plan = config.plan(max(1, round(SHARE * config.steps)))
                Trainer(adapter, plan, problem.seed, advice=config.steadier).fit(step_of(adapter))
            pictures[block] = preview.draw(report)
        rows.append(_row(block, preview.rates(pictures[block])))
    problem.say("localising", len(probed), len(probed))
    return Table(rows, ", ".join(c.name for c in problem.concepts), pictures)


def apart(problem: TrainingProblem, preview: Preview, adapter: Adapter) -> Table:
    """Rate the trained change in each block alone, for the report; no block is chosen by it."""
    rows, pictures = [], {}
    by_block: dict[str, list[str]] = {}
    for m in (*problem.family.door_maps(), *problem.family.attention_maps()):
        if m.path in adapter.paths:
            by_block.setdefault(m.block, []).append(m.path)
    for i, (block, paths) in enumerate(by_block.items()):
        report = part_of(problem.say, "looking at each block's part", i, len(by_block))
        with adapter.only(paths):
            pictures[block] = preview.draw(report)
        rows.append(_row(block, preview.rates(pictures[block])))
    problem.say("looking at each block's part", len(by_block), len(by_block))
    return Table(rows, ", ".join(c.name for c in problem.concepts), pictures)


def choose(rows: Sequence[dict[str, Any]], count: int, worst: bool = False) -> list[str]:
    """Choose those that retain best (or worst, for comparison) of the blocks that erase nearly as well as the best."""
    best = max(r["erase"] for r in rows)
    able = [r for r in rows if r["erase"] >= ENOUGH * best]
    ranked = sorted(able, key=lambda r: r["retain"] if worst else -r["retain"])  # stable: earlier blocks first
    return [r["block"] for r in ranked[:count]]


def _row(block: str, rates: Rates) -> dict[str, Any]:
    """One line of a table."""
    return {"block": block, "erase": rates.erase, "retain": rates.retain, **vars(rates)}


def _cache_path(problem: TrainingProblem, config: SurgUnConfig) -> Path | None:
    """The cache file for this model, kind and training: a localisation serves every concept of a kind."""
    if problem.cache is None:
        return None
    choice = {"blocks", "keep_blocks", "reuse_blocks", "calibrate", "tie", "keep"}
    elsewhere = choice | {"robust", "push", "anchor", "tracker", "draw"}
    own = config.model_dump(mode="json", exclude=elsewhere)
    kinds = sorted({c.kind for c in problem.concepts})
    family = problem.family
    weights = {m.path: family.denoiser.get_parameter(f"{m.path}.weight") for m in family.attention_maps()}
    judge = problem.scorer.name if problem.scorer else None
    what = [fingerprint(weights), kinds, own, judge, sorted(problem.preserve), sorted(problem.retain)]
    return problem.cache / "localisation" / f"{digest(what)[:32]}.json"


def _read(path: Path | None) -> Table | None:
    """Read a localisation from the cache; None where there is none, or it is damaged."""
    if path is None or not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = [{"block": str(r["block"]), **{k: float(r[k]) for k in r if k != "block"}} for r in content["rows"]]
        return Table(rows, str(content["concept"])) if rows else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _number(text: str) -> int:
    tail = text.partition(":")[2]
    if not tail.isdigit() or int(tail) < 1:
        raise SettingError(f"blocks was '{text}'; expected a number after the colon, for example random:2")
    return int(tail)
