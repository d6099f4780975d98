"""The edits of a policy: which concepts each removes, by which method, and the digest that each is known by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version

from excise.concepts.concept import Concept, normalise_name
from excise.edits.record import Base
from excise.methods import METHODS, load_method
from excise.policy.policy import MethodChoice, Policy, PolicyError
from excise.support.digests import digest
from excise.support.settings import Usual, configure


@dataclass(frozen=True)
class Group:
    """Concepts that one edit removes: one by a trained method, all of a kind by every other."""

    method: MethodChoice
    concepts: tuple[Concept, ...]


def grouped(policy: Policy) -> list[Group]:
    """Return the concepts of a policy by the edit that removes them, in the order of the policy.

    Raises:
        PolicyError: there is no method for a kind.
    """
    groups: dict[str, Group] = {}
    for request in policy.concepts:
        concept = request.concept()
        method = policy.method_of(concept.kind)
        is_trained = METHODS.record(method.name).shape == "trained"
        key = f"{concept.kind}\x00{concept.name}" if is_trained else concept.kind
        group = groups.get(key, Group(method, ()))
        groups[key] = replace(group, concepts=(*group.concepts, concept))
    return list(groups.values())


def check_groups(groups: Sequence[Group], usual: Usual) -> None:
    """Refuse wrong settings and anchors of every group, so that the last one does not fail after an hour of work.

    Args:
        usual: what the model of the policy makes usual.

    Raises:
        SettingError: a method has no such setting, or its value is wrong or not read.
        PolicyError: the anchor of a concept is itself removed by the policy.
    """
    for group in groups:
        config = load_method(group.method.name).Config
        configure(config, group.method.name, group.method.settings, group.concepts[0].kind, usual)
    removed = {normalise_name(word) for group in groups for concept in group.concepts for word in concept.words}
    for group in groups:
        for concept in group.concepts:
            anchor = concept.anchor if concept.anchor is not None else group.method.settings.get("anchor")
            if anchor and normalise_name(str(anchor)) in removed:
                raise PolicyError(
                    f"the policy maps '{concept.name}' to the anchor '{anchor}', which it removes as well; "
                    "name another anchor."
                )


def group_digest(base: Base, policy: Policy, group: Group) -> str:
    """Return the SHA-256 of everything that the edit of a group depends on."""
    return digest(
        {
            "excise": version("excise"),
            "weights": base.weights,
            "text_encoder": base.text_encoder,
            "method": group.method.model_dump(mode="json"),
            "concepts": [[c.name, c.kind, c.anchor, list(c.synonyms)] for c in group.concepts],
            "preserve": list(policy.preserve),
            "vocabulary": policy.vocabulary,
            "seed": policy.seed,
            "judge": str(policy.judge),
        }
    )
