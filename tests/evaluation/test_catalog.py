"""The catalogue of metrics names every metric that any protocol yields, and the documentation names them all."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import published
import pytest
from conftest import tiny_pipe

from excise import Concept
from excise.errors import UnknownNameError
from excise.evaluation import scoring
from excise.evaluation.catalog import (
    METRICS,
    OTHER_WORDS,
    Prominence,
    gateable_keys,
    keys_at,
    markdown_table,
    proving_nothing,
)
from excise.evaluation.plan import concept_plan
from excise.evaluation.scoring import Shown, compared, score
from excise.families import family_of
from excise.protocols import FOR_A_REQUEST, PROTOCOLS, Protocol
from excise.protocols.concept import IN_OTHER_WORDS

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
COMPARED = ("kid", "drift", "fade_forget", "fade_retain", "worst_gap", "worst_back")
ERASEEVAL = ("eraseeval", "reflected", "implicit_reflected", "alignment_kept", "quality_kept")  # of embeddings
ELSEWHERE = (*COMPARED, *ERASEEVAL, "agreement", "seconds", "seconds_solving", "seconds_drawing", "edit_bytes")


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """The lists that some protocols read."""
    (tmp_path / "erased.txt").write_text("Ada Lovelace\nAlan Turing\n")
    (tmp_path / "kept.txt").write_text("Grace Hopper\n")
    (tmp_path / "captions.csv").write_text("caption\na dog on a sofa\na red bus\n")
    monkeypatch.setenv("EXCISE_CELEBRITY", str(tmp_path))
    for variable in ("EXCISE_COCO", "EXCISE_I2P", "EXCISE_NUDITY"):
        monkeypatch.setenv(variable, str(tmp_path / "captions.csv"))


@pytest.fixture(scope="module")
def family(tokenizer):
    return family_of(tiny_pipe(tokenizer))


@pytest.fixture
def plans(family, tmp_path, monkeypatch):
    """What returns each protocol: those of the registry, and those that are made for a request."""
    (tmp_path / "published").mkdir()
    captions = os.environ["EXCISE_COCO"]
    published.set_variables(monkeypatch, tmp_path / "published", "cat")
    monkeypatch.setenv("EXCISE_COCO", captions)
    monkeypatch.delenv("EXCISE_EMMA")
    cat = Concept("cat", synonyms=("kitty",))
    made = {name: partial(concept_plan, family, [cat], own=["a cat"], protocol=name) for name in FOR_A_REQUEST}
    return {name: PROTOCOLS.load(name) for name in PROTOCOLS.records()} | made


def metrics_of(plan: Protocol, with_target: bool) -> dict | None:
    """Every metric of a protocol, with a judge that finds one image in three wrong; None where it has no target."""
    targets = [(attribute, labels[0]) for attribute, labels in list(plan.labels.items())[:1]] if with_target else []
    if with_target and not targets:
        return None

    def shown(wrong: int) -> list[Shown]:
        return [
            Shown(
                group=item.group,
                prompt=item.prompt,
                seed=i,
                asked=dict(item.asked),
                saw={a: label if (i + wrong) % 3 else "none" for a, label in item.asked.items()},
                second=dict(item.asked),
                values={"clip_score": 30.0, "exposed_parts": float(i % 3), "faces": float(i % 2)},
                target=item.target,
            )
            for i, item in enumerate(plan.select(targets))
        ]

    metrics = score(plan.score, shown(1), targets)
    return metrics | compared(shown(0), shown(1), targets) if targets else metrics


@pytest.mark.parametrize("with_target", [False, True])
@pytest.mark.parametrize("protocol", [*PROTOCOLS.records(), *FOR_A_REQUEST])
def test_every_metric_of_every_protocol_is_in_the_catalogue(plans, protocol, with_target):
    metrics = metrics_of(plans[protocol](), with_target)
    if metrics is None:
        return
    assert metrics
    assert set(metrics) <= set(METRICS)
    assert set(metrics) <= set(gateable_keys("evaluate"))


@pytest.mark.parametrize("protocol", [*PROTOCOLS.records(), *FOR_A_REQUEST])
def test_every_protocol_has_a_metric_in_every_table(plans, protocol):
    plan = plans[protocol]()
    metrics = metrics_of(plan, True) or metrics_of(plan, False)
    assert metrics
    assert set(metrics) & set(keys_at(Prominence.TERMINAL))


def test_the_protocols_cover_every_kind_of_score(plans):
    assert {plan().score for plan in plans.values()} == set(scoring.SCORES)


def test_rates_in_other_words_that_the_untouched_model_does_not_know_are_named():
    assert {*IN_OTHER_WORDS.values()} <= {*OTHER_WORDS} <= set(METRICS)
    unknown = {key: {"value": 0.0} for key in METRICS}
    assert proving_nothing(unknown) == list(OTHER_WORDS)
    assert proving_nothing({key: {"value": 0.1} for key in METRICS}) == []
    assert proving_nothing(None) == []


def test_no_metric_of_the_catalogue_is_without_a_source(plans):
    emitted = set(ELSEWHERE)
    for plan in plans.values():
        emitted |= set(metrics_of(plan(), False) or ()) | set(metrics_of(plan(), True) or ())
    assert emitted == set(METRICS)


def test_the_documentation_has_the_table_of_the_catalogue():
    text = DOCS.read_text(encoding="utf-8")
    assert markdown_table() in text, (
        "docs/metrics.md differs from the catalogue; put in the output of: "
        'python -c "from excise.evaluation.catalog import markdown_table; print(markdown_table())"'
    )


def test_a_label_and_a_direction_are_stated_once():
    labels = [m.label for m in METRICS.values()]
    assert len(set(labels)) == len(labels)
    for metric in METRICS.values():
        assert "is better" not in metric.meaning
        assert metric.explanation.count("is better") == (metric.higher_is_better is not None)


def test_gates_accept_what_their_command_measures():
    from excise.cli.gates import parse

    assert gateable_keys("attack") == ("worst_back", "worst_gap")
    for key in gateable_keys("evaluate"):
        assert parse(f"{key}>=0.5").metric == key
    with pytest.raises(UnknownNameError, match="no metric 'worst_gap'"):
        parse("worst_gap<=0.3")
