"""Judges by name: called with `weights`, a local folder or None, an entry says what it misses there.

Feature spaces, in which distances between image sets are taken, are listed beside them; none of them gives a protocol's
labels.
"""

from excise.judges.base import Judge, Measuring
from excise.metrics.unlearning import NONE
from excise.registry import Record, Registry

JUDGES = Registry(
    "judge",
    "excise.judges",
    {
        "canvas-judge-a": Record("excise.judges.canvas:judge_a", "objects and styles of Canvas, the verdict"),
        "canvas-judge-b": Record("excise.judges.canvas:judge_b", "the same, built and seeded differently"),
        "unlearncanvas-vit": Record("excise.judges.vit:unlearncanvas_vit", "the two ViT-L/16 of UnlearnCanvas"),
        "imagenet-resnet50": Record("excise.judges.resnet:imagenet_resnet50", "torchvision's ResNet-50, by index"),
        "celebrity-classifier": Record("excise.judges.resnet:celebrity_classifier", "your own ResNet over names"),
        "clip-score": Record("excise.judges.clip:ClipScore", "100 max(cos, 0) of image and prompt, no labels"),
        "clip-zero-shot": Record("excise.judges.clip:clip_zero_shot", "CLIP's choice among labels of your own"),
    },
)
FEATURES = Registry(
    "feature space",
    "excise.features",
    {
        "canvas-image-tower": Record("excise.judges.features:canvas_image_tower", "the pocket CLIP's image tower"),
        "clip-image": Record("excise.judges.clip:clip_image", "unit image embeddings of a local CLIP"),
        "inception": Record("excise.judges.inception:inception", "the Inception features of FID and KID"),
    },
)

__all__ = ["FEATURES", "JUDGES", "NONE", "Judge", "Measuring"]
