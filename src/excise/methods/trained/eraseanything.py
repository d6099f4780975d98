"""EraseAnything: a LoRA on the text's queries and keys of joint attention, trained on two levels in turn.

Papers:     Gao et al., "EraseAnything: Enabling Concept Erasure in Rectified Flow Transformers", ICML 2025,
            arXiv 2412.20413; "EraseAnything++", arXiv 2603.00978 (balance=implicit)
Provenance: written from the papers and from the published behaviour of the program (BSD-3-Clause)

With the frozen model v*, latents x_t that are in the middle of being denoised under a prompt c of the concept, the same
prompt n with the anchor or nothing in the concept's place, A_i the attention of the picture to token i,

    L_e = l1 |v(x_t, c) - g|^2 + l2 mean_layers sum_(i in c) |A_i|,    g = v*(x_t, n) - eta (v*(x_t, c) - v*(x_t, n))
    L_p = l3 |v(x'_s, r) - (e - x')|^2 + l4 log( z_s / (z_s + sum_k z_k) ),    z_j = exp(cos(F_c, F_j) / tau)

x' is a picture that the untouched model drew under a prompt r to retain, and F_j the mean of A over the heads and the
tokens of a name, over positions and layers: of the concept c, of its synonym s as the untouched model reads it (of the
concept itself where it has none), and of unrelated names k.

L_e and L_p are minimised in turn. EraseAnything++ minimises both in every step by "implicit gradient surgery": it
learns a weight of L_p from how much L_p grew in the last step. The reading here is the problem of which that weight is
the dual: of all directions that do not raise L_p, take the one nearest to the gradient of L_e, and the gradient of L_p
beside it. The weight is then known (`combined`), for two more backward passes and without a learning rate of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from excise.concepts.concept import Concept, fill, normalise_name
from excise.errors import ConceptError, SettingError
from excise.families.base import Family
from excise.methods.trained.base import Distilled
from excise.methods.trained.eraseanything_config import EraseAnythingConfig
from excise.methods.trained.material import prompts_about, trajectories
from excise.support.selection import evenly
from excise.training.adapters import Adapter, FullWeights, Weights
from excise.training.attention import captured_joint
from excise.training.blocks import Batch, Prompts, Rows, prompts_of
from excise.training.loop import Losses, Step
from excise.training.losses import combined, errors, mse, push_away
from excise.training.pictures import picture_seed
from excise.training.problem import TrainingProblem, TrainingResult
from excise.training.run import preview_of, train
from excise.training.sources import Trajectories

MOST_NAMES = 8  # unrelated names that a concept is contrasted with


class EraseAnything(Distilled[EraseAnythingConfig]):
    """The method as the registry knows it."""

    Config = EraseAnythingConfig

    def targets(self, family: Family, config: EraseAnythingConfig) -> list[str]:
        return [m.path for m in family.maps("joint") if m.part in ("add_q", "add_k")]

    def check(self, problem: TrainingProblem, config: EraseAnythingConfig) -> None:
        super().check(problem, config)
        if config.by == "images":
            raise SettingError(
                "eraseanything stands at latents that are denoised, and by was images; use --set by=student or "
                "by=teacher."
            )

    def loss(self, batch: Batch, config: EraseAnythingConfig) -> Tensor:
        """L_e."""
        with captured_joint(batch.weights.family, layers(batch.weights.family)) as capture:
            prediction = batch.student(batch.concept)
        loss = config.erase_weight * mse(prediction, goal(batch, config))
        if config.attention_weight:
            loss = loss + config.attention_weight * mass([*capture.maps.values()], batch.concept.words)
        return loss

    def train(self, problem: TrainingProblem, config: EraseAnythingConfig) -> TrainingResult:
        """Draw pictures of what is kept, train on both levels, and choose a checkpoint.

        Raises:
            SettingError: as `check`, or there are no names to contrast a target with.
        """
        self.check(problem, config)
        paths = self.targets(problem.family, config)
        weights: Weights = FullWeights(problem.family, paths)
        if config.weights == "lora":
            weights = Adapter(problem.family, paths, config.rank, problem.seed)
        names = [unrelated_names(problem, c) for c in problem.concepts]
        turns, kept = Turns(config.accumulate), kept_pictures(problem, names, config)

        def step_of(attached: Weights) -> Step:
            return self.steps(levels(problem, config, attached, names, kept), turns, config)

        return TrainingResult(*train(problem, config, weights, step_of, preview_of(problem), extra_state=[turns]))

    def steps(self, targets: Sequence[Level], turns: Turns, config: EraseAnythingConfig) -> Step:
        """One pass of training, on one of the targets."""

        def step(generator: torch.Generator) -> Losses:
            one = targets[int(torch.randint(len(targets), (1,), generator=generator))]
            # Its own, so that a defect that draws more in the erase level changes nothing else.
            further = torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
            batch = one.source.batch(generator)
            if config.balance == "implicit":
                erase, preserve = self.losses(batch, config)["loss"], preserve_loss(one, batch, further, config)
                loss = combined("project", erase, preserve, batch.weights.parameters.values())
                return {"loss": loss, "erase": erase, "preserve": preserve}
            if turns.erases():
                return self.losses(batch, config)
            return {"loss": preserve_loss(one, batch, further, config)}

        return step


class Turns:
    """Whose turn it is: the erase level's in even steps, the preserve level's in odd ones.

    Args:
        passes: in a step.
    """

    def __init__(self, passes: int) -> None:
        self._passes, self._done = passes, 0

    def erases(self) -> bool:
        """Whether the next pass is of the erase level; it counts as done."""
        self._done += 1
        return (self._done - 1) // self._passes % 2 == 0

    def state_dict(self) -> dict[str, Any]:
        """The passes that are done."""
        return {"done": self._done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind as many passes as were done."""
        self._done = int(state["done"])


