"""Base classes of closed forms: ClosedForm edits projections of the denoiser, TextEncoderForm the text encoders."""

from __future__ import annotations

import time
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from excise.concepts.concept import PROGRAM_PROMPTS
from excise.edits.originals import original_weights
from excise.errors import ExciseWarning
from excise.families.capabilities import POOLED, STATIC_TEXT, TEXT_MLP
from excise.families.progress import encoding
from excise.methods.base import Context, Made, Method, Request
from excise.methods.closed_form.config import MethodConfig
from excise.methods.closed_form.effect import Effect
from excise.methods.closed_form.encoder_problem import EncoderProblem
from excise.methods.closed_form.hardening import hardened
from excise.methods.closed_form.text_maps import edited_maps, map_problems
from excise.methods.closed_form.text_problem import (
    Encoded,
    TextProblem,
    encode,
    pooled_problem,
    reach_of,
)
from excise.methods.solution import Solution, in_rows, joined, widened
from excise.support.settings import Settings

ConfigT = TypeVar("ConfigT", bound=MethodConfig)
EncoderConfigT = TypeVar("EncoderConfigT", bound=Settings)


class ClosedForm(Method[ConfigT]):
    """A closed form over the projections that read text: statistics of text states in, deltas out.

    Attributes:
        target_becomes: what a target reads as afterwards: its anchor, or nothing (the anchor hardly counts).
    """

    shape: ClassVar[str] = "closed-form"
    needs: ClassVar[frozenset[str]] = frozenset({STATIC_TEXT})
    config_base: ClassVar[type[Settings]] = MethodConfig
    target_becomes: ClassVar[Literal["anchor", "nothing"]] = "anchor"

    @abstractmethod
    def solve(
        self, problem: TextProblem, weights: Mapping[str, Tensor], config: ConfigT, generator: torch.Generator
    ) -> Solution:
        """Solve for the deltas of all projections at once.

        Args:
            problem: token states of targets, anchors and retained prompts, float64.
            weights: (out, d) original weight by module path.
            generator: the only source of randomness.
        """

    def make(self, request: Request, config: ConfigT, context: Context) -> Made:
        """Encode the request, then solve for keys and values, and for the map of the pooled prompt if there is one."""
        began = time.perf_counter()
        family = request.family
        _warn_of_width(len(request.concepts), family.text_width)
        maps = edited_maps(family, config, nothing=self._reads_nothing(request))
        encoded = _encoded(request, config, context)
        encoded_at = time.perf_counter()
        generator = torch.Generator().manual_seed(request.seed)
        solution, shares = Solution(), list[float]()
        effect = Effect(self.target_becomes == "nothing")
        for problem, group in map_problems(family, encoded, config, maps, request.seed):
            weights = original_weights(family, [p.path for p in group])
            rows = {p.path: weights[p.path] if p.rows is None else weights[p.path][p.rows] for p in group}

            def solve(problem: TextProblem, rows: Mapping[str, Tensor] = rows) -> Solution:
                return self.solve(problem, rows, config, generator.manual_seed(request.seed))

            part, restored = hardened(solve, problem, rows, config.robust, context.say)
            effect.add(problem, rows, part)
            solution, shares = joined(solution, in_rows(part, group, weights)), [*shares, *restored]
        effect.warn(type(self).__name__, lambda: self.advice(problem, config))
        pooled = pooled_problem(encoded, config.pooled_weight) if config.pooled else None
        if pooled is not None:
            solution = joined(solution, self._solve_pooled(pooled, request, config, generator))
        return Made(
            solution,
            evidence={"restored": shares} if shares else {},
            seconds={"encode": encoded_at - began, "solve": time.perf_counter() - encoded_at},
        )

    def advice(self, problem: TextProblem, config: ConfigT) -> str:
        """What to do where retained states leave hardly any room to erase in: a clause without its full stop."""
        settings = config.model_dump()
        ways = ["preserve fewer names"]
        if settings.get("retain_scale"):
            ways.append(f"weigh them less (--set retain_scale=..., {settings['retain_scale']:g} here)")
        if settings.get("fixed") == "start_and_null":
            ways.append("hold the start token alone fixed (--set fixed=start)")
        return " or ".join(ways)

    def _reads_nothing(self, request: Request) -> bool:
        """Whether some target reads as nothing afterwards."""
        return self.target_becomes == "nothing" or not all(c.anchor for c in request.concepts)

    def _solve_pooled(
        self, pooled: TextProblem, request: Request, config: ConfigT, generator: torch.Generator
    ) -> Solution:
        """Solve for the maps whose first columns read the pooled prompt."""
        family = request.family
        maps = original_weights(family, [p.path for p in family.projections("p")])
        width = pooled.targets.shape[1]
        first_columns = {path: weight[:, :width] for path, weight in maps.items()}
        solution = self.solve(pooled, first_columns, config, generator)
        return widened(solution, {path: weight.shape[1] for path, weight in maps.items()})


class TextEncoderForm(Method[EncoderConfigT]):
    """A closed form over the second maps of the MLPs in the text encoders."""

    shape: ClassVar[str] = "closed-form"
    needs: ClassVar[frozenset[str]] = frozenset({TEXT_MLP})

    @abstractmethod
    def solve_encoder(self, problem: EncoderProblem, config: EncoderConfigT) -> Solution:
        """Solve for the deltas of the text encoders' maps, layer by layer (`problem.read` measures one layer)."""

    def make(self, request: Request, config: EncoderConfigT, context: Context) -> Made:
        """Encode the request, then solve layer by layer."""
        began = time.perf_counter()
        encoded = _encoded(request, config, context)
        encoded_at = time.perf_counter()
        solution = self.solve_encoder(EncoderProblem(request.family, encoded, context.say), config)
        return Made(solution, seconds={"encode": encoded_at - began, "solve": time.perf_counter() - encoded_at})


def program_prompts(config: Settings) -> Mapping[str, tuple[str, ...]] | None:
    """The prompts of a published program by kind, if the settings name one; None if they name the templates.

    With a program's prompts, retained names stand alone instead of in templates.
    """
    return PROGRAM_PROMPTS.get(config.prompts) if isinstance(config, MethodConfig) else None


def _encoded(request: Request, config: Settings, context: Context) -> Encoded:
    templates = program_prompts(config) or request.words.templates
    context.say("encoding prompts", 0, 0)
    with encoding(lambda done, total: context.say("encoding prompts", done, total)):
        reach = reach_of(config, POOLED in request.family.provides)
        return encode(request.family, request.concepts, request.retain, templates, context.states, reach)


def _warn_of_width(concepts: int, width: int) -> None:
    """Warn if more concepts are erased than text states have dimensions."""
    if concepts > width:
        warnings.warn(
            f"{concepts} concepts are more than the {width} directions of this model's text states, so retained "
            "names change with them; erase fewer, or edit the text encoder instead (--method emcid).",
            ExciseWarning,
            stacklevel=2,
        )
