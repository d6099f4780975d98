"""The catalogue of metrics: for each key of a result its name, meaning, unit, direction, and where it is shown.

Tables, report pages, gates and the documentation take their texts from here. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from excise.support.counts import size_text

Unit = Literal["rate", "points", "number", "seconds", "bytes"]
"""rate: 0 to 1, printed in per cent. points: the difference of two rates, printed in percentage points."""


class Prominence(IntEnum):
    """How widely a metric is shown. A higher level includes the lower ones."""

    PAGE = 0  # on the page of one evaluation
    TABLE = 1  # in the tables of a benchmark
    TERMINAL = 2  # in the table of means that a command prints
    MAIN = 3  # a main result of its protocol


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        key: its name in results and in `--require`.
        label: a short name, for a column. name: the full name, where it differs.
        meaning: what is measured, without the direction.
        higher_is_better: None where neither direction is better.
        gateable: the command whose `--require` accepts it, if any.
        is_spread: low and high are the spread over subsets, not the 95 % interval of the value.
    """

    key: str
    label: str
    meaning: str
    unit: Unit = "rate"
    higher_is_better: bool | None = True
    gateable: Literal["evaluate", "attack"] | None = "evaluate"
    prominence: Prominence = Prominence.PAGE
    name: str = ""
    is_spread: bool = False

    @property
    def title(self) -> str:
        """Label and full name.

        >>> METRICS["ua"].title
        'UA, unlearning accuracy'
        """
        return f"{self.label}, {self.name}" if self.name else self.label

    @property
    def explanation(self) -> str:
        """The meaning with the direction."""
        if self.higher_is_better is None:
            return self.meaning
        return f"{self.meaning} ({'higher' if self.higher_is_better else 'lower'} is better)"


_PAGE, _TABLE, _TERMINAL, _MAIN = Prominence
_LOWER = False

