"""The settings of SurgUn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from excise.support.reading import POSITIVE, read_with
from excise.support.settings import OMIT_DEFAULT
from excise.training.config import KEEP, TrainedConfig

_BY_BLOCKS = read_with(confine=False)
_LOCALISED = read_with(confine=False, blocks=("auto", "worst:n"))
_CONTRASTS = ("ratio", "logasc", "npo", "duo", "ga")
_TARGET_SPAN = read_with(confine=True, span="target")
_CANVAS = {
    "rank": 8,
    "lr": 3e-3,
    "steps": 120,
    "save_every": 20,
    "batch": 16,
    "count": 4,
    "pictures": 24,
    "judged": 104,
}


class SurgUnConfig(TrainedConfig):
    """Settings of SurgUn."""

    steadier: ClassVar[str] = f"{TrainedConfig.steadier} or choose a bounded contrast (--set contrast=ratio)"
    unbounded: ClassVar[frozenset[str]] = frozenset({"cap"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "canvas": _CANVAS,
        "canvas-flux": {**_CANVAS, "steps": 160},  # its styles go later than its objects
        "canvas-zimage": {**_CANVAS, "steps": 160, "tie": "clear"},
    }

    keep: float = Field(
        KEEP,
        gt=0,
        le=1,
        description="Least share of the pictures of what is kept, near to the target and far from it, that must stay "
        "right.",
        json_schema_extra=read_with({"calibrate": "kept"}, {"robust": POSITIVE, "calibrate": ("hmean", "constrained")}),
    )

    lr_cycles: int = Field(
        1,
        ge=1,
        description="How many times the learning rate falls to zero, each from its full value.",
        json_schema_extra=OMIT_DEFAULT | read_with({"lr_scheduler": "cosine"}, {"robust": POSITIVE}),
    )
    modules: Literal["cross_kv", "cross", "self", "attention"] = Field(
        "attention",
        description="Which maps to train: keys and values that read text, all of cross-attention, all of "
        "self-attention, or both.",
        json_schema_extra=_BY_BLOCKS,
    )
    contrast: Literal["ratio", "logasc", "npo", "duo", "ga", "none"] = Field(
        "ratio", description="The term that pushes the target's own denoising away."
    )
    weight: float = Field(
        0.1, ge=0, description="Weight of the contrast (lambda).", json_schema_extra=read_with(contrast=_CONTRASTS)
    )
    descent: float = Field(1.0, ge=0, description="Weight of the distractors' own error (w); 0 leaves them out.")
    floor: float = Field(
        1e-3,
        gt=0,
        description="Softening of the contrast (d).",
        json_schema_extra=read_with(contrast=("ratio", "logasc")),
    )
    beta: float = Field(
        5.0, gt=0, description="Sharpness of the contrast.", json_schema_extra=read_with(contrast=("npo", "duo"))
    )
    cap: float = Field(
        4.0,
        gt=0,
        description="Cap of the contrast, in units of the initial error; inf for none.",
        json_schema_extra=read_with(contrast="ga"),
    )
    distractors: str = Field("", description="Names that compete, separated by commas; empty to choose them.")
    count: int = Field(
        8, ge=1, description="Number of distractors (K) to choose.", json_schema_extra=read_with(distractors="")
    )
    spread: Literal["far", "near"] = Field("far", description="Choose diverse distractors, or the nearest ones.")
    pictures: int = Field(32, ge=2, description="Pictures of the target, and of each distractor.")
    caption: Literal["target", "own"] = Field("target", description="Prompts that distractors are trained under.")
    share_noise: bool = Field(True, description="One noise for a target and its distractor.")
    robust: int = Field(
        0,
        ge=0,
        description="Most further trainings, in all of attention, against words that bring the target back, which are "
        "searched or learnt before each and in it; no more where a judge sees that none does.",
    )
    push: float = Field(
        10.0,
        gt=0,
        description="Times the weight of the contrast in further trainings, at first; less keeps more and resists "
        "less.",
        json_schema_extra=read_with(robust=POSITIVE, contrast=_CONTRASTS),
    )
    judged: int = Field(
        48,
        ge=1,
        description="Least pictures of what is kept, on either side, by which each checkpoint of a further training is "
        "judged.",
        json_schema_extra=read_with(robust=POSITIVE),
    )
    retain_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of staying near the untouched model on prompts to keep; 0 leaves that to where "
        "the training takes place.",
    )
    blocks: str = Field(
        "auto",
        description="Attention blocks to train: auto (localised; all when confined), all, random:n, worst:n, or their "
        "names separated by commas.",
    )
    keep_blocks: int = Field(
        2,
        ge=1,
        description="Blocks that localisation keeps.",
        json_schema_extra=read_with(confine=False, blocks="auto"),
    )
    inject: bool = Field(
        False,
        description="Probe only the third of the blocks through which the target's prompt acts most (prompt "
        "injection); where blocks are many.",
        json_schema_extra=_LOCALISED,
    )
    reuse_blocks: bool = Field(
        True,
        description="Take the localisation of an earlier concept of the kind, where one is kept.",
        json_schema_extra=_LOCALISED,
    )
    confine: bool = Field(
        True, description="Change text-reading keys and values alone, in a part of text space that spares what is kept."
    )
    span: Literal["target", "null"] = Field(
        "target",
        description="That part: what tells the target from what is kept, or what is kept does not use at all.",
        json_schema_extra=read_with(confine=True),
    )
    share: float = Field(
        0.03,
        gt=0,
        description="Largest kept energy beside the target's; its clearest direction counts always.",
        json_schema_extra=_TARGET_SPAN,
    )
    widen: float = Field(
        10.0,
        ge=1,
        description="Where a judge still sees the target after training, train once more with share times this; 1 for "
        "never.",
        json_schema_extra=_TARGET_SPAN,
    )
    ridge: float = Field(
        1e-2, gt=0, description="Added to the kept moment, in its mean eigenvalues.", json_schema_extra=_TARGET_SPAN
    )
    threshold: float = Field(
        1e-2,
        gt=0,
        description="Eigenvalues of the kept moment below it are null.",
        json_schema_extra=read_with(confine=True, span="null"),
    )
