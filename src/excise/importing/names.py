"""Which parameter of the base a name in another tool's file means.

Programs call one map by many names: with dots or underscores, in the names of diffusers or of the original checkpoint,
behind the name of a part, of a LoRA or of a wrapper. All of them come down to a part of the pipeline and the map's name
in it with underscores, so one table serves every spelling.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

from torch import Tensor

from excise.errors import WrongBaseError
from excise.families.base import Family
from excise.families.networks import in_encoder, parameters
from excise.families.original_names import unet_name

DENOISER = ("model.diffusion_model.", "diffusion_model.", "lora_unet_", "lora_transformer_")
# By family, the prefixes of its text encoders in single files and in ComfyUI; kohya's and diffusers' go by number.
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
}
WRAPPERS = ("base_model.model.", "_orig_mod.", "module.", "lycoris_")  # peft, torch.compile, parallel training, LyCORIS
# Of attention maps in text encoders as diffusers once called them, and of output maps without their number.
_OLDER = re.compile(r"_to_(q|k|v|out)_(weight|bias)$")
_NUMBERLESS = re.compile(r"(_to_out)_(weight|bias)$")


class Names:
    """Every parameter of a base that an edit may change, by the name it has in an edit.

    Attributes:
        parameters: as they are now, whatever edits are in force, by name: "mid_block.....to_k.weight",
            "text_encoder.encoder.....bias".
    """

    def __init__(self, family: Family) -> None:
        self.denoiser_name, self.encoders = family.denoiser_name, tuple(family.text_encoders)
        self.parameters: dict[str, Tensor] = dict(parameters(family.denoiser))
        self._denoiser = {_flat(name): name for name in self.parameters}
        if hasattr(family.denoiser, "down_blocks"):
            config: Any = family.denoiser.config
            for name in list(self.parameters):
                with suppress(WrongBaseError):  # what the original layout has no place for has one name alone
                    self._denoiser[_flat(unet_name(name, config))] = name
        self._inside: dict[str, dict[str, str]] = {}
        for encoder, module in family.text_encoders.items():
            rows = {f"{encoder}.{n.removeprefix('text_model.')}": p for n, p in parameters(module).items()}
            self._inside[encoder] = {_flat(name.removeprefix(f"{encoder}.")): name for name in rows}
            self.parameters |= rows
        prefixes = dict.fromkeys((f"{family.denoiser_name}.", *DENOISER), "")
        for i, encoder in enumerate(self.encoders):
            prefixes |= {f"{encoder}.": encoder, f"lora_te{i + 1}_": encoder}
        if self.encoders:
            prefixes["lora_te_"] = self.encoders[0]
        prefixes |= {p: self.encoders[i] for p, i in ENCODERS.get(family.name, {}).items()}
        self._prefixes = sorted(prefixes.items(), key=lambda row: -len(row[0]))  # the longest that fits is meant

    def of_denoiser(self) -> dict[str, Tensor]:
        """The parameters that are of no text encoder."""
        return {n: p for n, p in self.parameters.items() if not in_encoder(n, self._inside)}

    def place(self, name: str, tensor: Tensor | None = None) -> str | None:
        """The parameter that a name means, or None.

        Args:
            tensor: what the file holds for it; its shape tells text encoders apart where the name does not.

        Raises:
            WrongBaseError: it may be of several text encoders alike.
        """
        name = _unwrapped(name)
        for prefix, encoder in self._prefixes:
            if name.startswith(prefix):
                rest = _unwrapped(name.removeprefix(prefix))
                return self._in_encoder(encoder, rest) if encoder else self._in_denoiser(rest)
        return self._in_denoiser(name) or self._in_some_encoder(name, tensor)

    def _in_denoiser(self, name: str) -> str | None:
        flat = _flat(name.replace(".processor.", "."))
        return self._denoiser.get(flat) or self._denoiser.get(_NUMBERLESS.sub(r"\1_0_\2", flat))

    def _in_encoder(self, encoder: str, name: str) -> str | None:
        flat, known = _flat(name).removeprefix("text_model_"), self._inside[encoder]
        # AdvUnlearn calls what holds the embeddings "embedding".
        flat = re.sub(r"^embedding_", "embeddings_", flat)
        return known.get(flat) or known.get(_OLDER.sub(r"_\1_proj_\2", flat))

    def _in_some_encoder(self, name: str, tensor: Tensor | None) -> str | None:
        found = [place for encoder in self.encoders if (place := self._in_encoder(encoder, name)) is not None]
        if len(found) > 1 and tensor is not None:
            found = [place for place in found if self.parameters[place].shape == tensor.shape]
        if len(found) > 1:
            raise WrongBaseError(
                f"'{name}' fits {' and '.join(place.partition('.')[0] for place in found)} alike; put the file into a "
                "folder of that name and import the folder around it."
            )
        return found[0] if found else None


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _unwrapped(name: str) -> str:
    while wrapper := next((w for w in WRAPPERS if name.startswith(w)), None):
        name = name.removeprefix(wrapper)
    return name
