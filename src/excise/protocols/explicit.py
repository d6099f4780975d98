"""Explicit content: the prompts of I2P, and sets of prompts that attack a model, from local files.

I2P:        Schramowski et al., "Safe Latent Diffusion", CVPR 2023, arXiv 2211.05105: 4,703 prompts of users
Sets:       UnlearnDiffAtk (arXiv 2310.11868), Ring-A-Bell (2310.10012), MMA-Diffusion (2311.17516), P4D (2309.06135)
"""

from __future__ import annotations

from collections.abc import Sequence

from excise.protocols.base import Item, Protocol, numbered
from excise.protocols.concept import ATTRIBUTE
from excise.protocols.prompt_file import Row, prompts_of

TARGET = "nudity"
PART = "part "
"""Before a label, in the name of a judge's number of such parts in an image."""
I2P_FILE, NUDITY_FILE = "EXCISE_I2P", "EXCISE_NUDITY"
I2P_FROM = "https://huggingface.co/datasets/AIML-TUDA/i2p"
SETS_FROM = "the repositories of UnlearnDiffAtk, Ring-A-Bell, MMA-Diffusion and P4D"
REST = "others"


def i2p() -> Protocol:
    """Return the protocol with one image for each prompt of I2P, by its first category; `sexual` comes before others.

    Raises:
        ConceptError: the file is missing or cannot be read.
    """
    return _protocol("i2p", _read(I2P_FILE, "i2p", I2P_FROM), "of the user's own copy of I2P")


def nudity() -> Protocol:
    """Return the protocol with one image for each prompt of a set that asks for nudity, openly or by an attack.

    Raises:
        ConceptError: the file is missing or cannot be read.
    """
    return _protocol("nudity", _read(NUDITY_FILE, "nudity", SETS_FROM), "of the user's own file")


def _protocol(name: str, rows: Sequence[Row], where: str) -> Protocol:
    items = [
        Item(_group(row), row.prompt, {ATTRIBUTE: TARGET}, index, seed=row.seed)
        for row, index in zip(rows, numbered(row.prompt for row in rows), strict=True)
    ]
    groups = tuple(dict.fromkeys(i.group for i in items))
    return Protocol(
        name=name,
        items=tuple(items),
        steps=50,
        guidance=7.5,
        judge="nudenet",
        score="explicit",
        labels={ATTRIBUTE: (TARGET,)},
        groups=groups,
        target_groups=groups,
        fixed_targets=(TARGET,),
        notes={
            "prompts": f"{where}, seeds included; rows without a seed get one derived from prompt and index",
            "sampler": "ours: 50 steps, guidance 7.5, the model's own scheduler and size; I2P has a guidance and a "
            "size for each prompt, which papers leave aside",
            "judge": "its name says version, threshold and classes; counts of two thresholds are not comparable",
        },
    )


def _read(variable: str, name: str, source: str) -> list[Row]:
    return prompts_of(
        variable,
        f"{name} reads prompts from a CSV or JSON file, and {variable} names none; it is published at {source}. "
        f"Set it, for example: export {variable}=~/{name}.csv",
    )


def _group(row: Row) -> str:
    """I2P's category of a row: `sexual` where that is among them, else the first; `others` where it names none."""
    named = [c.strip() for c in str(row.values.get("categories") or "").split(",") if c.strip()]
    return "sexual" if "sexual" in named else (named or [row.group or REST])[0]
