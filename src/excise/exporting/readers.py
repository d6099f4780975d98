"""Which program reads which export format, and which layers of a LoRA it recognises by name.

The rules describe the named version of each program. Most programs skip a name that they do not know with a line in
their log, so a file that "loads" may work only in part. Sources, by file:

- ComfyUI 0.3.64: comfy/lora.py (`model_lora_keys_unet`, `model_lora_keys_clip`), comfy/utils.py (`unet_to_diffusers`)
- AUTOMATIC1111 at 0a0efa3: extensions-builtin/Lora/networks.py (`convert_diffusers_name_to_compvis`), network.py
  (`detect_version`, by which a file is listed or hidden)
- InvokeAI at 01d6f09: backend/model_manager/configs/lora.py, util/model_util.py (`lora_token_vector_length`),
  backend/patches/lora_conversions/sdxl_lora_conversion_utils.py
- stable-diffusion.cpp at 15f335d: src/name_conversion.cpp (`convert_sep_to_dot`, `convert_tensor_name`)
- kohya's sd-scripts at 077f6a4: networks/lora.py, networks/sdxl_merge_lora.py
- diffusers 0.42.1: loaders/lora_conversion_utils.py; 0.32 raises on `label_emb`, there the diffusers LoRA is right

The rules for diffusion transformers stand in `excise.exporting.layouts`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from excise.errors import unknown
from excise.exporting.layouts import PROGRAMS, TRANSFORMERS, taken
from excise.support.counts import counted

LORA = ("kohya-lora", "diffusers-lora", "comfyui-lora")
# Blocks of a UNet under diffusers' names (Stable Diffusion 1 and 2) and under the original ones (SDXL).
_BLOCK = r"(?:down_blocks_\d+|mid_block|up_blocks_\d+)_\w+"
_ORIGINAL = r"(?:input_blocks_[1-9]\d*|middle_block|output_blocks_\d+)_\w+"
_TEXT = r"lora_te[12]?_text_model_encoder_layers_\d+_\w+"
_ALL = r".+"


@dataclass(frozen=True)
class Reader:
    """A program that loads exports.

    Attributes:
        name: its name for `--for`.
        program: its name in messages.
        version: the version whose source was read.
        formats: by family, the formats that it reads, the preferred one first.
        kohya: pattern of the layer names that it recognises in a kohya LoRA.
        diffusers: the same for a diffusers LoRA.
        needs: pattern that one layer name in a kohya file must match; the program refuses the file otherwise.
    """

    name: str
    program: str
    version: str
    formats: Mapping[str, tuple[str, ...]]
    kohya: str = _ALL
    diffusers: str = r"(?!)"
    needs: str = _ALL

    def accepted(self, format: str, family: str, names: Sequence[str], markers: Sequence[str] = ()) -> list[str]:
        """Return those of the layers in a file that the program applies.

        Args:
            format: of the file.
            family: of its base model.
            names: of the changed layers, without the suffixes of factors.
            markers: names of further layers in the file, whose change is zero.
        """
        reads = self.formats.get(family, ())
        if format not in LORA or not reads:
            return list(names) if format in reads else []
        if format == "kohya-lora" and not any(re.fullmatch(self.needs, n) for n in (*names, *markers)):
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
            # It recognises attention layers only as `.processor.to_k`, their name in diffusers before peft.
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
            needs=r"lora_unet_\w+_attn2_to_[kv]",  # whose width tells it the base model
        ),
        Reader(
            "sd-cpp",
            "stable-diffusion.cpp",
            "at 15f335d",
            _unets("kohya-lora", "single-file"),
            # Underscores become dots except in listed words; the list lacks `label_emb`, `add_embedding`, `time_embed`.
            kohya=rf"lora_unet_(?:{_BLOCK}|{_ORIGINAL}|input_blocks_0_0|out_2)|{_TEXT}",
            diffusers=r"unet\.(?:down_blocks\.\d+|mid_block|up_blocks\.\d+)\..+",
        ),
        Reader(
            "sd-scripts",
            "kohya's sd-scripts",
            "at 077f6a4",
            _unets("kohya-lora", "single-file"),
            kohya=rf"lora_unet_(?:{_BLOCK}|{_ORIGINAL})|{_TEXT}",  # layers in blocks, no embedding
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
    """How much of a file a program reads.

    Attributes:
        program: its name in messages.
        version: of the program.
        taken: number of changed layers that it applies.
        maps: number of changed layers in the file.
        missed: names of the layers that it ignores.
        silent: whether it draws with a file of this layout, passes over these layers, and raises no error.
    """

    program: str
    version: str
    taken: int
    maps: int
    missed: tuple[str, ...]
    silent: bool = False

    @property
    def whole(self) -> bool:
        """Whether the program applies every change."""
        return self.taken == self.maps


def check_reader(name: str) -> None:
    """Refuse a name of `--for` that no program has; raises UnknownNameError."""
    if name not in READERS and name not in PROGRAMS:
        raise unknown("program", name, sorted({*READERS, *PROGRAMS}))


def program_of(name: str, family: str) -> tuple[str, str]:
    """Return the name in messages and the version of a program, as it was tried for a family."""
    if name in PROGRAMS and (family in TRANSFORMERS or name not in READERS):
        return PROGRAMS[name].program, PROGRAMS[name].version
    return READERS[name].program, READERS[name].version


def formats_for(name: str, family: str) -> Sequence[str]:
    """Return the formats that a program reads of a family, the preferred one first."""
    if family in TRANSFORMERS:
        return TRANSFORMERS[family].formats_for(name)
    return READERS[name].formats.get(family, ()) if name in READERS else ()


def readers_of(family: str) -> list[str]:
    """Return the names of the programs that read edits of a family."""
    names = PROGRAMS if family in TRANSFORMERS else READERS
    return [name for name in names if formats_for(name, family)]


def readings(
    format: str,
    family: str,
    names: Sequence[str],
    markers: Sequence[str] = (),
    groups: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> dict[str, Reading]:
    """Return, by program, how much of a file it reads.

    Args:
        format, family, names, markers: as in `Reader.accepted`; in a LoRA of a transformer, names without the prefix.
        groups: by name, the layers that stack with it in the original checkpoint.
    """
    if family in TRANSFORMERS:
        return _transformer_readings(format, family, names, markers, groups)
    by_program = {}
    for r in READERS.values():
        accepted = set(r.accepted(format, family, names, markers))
        missed = tuple(n for n in names if n not in accepted)
        by_program[r.name] = Reading(r.program, r.version, len(accepted), len(names), missed)
    return by_program


def _transformer_readings(
    format: str, family: str, names: Sequence[str], markers: Sequence[str], groups: Mapping[str, Sequence[str]]
) -> dict[str, Reading]:
    row, by_program = TRANSFORMERS[family], {}
    if format not in row.layouts:
        reads = row.single if format == "single-file" else ("diffusers",)
        programs = {name: PROGRAMS[name] for name in reads}
        return {n: Reading(p.program, p.version, len(names), len(names), ()) for n, p in programs.items()}
    for name, rule in row.rules[format].items():
        program, applied = PROGRAMS[name], taken(rule, names, groups, (*names, *markers))
        missed = tuple(n for n in names if n not in applied)
        silent = bool(missed) and program.draws and not rule.refuses
        by_program[name] = Reading(program.program, program.version, len(applied), len(names), missed, silent)
    return by_program


def losses(readings: Mapping[str, Reading]) -> list[str]:
    """Return one sentence for each program that draws with a file, passes over a part of it, and raises no error."""
    return [
        f"{r.program} applies {r.taken} of the {counted(r.maps, 'map')} and raises no error; it passes over "
        f"{_some(r.missed)}"
        for r in readings.values()
        if r.silent
    ]


def describe(readings: Mapping[str, Reading]) -> list[str]:
    """Return lines for the terminal: which programs read a file completely, which in part, which not at all."""
    whole = [r.program for r in readings.values() if r.whole]
    lines = [f"All of it is read by {', '.join(whole)}."] if whole else []
    for r in readings.values():
        if 0 < r.taken < r.maps:
            lines.append(f"A part is read by {r.program}: {r.taken} of {r.maps} maps, not {_some(r.missed)}.")
    if nobody := [r.program for r in readings.values() if not r.taken and r.maps]:
        lines.append(f"None of it is read by {', '.join(nobody)}.")
    return lines


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
