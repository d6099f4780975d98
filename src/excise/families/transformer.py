"""What the adapters of diffusion transformers share: packed latents, and prompts of a dense text encoder.

In these families attention mixes the rows of a prompt with those of the picture, so that its keys and values depend on
latents and timestep. Closed forms edit the maps that read a prompt before that: its doors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from excise.families.base import Projection, WeightMap
from excise.families.networks import module_in, parameters
from excise.families.pipeline import PipelineFamily


class TransformerFamily(PipelineFamily):
    """Adapter of a pipeline whose denoiser is a transformer over text and picture.

    Attributes:
        doors: paths of the maps that read the states of tokens before the first block, in the order of the network.
        pooled_door: path of the map that reads the pooled prompt, "" where there is none.
    """

    denoiser_name = "transformer"
    doors: tuple[str, ...]
    pooled_door: str = ""

    @property
    def text_encoder_weights(self) -> dict[str, Tensor]:
        return {n: w for name, e in self.text_encoders.items() for n, w in parameters(e, f"{name}.").items()}

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
        return int(self.denoiser.config.in_channels)

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

    def door_maps(self) -> list[WeightMap]:
        return [WeightMap(p.path, p.path, "door", p.role) for p in self.projections("ep")]


def places(height: int, width: int) -> Tensor:
    """(h/2 w/2, 3): where each row of packed latents stands in the picture: nothing, its row and its column."""
    rows, columns = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).flatten(0, 1)


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
