"""Which program reads which file, and which maps of a LoRA it takes by their names.

Every rule is what the named version of a program does with the names that `excise export` writes. Most programs pass
over a name they do not know with a line in their log, so a file that "loads" may do half its job. Sources, by file:

- ComfyUI 0.3.64: comfy/lora.py (`model_lora_keys_unet`, `model_lora_keys_clip`), comfy/utils.py (`unet_to_diffusers`)
- AUTOMATIC1111 at 0a0efa3: extensions-builtin/Lora/networks.py (`convert_diffusers_name_to_compvis`), network.py
  (`detect_version`, by which a file is listed or hidden)
- InvokeAI at 01d6f09: backend/model_manager/configs/lora.py, util/model_util.py (`lora_token_vector_length`),
  backend/patches/lora_conversions/sdxl_lora_conversion_utils.py
- stable-diffusion.cpp at 15f335d: src/name_conversion.cpp (`convert_sep_to_dot`, `convert_tensor_name`)
- kohya's sd-scripts at 077f6a4: networks/lora.py, networks/sdxl_merge_lora.py
- diffusers 0.42.1: loaders/lora_conversion_utils.py; 0.32 raises on `label_emb`, there the diffusers LoRA is right
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from excise.errors import unknown

LORA = ("kohya-lora", "diffusers-lora")
# Of a UNet: a block under diffusers' names (Stable Diffusion 1 and 2), and under the original ones (SDXL).
_BLOCK = r"(?:down_blocks_\d+|mid_block|up_blocks_\d+)_\w+"
_ORIGINAL = r"(?:input_blocks_[1-9]\d*|middle_block|output_blocks_\d+)_\w+"
_TEXT = r"lora_te[12]?_text_model_encoder_layers_\d+_\w+"
_ALL = r".+"


@dataclass(frozen=True)
class Reader:
    """A program that loads edits.

    Attributes:
        name: as `--for` has it. program, version: what it is called, and which version was looked at.
        formats: what it reads for each family, what to choose first in front.
        kohya, diffusers: a pattern of the maps that it takes from a LoRA of each layout, by their names.
        needs: a pattern that one map of a kohya file has to match, or it does not know what the file is.
    """

    name: str
    program: str
    version: str
    formats: Mapping[str, tuple[str, ...]]
    kohya: str = _ALL
    diffusers: str = r"(?!)"
    needs: str = _ALL

    def taken(self, format: str, family: str, names: Sequence[str], beside: Sequence[str] = ()) -> list[str]:
        """Those of the maps in a file that it takes.

        Args:
            format, family: of the file. names: of its maps, without the names of factors.
            beside: of what else is in the file.
        """
        reads = self.formats.get(family, ())
        if format not in LORA or not reads:
            return list(names) if format in reads else []
        if format == "kohya-lora" and not any(re.fullmatch(self.needs, n) for n in (*names, *beside)):
            return []
        pattern = re.compile(self.kohya if format == "kohya-lora" else self.diffusers)
        return [n for n in names if pattern.fullmatch(n)]


def _unets(*formats: str) -> dict[str, tuple[str, ...]]:
    return {"sd": formats, "sdxl": formats}


READERS = {
    r.name: r
    for r in (
        Reader(
            "comfyui",
            "ComfyUI",
            "0.3.64",
            _unets("kohya-lora", "single-file"),
            # Attention maps are known by `.processor.to_k` alone there, as diffusers named them before peft.
            diffusers=r"unet\.(?!.*\.to_).+|text_encoder(?:_2)?\.text_model\.encoder\.layers\..+",
        ),
        Reader(
            "webui",
            "the web UIs (AUTOMATIC1111)",
            "at 0a0efa3",
            _unets("kohya-lora", "single-file"),
            kohya=rf"lora_unet_(?!add_embedding)\w+|{_TEXT}",
        ),
        Reader(
            "invokeai",
            "InvokeAI",
            "at 01d6f09",
            _unets("kohya-lora", "single-file", "merged"),
            kohya=rf"lora_unet_\w+|{_TEXT}",
            needs=r"lora_unet_\w+_attn2_to_[kv]",  # tells it the width of the text, by which it knows the base
        ),
        Reader(
            "sd-cpp",
            "stable-diffusion.cpp",
            "at 15f335d",
            _unets("kohya-lora", "single-file"),
            # Underscores become dots but in words of a list, which lacks `label_emb`, `add_embedding` and `time_embed`.
            kohya=rf"lora_unet_(?:{_BLOCK}|{_ORIGINAL}|input_blocks_0_0|out_2)|{_TEXT}",
            diffusers=r"unet\.(?:down_blocks\.\d+|mid_block|up_blocks\.\d+)\..+",
        ),
        Reader(
            "sd-scripts",
            "kohya's sd-scripts",
            "at 077f6a4",
            _unets("kohya-lora", "single-file"),
            kohya=rf"lora_unet_(?:{_BLOCK}|{_ORIGINAL})|{_TEXT}",  # what stands in its blocks, no embedding
        ),
        Reader(
            "diffusers",
            "diffusers",
            "0.42.1",
            {
                **_unets("diffusers-lora", "kohya-lora", "merged", "single-file"),
                "sana": ("diffusers-lora", "merged"),
            },
            diffusers=_ALL,
        ),
    )
}


@dataclass(frozen=True)
class Reading:
    """How much of a file a program takes: `taken` of `maps`, without those named in `missed`."""

    program: str
    version: str
    taken: int
    maps: int
    missed: tuple[str, ...]

    @property
    def whole(self) -> bool:
        return self.taken == self.maps


def reader(name: str) -> Reader:
    """The program that `--for` names.

    Raises:
        UnknownNameError: none.
    """
    if name not in READERS:
        raise unknown("reader", name, READERS)
    return READERS[name]


def readings(format: str, family: str, names: Sequence[str], beside: Sequence[str] = ()) -> dict[str, Reading]:
    """What every program takes of a file; arguments as `Reader.taken`."""
    found = {}
    for r in READERS.values():
        taken = set(r.taken(format, family, names, beside))
        missed = tuple(n for n in names if n not in taken)
        found[r.name] = Reading(r.program, r.version, len(taken), len(names), missed)
    return found


def told(readings: Mapping[str, Reading]) -> list[str]:
    """The lines that tell a person who reads a file: all of it, in part, and who does not."""
    whole = [r.program for r in readings.values() if r.whole]
    lines = [f"read whole by {', '.join(whole)}"] if whole else []
    for r in readings.values():
        if 0 < r.taken < r.maps:
            lines.append(f"in part by {r.program}: {r.taken} of {r.maps} maps, not {_some(r.missed)}")
    if nobody := [r.program for r in readings.values() if not r.taken and r.maps]:
        lines.append(f"not by {', '.join(nobody)}")
    return lines


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