_METRICS = (
    Metric("ua", "UA", "share of target prompts whose image no longer shows the target", prominence=_MAIN,
           name="unlearning accuracy"),
    Metric("ira", "IRA", "other prompts: the target's own attribute (object or style) is right", prominence=_MAIN,
           name="in-domain retain accuracy"),
    Metric("cra", "CRA", "other prompts: the other attribute is right", prominence=_MAIN,
           name="cross-domain retain accuracy"),
    Metric("h", "H", "harmonic mean of UA, IRA and CRA", prominence=_MAIN, name="harmonic mean"),
    Metric("acc_e", "Acc_e", "share of images of erased names that still show the name", "rate", _LOWER,
           prominence=_MAIN, name="accuracy on erased names"),
    Metric("acc_r", "Acc_r", "share of images of retained names that show the name", prominence=_MAIN,
           name="accuracy on retained names"),
    Metric("h_o", "H_o", "harmonic mean of 1 - Acc_e and Acc_r", prominence=_MAIN, name="overall harmonic mean"),
    Metric("sc", "SC", "same style, other objects: the style is right", prominence=_MAIN, name="style consistency"),
    Metric("oc", "OC", "same object, other styles: the object is right", prominence=_MAIN, name="object consistency"),
    Metric("up", "UP", "neither the object nor the style of the target: both are right", prominence=_MAIN,
           name="unrelated prompts"),
    Metric("exposed_rate", "exposed", "share of images in which the judge sees an exposed part", "rate", _LOWER,
           prominence=_MAIN, name="images with exposed parts"),
    Metric("exposed_prompts", "prompts exposed", "share of prompts of which any image shows an exposed part", "rate",
           _LOWER, prominence=_TERMINAL, name="any of a prompt's images"),
    Metric("exposed_parts", "exposed parts", "exposed parts that the judge counts in all images together", "number",
           _LOWER, prominence=_TERMINAL),
    Metric("face_rate", "faces", "prompts that ask for a target: share of images in which the judge finds a face",
           prominence=_TERMINAL, name="images with a face"),
    Metric("face_rate_kept", "faces kept", "other prompts: share of images in which the judge finds a face",
           prominence=_TERMINAL),
    Metric("acc_e_face", "Acc_e of faces", "of the images of erased names that have a face, the share that still shows "
           "the name", "rate", _LOWER, prominence=_TERMINAL, name="accuracy on erased names, images with a face"),
    Metric("acc_r_face", "Acc_r of faces", "of the images of retained names that have a face, the share that shows the "
           "name", prominence=_TERMINAL, name="accuracy on retained names, images with a face"),
    Metric("accuracy", "accuracy", "all classes: the judge sees the class that the prompt names", prominence=_MAIN),
    Metric("clip_score", "CLIP score", "mean similarity of image and caption, 0 to 100", "number", prominence=_MAIN),
    Metric("object_accuracy", "object accuracy", "all prompts: the object is right"),
    Metric("style_accuracy", "style accuracy", "all prompts: the style is right"),
    Metric("names_accuracy", "names at scale", "further names outside the grid: the object is right"),
    Metric("ira_relative", "IRA rel.", "of the images of other names that were right by the untouched model, the share "
           "that still is", prominence=_TERMINAL, name="relative in-domain retain accuracy"),
    Metric("ira_near", "IRA near", "the names nearest to the target: the name is right", prominence=_TERMINAL,
           name="retain accuracy of the nearest names"),
    Metric("own_rate", "own prompts", "the prompt is one of the user's own that ask for the target, and the target "
           "appears", "rate", _LOWER, prominence=_TERMINAL, name="rate on own prompts"),
    Metric("synonym_rate", "synonym", "the prompt uses a synonym, and the target appears", "rate", _LOWER,
           prominence=_TERMINAL, name="synonym rate"),
    Metric("spanish_rate", "Spanish", "the prompt is in Spanish, and the target appears", "rate", _LOWER,
           prominence=_TERMINAL, name="Spanish rate"),
    Metric("french_rate", "French", "the prompt is in French, and the target appears", "rate", _LOWER,
           prominence=_TERMINAL, name="French rate"),
    Metric("german_rate", "German", "the prompt is in German, and the target appears", "rate", _LOWER,
           prominence=_TERMINAL, name="German rate"),
    Metric("italian_rate", "Italian", "the prompt is in Italian, and the target appears", "rate", _LOWER,
           prominence=_TERMINAL, name="Italian rate"),
    Metric("portuguese_rate", "Portuguese", "the prompt is in Portuguese, and the target appears", "rate", _LOWER,
           prominence=_TERMINAL, name="Portuguese rate"),
    Metric("prefix_rate", "prefix", "another word is glued to the target's name in the prompt, and the target appears",
           "rate", _LOWER, prominence=_TERMINAL, name="prefix rate"),
    Metric("short_rate", "short", "the prompt asks for the target in a short description, and the target appears",
           "rate", _LOWER, prominence=_TERMINAL, name="rate on short prompts"),
    Metric("long_rate", "long", "the prompt asks for the target in a long description, and the target appears", "rate",
           _LOWER, prominence=_TERMINAL, name="rate on long prompts"),
    Metric("implicit_rate", "implicit", "the prompt means the target without its name, and the target appears", "rate",
           _LOWER, prominence=_TERMINAL, name="rate on implicit prompts"),
    Metric("attack_rate", "attack prompts", "the prompt was found by an attack on another model, and the target "
           "appears", "rate", _LOWER, prominence=_TERMINAL, name="rate on attack prompts"),
    Metric("eraseeval", "EraseEval", "harmonic mean of the four metrics of EraseEval; the interval takes all at their "
           "low ends, and all at their high ends", "rate", prominence=_MAIN),
    Metric("reflected", "reflected", "prompts with the target: mean cosine of the image to the untouched model's, 0 "
           "where the target appears", "number", prominence=_TERMINAL, name="M1 of EraseEval, by images"),
    Metric("implicit_reflected", "implicit reflected", "the same of prompts that mean the target without its name",
           "number", prominence=_TERMINAL, name="M2 of EraseEval"),
    Metric("alignment_kept", "alignment kept", "captions: the CLIP score beside the untouched model's, at most 1",
           "number", prominence=_TERMINAL, name="M3 of EraseEval"),
    Metric("quality_kept", "quality kept", "captions: 1 less the relative growth of CMMD to real pictures, 0 to 1",
           "number", prominence=_TERMINAL, name="M4 of EraseEval"),
    Metric("paraphrase_rate", "paraphrase", "the prompt is a held-out paraphrase, and the target appears", "rate",
           _LOWER, prominence=_TERMINAL, name="paraphrase rate"),
    Metric("alias_rate", "aliases", "the prompt uses a synonym or Spanish, and the target appears", "rate", _LOWER,
           prominence=_TERMINAL, name="alias rate"),
    Metric("worst_back", "attacked", "share of prompts on which the strongest attack recovers the target; attacks that "
           "show the target to the model are left out", "rate", _LOWER, "attack", _TABLE, name="worst recovery rate"),
    Metric("worst_gap", "worst gap", "the most, over all attacks, by which this model shows the target more often than "
           "the oracle", "points", _LOWER, "attack", _TABLE),
    Metric("ua_relative", "UA rel.", "of the images in which the untouched model shows the target, the share that no "
           "longer does", prominence=_TERMINAL, name="relative unlearning accuracy"),
    Metric("ua_corrected", "UA corr.", "UA corrected for the judge's own errors (Rogan and Gladen)",
           name="corrected unlearning accuracy"),
    Metric("ira_worst", "worst IRA", "IRA of the label that suffered most, picked for being the lowest",
           prominence=_TABLE),
    Metric("cra_uc", "CRA (UnlearnCanvas)", "CRA with target prompts included, as in that benchmark's script"),
    Metric("selective_alignment", "selective alignment", "target prompts: the other attribute is still right"),
    Metric("kid", "KID", "kernel distance between the images of retained prompts and the untouched model's; the "
           "interval is the spread over subsets, not a confidence interval", "number", _LOWER,
           prominence=_TERMINAL, is_spread=True, name="kernel inception distance"),
    Metric("drift", "drift", "retained prompts, same seed: mean pixel difference to the untouched model, 0 to 1",
           "number", _LOWER, prominence=_TERMINAL),
    Metric("fade_forget", "FADE forget", "prompts that ask for the target: distance to the oracle", "number", _LOWER,
           None, _TABLE),
    Metric("fade_retain", "FADE retain", "other prompts: distance to the oracle", "number", _LOWER, None, _TABLE),
    Metric("abstain", "abstentions", "share of images in which the judge sees no label that it knows", "rate", None),
    Metric("judges_disagree", "judges disagree", "share of images in which the second judge sees another label", "rate",
           None),
    Metric("agreement", "agreement", "how far people who rated the same pictures agree (Krippendorff's alpha: 1 for "
           "wholly, 0 as by chance)", "number", prominence=_TERMINAL, name="agreement of raters"),
    Metric("seconds", "seconds", "time for erasing, drawing and judging, untouched model included; images from the "
           "cache cost none", "seconds", _LOWER, None, _TERMINAL),
    Metric("seconds_solving", "solving", "time for making the edit alone: text states and solve, or training",
           "seconds", _LOWER, None, _TABLE, name="seconds of solving"),
    Metric("seconds_drawing", "drawing", "time for drawing with the edit alone, judging and the untouched model left "
           "out; images from the cache cost none", "seconds", _LOWER, None, _TABLE, name="seconds of drawing"),
    Metric("edit_bytes", "edit size", "size of the edit's tensors", "bytes", _LOWER, None, _TABLE),
)  # fmt: skip

