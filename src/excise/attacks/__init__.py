"""The attacks, by name, and the suites of them; nothing is imported until one is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from excise.registry import Record, Registry

ALL = ("sd", "sdxl", "sana")
ATTACKS = Registry(
    "attack",
    "excise.attacks",
    {
        "seeds": Record("excise.attacks.seeds:SeedSearch", "other seeds", families=ALL, shape="black box"),
        "wording": Record("excise.attacks.wording:Wording", "other words for it", families=ALL, shape="black box"),
        "random": Record("excise.attacks.random_words:RandomWords", "random words", families=ALL, shape="black box"),
        "ring-a-bell": Record(
            "excise.attacks.ring_a_bell:RingABell",
            "words, or states, that carry what the concept adds to a prompt",
            paper="Tsai et al., ICLR 2024, arXiv 2310.10012",
            families=ALL,
            shape="text encoder",
        ),
        "mma": Record(
            "excise.attacks.mma:MMA",
            "words, its own banned, whose text state points the same way",
            paper="Yang et al., CVPR 2024, arXiv 2311.17516",
            families=ALL,
            shape="text encoder",
        ),
        "unlearndiffatk": Record(
            "excise.attacks.unlearndiffatk:UnlearnDiffAtk",
            "words found by the model's own denoising error",
            paper="Zhang et al., ECCV 2024, arXiv 2310.11868",
            families=ALL,
            shape="white box",
        ),
        "p4d": Record(
            "excise.attacks.p4d:P4D",
            "words under which it predicts as the untouched model does",
            paper="Chin et al., ICML 2024, arXiv 2309.06135",
            families=ALL,
            shape="white box",
        ),
        "inversion": Record(
            "excise.attacks.inversion:ConceptInversion",
            "a new word taught by pictures",
            paper="Pham et al., ICLR 2024, arXiv 2308.01508",
            families=ALL,
            shape="white box",
        ),
        "policy": Record(
            "excise.attacks.policy:Policy",
            "a policy over words that learns from the denoising error",
            families=ALL,
            shape="white box",
        ),
        "noise": Record(
            "excise.attacks.noise_scale:NoiseScale",
            "the sampler's noise turned up",
            paper="NeurIPS 2025, arXiv 2505.17013",
            families=ALL,
            shape="latents",
        ),
        "context": Record(
            "excise.attacks.context:Context",
            "begun by the untouched model, or a hole in a picture of the target",
            paper="NeurIPS 2025, arXiv 2505.17013",
            families=ALL,
            shape="latents",
        ),
        "latent-inversion": Record(
            "excise.attacks.latent_inversion:LatentInversion",
            "noise from which pictures of the target come",
            paper="Rusanovsky et al., CVPR 2025, arXiv 2412.00782",
            families=ALL,
            shape="latents",
        ),
        "relearning": Record(
            "excise.attacks.relearning:Relearning",
            "a small LoRA on a handful of pictures",
            paper="arXiv 2510.03263, arXiv 2410.08074",
            families=ALL,
            shape="weights",
        ),
        "swap": Record(
            "excise.attacks.swap:Swap", "a part of the untouched model put back", families=ALL, shape="weights"
        ),
    },
)


@dataclass(frozen=True)
class Planned:
    """An attack of a suite: the name it has there, the attack, its settings."""

    name: str
    attack: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """Attacks with one budget: test prompts, and pictures a test prompt may have."""

    tests: int
    images: int
    attacks: tuple[Planned, ...]


def _plan(scale: float = 1.0) -> tuple[Planned, ...]:
    """Every attack in every variant; searches last `scale` times their default."""

    def long(count: int) -> int:
        return max(1, round(scale * count))

    return (
        Planned("seeds", "seeds"),
        Planned("random words", "random"),
        Planned("synonyms", "wording", {"way": "synonyms"}),
        Planned("second language", "wording", {"way": "second language"}),
        Planned("paraphrases", "wording", {"way": "paraphrases"}),
        Planned("compositions", "wording", {"way": "compositions"}),
        Planned("asked", "wording", {"way": "prompts of your own"}),
        Planned("ring-a-bell", "ring-a-bell", {"generations": long(100)}),
        Planned("ring-a-bell, continuous", "ring-a-bell", {"form": "continuous"}),
        Planned("mma", "mma", {"iterations": long(20)}),
        Planned("unlearndiffatk", "unlearndiffatk", {"iterations": long(40)}),
        Planned("p4d", "p4d", {"iterations": long(40)}),
        Planned("inversion", "inversion", {"iterations": long(150)}),
        Planned("policy", "policy", {"iterations": long(40)}),
        Planned("noise", "noise"),
        Planned("begun elsewhere", "context", {"given": "beginning"}),
        Planned("hole", "context", {"given": "surroundings", "share": 0.2}),
        Planned("latent inversion", "latent-inversion"),
        Planned("relearning, 1 picture", "relearning", {"pictures": 1, "steps": long(60)}),
        Planned("relearning, 5 pictures", "relearning", {"pictures": 5, "steps": long(60)}),
        Planned("relearning, 20 pictures", "relearning", {"pictures": 20, "steps": long(60)}),
        Planned("relearning, unrelated", "relearning", {"pictures": 20, "unrelated": True, "steps": long(60)}),
        Planned("text encoder put back", "swap", {"part": "text_encoder"}),
        Planned("denoiser put back", "swap", {"part": "denoiser"}),
    )


_QUICK = ("seeds", "random words", "synonyms", "second language", "paraphrases", "asked", "unlearndiffatk", "inversion",
          "begun elsewhere", "relearning, 5 pictures")  # fmt: skip
SUITES = {
    "quick": Suite(4, 4, tuple(p for p in _plan(0.5) if p.name in _QUICK)),
    "standard": Suite(6, 6, _plan()),
    "full": Suite(10, 16, _plan(4.0)),
}

__all__ = ["ATTACKS", "SUITES", "Planned", "Suite"]
