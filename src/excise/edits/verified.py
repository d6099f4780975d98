"""What was verified of an edit, in a file beside it, so that the edit itself stays as it is.

`verified.json` holds the checks by the SHA-256 of the edit file: those of an edit that was replaced since do not count
for the new one. Exports and their model cards repeat them.
"""

from __future__ import annotations

import datetime
import json
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError

from excise.errors import ExciseWarning, OutputError
from excise.families.model_names import base_name, without_folders
from excise.support.counts import counted
from excise.support.digests import file_digest
from excise.support.files import write_json
from excise.support.strict import Strict

NAME = "verified.json"
SCHEMA = 1
NOT_VERIFIABLE = "not verifiable"  # as the verdict begins


class Gate(Strict):
    """One condition on a metric, such as "ua>=0.95", and whether it held at the unfavourable end of the interval."""

    gate: str
    metric: str
    passed: bool


class Check(Strict):
    """One verification of an edit.

    Attributes:
        time: when it ended, in UTC.
        excise: the version.
        command: "evaluate", "attack" or "apply".
        model: the name of the model that was drawn.
        protocol, hash: the questions, and their digest.
        judge: what looked at the images.
        concepts: the targets.
        verdicts: by concept, a sentence such as "verified: 10 of 10 clean (at least 72 %)".
        gates: the conditions, in the order in which they were given.
        metrics: by key, with value, low, high (95 %) and n.
        beside: digests of the other edits that were applied at the same time.
        other_base: whether the model was allowed to be another than the edit was made for.
    """

    time: str
    excise: str
    command: str
    model: str
    protocol: str
    hash: str
    judge: str
    concepts: tuple[str, ...] = ()
    verdicts: dict[str, str] = Field(default_factory=dict)
    gates: tuple[Gate, ...] = ()
    metrics: dict[str, dict[str, float]] = Field(default_factory=dict)
    beside: tuple[str, ...] = ()
    other_base: bool = False

    @property
    def passed(self) -> bool:
        """Whether there are gates and all of them held."""
        return bool(self.gates) and all(gate.passed for gate in self.gates)

    @property
    def verifies(self) -> bool:
        """Whether there is a verdict or a gate; an attack without a gate tells what came back, and verifies nothing."""
        return bool(self.verdicts or self.gates)

    def tells_of(self, model: str, beside: Sequence[str] = ()) -> bool:
        """Whether it looked at the edit on a model for which it was made, with no other edits applied than some.

        Args:
            model: as it was named to the command.
            beside: digests of the other edits.
        """
        return not self.other_base and sorted(self.beside) == sorted(beside) and _same_model(self.model, model)

    @property
    def question(self) -> tuple[object, ...]:
        """What was asked: a later check of the same question takes the place of an earlier one."""
        gates = tuple(gate.gate for gate in self.gates)
        return self.command, self.model, self.hash, self.judge, self.concepts, gates, self.beside, self.other_base


def _same_model(one: str, other: str) -> bool:
    """Whether two names are of one model: the same name, or paths to the same place."""
    return one == other or (Path(one).exists() and Path(one).resolve() == Path(other).resolve())


CHECKS = TypeAdapter(tuple[Check, ...])


def now() -> dict[str, str]:
    """Return the time and the version of a check that ends now."""
    time = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return {"time": time, "excise": version("excise")}


def checks_of(edit: Path) -> tuple[Check, ...]:
    """Return the checks of an edit file, oldest first; none if it was never verified or has changed since."""
    by_digest = _read(edit.parent / NAME)
    if not by_digest:
        return ()
    return _parsed(by_digest.get(file_digest(edit), []), edit.parent / NAME)


def keep(edit: Path, check: Check) -> None:
    """Write a check beside an edit file. A folder that cannot be written is warned of, for the check itself was made.

    The check takes the place of an earlier one of the same question.
    """
    path, digest = edit.parent / NAME, file_digest(edit)
    by_digest = _read(path)
    old = _parsed(by_digest.get(digest, []), path)
    if any(c.model_copy(update={"time": check.time}) == check for c in old):
        return  # the same result again, perhaps from a cache
    new = [*(c for c in old if c.question != check.question), check]
    by_digest[digest] = [c.model_dump(mode="json") for c in new]
    try:
        write_json(path, {"schema": SCHEMA, "edits": by_digest})
    except OutputError as error:
        warnings.warn(f"what was verified is not kept beside the edit: {error}", ExciseWarning, stacklevel=2)


def sentences(checks: Sequence[Check]) -> list[str]:
    """Return one sentence a verdict, a gate, and a figure of an attack without gates, with the number it rests on.

    >>> sentences([])
    []
    """
    lines = [line for check in checks for line in _lines(check)]
    # The same concept that was not verifiable in two checks, perhaps for another gate, is said once.
    unseen = {line.partition(" [")[0]: i for i, line in enumerate(lines) if f": {NOT_VERIFIABLE}" in line}
    last = set(unseen.values())
    return [line for i, line in enumerate(lines) if line.partition(" [")[0] not in unseen or i in last]


def public(check: Check) -> Check:
    """Return a check as strangers may read it: of paths in its model, protocol and judge, the last part."""
    protocol, judge = without_folders(check.protocol), without_folders(check.judge)
    return check.model_copy(update={"model": base_name(check.model), "protocol": protocol, "judge": judge})


def as_json(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """Return checks as JSON."""
    return [check.model_dump(mode="json") for check in checks]


def _lines(check: Check) -> list[str]:
    where = f"{check.protocol} (hash {check.hash[:12]}), judged by {check.judge}, {check.time[:10]}{conditions(check)}"
    lines = [f"{name}: {verdict} [{where}]" for name, verdict in check.verdicts.items()]
    for gate in check.gates:
        result = "passed" if gate.passed else "FAILED"
        lines.append(f"gate {gate.gate} {result}: {_measured(check, gate.metric)} [{where}]")
    if check.command == "attack" and not check.verifies:
        names = ", ".join(check.concepts)
        lines += [f"{names} was attacked: {metric} {_measured(check, metric)} [{where}]" for metric in check.metrics]
    return lines


def conditions(check: Check) -> str:
    """Return what else was in force, each part behind a comma; empty where it was the edit alone on its own base."""
    said = f", with {counted(len(check.beside), 'more edit')} applied" if check.beside else ""
    if check.other_base:
        said += f", on {check.model}, which may be another model than the edit was made for"
    return said


def _measured(check: Check, metric: str) -> str:
    measured = check.metrics.get(metric)
    if measured is None:
        return "not measured"
    return (
        f"{measured['value']:.3f}, 95 % interval {measured['low']:.3f} to {measured['high']:.3f}, n = {measured['n']:g}"
    )


def _read(path: Path) -> dict[str, list[Any]]:
    """The content of the file by digest; nothing, with a warning, where it cannot be read."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {str(digest): list(checks) for digest, checks in content["edits"].items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        _warn(path)
        return {}


def _parsed(checks: Sequence[Mapping[str, Any]], path: Path) -> tuple[Check, ...]:
    try:
        return CHECKS.validate_python(checks)
    except ValidationError:
        _warn(path)
        return ()


def _warn(path: Path) -> None:
    warnings.warn(
        f"{path} cannot be read, so the edit counts as not verified; verify it again with excise evaluate.",
        ExciseWarning,
        stacklevel=4,
    )
