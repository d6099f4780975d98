"""The record that every edit carries: what was asked for, on which model, by which method, with what result."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from excise.concepts.concept import (
    Concept,
)
from excise.support.strict import Strict

VERSIONED = ("torch", "diffusers", "transformers")

KEY = "excise"
"""The entry of a file's metadata that holds the record."""

FORMAT = 2
"""The newest format: 2 where an edit has hooks, 1 for every other."""


class Base(Strict):
    """The model an edit was made for.

    `weights` is the fingerprint of its text-reading projections in half precision, `weights_bfloat16` the same for
    models loaded in bfloat16, `text_encoder` that of the text encoder. `values` are some of the numbers of both
    ("weights", "text_encoder"), by which the model is known where bfloat16 makes prints differ (`bases.py`); none are
    kept of a built-in model.
    """

    model: str
    family: str
    revision: str | None = None
    weights: str
    weights_bfloat16: str
    text_encoder: str
    values: dict[str, str] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _without_no_values(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Records without them stay as they have always been written."""
        return {name: value for name, value in write(self).items() if name != "values" or value}


class Target(Strict):
    """One erased concept, with the anchor that was used in the end."""

    name: str
    kind: str
    anchor: str
    synonyms: tuple[str, ...] = ()

    def concept(self) -> Concept:
        """The concept, to be erased again."""
        return Concept(self.name, self.kind, self.anchor, self.synonyms)


class Given(Strict):
    """What the caller chose, where `EditRecord` also holds what presets and vocabularies decided.

    An update makes an edit again from this, so that a new concept has the settings and the anchor of its own kind.

    Attributes:
        settings: of the method, and "preset" where one was named.
        anchors: by concept, where the caller gave the anchor of that concept.
    """

    settings: dict[str, Any] = Field(default_factory=dict)
    anchors: dict[str, str] = Field(default_factory=dict)


class EditRecord(Strict):
    """Everything about an edit but its tensors. It holds no time of day: the same request gives the same file.

    `scale` is the factor by which the edit was scaled since it was made, where the method has a setting "strength" of
    its own. For every other method it is None, and the factor is written as the setting "strength". `given` is None in
    edits of other origin, and in those of versions that did not write it.
    """

    format: Literal[1, 2] = 1
    excise: str
    base: Base
    method: str
    settings: dict[str, Any] = Field(default_factory=dict)
    given: Given | None = None
    concepts: tuple[Target, ...]
    preserve: tuple[str, ...] = ()
    vocabulary: str | None = None
    seed: int = 0
    versions: dict[str, str] = Field(default_factory=dict)
    measured: dict[str, Any] = Field(default_factory=dict)
    stack: tuple[EditRecord, ...] = ()
    scale: float | None = None

    @property
    def is_scaled(self) -> bool:
        """Whether the edit was scaled since it was made."""
        return "strength" in self.settings if self.scale is None else self.scale != 1

    @property
    def strength(self) -> float:
        """The factor by which the edit was scaled since it was made."""
        return float(self.settings.get("strength", 1.0)) if self.scale is None else self.scale

    def scaled(self, strength: float) -> EditRecord:
        """The record of the same edit with its deltas multiplied by `strength`."""
        whole = self.strength * strength
        if self.scale is not None:
            return self.model_copy(update={"scale": whole})
        return self.model_copy(update={"settings": {**self.settings, "strength": whole}})

    @model_serializer(mode="wrap")
    def _without_none(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Records without a `scale` or `given` are written without the key."""
        left_out = ("scale", "given")
        return {name: value for name, value in write(self).items() if name not in left_out or value is not None}
