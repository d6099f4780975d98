"""A made-up bench with real pictures: methods that erase and harm more or less, scored by our own code."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from excise.bench.recipe import Cell, MethodEntry
from excise.bench.run import CellResult
from excise.canvas import render, world
from excise.evaluation.comparison import damage_by_distance
from excise.evaluation.result import Evaluation
from excise.evaluation.scoring import Shown, as_document, became, compared, score
from excise.families.text_states import TextStates
from excise.metrics.rates import Estimate
from excise.metrics.unlearning import replacement_entropy
from excise.protocols import PROTOCOLS, summary

CONCEPTS = ("cat", "dog", "car", "tree", "apple", "castle", "neon", "sketch")
# chance that a target survives, that another object is lost, that a style is lost
BEHAVIOUR = {
    "identity": (1.0, 0.0, 0.0),
    "noise": (0.0, 0.97, 0.9),
    "oracle": (0.0, 0.0, 0.01),
    "speed": (0.05, 0.03, 0.01),
    "uce": (0.02, 0.12, 0.05),
    "scapre": (0.12, 0.02, 0.01),
    "surgun": (0.3, 0.2, 0.1),
}
METHODS = ("identity", "noise", "speed", "uce", "scapre", "surgun")


class _Text:
    """Names at fixed places on a line: all that damage by distance asks of a family."""

    def encode(self, names: Sequence[str], until: Sequence[str]) -> TextStates:
        import torch

        angles = [int(hashlib.sha256(n.encode()).hexdigest()[:4], 16) / 65536 * 1.5 for n in names]
        states = torch.tensor([[[np.cos(a), np.sin(a)]] for a in angles])
        zeros = torch.zeros(len(names), dtype=torch.long)
        return TextStates.dense(states, zeros, zeros, zeros, read=torch.ones(len(names), 1, dtype=torch.bool))


def bench(
    out: Path,
    methods: Sequence[str] = METHODS,
    concepts: Sequence[str] = CONCEPTS,
    model: str = "canvas-sd",
    labels: dict[str, str] | None = None,
    oracle: bool = True,
) -> list[CellResult]:
    """Every method on every concept, and an oracle that never saw the first; pictures are written under `out`."""
    wanted = [(c, m) for c in concepts for m in (*methods, *(["oracle"] if oracle and c == concepts[0] else []))]
    return [cell(out, m, c, model, (labels or {}).get(m, "")) for c, m in wanted]


def cell(out: Path, method: str, concept: str, model: str = "canvas-sd", label: str = "") -> CellResult:
    """One finished cell on the 240 grid prompts of canvas-mini."""
    plan = PROTOCOLS.load("canvas-mini")()
    target = plan.target_of(concept)
    before = _shown("identity", target)
    after = _shown(method, target)
    lost = sum(s.saw != b.saw for s, b in zip(after, before, strict=True)) / len(after)
    kid, drift = 0.3 * lost, 0.2 * lost
    found = score("grid", after, [target]) | compared(before, after, [target])
    found |= {
        "kid": Estimate(kid, kid - 0.01, kid + 0.01, 220),
        "drift": Estimate(drift, drift * 0.9, drift * 1.1, 220),
    }
    if concept == "cat" and method != "oracle":
        found |= {"fade_forget": Estimate(0.02 + 0.1 * (not lost), 0.01, 0.15, 24), "fade_retain": Estimate(lost / 9, lost / 11, lost / 8, 24)}  # fmt: skip  # noqa: E501
    gone = became(after, [target])
    result = Evaluation(
        protocol=plan.name,
        hash=plan.hash,
        protocol_summary=summary(plan),
        model=model,
        concepts=[concept],
        metrics=as_document(found),
        untouched=as_document(score("grid", before, [target])),
        became=gone,
        entropy={name: round(replacement_entropy(counts, name), 4) for name, counts in gone.items()},
        neighbours=damage_by_distance(_Text(), before, after, [target]),  # type: ignore[arg-type]
        shown=after,
        seconds={"draw": 40 + 10 * lost, "judge": 1.5, "untouched": 41.0},
        edit_bytes=0 if method in ("identity", "oracle") else 210_000 + 17 * len(method),
    )
    entry = MethodEntry(name=method, label=label)
    planned = Cell(
        model=model, protocol=plan.name, hash=plan.hash, method=entry, concepts=(concept,), vocabulary="auto",
        preserve=(), seed=0, groups=None, precision="float32",
    )  # fmt: skip
    return CellResult(planned, result, [_picture(out, s.saw["object"], s.saw["style"]) for s in after])


@cache
def _shown(method: str, target: tuple[str, str]) -> list[Shown]:
    plan = PROTOCOLS.load("canvas-mini")()
    survives, object_lost, style_lost = BEHAVIOUR[method]
    rng = np.random.default_rng(int(hashlib.sha256(f"{method}{target}".encode()).hexdigest()[:8], 16))
    objects, styles = list(world.OBJECTS), list(world.STYLES)
    found = []
    for item in plan.select([target], ["grid"]):
        saw = dict(item.asked)
        attribute, label = target
        if saw[attribute] == label:
            if rng.random() >= survives:
                saw[attribute] = str(
                    rng.choice(["none", "fish", "house"] if attribute == "object" else ["plain", "dots"])
                )
        elif rng.random() < object_lost:
            saw["object"] = "none" if method == "noise" else str(rng.choice(objects))
        if rng.random() < style_lost:
            saw["style"] = str(rng.choice(styles))
        found.append(Shown(group="grid", prompt=item.prompt, seed=plan.seed(item), asked=dict(item.asked), saw=saw))
    return found


def _picture(out: Path, obj: str, style: str) -> str:
    """A rendering of what the judge saw, drawn once."""
    name = f"images/{obj}-{style}.png"
    if not (out / name).exists():
        (out / "images").mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(len(obj) * 100 + len(style))
        pixels = render.draw_empty(style, rng) if obj == "none" else render.draw(obj, style, rng)
        Image.fromarray(pixels).save(out / name)
    return name
