"""Exports of diffusion transformers: the layouts of their LoRA files, and what each program does with each layout.

One row a family, one rule a program and layout. A rule says which layers of such a file the program applies; whether it
passes over the others in silence or refuses the file. All were tried with the program's own code on small models,
unless "by its source" stands there:

- ComfyUI 0.33.0 (783545f): its model classes and `load_lora_for_models`
- diffusers 0.42.1: `load_lora_weights` of each pipeline
- stable-diffusion.cpp at 97d2990: its conversion of names, compiled; by its source how factors are applied
- OneTrainer at 23df383: its normalising of names
- kohya's sd-scripts at 48d368f: `lora_flux.create_network_from_weights` and `merge_to`
- musubi-tuner at 30c658c: `create_arch_network_from_weights` and `merge_to`
- ai-toolkit at 27a03a9: its rewriting of names; by its source that its network holds blocks alone unless told otherwise
- Nunchaku at 3a3cc3d: by its source
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from excise.errors import WrongBaseError

OURS, ORIGINAL = "diffusers", "original"
PEFT = (".lora_A.weight", ".lora_B.weight")
KOHYA = (".lora_down.weight", ".lora_up.weight")


class Layout(NamedTuple):
    """The layout of a LoRA file.

    Attributes:
        prefix: of every key.
        names: whose names of layers stand behind it, diffusers' or those of the original checkpoint.
        factors: the endings of the two factors, the one that reads the input first.
        flat: whether underscores stand for the dots of a name, and each layer has its `.alpha`.
        completed: whether a layer that stacks with others in the original checkpoint is written with all of them, the
            missing ones as changes of nothing. stable-diffusion.cpp numbers them, and stops at the first that is
            missing.
    """

    prefix: str
    names: str
    factors: tuple[str, str] = PEFT
    flat: bool = False
    completed: bool = False

    def key(self, layer: str) -> str:
        """The name of a layer in the file, without the endings of factors."""
        return self.prefix + (layer.replace(".", "_") if self.flat else layer)


class Rule(NamedTuple):
    """What a program does with a file of one layout.

    Attributes:
        layers: pattern of the names of layers that it applies, as they stand behind the prefix.
        refuses: whether it raises an error where a layer is not among them; otherwise it passes over that in silence
            or with a line in its log.
        groups: whether it takes the parts of a stacked layer only all together.
    """

    layers: str = ".+"
    refuses: bool = False
    groups: bool = False


class Program(NamedTuple):
    """A program that reads LoRA files of transformers.

    Attributes:
        program: its name in messages.
        version: that was tried.
        draws: whether people draw with it, and not train alone.
    """

    program: str
    version: str
    draws: bool = True


PROGRAMS = {
    "comfyui": Program("ComfyUI", "0.33.0"),
    "diffusers": Program("diffusers", "0.42.1"),
    "sd-cpp": Program("stable-diffusion.cpp", "at 97d2990"),
    "nunchaku": Program("Nunchaku", "at 3a3cc3d"),
    "onetrainer": Program("OneTrainer", "at 23df383", draws=False),
    "sd-scripts": Program("kohya's sd-scripts", "at 48d368f", draws=False),
    "musubi": Program("musubi-tuner", "at 30c658c", draws=False),
    "ai-toolkit": Program("ai-toolkit", "at 27a03a9", draws=False),
}
ALL, NONE, GROUPS = Rule(), Rule(r"(?!)"), Rule(groups=True)
MIXIN = Layout("transformer.", OURS, completed=True)
COMFY = Layout("diffusion_model.", OURS, completed=True)
COMFY_ORIGINAL = Layout("diffusion_model.", ORIGINAL)
KOHYA_ORIGINAL = Layout("lora_unet_", ORIGINAL, KOHYA, flat=True)
KOHYA_OURS = Layout("lora_unet_", OURS, KOHYA, flat=True)


@dataclass(frozen=True)
class Row:
    """How edits of one family of transformers leave.

    Attributes:
        title: the family's name in messages.
        layouts: by format of a LoRA, its layout; the format that most programs read first. Empty where diffusers loads
            no LoRA into pipelines of the family.
        rules: by format, what the programs that were tried do with it, by their names.
        kohya: metadata of the kohya file by which trainers know its base.
        single: programs that were tried with a single file of the transformer in the layout of the original checkpoint.
            Empty where diffusers reads none.
        transformer: the class of the transformer in diffusers, which reads such a file.
    """

    title: str
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    rules: Mapping[str, Mapping[str, Rule]] = field(default_factory=dict)
    kohya: Mapping[str, str] = field(default_factory=dict)
    single: tuple[str, ...] = ()
    transformer: str = ""

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats in which edits of the family leave."""
        return (*self.layouts, "merged", *(("single-file",) if self.single else ()))

    def formats_for(self, program: str) -> list[str]:
        """Return the formats that a program reads at all, the one to prefer first."""
        loras = [format for format in self.layouts if self.rules[format].get(program, NONE) != NONE]
        if program == "diffusers":  # its own layout first
            loras.sort(key=lambda format: format != "diffusers-lora")
        whole = {"single-file": self.single, "merged": ("diffusers",)}
        return loras + [format for format, programs in whole.items() if program in programs]


