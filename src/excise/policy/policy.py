"""What a model is to have forgotten, and on whose request: one YAML file, read strictly. No torch here."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from excise.concepts.concept import KINDS, as_concepts, check_name, check_preserve, read_names
from excise.concepts.concept_file import ConceptRow
from excise.errors import ConceptError, ExciseError, UnknownNameError, unknown
from excise.methods.fitting import check_fits_model
from excise.support.strict import Strict, explain, parse_yaml, read_text

DEFAULT = "default"


class PolicyError(ExciseError):
    """A policy that cannot be read or applied."""


class Request(ConceptRow):
    """One concept to remove, with who asked for it, when, and under which reference."""

    requested_by: str = ""
    date: datetime.date | None = None
    reference: str = ""


class MethodChoice(Strict):
    """A method and its settings."""

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)


class Gates(Strict):
    """What verification asks for, held against the unfavourable end of the 95 % interval.

    Attributes:
        erased: of each concept, the share of its pictures that no longer show it.
        retained: of the pictures of what is kept that were right before, the share still right.
    """

    erased: float = Field(0.5, ge=0, le=1)
    retained: float = Field(0.8, ge=0, le=1)


class Policy(Strict):
    """The whole policy.

    Attributes:
        model, revision: what `excise erase --model` takes.
        methods: by concept kind, with `default` for the others.
        concepts: in the order of the file.
        preserve, preserve_file, vocabulary, seed: as `excise erase`.
        gates: of the verification. pictures: for each concept. judge: folder of a CLIP model that looks; the built-in
            models have their own.
    """

    schema_: Literal[1] = Field(1, alias="schema")
    model: str
    revision: str | None = None
    methods: dict[str, MethodChoice] = Field(default_factory=lambda: {DEFAULT: MethodChoice(name="speed")})
    concepts: tuple[Request, ...]
    preserve: tuple[str, ...] = ()
    preserve_file: Path | None = None
    vocabulary: str = "auto"
    seed: int = 0
    gates: Gates = Gates()
    pictures: int = Field(10, ge=1)
    judge: Path | None = None

    def method_of(self, kind: str) -> MethodChoice:
        """The method for a kind of concept.

        Raises:
            PolicyError: there is none, and no default.
        """
        found = self.methods.get(kind) or self.methods.get(DEFAULT)
        if found is None:
            raise PolicyError(f"the policy names no method for concepts of kind '{kind}', and no default; add one.")
        return found


_KNOWN = (*Policy.model_fields, "schema", *Request.model_fields, *MethodChoice.model_fields, *Gates.model_fields)


def read(path: Path) -> tuple[Policy, str]:
    """A policy from its file, and the SHA-256 of what it asks for, names from other files included.

    Raises:
        PolicyError: it cannot be read, is no YAML, or holds unknown keys.
        ConceptError: a concept is named twice, or is to be erased and preserved at once.
        UnknownNameError: there is no such method, or no such kind.
        ModelError: a method does not fit the model.
    """
    text = read_text(path, "the policy", PolicyError)
    content = parse_yaml(text, f"the policy {path}", PolicyError)
    if not isinstance(content, dict):
        raise PolicyError(f"the policy {path} is no mapping; expected keys such as model and concepts.")
    try:
        policy = Policy.model_validate(_spelt_out(content))
    except ValidationError as error:
        raise PolicyError(f"the policy {path}: {explain(error, _KNOWN)}") from error
    for kind, choice in policy.methods.items():
        if kind not in (*KINDS, DEFAULT):
            raise unknown("concept kind", kind, [*KINDS, DEFAULT])
        check_fits_model(choice.name, policy.model)
    names = [*policy.preserve]
    if policy.preserve_file is not None:
        names += read_names(path.parent / policy.preserve_file)
    policy = policy.model_copy(
        update={
            "preserve": tuple(dict.fromkeys(check_name(n, "name to preserve") for n in names)),
            "preserve_file": None,
            "judge": path.parent / policy.judge if policy.judge else None,
        }
    )
    if policy.concepts:
        concepts = as_concepts(_concepts(policy, path))
        check_preserve(concepts, policy.preserve)
    return policy, hashlib.sha256(policy.model_dump_json().encode()).hexdigest()


def _concepts(policy: Policy, path: Path) -> Sequence[Any]:
    found = []
    for i, request in enumerate(policy.concepts, start=1):
        try:
            found.append(request.concept())
        except (ConceptError, UnknownNameError) as error:
            raise ConceptError(f"the policy {path}, concept {i}: {error}") from error
    return found


def _spelt_out(content: dict[str, Any]) -> dict[str, Any]:
    """Names alone, as short forms of concepts and methods, written out."""
    concepts, methods = content.get("concepts"), content.get("methods")
    if isinstance(concepts, list):
        content["concepts"] = [{"name": c} if isinstance(c, str) else c for c in concepts]
    if isinstance(methods, dict):
        content["methods"] = {k: {"name": m} if isinstance(m, str) else m for k, m in methods.items()}
    return content
