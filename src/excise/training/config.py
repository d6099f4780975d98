"""Settings that every trained method has."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from excise.support.reading import POSITIVE, read_with
from excise.support.settings import OMIT_DEFAULT, Settings

if TYPE_CHECKING:
    from excise.training.loop import Plan

CANVAS_LORA = {"lr": 1e-3, "steps": 80, "save_every": 10, "batch": 8, "rank": 8, "calibrate": "constrained"}
CANVAS_FULL = {"lr": 1e-4, "steps": 80, "save_every": 10, "batch": 8, "calibrate": "constrained"}
"""What most trained methods are given on the built-in models: a LoRA, and the weights themselves."""
CANVAS_FUSION = {"fusion_retain_scale": 0.15, "fusion_ridge": 0.03}
"""As closed forms weigh what is kept there, where a world's every name is."""
PROGRAM = {"lr_warmup": 0.0, "calibrate": "last"}
"""What published programs that are read have in common: no warm-up, and the last checkpoint; AdamW decays as ours."""
PROGRAM_ADAM = {**PROGRAM, "weight_decay": 0.0}
"""The same of programs that train with Adam."""
KEEP = 0.97  # retained on either side, under the rule "kept"

DENOISED = read_with(by=("student", "teacher", "mean"))
SHOWN = read_with(by="images")
RETAINING = read_with(retain_weight=POSITIVE)
MASKED = read_with(weights="full", mask=("saliency", "dynamic"))
"""When shared settings are read: where latents are denoised, pictures noised, anything retained, or entries chosen."""
_OF_LORA = read_with(weights="lora", mask="none")
OF_DENOISING = frozenset({"sampler_steps", "guidance", "reuse"})
"""Settings that a method has no use for whose loss asks for noised pictures."""
OF_OPTIMISER = frozenset({"lr", "lr_scheduler", "lr_warmup", "lr_cycles", "weight_decay", "beta2"})
"""Settings that a method has no use for that takes no steps down a gradient."""
OF_MASKS = frozenset({"mask", "mask_share", "mask_within", "mask_passes", "turnover", "refresh"})


class TrainedConfig(Settings):
    """How a LoRA is trained, and where."""

    steadier: ClassVar[str] = "lower the learning rate (--set lr=...)"
    """What to do where losses are not finite."""

    rank: int = Field(8, ge=1, description="Rank of the LoRA; its alpha is the same.")
    lr: float = Field(1e-4, gt=0, description="Learning rate of AdamW.")
    lr_scheduler: Literal["constant", "cosine"] = Field(
        "constant", description="Whether the learning rate stays, after its warm-up, or falls to zero."
    )
    lr_warmup: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Share of the steps over which the learning rate rises to its value.",
        json_schema_extra=OMIT_DEFAULT,
    )
    lr_cycles: int = Field(
        1,
        ge=1,
        description="How many times it falls to zero, each from its full value.",
        json_schema_extra=OMIT_DEFAULT | read_with(lr_scheduler="cosine"),
    )
    weight_decay: float = Field(
        1e-2, ge=0, description="Weight decay of AdamW; with 0 it is Adam.", json_schema_extra=OMIT_DEFAULT
    )
    beta2: float = Field(
        0.999,
        ge=0,
        lt=1,
        description="Decay of AdamW's mean of squared gradients (beta 2).",
        json_schema_extra=OMIT_DEFAULT,
    )
    steps: int = Field(600, ge=1, description="Optimiser steps.")
    save_every: int = Field(50, ge=1, description="Steps between checkpoints that calibration chooses from.")
    batch: int = Field(4, ge=1, description="Target pictures in a pass (as many distractors beside them).")
    accumulate: int = Field(1, ge=1, description="Passes whose gradients make one step; saves memory.")
    checkpointing: bool = Field(
        False, description="Recompute what is between layers on the way back: less memory, about a third more time."
    )
    precision: Literal["no", "bf16", "fp16"] = Field(
        "no", description="Of the passes (bf16: of the pictures too); the LoRA itself stays in single."
    )
    draw: int = Field(0, ge=0, description="Pictures drawn at once; 0 for what the kind of model suggests.")
    tracker: str = Field(
        "", description="Also log losses to what accelerate calls so (tensorboard, wandb, ...), where it is installed."
    )

    calibrate: Literal["hmean", "constrained", "kept", "last"] = Field(
        "hmean",
        description="How the checkpoint is chosen, where a judge looks: by the harmonic mean of erase and retain, by "
        "retain among those that erase enough, the latest of those that retain `keep`, or the last one, which is then "
        "the only one held and judged.",
    )
    keep: float = Field(
        KEEP,
        gt=0,
        le=1,
        description="Least share of the pictures of what is kept, near to the target and far from it, that must stay "
        "right.",
        json_schema_extra=read_with(calibrate="kept"),
    )

    tie: Literal["middle", "early", "late", "clear"] = Field(
        "middle",
        description="Of checkpoints that tie: the middle one, and first of those whose target pictures show something "
        "by name; or the earliest; or the latest; or (clear) of all within one picture of the best the one whose "
        "target pictures show something by name most often, and the latest where calibrate=constrained has any that "
        "erase enough.",
        json_schema_extra=read_with(calibrate=("hmean", "constrained")),
    )

    def plan(self, steps: int | None = None) -> Plan:
        """The training plan; of `steps` steps where given, all kept at the end alone."""
        from excise.training.loop import Plan

        return Plan(
            steps=steps or self.steps,
            lr=self.lr,
            lr_scheduler=self.lr_scheduler,
            warmup=self.lr_warmup,
            cycles=self.lr_cycles,
            weight_decay=self.weight_decay,
            beta2=self.beta2,
            newest=self.calibrate == "last",
            save_every=steps or self.save_every,
            accumulate=self.accumulate,
            precision=self.precision,
        )


