"""Run the attacks of a suite on the model, their controls and the oracle, each once, and keep what they found."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from excise.attacks import Planned
from excise.attacks.accounting import Cost, Outcome, Result, judge_rounds
from excise.attacks.base import Arena, Attack, AttackError, AttackSettings, Search
from excise.attacks.original import Swaps
from excise.attacks.panel import Panel
from excise.attacks.plan import configured
from excise.attacks.store import read_outcome, read_search, write_outcome, write_search
from excise.families.base import Family
from excise.families.drawing import model_key, peak_memory_mb
from excise.support.digests import digest
from excise.support.progress import Report
from excise.training.run import attention_backend

MOST_SHOTS = 8  # of an attack, for the report


class JudgedShot(NamedTuple):
    """A picture, its prompt, and whether it shows the target."""

    image: Image.Image
    prompt: str
    shown: bool


@dataclass(frozen=True)
class Side:
    """A model under attack, and its parts that can be put back."""

    family: Family
    swaps: Swaps


class Runner:
    """Runs attacks on each side, each attack with the same settings once.

    Args:
        arena: everything that all attacks of the suite share.
        sides: "model", and perhaps "oracle".
        panel: the judges.
        folder: keeps finished attacks in `attacks/`; None keeps nothing on disk.
        key: a digest of everything that all attacks share.
        say: receives progress.

    Attributes:
        shots: by attack, the strongest pictures of the model under attack.
    """

    def __init__(
        self, arena: Arena, sides: Mapping[str, Side], panel: Panel, folder: Path | None, key: str, say: Report
    ) -> None:
        self.arena, self.sides, self.panel, self.key, self.say = arena, sides, panel, key, say
        self.folder = folder / "attacks" if folder else None
        self.shots: dict[str, list[JudgedShot]] = {}
        self._models = {name: model_key(side.family) for name, side in sides.items()}
        self._outcomes: dict[str, tuple[Outcome, list[JudgedShot]]] = {}
        self._searches: dict[str, tuple[list[str], float]] = {}
        self._seconds_of_known_searches = 0.0

    def run(self, plan: Planned, settings: Mapping[str, Any]) -> Result:
        """Make one attack on the model, its control, and the same attack on the oracle."""
        attack = configured(plan, settings)
        result = Result(
            plan.name,
            plan.attack,
            attack.config.model_dump(mode="json"),
            attack.access,
            attack.teaches,
            self.arena.images,
        )
        try:
            model = self._outcome(plan, attack, "model")
        except AttackError as error:
            return replace(result, why=str(error))
        name, control_settings = attack.control()
        control = Planned(f"{plan.name}, control", name, control_settings)
        compared = {"control": (control, configured(control, {}), "model")}
        if "oracle" in self.sides and plan.attack != "swap":  # an oracle has no parts to put back
            compared["oracle"] = (plan, attack, "oracle")
        outcomes: dict[str, Outcome] = {}
        why = ""
        for role, what in compared.items():
            try:
                outcomes[role] = self._outcome(*what)
            except AttackError as error:
                why = f"the {role}: {error}"
        return replace(result, model=model, control=outcomes.get("control"), oracle=outcomes.get("oracle"), why=why)

    def _outcome(self, plan: Planned, attack: Attack[AttackSettings], side: str) -> Outcome:
        """Return the outcome of one attack on one side, from memory or disk if it is known."""
        key = digest([self.key, self._models[side], plan.attack, attack.config.model_dump(mode="json")])[:24]
        if key not in self._outcomes:
            folder = self.folder / key if self.folder else None
            outcome, images = (read_outcome(folder) if folder else None) or self._attack(plan, attack, side, folder)
            self._outcomes[key] = outcome, _strongest(outcome, images)
        outcome, shots = self._outcomes[key]
        if side == "model":
            self.shots[plan.name] = shots
        return outcome

    def _attack(
        self, plan: Planned, attack: Attack[AttackSettings], side: str, folder: Path | None
    ) -> tuple[Outcome, list[Image.Image]]:
        """Make one attack on one side, judge its pictures, and keep both."""
        label = plan.name if side == "model" else f"{plan.name} on the oracle"
        arena = replace(
            self.arena,
            family=self.sides[side].family,
            swaps=self.sides[side].swaps,
            say=lambda what, done, total: self.say(f"{label}: {what}", done, total),
            search_once=self._search_once,
        )
        start, self._seconds_of_known_searches = time.perf_counter(), 0.0
        with attention_backend(arena.family) if attack.passes(1) else nullcontext():
            rounds = attack.run(arena)
        seconds = time.perf_counter() - start + self._seconds_of_known_searches
        cost = Cost(arena.drawn, arena.passes, seconds, peak_memory_mb(), arena.notes)
        outcome, images = judge_rounds(rounds, self.panel, cost)
        if folder is not None:
            write_outcome(folder, outcome, images)
        return outcome, images

    def _search_once(self, name: str, search: Search) -> list[str]:
        """Return what a search of the untouched model finds, which is the same on every side and for every edit.

        The seconds of the search count in every attack that uses its result.
        """
        key = digest([self.key, name])[:24]
        path = self.folder / f"{key}.json" if self.folder else None
        known = self._searches.get(key) or (read_search(path) if path else None)
        if known is None:
            start = time.perf_counter()
            known = search(), time.perf_counter() - start
            if path is not None:
                write_search(path, *known)
        else:
            self._seconds_of_known_searches += known[1]
        self._searches[key] = known
        return known[0]


def _strongest(outcome: Outcome, images: Sequence[Image.Image]) -> list[JudgedShot]:
    """Return a few pictures, those that show the target first."""
    prompts = [p for row in outcome.words for p in row]
    shown = [s for row in outcome.shown for s in row]
    order = sorted(range(len(images)), key=lambda i: not shown[i])[:MOST_SHOTS]
    return [JudgedShot(images[i], prompts[i], shown[i]) for i in order]
