"""Keep what a command verified beside the edits that it verified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from excise.attacks.suite import SuiteResult
    from excise.cli.gates import Gate
    from excise.edits import verified


def keep_evaluation(
    files: Sequence[str], document: Mapping[str, Any], gates: Sequence[Gate], *, other_base: bool = False
) -> None:
    """Keep the verdicts and gates of `excise evaluate`, passed or failed, beside every edit that was applied.

    Numbers without a verdict or a gate prove nothing and are not kept, which is said.

    Args:
        files: the edit files. document: of `excise evaluate --json`.
        other_base: whether another model than that of the edits was allowed.
    """
    from excise.cli import show
    from excise.edits import verified
    from excise.evaluation.verdict import ConceptVerdict

    verdicts = {v["concept"]: ConceptVerdict(**v).sentence() for v in document.get("verdicts", [])}
    if not files:
        return
    if not (verdicts or gates):
        show.say("not recorded beside the edit, as there is neither a verdict nor a gate: give one with --require.")
        return
    metrics, unseen = document["metrics"], any(v["status"] == "not verifiable" for v in document.get("verdicts", []))
    check = verified.Check(
        **verified.now(),
        command="evaluate",
        model=document["model"],
        protocol=document["protocol"],
        hash=document["hash"],
        judge=document["protocol_summary"]["judge"],
        concepts=tuple(document["concepts"]),
        verdicts=verdicts,
        gates=tuple(_gate(gate, metrics) for gate in gates if unseen or gate.metric in metrics),
        metrics={name: _numbers(m) for name, m in metrics.items()},
        other_base=other_base,
    )
    _keep(files, check)


def keep_attack(
    files: Sequence[str],
    request: Mapping[str, Any],
    outcome: SuiteResult,
    gates: Sequence[Gate],
    metrics: Mapping[str, Mapping[str, Any]],
    *,
    other_base: bool = False,
) -> None:
    """Keep what `excise attack` found, and its gates, passed or failed, beside every edit that was applied.

    Where no attack could be run and there is no gate, nothing is kept.

    Args:
        files: the edit files. request: as `run.json` holds it. metrics: of the worst attack, by key.
        other_base: whether another model than that of the edits was allowed.
    """
    from excise.attacks.accounting import taught
    from excise.edits import verified

    lessons = taught(outcome.results)
    more = {} if lessons is None or outcome.has_oracle else {"taught_back": lessons.as_dict()}
    if not (gates or metrics or more):
        return
    check = verified.Check(
        **verified.now(),
        command="attack",
        model=request["model"],
        protocol=f"attacks of the suite '{request['suite']}'",
        hash=outcome.key,
        judge=outcome.judge,
        concepts=(request["concept"],),
        gates=tuple(_gate(gate, metrics) for gate in gates),
        metrics={name: _numbers(m) for name, m in {**metrics, **more}.items()},
        other_base=other_base,
    )
    _keep(files, check)


def note_gates(out: Path | None, gates: Sequence[Gate], metrics: Mapping[str, Any]) -> None:
    """Write into the `run.json` of a finished run which gates it passed; those of an earlier call are replaced."""
    from excise.cli.keeping import read_run
    from excise.support.files import write_json
    from excise.support.runs import RUN_NAME

    run = read_run(out) if out is not None else None
    if out is None or not run:
        return
    unseen = run.get("verb") == "attack" or any(v["status"] == "not verifiable" for v in run.get("verdicts", []))
    known = [gate for gate in gates if unseen or gate.metric in metrics]
    results = [_gate(gate, metrics).model_dump(mode="json") for gate in known]
    if run.get("gates", []) != results:
        write_json(out / RUN_NAME, {**run, "gates": results})


def keep_policy(edit: Path, entry: Mapping[str, Any]) -> None:
    """Keep what the ledger entry of a policy says was verified beside the edit in force.

    The gate "erased" is that of the concept with the worst share.

    Args:
        edit: the edit file. entry: the entry; nothing is kept where it has no verdicts.
    """
    from excise.edits import verified
    from excise.policy.history import verdict_of

    result = entry["verified"]
    if result is None or not entry["edit"]:
        return
    bounds, concepts = result["gates"], result["concepts"]
    verdicts = {c["name"]: verdict_of(entry, c["name"]) for c in concepts}
    clean = [c["erased"] for c in concepts if c["erased"]]
    measured = {"erased": min(clean, key=lambda m: m["low"]) if clean else None, "retained": result["retained"]}
    passed = {"erased": all(c["passed"] for c in concepts), "retained": result["retained_passed"]}
    check = verified.Check(
        **{**verified.now(), "time": entry["time"]},
        command="apply",
        model=entry["model"]["name"],
        protocol="policy",
        hash=entry["policy"],
        judge=result["judge"],
        concepts=tuple(verdicts),
        verdicts=verdicts,
        gates=tuple(
            verified.Gate(gate=f"{name}>={bounds[name]:g}", metric=name, passed=passed[name]) for name in passed
        ),
        metrics={name: _numbers(m) for name, m in measured.items() if m},
    )
    verified.keep(edit, check)


def _keep(files: Sequence[str], check: verified.Check) -> None:
    """Keep one check beside every edit, each with the digests of the others."""
    from excise.edits import verified
    from excise.support.digests import file_digest

    digests = [file_digest(Path(file)) for file in files]
    for file, own in zip(files, digests, strict=True):
        beside = tuple(digest for digest in digests if digest != own)
        verified.keep(Path(file), check.model_copy(update={"beside": beside}))


def _gate(gate: Gate, metrics: Mapping[str, Any]) -> verified.Gate:
    """A gate as it is kept; what was not measured does not pass."""
    from excise.edits import verified

    passed = gate.metric in metrics and gate.holds(metrics)
    return verified.Gate(gate=gate.text, metric=gate.metric, passed=passed)


def _numbers(estimate: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(estimate[name]) for name in ("value", "low", "high", "n")}