_FLUX_BLOCKS = Rule(r"(single_)?transformer_blocks\.\d+\..+")
_FLUX_MIXIN = {
    "comfyui": ALL,
    "diffusers": ALL,
    "sd-cpp": GROUPS,
    "nunchaku": ALL,
    "onetrainer": ALL,
    "sd-scripts": NONE,
    "ai-toolkit": _FLUX_BLOCKS,
}
_ZIMAGE_OURS = {
    "comfyui": ALL,
    "diffusers": ALL,
    "sd-cpp": GROUPS,
    "onetrainer": ALL,
    "musubi": NONE,
    "ai-toolkit": Rule(r"layers\.\d+\..+"),
}
_SD3_MIXIN = {"comfyui": ALL, "diffusers": ALL, "sd-cpp": GROUPS, "onetrainer": ALL, "sd-scripts": NONE}
_ORIGINAL_READ = {"comfyui": ALL, "diffusers": ALL, "sd-cpp": ALL, "onetrainer": ALL}
_QWEN_OURS = {**_ORIGINAL_READ, "musubi": NONE, "ai-toolkit": Rule(r"transformer_blocks\.\d+\..+")}
# Families with a loader in diffusers of which no other program was tried.
_BY_DIFFUSERS = {"diffusers-lora": MIXIN}, {"diffusers-lora": {"diffusers": ALL}}

