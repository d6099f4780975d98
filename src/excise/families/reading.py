"""The parts of a pipeline: its networks and their weights by path, which of its maps read text, and what they read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from excise.errors import ModelError, unknown
from excise.families.base import Family, split
from excise.families.conditions import Condition
from excise.families.maps import MapInput, Projection, WeightMap
from excise.families.networks import bare, module_in, parameter_in
from excise.families.partial import device_of, place
from excise.families.roles import ROLES, STANDS_FOR, attention_layers, encoder_maps, layer_maps

Modules = Mapping[str, nn.Module]
# By the order of maps that read text, the source of their layers and their parts (`WeightMap`).
_ORDERS = {"refined": ("refiner", ("k", "v")), "joint": ("joint", ("add_k", "add_v")), "shared": ("shared", ("k", "v"))}
PREDICT_BATCH = 16  # prompts in one prediction of `inputs`


class ReadingFamily(Family):
    """What the adapter of a pipeline tells of its parts; `PipelineFamily` encodes, predicts and draws with them.

    Attributes:
        optional_encoders: those of `encoder_names` without which the pipeline encodes text all the same.
    """

    denoiser_name = "unet"
    encoder_names: tuple[str, ...] = ("text_encoder",)
    optional_encoders: tuple[str, ...] = ()

    def __init__(self, pipe: Any) -> None:
        self.pipe: Any = pipe
        self._check_width()

    def _check_width(self) -> None:
        """Refuse a text encoder that does not belong to the denoiser.

        Raises:
            ModelError: its states are of another width than the denoiser reads.
        """
        name = self.encoder_names[-1]
        encoder, expected = getattr(self.pipe, name, None), self._read_width
        if encoder is None or expected is None:
            return
        given = int(encoder.config.get_text_config().hidden_size)
        if given != expected:
            raise ModelError(
                f"the denoiser reads states of width {expected}, and those of the '{name}' are {given} wide; load "
                "the text encoder that came with the model."
            )

    @property
    def _read_width(self) -> int | None:
        """Width of the last text encoder's states as the denoiser reads them; None where it reads something else."""
        return None

    @property
    def denoiser(self) -> Any:
        return bare(getattr(self.pipe, self.denoiser_name))

    @property
    def device(self) -> torch.device:
        return self._device_of(self.denoiser)

    def _device_of(self, part: Any) -> torch.device:
        """The device on which a part computes; weights of an offloaded part are not there."""
        device = device_of(part)
        return self.pipe._execution_device if device.type == "meta" else device

    @property
    def text_encoders(self) -> dict[str, Any]:
        encoders = {name: getattr(self.pipe, name, None) for name in self.encoder_names}
        return {name: encoder for name, encoder in encoders.items() if encoder is not None}

    def check_encoders(self) -> None:
        for name in self.encoder_names:
            if name not in self.optional_encoders:
                self._check_encoder(name)

    def _check_encoder(self, name: str) -> None:
        """Refuse a pipeline without one of its text encoders, as `check_encoders`."""
        if name not in self.text_encoders:
            raise ModelError(
                f"the pipeline was loaded without its '{name}' ({name}=None), which this needs; load it with it. "
                "Applying and removing an edit of the denoiser alone needs none."
            )
        if self.tokenizers[name] is None:
            raise ModelError(
                f"the pipeline was loaded without the tokenizer of its '{name}', which this needs; load it with it."
            )

    @property
    def tokenizers(self) -> dict[str, Any]:
        return {name: getattr(self.pipe, name.replace("text_encoder", "tokenizer")) for name in self.text_encoders}

    def projections(self, roles: str = "kv") -> list[Projection]:
        matches = [
            Projection(m.path, m.part, module_in(self.denoiser, m.path))
            for m in self.attention_maps()
            if m.source == "cross" and m.part in ("k", "v") and m.part in roles
        ]
        if not matches and set(roles) & set("kv"):
            raise ModelError(
                f"{type(self.denoiser).__name__} has no cross-attention that reads text of width {self.text_width}; "
                "expected a model whose cross-attention reads its own text encoder. See: excise doctor --model M"
            )
        return matches

    @torch.no_grad()
    def inputs(self, paths: Sequence[str], texts: Sequence[str]) -> dict[str, MapInput]:
        def at_once(modules: Modules, condition: Condition) -> Iterator[dict[str, Tensor]]:
            zeros, n = torch.zeros(len(condition), *self.latent_shape), len(condition)
            with first_inputs(modules) as inputs:
                self.predict(zeros, torch.full((n,), self.noising.levels // 2), condition)
            yield inputs

        return self._recorded(paths, texts, at_once)[0]

    @torch.no_grad()
    def captured(
        self, paths: Sequence[str], texts: Sequence[str], moments: int, seed: int
    ) -> list[dict[str, MapInput]]:
        noise = torch.randn(1, *self.latent_shape, generator=torch.Generator().manual_seed(seed))

        def drawing(modules: Modules, condition: Condition) -> Iterator[dict[str, Tensor]]:
            return self._moments(modules, condition, noise.repeat(len(condition), 1, 1, 1), moments)

        return self._recorded(paths, texts, drawing)

    def _recorded(
        self,
        paths: Sequence[str],
        texts: Sequence[str],
        run: Callable[[Modules, Condition], Iterator[dict[str, Tensor]]],
    ) -> list[dict[str, MapInput]]:
        """What modules read at each moment of `run`, which draws with a batch of prompts; raises as `inputs`."""
        modules, condition = {path: self.module(path) for path in paths}, self.condition(texts)
        batches = []
        for rows in split(range(len(texts)), PREDICT_BATCH):
            part = condition[list(rows)]
            batches.append([self._map_inputs(paths, inputs, part) for inputs in run(modules, part)])
        return [
            {path: joined_inputs([inputs[path] for inputs in moment]) for path in paths}
            for moment in zip(*batches, strict=True)
        ]

    def _map_inputs(
        self, paths: Sequence[str], inputs: Mapping[str, Tensor], condition: Condition
    ) -> dict[str, MapInput]:
        for path in paths:
            if path not in inputs:
                raise ModelError(f"the denoiser does not call '{path}' in a prediction, so its input is unknown.")
        return {path: self._map_input(path, inputs[path], condition) for path in paths}

    def _moments(self, modules: Modules, condition: Condition, x: Tensor, moments: int) -> Iterator[dict[str, Tensor]]:
        """The inputs of modules at every second of 2 `moments` steps from noise `x` to a picture."""
        from excise.families.trajectories import plain_scheduler  # imports diffusers

        scheduler = plain_scheduler(self)
        scheduler.set_timesteps(2 * moments)
        x = x.to(self.device) * getattr(scheduler, "init_noise_sigma", 1.0)
        for i, t in enumerate(scheduler.timesteps[:-1]):
            with first_inputs(modules if i % 2 == 0 else {}) as inputs:
                output = self.predict(x, t.to(self.device).expand(len(x)), condition)
            if i % 2 == 0:
                yield inputs
            x = scheduler.step(output, t, x).prev_sample

    def text_maps(self, order: str, params: str = "kv") -> list[Projection]:
        if order == "static":
            return self.projections(params)
        every, (source, parts) = self.attention_maps(), _ORDERS[order]
        matches = [m for m in every if m.source == source and m.part in parts]
        if not matches:
            sources = {m.source for m in every}
            present = ", ".join(["static", *(o for o, (s, _) in _ORDERS.items() if s in sources)])
            raise ModelError(f"the family '{self.name}' has no maps of the order '{order}'; it has: {present}.")
        return [
            Projection(m.path, role, self.module(m.path), normed=role == "k" and self._norms(m.path))
            for m in matches
            if (role := m.part[-1]) in params
        ]

    def _norms(self, path: str) -> bool:
        """Whether keys of a map are normed."""
        layer, _, name = path.rpartition(".")
        norm = "norm_added_k" if name.startswith("add_") else "norm_k"
        return self.module(layer)._modules.get(norm) is not None

    def _map_input(self, path: str, rows: Tensor, condition: Condition) -> MapInput:
        """The input of one map in a prediction, prompt by prompt."""
        return MapInput(rows, self._read(condition, rows))

    def _read(self, condition: Condition, rows: Tensor) -> Tensor | None:
        """(B, L) which of a map's input rows (B, L, d) the denoiser reads: those that no mask of as many rows hides."""
        if rows.dim() < 3:
            return None
        for mask in condition.masks.values():
            if condition.inputs[mask].shape[1] == rows.shape[1]:
                return condition.inputs[mask].bool().to(rows.device)
        return torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device)

    def attention_maps(self) -> list[WeightMap]:
        return [
            m
            for path, layer in attention_layers(self.denoiser)
            for m in layer_maps(path, layer, self._reads(path, layer))
        ]

    def _reads(self, path: str, layer: Any) -> str:
        """What an attention layer reads: `source` of its maps (`WeightMap`)."""
        if layer._modules.get("add_k_proj") is not None:
            return "joint"
        cross = getattr(layer, "is_cross_attention", False)  # not every attention class of diffusers has it
        reads_text = cross and bare(layer.to_k).in_features == self.text_width
        return "cross" if reads_text else "self"

    def maps(self, role: str) -> list[WeightMap]:
        if role not in ROLES:
            raise unknown("role", role, ROLES)
        if role in ("text_mlp", "text_all", "embedding"):
            self.check_encoders()
        maps = [*self.door_maps(), *self.attention_maps(), *encoder_maps(self.text_encoders)]
        for meant in (role, STANDS_FOR.get(role, role)):
            if matches := [m for m in maps if ROLES[meant](m)]:
                return matches
        present = [name for name, fits in ROLES.items() if any(map(fits, maps))]
        raise ModelError(f"the family '{self.name}' has no weights of the role '{role}'; it has: {', '.join(present)}.")

    def module(self, path: str) -> Any:
        return module_in(*self._located(path))

    def parameter(self, path: str) -> nn.Parameter:
        network, rest = self._located(path)
        place(network, [rest])
        module, name = parameter_in(network, rest)
        return module._parameters[name]

    def _located(self, path: str) -> tuple[Any, str]:
        """The network to which a path belongs, and the path inside it."""
        name, _, rest = path.partition(".")
        if name not in self.encoder_names:
            return self.denoiser, path
        self._check_encoder(name)
        return self.text_encoders[name], rest


def joined_inputs(parts: Sequence[MapInput]) -> MapInput:
    """The inputs of one map for several batches of prompts; shorter ones are padded with rows that are not read."""
    if parts[0].read is None:
        return MapInput(torch.cat([part.rows for part in parts]), None)
    length = max(part.rows.shape[1] for part in parts)
    rows = [nn.functional.pad(part.rows, (0, 0, 0, length - part.rows.shape[1])) for part in parts]
    pictures = [part.picture for part in parts if part.picture is not None]
    reads = [part.read for part in parts if part.read is not None]
    read = [nn.functional.pad(read, (0, length - read.shape[1])) for read in reads]
    return MapInput(torch.cat(rows), torch.cat(read), torch.cat(pictures) if pictures else None)


@contextmanager
def first_inputs(modules: Modules) -> Iterator[dict[str, Tensor]]:
    """Record the first input of each module's first call inside the block."""
    inputs: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for path, module in modules.items():

            def record(_: nn.Module, args: tuple[Tensor, ...], path: str = path) -> None:
                inputs.setdefault(path, args[0])

            hooks.callback(module.register_forward_pre_hook(record).remove)
        yield inputs
