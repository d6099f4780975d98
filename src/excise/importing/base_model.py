"""For which model a file of another program says that it was trained, by the fields that trainers write.

Stability AI's model specification has `modelspec.architecture`, kohya's scripts `ss_base_model_version`.
"""

from __future__ import annotations

from collections.abc import Mapping

FIELDS = ("modelspec.architecture", "ss_base_model_version")
# By how a value begins, the family; the longest beginning wins.
_FAMILIES = {
    "stable-diffusion-v1": "sd",
    "stable-diffusion-v2": "sd",
    "sd_v1": "sd",
    "sd_v2": "sd",
    "stable-diffusion-xl": "sdxl",
    "sdxl": "sdxl",
    "stable-diffusion-3": "sd3",
    "sd3": "sd3",
    "flux-1": "flux",
    "flux1": "flux",
    "flux-2": "flux2",
    "flux2": "flux2",
    "chroma": "chroma",
    "lumina-2": "lumina2",
    "lumina2": "lumina2",
    "qwen-image": "qwenimage",
    "qwen_image": "qwenimage",
    "z-image": "zimage",
    "zimage": "zimage",
}


def told_family(metadata: Mapping[str, str]) -> tuple[str, str] | None:
    """The family that a file names, and its own word for the model; None where it names none that is known.

    >>> told_family({"ss_base_model_version": "sdxl_base_v1-0"})
    ('sdxl', 'sdxl_base_v1-0')
    """
    for field in FIELDS:
        value = metadata.get(field, "")
        begins = [start for start in _FAMILIES if value.lower().startswith(start)]
        if begins:
            return _FAMILIES[max(begins, key=len)], value
    return None
