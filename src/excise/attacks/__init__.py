"""The attacks, by name, and the suites of them; an attack is imported when it is first used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from excise.registry import Record, Registry

ATTACKS = Registry(
    "attack",
    "excise.attacks",
    {
        "seeds": Record("excise.attacks.seeds:SeedSearch", "other seeds"),
        "wording": Record("excise.attacks.wording:Wording", "other words for the target"),
        "random": Record("excise.attacks.random_words:RandomWords", "random words"),
        "ring-a-bell": Record(
            "excise.attacks.ring_a_bell:RingABell", "words, or text states, that hold what the concept adds to a prompt"
        ),
        "mma": Record("excise.attacks.mma:MMA", "words whose text state points the same way; the target's are banned"),
        "unlearndiffatk": Record(
            "excise.attacks.unlearndiffatk:UnlearnDiffAtk", "words found by the model's own denoising error"
        ),
        "p4d": Record("excise.attacks.p4d:P4D", "words under which it predicts as the untouched model does"),
        "inversion": Record("excise.attacks.inversion:ConceptInversion", "a new word taught by pictures"),
        "policy": Record(
            "excise.attacks.word_policy:WordPolicy", "a policy over words that learns from the denoising error"
        ),
        "noise": Record("excise.attacks.noise_scale:NoiseScale", "the sampler's noise turned up"),
        "context": Record(
            "excise.attacks.context:Context", "first steps by the untouched model, or a hole in a picture of the target"
        ),
        "latent-inversion": Record(
            "excise.attacks.latent_inversion:LatentInversion", "noise from which pictures of the target come"
        ),
        "relearning": Record("excise.attacks.relearning:Relearning", "a small LoRA trained on a handful of pictures"),
        "revival": Record(
            "excise.attacks.revival:Revival", "fine-tuning on pictures of other things, as any user of a model does"
        ),
        "swap": Record("excise.attacks.swap:Swap", "a part of the untouched model put back"),
    },
    contract="excise.attacks.contract:contract",
)
"""The attacks by name. A class that an entry names keeps the contract of `excise.attacks.base.Attack`."""


@dataclass(frozen=True)
class Planned:
    """An attack of a suite: its name in the suite, its name in the registry, its settings."""

    name: str
    attack: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """Attacks with one budget: the number of test prompts, and of pictures that each may have."""

    tests: int
    images: int
    attacks: tuple[Planned, ...]


def _plan(scale: float = 1.0) -> tuple[Planned, ...]:
    """Return every attack in every variant, with `scale` times the default number of search steps."""

    def scaled(count: int) -> int:
        return max(1, round(scale * count))

    return (
        Planned("seeds", "seeds"),
        Planned("random words", "random"),
        Planned("synonyms", "wording", {"way": "synonyms"}),
        Planned("second language", "wording", {"way": "second language"}),
        Planned("paraphrases", "wording", {"way": "paraphrases"}),
        Planned("compositions", "wording", {"way": "compositions"}),
        Planned("asked", "wording", {"way": "prompts of your own"}),
        Planned("ring-a-bell", "ring-a-bell", {"generations": scaled(100)}),
        Planned("ring-a-bell, continuous", "ring-a-bell", {"form": "continuous"}),
        Planned("mma", "mma", {"iterations": scaled(20)}),
        Planned("unlearndiffatk", "unlearndiffatk", {"iterations": scaled(40)}),
        Planned("p4d", "p4d", {"iterations": scaled(40)}),
        Planned("inversion", "inversion", {"iterations": scaled(150)}),
        Planned("policy", "policy", {"iterations": scaled(40)}),
        Planned("noise", "noise"),
        Planned("begun elsewhere", "context", {"given": "beginning"}),
        Planned("hole", "context", {"given": "surroundings", "share": 0.2}),
        Planned("latent inversion", "latent-inversion"),
        Planned("relearning, 1 picture", "relearning", {"pictures": 1, "steps": scaled(60)}),
        Planned("relearning, 5 pictures", "relearning", {"pictures": 5, "steps": scaled(60)}),
        Planned("relearning, 20 pictures", "relearning", {"pictures": 20, "steps": scaled(60)}),
        Planned("relearning, unrelated", "relearning", {"pictures": 20, "unrelated": True, "steps": scaled(60)}),
        Planned("text encoder put back", "swap", {"part": "text_encoder"}),
        Planned("denoiser put back", "swap", {"part": "denoiser"}),
    )


_REVIVAL = (
    Planned("revival, LoRA", "revival", {"train": "lora"}),
    Planned("revival, all weights", "revival", {"train": "all"}),
)
_QUICK = ("seeds", "random words", "synonyms", "second language", "paraphrases", "asked", "unlearndiffatk", "inversion",
          "begun elsewhere", "relearning, 5 pictures", "text encoder put back")  # fmt: skip
SUITES = {
    "quick": Suite(4, 4, tuple(p for p in _plan(0.5) if p.name in _QUICK)),
    "standard": Suite(6, 6, _plan()),
    "full": Suite(10, 16, (*_plan(4.0), *_REVIVAL)),
}

__all__ = ["ATTACKS", "SUITES", "Planned", "Suite"]
