"""Translate a name in another tool's file into the parameter of the base that it means.

Programs use many names for one layer: with dots or underscores, as in diffusers or in the original checkpoint, with a
prefix for the component, for a LoRA or for a wrapper. Each of them is reduced to a component of the pipeline and the
layer's name with underscores, so that one table covers all spellings.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from torch import Tensor

from excise.errors import WrongBaseError
from excise.families.base import Family
from excise.families.networks import in_encoder, parameters
from excise.families.original_names import unet_name
from excise.families.transformer_names import Piece, original_pieces, spans

DENOISER = ("model.diffusion_model.", "diffusion_model.", "lora_unet_", "lora_transformer_")
# By family, prefixes of its text encoders in single files and in ComfyUI; those of kohya and diffusers have numbers.
ENCODERS = {
    "sd": {
        "cond_stage_model.transformer.": 0,
        "text_encoders.clip_l.transformer.": 0,
        "text_encoders.clip_h.transformer.": 0,
    },
    "sdxl": {
        "conditioner.embedders.0.transformer.": 0,
        "conditioner.embedders.1.transformer.": 1,
        "text_encoders.clip_l.transformer.": 0,
        "text_encoders.clip_g.transformer.": 1,
    },
    "flux": {
        "lora_te3_": 1,
        "text_encoders.clip_l.transformer.": 0,
        "text_encoders.t5xxl.transformer.": 1,
    },
    "zimage": {"text_encoders.qwen3_4b.transformer.model.": 0, "text_encoders.transformer.model.": 0},
}
WRAPPERS = ("base_model.model.", "_orig_mod.", "module.", "lycoris_")  # peft, torch.compile, parallel training, LyCORIS
# Attention layers in text encoders under diffusers' former names, and output layers without their number.
_OLDER = re.compile(r"_to_(q|k|v|out)_(weight|bias)$")
_LEVELS = re.compile(r"^((language_|text_)?model_)+")  # before the layers of a text encoder
_NUMBERLESS = re.compile(r"(_to_out)_(weight|bias)$")


class Names:
    """Table of the base's parameters that an edit may change, under all names that other tools give them.

    Attributes:
        denoiser_name: of the denoiser's component ("unet", "transformer").
        encoders: names of the text encoders' components.
        parameters: the parameters with their current values (applied edits included) by their name in an edit:
            "mid_block.....to_k.weight", "text_encoder.encoder.....bias".
    """

    def __init__(self, family: Family) -> None:
        self.denoiser_name, self.encoders = family.denoiser_name, tuple(family.text_encoders)
        self.parameters: dict[str, Tensor] = dict(parameters(family.denoiser))
        self._denoiser = {_flat(name): name for name in self.parameters}
        if hasattr(family.denoiser, "down_blocks"):
            config: Any = family.denoiser.config
            for name in list(self.parameters):
                with suppress(WrongBaseError):  # a parameter without an original name has only diffusers' name
                    self._denoiser[_flat(unet_name(name, config))] = name
        self._stacks: dict[str, tuple[Piece, ...]] = {}
        originals: dict[str, tuple[Piece, ...]] = {}
        with suppress(WrongBaseError):  # a variant that the table does not cover has only diffusers' names
            originals = original_pieces(family.name, self.parameters, whole=False)
        for theirs, pieces in originals.items():
            if len(pieces) == 1:
                self._denoiser[_flat(theirs)] = pieces[0].name
            else:
                self._stacks[_flat(theirs)] = pieces
        self._buffers = {f"{self.denoiser_name}.{name}" for name, _ in family.denoiser.named_buffers()}
        self._inside: dict[str, dict[str, str]] = {}
        self._moved: dict[str, dict[str, str]] = {}
        for encoder, module in family.text_encoders.items():
            rows = {f"{encoder}.{n.removeprefix('text_model.')}": p for n, p in parameters(module).items()}
            self._inside[encoder] = {_flat(name.removeprefix(f"{encoder}.")): name for name in rows}
            self.parameters |= rows
            self._moved[encoder] = _by_bare_name(self._inside[encoder])
            self._buffers |= {f"{encoder}.{name}" for name, _ in module.named_buffers()}
        prefixes = dict.fromkeys((f"{family.denoiser_name}.", *DENOISER), "")
        for i, encoder in enumerate(self.encoders):
            prefixes |= {f"{encoder}.": encoder, f"lora_te{i + 1}_": encoder}
        if self.encoders:
            prefixes["lora_te_"] = self.encoders[0]
        prefixes |= {p: self.encoders[i] for p, i in ENCODERS.get(family.name, {}).items()}
        self._prefixes = sorted(prefixes.items(), key=lambda row: -len(row[0]))  # longest first

    def of_denoiser(self) -> dict[str, Tensor]:
        """Return the parameters of the denoiser."""
        return {n: p for n, p in self.parameters.items() if not in_encoder(n, self._inside)}

    def place(self, name: str, tensor: Tensor | None = None) -> str | None:
        """Return the name in an edit of the parameter that a name in a file means, or None.

        Args:
            name: in a file.
            tensor: of that name; its shape decides between text encoders where the name does not.

        Raises:
            WrongBaseError: the name fits several text encoders.
        """
        name = _unwrapped(name)
        for prefix, encoder in self._prefixes:
            if name.startswith(prefix):
                rest = _unwrapped(name.removeprefix(prefix))
                return self._in_encoder(encoder, rest) if encoder else self._in_denoiser(rest)
        return self._in_denoiser(name) or self._in_some_encoder(name, tensor)

    def is_buffer(self, name: str) -> bool:
        """Return whether a name in a file means a table that the base computes or holds, and no edit changes."""
        return bool({name, f"{self.denoiser_name}.{name}"} & self._buffers)

    def stack(self, name: str) -> tuple[Piece, ...] | None:
        """Return the pieces of the parameters that a name in a file means where it means several, or None."""
        name = _unwrapped(name)
        prefixes = (prefix for prefix, encoder in self._prefixes if not encoder)
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        return self._stacks.get(_flat(_unwrapped(name.removeprefix(prefix))))

    def spans(self, pieces: Sequence[Piece]) -> list[tuple[Piece, slice, slice]]:
        """Return where each piece of stacked parameters lies (see `transformer_names.spans`)."""
        return spans(pieces, {piece.name: len(self.parameters[piece.name]) for piece in pieces})

    def _in_denoiser(self, name: str) -> str | None:
        flat = _flat(name.replace(".processor.", "."))
        return self._denoiser.get(flat) or self._denoiser.get(_NUMBERLESS.sub(r"\1_0_\2", flat))

    def _in_encoder(self, encoder: str, name: str) -> str | None:
        flat, table = _flat(name).removeprefix("text_model_"), self._inside[encoder]
        if flat not in table:  # AdvUnlearn names the embeddings "embedding", as ChatGLM does
            flat = re.sub(r"^embedding_", "embeddings_", flat)
        return table.get(flat) or table.get(_OLDER.sub(r"_\1_proj_\2", flat)) or self._moved[encoder].get(_bare(flat))

    def _in_some_encoder(self, name: str, tensor: Tensor | None) -> str | None:
        places = [place for encoder in self.encoders if (place := self._in_encoder(encoder, name)) is not None]
        if len(places) > 1 and tensor is not None:
            places = [place for place in places if self.parameters[place].shape == tensor.shape]
        if len(places) > 1:
            raise WrongBaseError(
                f"'{name}' fits {' and '.join(place.partition('.')[0] for place in places)} alike; put the file into a "
                "folder of that name and import the folder around it."
            )
        return places[0] if places else None


def _bare(flat: str) -> str:
    """A name in a text encoder without the levels that versions of transformers nest in one order or another."""
    return _LEVELS.sub("", flat)


def _by_bare_name(names: dict[str, str]) -> dict[str, str]:
    """Names in edits by their names without those levels, where that tells them apart."""
    bare: dict[str, list[str]] = {}
    for flat, name in names.items():
        bare.setdefault(_bare(flat), []).append(name)
    return {name: found[0] for name, found in bare.items() if len(found) == 1}


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _unwrapped(name: str) -> str:
    while wrapper := next((w for w in WRAPPERS if name.startswith(w)), None):
        name = name.removeprefix(wrapper)
    return name