class DistilledConfig(TrainedConfig):
    """Settings of every method that is a loss on predictions: latents, what is trained, what protects the rest."""

    rank: int = Field(8, ge=1, description="Rank of the LoRA; its alpha is the same.", json_schema_extra=_OF_LORA)
    steps: int = Field(200, ge=1, description="Optimiser steps.")
    batch: int = Field(1, ge=1, description="Latents in a pass.")
    weights: Literal["lora", "full"] = Field("lora", description="Train a LoRA, or the weights themselves.")

    by: Literal["student", "teacher", "mean", "images"] = Field(
        "student",
        description="Where the latents come from: denoised by the model in training, by the untouched one, by the "
        "running mean (ema), or noise on pictures that the untouched model drew.",
    )
    sampler_steps: int = Field(
        50, ge=2, description="Steps of the sampler that denoises them.", json_schema_extra=DENOISED
    )
    guidance: float = Field(
        3.0, ge=0, description="Guidance of the sampler that denoises them.", json_schema_extra=DENOISED
    )
    earliest: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the way from noise to picture that is done at least.",
        json_schema_extra=OMIT_DEFAULT,
    )
    latest: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of the way from noise to picture that is done at most.",
        json_schema_extra=OMIT_DEFAULT,
    )
    reuse: int = Field(
        1,
        ge=1,
        description="Passes that stand at latents of one whole way from noise to picture, before the next is denoised; "
        "1 denoises for each pass, to where it stands.",
        json_schema_extra=OMIT_DEFAULT | DENOISED,
    )
    pictures: int = Field(
        16,
        ge=1,
        description="How many pictures are drawn of each target (by=images), and of what is kept (retain_on).",
        json_schema_extra=OMIT_DEFAULT
        | read_with({"by": "images"}, {"retain_weight": POSITIVE, "retain_on": ("pictures", "anchor")}),
    )
    shown: Literal["target", "anchor"] = Field(
        "target", description="What the pictures of each target show.", json_schema_extra=OMIT_DEFAULT | SHOWN
    )

    retain_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of staying near the untouched model on prompts to keep.",
        json_schema_extra=OMIT_DEFAULT,
    )
    retain_on: Literal["latents", "pictures", "anchor"] = Field(
        "latents",
        description="Where: at the target's latents, against the untouched model; or on pictures of what is kept, or "
        "of the anchor, against their own noise.",
        json_schema_extra=OMIT_DEFAULT | RETAINING,
    )
    combine: Literal["sum", "project", "restricted"] = Field(
        "sum",
        description="How the gradients of erasing and retaining meet: added; the first freed of its part against the "
        "second; or either of its part against the other.",
        json_schema_extra=OMIT_DEFAULT | RETAINING,
    )

    mask: Literal["none", "saliency", "dynamic"] = Field(
        "none",
        description="Of weights=full: train every entry, those of largest gradient of the forget loss, or these with "
        "some exchanged on the way.",
        json_schema_extra=OMIT_DEFAULT,
    )
    mask_share: float = Field(
        0.5, gt=0, le=1, description="The share of entries that are trained.", json_schema_extra=OMIT_DEFAULT | MASKED
    )
    mask_within: Literal["all", "map"] = Field(
        "all",
        description="The entries of largest gradient of all maps together, or of each map.",
        json_schema_extra=OMIT_DEFAULT | MASKED,
    )
    mask_passes: int = Field(
        10, ge=1, description="Batches that the mask is chosen by.", json_schema_extra=OMIT_DEFAULT | MASKED
    )
    turnover: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Share of the entries exchanged at first, which falls to none at the end.",
        json_schema_extra=OMIT_DEFAULT | read_with(weights="full", mask="dynamic"),
    )
    refresh: int = Field(
        100,
        ge=1,
        description="Steps between exchanges.",
        json_schema_extra=OMIT_DEFAULT | read_with(weights="full", mask="dynamic", turnover=POSITIVE),
    )
    sparsity: float = Field(
        0.0,
        ge=0,
        description="Weight of the group lasso, by which whole blocks end at zero (GS-LoRA).",
        json_schema_extra=OMIT_DEFAULT
        | read_with(weights="lora", mask="none", ema=0, by=("student", "teacher", "images")),
    )
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Decay of a running mean of what is trained, which is what the edit holds; 0 for the weights.",
        json_schema_extra=OMIT_DEFAULT,
    )

    @classmethod
    def made_of(cls) -> str:
        """The shared blocks that the defaults choose: latents, what is trained, what protects the rest."""
        default = {name: field.default for name, field in cls.model_fields.items()}
        latents = f"latents: {default['by']}" + (f" of the {default['shown']}" if default["by"] == "images" else "")
        mask = f", mask: {default['mask']}" if default["mask"] != "none" else ""
        kept = f"retain: {default['retain_on']}, gradients: {default['combine']}" if default["retain_weight"] else ""
        return "; ".join(part for part in (latents, f"weights: {default['weights']}{mask}", kept) if part)


class FusedConfig(DistilledConfig):
    """Settings of methods that train each of several targets alone, and fuse what came of it."""

    fusion_retain_scale: float = Field(
        1.0,
        ge=0,
        description="Of several targets, whose changes are fused: weight of retained states.",
        json_schema_extra=OMIT_DEFAULT,
    )
    fusion_ridge: float = Field(
        0.5,
        gt=0,
        description="Of several targets: pull towards changing nothing else.",
        json_schema_extra=OMIT_DEFAULT,
    )