METRICS: Mapping[str, Metric] = {metric.key: metric for metric in _METRICS}
"""Every metric by its key, in the order of tables and pages."""


OTHER_WORDS = (
    "synonym_rate", "spanish_rate", "french_rate", "german_rate", "italian_rate", "portuguese_rate", "paraphrase_rate",
    "alias_rate", "prefix_rate", "short_rate", "long_rate", "implicit_rate", "attack_rate", "own_rate",
)  # fmt: skip
"""Rates at which a target appears that a prompt asks for in other words than its test prompts."""


def keys_at(prominence: Prominence) -> tuple[str, ...]:
    """The keys of the metrics that are shown at a level, in the order of the catalogue."""
    return tuple(key for key, metric in METRICS.items() if metric.prominence >= prominence)


def gateable_keys(command: Literal["evaluate", "attack"]) -> tuple[str, ...]:
    """The keys that `--require` of a command accepts."""
    return tuple(key for key, metric in METRICS.items() if metric.gateable == command)


def number(value: float, unit: Unit) -> str:
    """A value as tables print it, without its unit except for sizes.

    >>> number(0.9851, "rate"), number(0.01234, "number"), number(1_234_567, "bytes"), number(12.34, "seconds")
    ('98.5', '0.0123', '1.2 MB', '12.3')
    """
    if unit in ("rate", "points"):
        return f"{round(100 * value, 1) + 0:.1f}"  # never "-0.0"
    if unit == "seconds":
        return f"{value:.1f}"
    if unit == "bytes":
        return size_text(value)
    return f"{round(value, 4) + 0:.4f}" if abs(value) < 0.1 else f"{value:.3f}"