TRANSFORMERS: dict[str, Row] = {
    "flux": Row(
        "FLUX.1",
        {"comfyui-lora": MIXIN, "diffusers-lora": MIXIN, "kohya-lora": KOHYA_ORIGINAL},
        {
            "comfyui-lora": _FLUX_MIXIN,
            "diffusers-lora": _FLUX_MIXIN,
            "kohya-lora": {
                "comfyui": ALL,
                # Of the layers outside the blocks the converter drops the prefix, and the filter then the layers.
                "diffusers": Rule(r"(double|single)_blocks_\d+_.+"),
                "sd-cpp": Rule(r"(double|single)_blocks_\d+_.+"),
                "nunchaku": Rule(r"(double|single)_blocks_\d+_.+"),
                "onetrainer": ALL,
                "sd-scripts": ALL,
            },
        },
        kohya={"ss_network_module": "networks.lora_flux", "ss_base_model_version": "flux1"},
        single=("comfyui", "diffusers"),
        transformer="FluxTransformer2DModel",
    ),
    "zimage": Row(
        "Z-Image",
        {"comfyui-lora": COMFY, "diffusers-lora": MIXIN, "kohya-lora": KOHYA_OURS},
        {
            "comfyui-lora": _ZIMAGE_OURS,
            "diffusers-lora": _ZIMAGE_OURS,
            "kohya-lora": {
                # Names that are the same in the original checkpoint, where queries, keys and values are one layer.
                "comfyui": Rule(r"(?!.*_attention_to_).+"),
                "diffusers": ALL,
                "sd-cpp": NONE,
                "musubi": Rule(r"(layers|context_refiner|noise_refiner)_\d+_.+"),
            },
        },
        single=("comfyui", "diffusers"),
        transformer="ZImageTransformer2DModel",
    ),
    "flux2": Row(
        "FLUX.2",
        {"comfyui-lora": COMFY_ORIGINAL, "diffusers-lora": MIXIN, "kohya-lora": KOHYA_ORIGINAL},
        {
            "comfyui-lora": {
                **_ORIGINAL_READ,
                "musubi": NONE,
                "ai-toolkit": Rule(r"(double|single)_blocks\.\d+\..+"),
            },
            "diffusers-lora": {
                "comfyui": ALL,
                "diffusers": ALL,
                "sd-cpp": Rule(r"(?!.*to_qkv_mlp_proj).+", groups=True),
                "onetrainer": ALL,
                "musubi": NONE,
                "ai-toolkit": NONE,
            },
            "kohya-lora": {
                "comfyui": ALL,
                "diffusers": ALL,
                "sd-cpp": Rule(r"(double|single)_blocks_\d+_.+"),
                "onetrainer": ALL,
                "musubi": Rule(r"(double|single)_blocks_\d+_.+"),
            },
        },
        single=("comfyui", "diffusers"),
        transformer="Flux2Transformer2DModel",
    ),
    "sd3": Row(
        "Stable Diffusion 3",
        {"comfyui-lora": MIXIN, "diffusers-lora": MIXIN, "kohya-lora": KOHYA_ORIGINAL},
        {
            "comfyui-lora": _SD3_MIXIN,
            "diffusers-lora": _SD3_MIXIN,
            "kohya-lora": {"comfyui": ALL, "diffusers": NONE, "sd-cpp": NONE, "onetrainer": ALL, "sd-scripts": ALL},
        },
        kohya={"ss_network_module": "networks.lora_sd3"},
    ),
    "qwenimage": Row(
        "Qwen-Image",
        {"comfyui-lora": COMFY, "diffusers-lora": MIXIN, "kohya-lora": KOHYA_OURS},
        {
            "comfyui-lora": _QWEN_OURS,
            "diffusers-lora": _QWEN_OURS,
            "kohya-lora": {
                "comfyui": ALL,
                "diffusers": ALL,
                "sd-cpp": Rule(r"transformer_blocks_\d+_.+"),
                "onetrainer": ALL,
                "musubi": Rule(r"transformer_blocks_\d+_.+"),
            },
        },
    ),
    "krea2": Row(
        "Krea-2",
        {"comfyui-lora": COMFY_ORIGINAL, "diffusers-lora": MIXIN, "kohya-lora": KOHYA_ORIGINAL},
        {
            "comfyui-lora": {**_ORIGINAL_READ, "musubi": NONE, "ai-toolkit": Rule(r"blocks\.\d+\..+")},
            "diffusers-lora": {**_ORIGINAL_READ, "musubi": NONE, "ai-toolkit": NONE},
            # Of the kohya form stable-diffusion.cpp knows a few maps, and none that reads text.
            "kohya-lora": {"comfyui": ALL, "diffusers": NONE, "sd-cpp": NONE, "onetrainer": ALL, "musubi": ALL},
        },
    ),
    "chroma": Row("Chroma", *_BY_DIFFUSERS),
    "lumina2": Row("Lumina 2", *_BY_DIFFUSERS),
    "sana-sprint": Row("SANA-Sprint", *_BY_DIFFUSERS),
    "kolors": Row("Kolors", {"diffusers-lora": Layout("unet.", OURS)}, _BY_DIFFUSERS[1]),
    "pixart": Row("PixArt"),
}


def layout_of(family: str, format: str) -> Layout:
    """Return the layout of a LoRA of a family.

    Raises:
        WrongBaseError: the family has no such format.
    """
    row = TRANSFORMERS[family]
    if not row.layouts:
        raise WrongBaseError(
            f"diffusers loads no LoRA into pipelines of {row.title}, so no format of one is known; use --format merged."
        )
    if format not in row.layouts:
        raise WrongBaseError(f"no {format} of {row.title} is known; use --format {' or '.join(row.formats)}.")
    return row.layouts[format]


def has_single_file(family: str) -> bool:
    """Whether edits of a family leave as a single file too."""
    return family in ("sd", "sdxl") or (family in TRANSFORMERS and bool(TRANSFORMERS[family].single))


def taken(rule: Rule, layers: Sequence[str], groups: Mapping[str, Sequence[str]], held: Sequence[str]) -> list[str]:
    """Return those of the changed layers of a file that a program applies.

    Args:
        rule: of the program, for the file's layout.
        layers: names of the changed layers, as they stand behind the prefix.
        groups: by name of a layer, those that stack with it in the original checkpoint.
        held: names of all layers in the file, changes of nothing included.
    """
    applied = [name for name in layers if re.fullmatch(rule.layers, name)]
    if rule.refuses and len(applied) < len(layers):
        return []
    if rule.groups:
        applied = [name for name in applied if set(groups.get(name, ())) <= set(held)]
    return applied
