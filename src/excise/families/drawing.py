"""Images drawn batch by batch and saved on disk under a key of everything that they depend on.

Memory does not grow with the number of images, an interrupted run continues where it stopped, and nothing is drawn
twice. The unit is the batch: if one of its images is missing or damaged, the whole batch is drawn again, so that a
resumed run makes the same bytes as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, overload

import torch
from PIL import Image
from torch import nn

from excise.errors import ModelError, unknown
from excise.families.attached import attached
from excise.families.base import Family, Progress, Request, split
from excise.families.fingerprints import raw_bytes
from excise.families.networks import adapters, hooked
from excise.support.files import write_png

log = logging.getLogger(__name__)
BATCH = 40


@dataclass(frozen=True)
class Workers:
    """The place of this process among several.

    Attributes:
        rank: number of this process, from 0.
        count: number of processes.
        wait: returns when all processes have called it.
    """

    rank: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None


class Images(Sequence[Image.Image]):
    """Images on disk, opened when they are accessed.

    Args:
        paths: one PNG file an image.
        owner: a temporary folder that lives as long as this object.
    """

    def __init__(self, paths: Sequence[Path], owner: Any = None) -> None:
        self.paths, self._owner = list(paths), owner

    def __len__(self) -> int:
        return len(self.paths)

    def at(self, rows: Sequence[int]) -> Images:
        """A selection of the images, still on disk."""
        return Images([self.paths[i] for i in rows], self._owner)

    @overload
    def __getitem__(self, at: int) -> Image.Image: ...

    @overload
    def __getitem__(self, at: slice) -> list[Image.Image]: ...

    def __getitem__(self, at: int | slice) -> Image.Image | list[Image.Image]:
        return [_open(p) for p in self.paths[at]] if isinstance(at, slice) else _open(self.paths[at])


def draw(
    family: Family,
    requests: Sequence[Request],
    *,
    steps: int,
    guidance: float,
    sampler: str = "model",
    batch: int = BATCH,
    cache: Path | None = None,
    workers: Workers | None = None,
    progress: Progress | None = None,
) -> Images:
    """Draw (prompt, seed) requests with the model as it is now, including edits in force.

    Args:
        steps: of the sampler.
        guidance: scale of classifier-free guidance.
        sampler: "model" for the model's own scheduler, or "ddim".
        batch: images drawn at once.
        cache: folder of images by key; None uses a temporary folder, and so does a model with hooks.
        workers: for several processes that share the batches; they need one `cache`.
        progress: called with the number of images that are done and of all.

    Raises:
        UnknownNameError: there is no such sampler.
        ModelError: the sampler is not for this model, or several processes cannot draw it.
    """
    workers = workers or Workers()
    if own_ways(family):
        cache = None  # no key identifies its images
    owner = None if cache else tempfile.TemporaryDirectory(prefix="excise-")
    root = cache or Path(owner.name)  # type: ignore[union-attr]
    if own_ways(family) and workers.count > 1:
        raise ModelError(
            "a model with hooks or offloaded weights cannot be drawn by several processes, which meet in the "
            "cache of images; use one process."
        )
    with _scheduler(family, sampler):
        key = model_key(family)
        about = [key, steps, guidance, sampler, _precision(family)]
        paths = [root / _file_name(about, request) for request in requests]
        parts = list(zip(split(requests, batch), split(paths, batch), strict=True))
        mine = parts[workers.rank :: workers.count]
        missing = [(part, files) for part, files in mine if not all(map(_intact, files))]
        done = len(requests) - sum(len(files) for _, files in missing)

        def watch(share: float) -> None:
            if progress:
                progress(done + share * min(batch, len(requests) - done), len(requests))

        drawn = family.batches(
            [part for part, _ in missing], steps=steps, guidance=guidance, watch=watch if progress else None
        )
        for (_, files), images in zip(missing, drawn, strict=True):
            for file, image in zip(files, images, strict=True):
                write_png(file, image, durable=False)
            done += len(files)
            if progress:
                progress(done, len(requests))
    workers.wait()
    return Images(paths, owner)


def model_key(family: Family) -> str:
    """A digest of all that decides what a pipeline draws: weights, hooks of edits, settings, tokenizers, versions.

    For a pipeline that `own_ways` is true of, it is a new digest every time.
    """
    if own_ways(family):
        return uuid.uuid4().hex
    digest = hashlib.blake2b(digest_size=16)
    for name, part in sorted(family.pipe.components.items()):
        digest.update(f"{name}:{type(part).__name__}".encode())
        if isinstance(part, nn.Module):
            _read_weights(digest, part)
            digest.update(adapters(part).encode())
            for path, own in attached(part):
                digest.update(f"{path} {own}".encode())
        elif hasattr(part, "get_vocab"):
            digest.update(json.dumps(part.get_vocab(), sort_keys=True).encode())
        if hasattr(part, "config"):
            config = part.config if isinstance(part.config, dict) else part.config.to_dict()
            digest.update(json.dumps(_portable(config), sort_keys=True, default=str).encode())
    digest.update(f"torch {version('torch')} diffusers {version('diffusers')}".encode())
    return digest.hexdigest()


def own_ways(family: Family) -> bool:
    """Whether weights and configurations do not tell what a pipeline draws.

    So it is with foreign hooks, replaced attention processors or forward passes, FreeU, and offloaded weights. Hooks of
    edits do not count: `model_key` distinguishes them.
    """
    parts = [part for part in family.pipe.components.values() if isinstance(part, nn.Module)]
    return any(hooked(p) or any(w.is_meta for w in p.parameters()) for p in parts)


def weights_key(network: nn.Module | Mapping[str, torch.Tensor]) -> str:
    """A digest of the weights of a network, or of a checkpoint."""
    digest = hashlib.blake2b(digest_size=16)
    _read_weights(digest, network)
    return digest.hexdigest()


def _read_weights(digest: Any, network: nn.Module | Mapping[str, torch.Tensor]) -> None:
    """Add names, shapes, types and bytes of all weights to a digest."""
    state = network.state_dict() if isinstance(network, nn.Module) else network
    for key, tensor in sorted(state.items()):
        digest.update(f"{key}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(raw_bytes(tensor.detach().cpu()))


def _portable(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without the folder it was read from and the version that wrote it."""
    return {k: v for k, v in config.items() if not k.startswith("_") and k != "transformers_version"}


