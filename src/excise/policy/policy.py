"""Policies: which concepts a model must not draw, and on whose request; one YAML file, read strictly. No torch here."""

from __future__ import annotations

import datetime
import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from excise.concepts.concept import (
    KINDS,
    Concept,
    as_concepts,
    check_name,
    check_preserve,
    normalise_name,
    read_names,
)
from excise.concepts.concept_file import ConceptRow
from excise.errors import ConceptError, ExciseError, UnknownNameError, unknown
from excise.judges.named import is_named
from excise.methods.fitting import check_fits_model
from excise.support.strict import Strict, explain, parse_yaml, read_text

DEFAULT = "default"


class PolicyError(ExciseError):
    """A policy that cannot be read or applied."""


class RemovalRequest(ConceptRow):
    """One concept to remove, with who requested it, when, under which reference, and why."""

    requested_by: str = ""
    date: datetime.date | None = None
    reference: str = ""
    reason: str = ""

    @model_serializer(mode="wrap")
    def _without_no_reason(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a reason the digest of a policy stays the one that it has always had."""
        return {name: value for name, value in write(self).items() if name != "reason" or value}


class Withdrawal(Strict, str_strip_whitespace=True):
    """A request that is no longer upheld: who withdrew it, when, under which reference, and why."""

    name: str
    withdrawn_by: str = ""
    date: datetime.date | None = None
    reference: str = ""
    reason: str = ""


class MethodChoice(Strict):
    """A method and its settings."""

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)


class Gates(Strict):
    """Bounds that the verification must reach with the lower end of each 95 % interval.

    Attributes:
        erased: share of a concept's pictures that no longer show it, for every concept.
        retained: share of the retained names' pictures that still show what they should.
    """

    erased: float = Field(0.5, ge=0, le=1)
    retained: float = Field(0.8, ge=0, le=1)


class Policy(Strict):
    """A whole policy.

    Attributes:
        model, revision: as for `excise erase --model`.
        methods: by concept kind, with `default` for the others.
        concepts: in the order of the file.
        withdrawn: what is known of concepts that are no longer to be removed; the ledger repeats it.
        preserve, preserve_file, vocabulary, seed: as for `excise erase`.
        gates: of the verification.
        pictures: pictures of each concept in the verification.
        judge: name of a judge, or folder of a CLIP model; the built-in models have their own judge.
    """

    schema_: Literal[1] = Field(1, alias="schema")
    model: str
    revision: str | None = None
    methods: dict[str, MethodChoice] = Field(default_factory=lambda: {DEFAULT: MethodChoice(name="speed")})
    concepts: tuple[RemovalRequest, ...]
    withdrawn: tuple[Withdrawal, ...] = ()
    preserve: tuple[str, ...] = ()
    preserve_file: Path | None = None
    vocabulary: str = "auto"
    seed: int = 0
    gates: Gates = Gates()
    pictures: int = Field(10, ge=1)
    judge: Path | None = None

    @model_serializer(mode="wrap")
    def _without_no_withdrawals(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without withdrawals the digest of a policy stays the one that it has always had."""
        return {name: value for name, value in write(self).items() if name != "withdrawn" or value}

    def method_of(self, kind: str) -> MethodChoice:
        """Return the method for a kind of concept.

        Raises:
            PolicyError: the policy names none for it, and no default.
        """
        choice = self.methods.get(kind) or self.methods.get(DEFAULT)
        if choice is None:
            raise PolicyError(f"the policy names no method for concepts of kind '{kind}', and no default; add one.")
        return choice


_PARTS: tuple[type[Strict], ...] = (Policy, RemovalRequest, Withdrawal, MethodChoice, Gates)
_KEYS = ("schema", *(name for part in _PARTS for name in part.model_fields))


def read(path: Path) -> tuple[Policy, str]:
    """Read a policy from its file.

    Returns:
        The policy, and the SHA-256 of its content, names from other files included.

    Raises:
        PolicyError: the file cannot be read, is not YAML, or has unknown keys or wrong values.
        ConceptError: a concept is named twice, is to be erased and preserved at once, or is removed and withdrawn.
        UnknownNameError: there is no such method, or no such kind.
        ModelError: a method does not fit the model.
    """
    text = read_text(path, "the policy", PolicyError)
    content = parse_yaml(text, f"the policy {path}", PolicyError)
    if not isinstance(content, dict):
        raise PolicyError(f"the policy {path} is no mapping; expected keys such as model and concepts.")
    try:
        policy = Policy.model_validate(_with_long_forms(content, path))
    except ValidationError as error:
        raise PolicyError(f"the policy {path}: {explain(error, _KEYS)}") from error
    for kind, choice in policy.methods.items():
        if kind not in (*KINDS, DEFAULT):
            raise unknown("concept kind", kind, [*KINDS, DEFAULT])
        check_fits_model(choice.name, policy.model)
    policy = _with_files_read(policy, path.parent)
    if policy.concepts:
        check_preserve(as_concepts(_concepts(policy, path)), policy.preserve)
    _check_withdrawn(policy, path)
    return policy, hashlib.sha256(policy.model_dump_json().encode()).hexdigest()


def _with_long_forms(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the content of a policy file with names alone, the short form of concepts and methods, spelt out.

    Raises:
        PolicyError: `methods` is not a table.
    """
    methods = content.get("methods", {})
    for key in ("concepts", "withdrawn"):
        if isinstance(names := content.get(key), list):
            content[key] = [{"name": c} if isinstance(c, str) else c for c in names]
    if not isinstance(methods, dict):
        name = methods if isinstance(methods, str) else "speed"
        raise PolicyError(
            f"the policy {path}: 'methods' is not a table by kind of concept; write `methods: {{default: {name}}}`."
        )
    if methods:
        content["methods"] = {k: {"name": m} if isinstance(m, str) else m for k, m in methods.items()}
    return content


def _check_withdrawn(policy: Policy, path: Path) -> None:
    """Refuse a withdrawal of what the policy removes, and two of one concept (raises ConceptError)."""
    removed = {normalise_name(c.name) for c in policy.concepts}
    names = [normalise_name(w.name) for w in policy.withdrawn]
    for i, (name, withdrawal) in enumerate(zip(names, policy.withdrawn, strict=True)):
        if name in removed:
            raise ConceptError(
                f"the policy {path}: '{withdrawal.name}' is in `concepts` and in `withdrawn`; take it out of one."
            )
        if name in names[:i]:
            raise ConceptError(f"the policy {path}: '{withdrawal.name}' is withdrawn twice; keep one of them.")


def _with_files_read(policy: Policy, folder: Path) -> Policy:
    """Return a policy with the names of `preserve_file` in `preserve`, and paths relative to its folder resolved."""
    names = list(policy.preserve)
    if policy.preserve_file is not None:
        names += read_names(folder / policy.preserve_file)
    return policy.model_copy(
        update={
            "preserve": tuple(dict.fromkeys(check_name(n, "name to preserve") for n in names)),
            "preserve_file": None,
            "judge": folder / policy.judge if policy.judge and not is_named(policy.judge) else policy.judge,
        }
    )


def _concepts(policy: Policy, path: Path) -> list[Concept]:
    """Return the concepts of a policy; errors name the concept's position in the file."""
    concepts = []
    for i, request in enumerate(policy.concepts, start=1):
        try:
            concepts.append(request.concept())
        except (ConceptError, UnknownNameError) as error:
            raise ConceptError(f"the policy {path}, concept {i}: {error}") from error
    return concepts