@dataclass(frozen=True)
class Level:
    """What the losses of one target are computed on.

    Attributes:
        source: of its latents and prompts.
        unrelated: names in the templates of its kind, one name after the other.
        templates: number of these.
        pictures: (n, c, h, w) latents of pictures of what is kept. captions: their n prompts.
    """

    source: Trajectories
    unrelated: Prompts
    templates: int
    pictures: Tensor
    captions: Prompts


def layers(family: Family) -> list[str]:
    """The layers of joint attention."""
    return [m.path.removesuffix(".add_k_proj") for m in family.maps("joint") if m.part == "add_k"]


def unrelated_names(problem: TrainingProblem, concept: Concept) -> list[str]:
    """Names to contrast a concept with: those to keep, and others of its level whose prompts fit.

    Raises:
        SettingError: there are none.
    """
    targets = {normalise_name(word) for c in problem.concepts for word in c.words}
    names = dict.fromkeys([*problem.preserve, *problem.candidates.get(concept.name, ())])
    chosen = evenly([n for n in names if normalise_name(n) not in targets], MOST_NAMES)
    if fitting := [n for n in chosen if _fits(problem, concept.kind, n)]:
        return fitting
    raise SettingError(
        f"nothing is known that '{concept.name}' could be contrasted with; name something to keep (--preserve)."
    )


def _fits(problem: TrainingProblem, kind: str, name: str) -> bool:
    """Whether a name is found among the tokens of each of its prompts."""
    prompts = fill(problem.templates[kind], name)
    try:
        problem.family.encode(prompts, [name] * len(prompts))
    except ConceptError:
        return False
    return True


def kept_pictures(
    problem: TrainingProblem, names: Sequence[Sequence[str]], config: EraseAnythingConfig
) -> tuple[list[str], Tensor]:
    """Prompts to retain, or of unrelated names where there are none, and latents of their pictures.

    Args:
        names: unrelated ones, by target.
    """
    pairs = [(c.kind, name) for c, some in zip(problem.concepts, names, strict=True) for name in some]
    about = dict.fromkeys(p for kind, name in pairs for p in fill(problem.templates[kind], name))
    prompts = evenly([*problem.retain] or [*about], config.pictures)
    seeds = [picture_seed(problem.seed, "kept", i) for i in range(len(prompts))]
    sampling = replace(problem.sampling, guidance=config.guidance)
    images = sampling.draw(
        problem.family, prompts, seeds, lambda done, total: problem.say("drawing what is kept", done, total)
    )
    return prompts, problem.family.latents(images)