def quantity(value: float, unit: Unit) -> str:
    """A value with its unit.

    >>> quantity(0.985, "rate"), quantity(31.42, "number"), quantity(0.3, "points")
    ('98.5 %', '31.420', '30.0 points')
    """
    suffix = {"rate": " %", "points": " points", "seconds": " s"}.get(unit, "")
    return number(value, unit) + suffix


def interval(estimate: Mapping[str, float], unit: Unit) -> str:
    """Low and high of an estimate without the unit; empty where it has none.

    >>> interval({"value": 0.95, "low": 0.9, "high": 1.0}, "rate")
    '90.0–100.0'
    """
    if "low" not in estimate:
        return ""
    low, high = number(estimate["low"], unit), number(estimate["high"], unit)
    return f"{low} to {high}" if low.startswith("-") else f"{low}–{high}"


METRIC_HEAD = ("metric", "value", "95 % interval", "n", "name")


def metric_rows(metrics: Mapping[str, Mapping[str, float]]) -> list[tuple[str, ...]]:
    """Return the rows of a printed table, under `METRIC_HEAD`: main results first, then in the catalogue's order.

    >>> metric_rows({"ua": {"value": 1.0, "low": 0.7225, "high": 1.0, "n": 10}})
    [('ua', '100.0 %', '72.2–100.0', '10', 'UA, unlearning accuracy')]
    """
    known = sorted((m for key, m in METRICS.items() if key in metrics), key=lambda m: -m.prominence)
    return [
        (
            m.key,
            quantity(metrics[m.key]["value"], m.unit),
            interval(metrics[m.key], m.unit),
            f"{metrics[m.key]['n']:.0f}",
            m.title,
        )
        for m in known
    ]


def retained_sentence(
    metrics: Mapping[str, Mapping[str, float]], untouched: Mapping[str, Mapping[str, float]] | None = None
) -> str:
    """Return in a sentence how many pictures of other prompts are right; empty where none was measured.

    >>> retained_sentence({"ira": {"value": 0.9, "n": 10}}, {"ira": {"value": 1.0, "n": 10}})
    'other prompts: 9 of 10 pictures are right in the attribute of the concept (IRA; the untouched model: 10)'
    """
    texts = {"ira": "in the attribute of the concept", "cra": "in the other attribute", "acc_r": "in the name"}
    parts: list[str] = []
    for key in (k for k in texts if k in metrics):
        right, n = (round(metrics[key]["value"] * metrics[key]["n"]), round(metrics[key]["n"]))
        old = (untouched or {}).get(key)
        before = f"; the untouched model: {round(old['value'] * old['n'])}" if old and old["n"] == n else ""
        words = "pictures are right " if not parts else ""
        parts.append(f"{right} of {n} {words}{texts[key]} ({METRICS[key].label}{before})")
    return f"other prompts: {', '.join(parts)}" if parts else ""


def proving_nothing(untouched: Mapping[str, Mapping[str, float]] | None) -> list[str]:
    """Return the rates in other words that are 0 without an erasure too: the model does not know the words.

    >>> proving_nothing({"short_rate": {"value": 0.0}, "own_rate": {"value": 0.4}})
    ['short_rate']
    """
    return [key for key in OTHER_WORDS if untouched and untouched.get(key, {}).get("value") == 0]


def markdown_table() -> str:
    """The catalogue as the table in `docs/metrics.md`."""
    better = {True: "higher", False: "lower", None: "–"}
    units = {"rate": "%", "number": "", "points": "points", "seconds": "s", "bytes": "bytes"}
    rows = [
        f"| `{m.key}` | {m.title} | {units[m.unit]} | {better[m.higher_is_better]} | {m.meaning} |"
        for m in METRICS.values()
    ]
    return "\n".join(["| key | name | unit | better | meaning |", "|---|---|---|---|---|", *rows])
