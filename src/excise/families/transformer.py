"""What the adapters of diffusion transformers share: packed latents, and prompts of a dense text encoder.

In these families attention mixes the rows of a prompt with those of the picture, so that its keys and values depend on
latents and timestep. Closed forms edit the maps that read a prompt before that: its doors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from excise.families.conditions import Condition
from excise.families.maps import MapInput, Projection, WeightMap
from excise.families.networks import computes_in, module_in
from excise.families.padded_text import Padded, encode_padded
from excise.families.pipeline import PipelineFamily
from excise.families.reading import first_inputs
from excise.families.text_known import KnownStates
from excise.families.text_states import Further, TextStates, Until
from excise.families.text_tree import run_on


class TransformerFamily(PipelineFamily):
    """Adapter of a pipeline whose denoiser is a transformer over text and picture.

    Attributes:
        doors: paths of the maps that read the states of tokens before the first block, in the order of the network.
        pooled_door: path of the map that reads the pooled prompt, "" where there is none.
        streams: what the blocks of a part of the network read (`WeightMap.source`), by the first word of their paths,
            where their layers do not tell.
        longest: number of tokens that the pipeline takes of a prompt by default, with what it puts around it.
        arguments: by the pipeline's name of an argument that a prompt is drawn from, the denoiser's name of that input.
        packs: whether the transformer is given rows of 2 x 2 patches of latents.
    """

    denoiser_name = "transformer"
    doors: tuple[str, ...]
    pooled_door: str = ""
    streams: Mapping[str, str] = MappingProxyType({})
    arguments: Mapping[str, str] = MappingProxyType({"prompt_embeds": "encoder_hidden_states"})
    longest: int = 512
    packs: bool = False

    @property
    def _read_width(self) -> int | None:
        return self.text_width

    @property
    def text_width(self) -> int:
        return int(module_in(self.denoiser, self.doors[0]).in_features)

    @property
    def max_tokens(self) -> int:
        self.check_encoders()
        return int(min(self.longest, self._prompt_tokenizer.model_max_length))

    @property
    def _prompt_tokenizer(self) -> Any:
        """The tokenizer of the states that the doors read."""
        return self.pipe.tokenizer

    @property
    def image_size(self) -> int:
        # Neither pipeline nor transformer keeps the size of the pictures that it was trained on.
        return int(self.pipe.vae.config.sample_size)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = self.image_size // int(self.pipe.vae_scale_factor)
        return self._channels, side, side

    @property
    def _channels(self) -> int:
        """Channels of a picture's latents."""
        return int(self.denoiser.config.in_channels) // (4 if self.packs else 1)

    @property
    def _picture_tokens(self) -> int:
        _, height, width = self.latent_shape
        return height * width // 4

    def projections(self, roles: str = "kv") -> list[Projection]:
        """As in the base class; the doors stand for keys and values, which all read what they give."""
        paths = self.doors if set(roles) & set("kve") else ()
        matches = [Projection(path, "e", module_in(self.denoiser, path)) for path in paths]
        if "p" in roles and self.pooled_door:
            matches.append(Projection(self.pooled_door, "p", module_in(self.denoiser, self.pooled_door)))
        return matches

    def _reads(self, path: str, layer: Any) -> str:
        return self.streams.get(path.partition(".")[0]) or super()._reads(path, layer)

    def _map_input(self, path: str, rows: Tensor, condition: Condition) -> MapInput:
        """As in the base class; in a shared stream the rows of the text stand before those of the picture."""
        if self.streams.get(path.partition(".")[0]) != "shared" or rows.dim() < 3:
            return super()._map_input(path, rows, condition)
        length = condition.inputs["encoder_hidden_states"].shape[1]
        text = rows[:, :length]
        return MapInput(text, self._read(condition, text), rows[:, length:])

    def _encode_padded(
        self,
        texts: Sequence[str],
        parts: Sequence[Further],
        until: Sequence[Until] | None,
        known: KnownStates | None,
        *,
        start: bool = False,
    ) -> TextStates:
        """Encode prompts that are read with all of their padding, as the pipeline encodes them.

        Args:
            parts: where each subject is, in the columns of every text encoder.
            until, known: as `encode` takes them. start: see `TextStates`.
        """
        self._check_encodes()
        length = parts[-1].begin + self._padded_tokens
        how = Padded(self._encoded, self.pipe, length, self.encode_batch, start)
        return encode_padded(how, texts, parts, until, known)

    @property
    def _padded_tokens(self) -> int:
        """Number of rows of a prompt's last text encoder."""
        return self.max_tokens

    def _encoded(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        inputs = self._condition(texts).inputs
        return inputs["encoder_hidden_states"], inputs["pooled_projections"] if self.pooled_door else None

    def _before_last(self, ids: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        """A decoder's layer before the last, behind the norm in front of the door; arguments are an `Encoder`'s."""
        encoder = self.pipe.text_encoder
        last = f"layers.{encoder.config.num_hidden_layers - 1}"
        with first_inputs({last: module_in(encoder, last)}) as read:
            run_on(encoder, ids[..., 0], positions, mask)
        states = read[last].to(self.device, computes_in(self.denoiser))
        normed: Tensor = module_in(self.denoiser, self.text_modules[-1])(states)
        return normed

    def _call(self, condition: Condition, unconditional: Condition) -> dict[str, Any]:
        own = {name: condition.inputs[given] for name, given in self.arguments.items()}
        negative = {f"negative_{name}": unconditional.inputs[given] for name, given in self.arguments.items()}
        return {**own, **negative, "height": self.image_size, "width": self.image_size}

    def door_maps(self) -> list[WeightMap]:
        return [WeightMap(p.path, p.path, "door", p.role) for p in self.projections("ep")]


def places(height: int, width: int) -> Tensor:
    """(h/2 w/2, 3): where each row of packed latents stands in the picture: nothing, its row and its column."""
    rows, columns = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).flatten(0, 1)


def patched(latents: Tensor) -> Tensor:
    """(B, 4c, h/2, w/2): latents (B, c, h, w) with patches of 2 x 2 as channels, those of one channel side by side."""
    return torch.nn.functional.pixel_unshuffle(latents, 2)


def unpatched(latents: Tensor) -> Tensor:
    """(B, c, h, w): the inverse of `patched`."""
    return torch.nn.functional.pixel_shuffle(latents, 2)


def packed(latents: Tensor) -> Tensor:
    """(B, h/2 w/2, 4c): latents (B, c, h, w) as rows of 2 x 2 patches, channels first in each row."""
    b, c, h, w = latents.shape
    patches = latents.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(b, h // 2 * (w // 2), 4 * c)


def unpacked(rows: Tensor, height: int, width: int) -> Tensor:
    """(B, c, h, w): the inverse of `packed`."""
    b, _, channels = rows.shape
    patches = rows.view(b, height // 2, width // 2, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(b, channels // 4, height, width)