def _precision(family: Family) -> str:
    """The device type and arithmetic in which images are made."""
    device = str(family.device.type)
    if torch.is_autocast_enabled(device):
        return f"{device} autocast {torch.get_autocast_dtype(device)}"
    return device


def _file_name(about: list[Any], request: Request) -> str:
    text = json.dumps([*about, *request], ensure_ascii=False)
    digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return f"{digest[:2]}/{digest}.png"


def _intact(path: Path) -> bool:
    """Whether an image is there and can be read; a damaged one is logged."""
    if not path.exists():
        return False
    try:
        _open(path)
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for a damaged PNG
        log.warning("the kept image %s is damaged (%s); it is drawn again.", path.name, error)
        return False
    return True


def _open(path: Path) -> Image.Image:
    """Read an image and close its file."""
    with Image.open(path) as image:
        return image.convert("RGB")


@contextmanager
def _scheduler(family: Family, sampler: str) -> Iterator[None]:
    """Temporarily give the pipeline the scheduler of a sampler.

    Raises:
        UnknownNameError, ModelError: see `draw`.
    """
    if sampler == "model":
        yield
        return
    if sampler != "ddim":
        raise unknown("sampler", sampler, ["model", "ddim"])
    from diffusers import DDIMScheduler

    own = family.pipe.scheduler
    if family.prediction not in ("epsilon", "v_prediction"):
        raise ModelError(f"DDIM does not sample from a model that predicts '{family.prediction}'; use sampler 'model'.")
    family.pipe.scheduler = DDIMScheduler.from_config(own.config, clip_sample=False, set_alpha_to_one=False)
    try:
        yield
    finally:
        family.pipe.scheduler = own


def peak_memory_mb() -> float:
    """The largest amount of memory that this process (on a GPU: torch) has held so far, in MB."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 1e6, 1)
    try:
        import resource
    except ImportError:  # not on this platform
        return 0.0
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1)
