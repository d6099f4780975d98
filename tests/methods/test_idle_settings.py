"""What a method's settings declare themselves to be read with is what its code reads them with.

All settings that are idle in a situation are changed at once, and the edit is the same to the byte.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from given import configured, other_than_usual, those_read
from situations import every_second, image

from excise import Edit, erase
from excise.methods import METHODS, settings_of
from excise.methods.base import Context
from excise.support.settings import merge_settings

MODELS = {"eraseanything": "flux-dev", "zerase": "zimage"}  # of methods that do not fit Stable Diffusion
FEW: dict[str, Any] = {
    **{"steps": 2, "lr": 1e-2, "batch": 2, "pictures": 2, "sampler_steps": 2, "mask_passes": 1, "fisher_passes": 1},
    **{"adversary_steps": 1, "attack_steps": 1, "warmup_steps": 1, "warmup": 1, "candidates": 1, "bisections": 1},
    **{"unrelated": 1, "count": 2},
}
SITUATIONS: list[tuple[str, dict[str, Any]]] = [
    *((method, {}) for method in METHODS.records()),
    ("ace", {"retain_weight": 0.0}),
    ("advunlearn", {"attack": "fast", "weights": "full"}),
    ("ant", {"boundary": 0.0, "mask": "none"}),
    ("ant", {"mask": "dynamic", "turnover": 0.0}),
    ("concept-ablation", {"by": "student", "target": "model"}),
    ("concept-ablation", {"target": "noise", "weights": "full"}),
    ("doco", {"by": "teacher", "retain_weight": 0.0}),
    ("eraseanything", {"contrast_weight": 0.0}),
    *(("esd", {"target": target}) for target in ("neutral", "self", "guidance")),
    ("esd", {"train": "text_encoder", "weights": "full", "retain_weight": 1.0}),
    ("esd", {"by": "images", "first": "uce", "retain_weight": 1.0, "retain_on": "pictures"}),
    *(("esd", {"calibrate": rule, "save_every": 1}) for rule in ("last", "hmean")),
    ("mace-full", {"by": "student"}),
    ("receler", {"adversary_steps": 0}),
    ("rece", {"rounds": 0}),
    ("safree", {"validate_steps": False}),
    ("safree", {"reattention": False}),
    ("safree", {"project": False}),
    ("salun", {"mask": "none", "by": "student"}),
    *(
        ("scapre", {"form": form, "relevance": relevance, **more})
        for form, relevance, more in (
            ("scale", "none", {"mu": 0.1}),
            ("scale", "cosine", {"gate": True}),
            ("scale", "ratio", {"spherical": True, "mu": 0.1}),
            ("small", "cosine", {"project": True}),
            ("small", "mask", {}),
            ("paper", "mask", {"gate": True, "geometry": 0}),
            ("paper", "ratio", {}),
            ("paper", "none", {}),
        )
    ),
    ("selective-amnesia", {"fisher_weight": 0.0}),
    ("sld", {"level": "weak"}),
    ("sld", {"scale": 5.0, "warmup": 0, "threshold": 1.0, "momentum_scale": 0.3, "momentum_decay": 0.4}),
    ("speed", {"augment": "none", "invariants": 0}),
    ("speed", {"augment": "random"}),
    ("spm", {"gate": False, "weights": "full"}),
    ("surgun", {"span": "null", "threshold": 1.0, "contrast": "npo", "distractors": "car,sea"}),
    *(("surgun", {"confine": False, "blocks": "all", "contrast": contrast}) for contrast in ("none", "ga", "logasc")),
    ("uce", {"pooled": False}),
]


def idle(method: str, given: dict[str, Any]) -> dict[str, Any]:
    """Another value for each setting that is idle beside those given, but for what the method never reads."""
    config = settings_of(method)
    made = configured(method, given)
    names = [n for n in config.model_fields if n not in config.unread and not made.reads(n)]
    return {name: other_than_usual(method, name, given) for name in names}


@pytest.mark.parametrize(("method", "situation"), SITUATIONS)
def test_idle_settings_change_nothing(make, monkeypatch, method, situation):
    monkeypatch.setattr("excise.erasing.erase.configure", merge_settings)  # which does not refuse them
    given = {**those_read(method, FEW, **situation), **situation}
    changed = idle(method, given)
    pipe = make(MODELS.get(method, "sd"))
    judged = method == "slug" or "calibrate" in situation
    speed = {"threshold": 5.0} if method == "speed" else {}  # a random text encoder has no near-empty directions

    def made(**more: Any) -> Edit:
        context = Context(judge=every_second if judged else None)
        request = {"anchor": "car", "preserve": ["dog", "tree"], "vocabulary": None, "context": context}
        return erase(pipe, ["cat"], method, **request, **speed, **given, **more)

    if not changed:
        pytest.skip("every setting is read")
    plain, other = made(), made(**changed)
    if METHODS.record(method).shape == "inference-time":  # whose edit is its numbers
        drawn = []
        for edit in (plain, other):
            with edit.apply(pipe):
                drawn.append(image(pipe))
        assert (drawn[0] == drawn[1]).all(), changed
        return
    one, two = plain.tensors(), other.tensors()
    assert set(one) == set(two), changed
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items()), changed
