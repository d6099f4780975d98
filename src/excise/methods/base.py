"""The contract of a method: a request, settings and a context in; weight changes, evidence and durations out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from PIL import Image

from excise.concepts.concept import NOTHING, Concept
from excise.concepts.vocabulary import Vocabulary
from excise.edits.hooks import Hook
from excise.families.base import Family
from excise.methods.solution import Solution
from excise.support.counts import counted
from excise.support.display import Card, Showing, charts, seconds_text, some
from excise.support.progress import Report, silent
from excise.support.settings import Settings

ConfigT = TypeVar("ConfigT", bound=Settings)


@dataclass(frozen=True, repr=False)
class Request(Showing):
    """A checked request.

    Attributes:
        family: the adapter of the model, which a method does not change.
        concepts: the targets, each with its anchor.
        retain: prompts to retain.
        preserve: the names to preserve, as the caller gave them.
        words: the vocabulary, which supplies templates, siblings of targets and calibration prompts.
        seed: the random seed of the method.
    """

    family: Family
    concepts: Sequence[Concept]
    retain: Sequence[str]
    preserve: Sequence[str]
    words: Vocabulary
    seed: int

    def card(self) -> Card:
        """What the request shows of itself."""
        facts = [
            ("from", f"{self.family.pipe.config.get('_name_or_path') or 'unnamed pipeline'} ({self.family.name})"),
            ("keeps", some(self.preserve) or "no names of the caller's"),
            ("retains", f"{counted(len(self.retain), 'prompt')}; vocabulary {self.words.name or 'none'}"),
            ("seed", str(self.seed)),
        ]
        names = some([c.name for c in self.concepts])
        rows = [(c.name, c.kind, c.anchor or NOTHING, ", ".join(c.synonyms)) for c in self.concepts]
        return Card(f"Request: erase {names}", facts, ("concept", "kind", "read as", "synonyms"), rows)


@dataclass(frozen=True)
class Context:
    """Resources for a request: a judge, folders, progress. None of them is recorded in the edit.

    Attributes:
        judge: a folder of a CLIP model, a callable (images, names) to booleans, or an object with `sees`. Built-in
            models have their own judge; on other models None trains without judging pictures.
        folder: where checkpoints are saved and resumed from; None saves none.
        cache: where localisations are saved, each for all concepts of a kind; None saves none.
        states: where text states are saved, so that no prompt is encoded twice; None saves none.
        say: receives progress.
        charts: also draw pictures for the report alone (minutes on a large model).
    """

    judge: Any = None
    folder: Path | None = None
    cache: Path | None = None
    states: Path | None = None
    say: Report = silent
    charts: bool = False


@dataclass(frozen=True, repr=False)
class Made(Showing):
    """The result of a method.

    Attributes:
        weights: changes of weights.
        hooks: what acts while the model draws.
        evidence: measurements for the record; JSON values only.
        pictures: pictures for the report, by the name of the chart and of the row.
        seconds: durations by stage.
    """

    weights: Solution = field(default_factory=Solution)
    hooks: tuple[Hook, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, Mapping[str, Sequence[Image.Image]]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    def card(self) -> Card:
        """What the result shows of itself."""
        maps, modules = len(self.weights.text_maps), len(self.weights.modules or {})
        parts = [counted(maps, "text map"), counted(modules, "weight"), counted(len(self.hooks), "hook")]
        facts = [("measured", ", ".join(self.evidence)), ("took", seconds_text(self.seconds))]
        return Card(f"Made: {', '.join(parts)}", facts, pictures=charts(self.pictures))


class Method(ABC, Generic[ConfigT]):
    """A method of erasure. Derive from ClosedForm, TextEncoderForm, Trained or Inference rather than from this class.

    Attributes:
        shape: closed-form, trained or inference-time; every base class sets its own.
        config_base: the class from which `Config` derives; every base class sets its own.
        needs: capabilities that a model family must provide; of a class that is registered without a record.
        Config: the class of the method's settings.
    """

    shape: ClassVar[str]
    config_base: ClassVar[type[Settings]] = Settings
    needs: ClassVar[frozenset[str]] = frozenset()
    Config: type[ConfigT]

    @abstractmethod
    def make(self, request: Request, config: ConfigT, context: Context) -> Made:
        """Erase the request's concepts. The model is not changed.

        Raises:
            ExciseError: the request cannot be carried out, in one sentence.
        """