def levels(
    problem: TrainingProblem,
    config: EraseAnythingConfig,
    weights: Weights,
    names: Sequence[Sequence[str]],
    kept: tuple[list[str], Tensor],
) -> list[Level]:
    """The data of each target, the prompts encoded.

    Args:
        names: unrelated ones, by target. kept: as `kept_pictures` returns it.
    """
    captions = prompts_of(weights, kept[0])
    return [
        Level(
            replace(
                trajectories(replace(problem, concepts=[c]), config, weights, located=True),
                matched=config.matched_time,
            ),
            prompts_about(problem, weights, c.kind, some),
            len(problem.templates[c.kind]),
            kept[1],
            captions,
        )
        for c, some in zip(problem.concepts, names, strict=True)
    ]


def goal(batch: Batch, config: EraseAnythingConfig) -> Tensor:
    """g, (B, c, h, w), by the frozen model, or by the model in training with `teacher_lora`."""
    with frozen(batch, config):
        neutral, concept = (_predicted(batch, rows) for rows in (batch.anchor, batch.concept))
    return push_away(neutral, concept, neutral, config.eta)


@contextmanager
def frozen(batch: Batch, config: EraseAnythingConfig) -> Iterator[None]:
    """The teacher, without gradients, inside the block."""
    with torch.no_grad(), nullcontext() if config.teacher_lora else batch.weights.teacher():
        yield


def _predicted(batch: Batch, prompts: Rows) -> Tensor:
    return batch.weights.family.predict(batch.x_t, batch.t, prompts.teacher)


def mass(maps: Sequence[Tensor], words: Tensor) -> Tensor:
    """Mean over layers of the sum, over the tokens of a word, of |A_i| over heads and positions.

    Args:
        maps: (B, heads, N, L) by layer. words: (B, L) the tokens.
    """
    norms = torch.stack([m.flatten(1, 2).norm(dim=1) for m in maps])  # (layers, B, L)
    return (norms * words.to(norms)).sum(dim=-1).mean()


def reading(batch: Batch, prompts: Rows) -> Tensor:
    """F, (B, layers N), of the words that prompts are about, by the model as it is now, at the latents of a batch."""
    with captured_joint(batch.weights.family, layers(batch.weights.family)) as capture:
        _predicted(batch, prompts)
    parts = []
    for attention in capture.maps.values():
        words = prompts.words.to(attention)
        parts.append(attention.mean(dim=1) @ (words / words.sum(dim=1, keepdim=True))[..., None])
    return torch.cat(parts, dim=1).squeeze(-1)


def preserve_loss(level: Level, batch: Batch, generator: torch.Generator, config: EraseAnythingConfig) -> Tensor:
    """L_p."""
    family, n = batch.weights.family, len(batch.x_t)
    rows = torch.randint(len(level.pictures), (n,), generator=generator)
    noise = torch.randn(n, *family.latent_shape, generator=generator)
    t = family.noising.times(n, generator=generator)
    chosen = torch.randperm(len(level.unrelated.frozen) // level.templates, generator=generator)[: config.unrelated]
    flow = errors(family, family.noising, level.pictures[rows], noise, t, level.captions[rows].student).mean()
    loss = config.flow_weight * flow
    if config.contrast_weight:
        loss = loss + config.contrast_weight * contrast(level, batch, chosen, config)
    return loss


def contrast(level: Level, batch: Batch, chosen: Tensor, config: EraseAnythingConfig) -> Tensor:
    """log( z_s / (z_s + sum_k z_k) ), every prompt in the same template.

    Args:
        chosen: (K,) which unrelated names.
    """
    words, templates = batch.concept, level.templates
    own = reading(batch, words)
    with frozen(batch, config):
        synonym = reading(batch, words.prompts[(words.rows + templates) % len(words.prompts.frozen)])
    with torch.no_grad() if config.one_sided else nullcontext():
        others = [reading(batch, level.unrelated[k * templates + words.rows % templates]) for k in chosen.tolist()]
    centre = synonym if config.one_sided else own
    return log_share(centre, synonym if centre is own else own, others, config.temperature)


def log_share(centre: Tensor, one: Tensor, others: Sequence[Tensor], temperature: float) -> Tensor:
    """Mean over a batch of log( z_one / (z_one + sum z_others) ), z = exp(cos(centre, .) / temperature)."""
    logits = torch.stack([cosine_similarity(centre, o, dim=-1) for o in (one, *others)]) / temperature
    return (logits[0] - logits.logsumexp(dim=0)).mean()
