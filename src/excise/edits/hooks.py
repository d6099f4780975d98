"""Hooks: what an edit does while a model draws, where no change of weights would do it.

A hook is data: a kind that this program knows, tensors and settings. A file never brings code along. The kinds are
registered here by name, so that a file is read without importing any that it does not hold; other packages add theirs
through the entry points `excise.hooks`.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from excise.edits.deltas import Delta
from excise.edits.record import EditRecord
from excise.errors import ModelError, PluginError
from excise.families.attached import Attaching
from excise.families.base import Family
from excise.families.fingerprints import raw_bytes
from excise.registry import Record, Registry

HookT = TypeVar("HookT", bound="Hook")
SettingsT = TypeVar("SettingsT")

HOOKS = Registry(
    "hook",
    "excise.hooks",
    {
        "adavd": Record(
            "excise.methods.inference.adavd:ValueProjection", "takes targets out of cross-attention values"
        ),
        "receler": Record("excise.methods.trained.receler_hook:Erasers", "adds small networks behind cross-attention"),
        "safree": Record("excise.methods.inference.safree:PromptFilter", "filters prompts that speak of a concept"),
        "sld": Record("excise.methods.inference.sld:SafetyGuidance", "guides away from a concept's prompt"),
        "spm": Record("excise.methods.trained.spm_gate:PromptGate", "opens adapters for prompts near their concept"),
    },
    contract="excise.edits.hooks:contract",
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Hook(ABC):
    """What acts on a model's calls while an edit is in force.

    Attributes:
        kind: the name under which it is registered.
        guided: whether it changes guidance; a model can have one such hook at most.
        strength: 1 is the hook as its method made it, 0 does nothing.
    """

    kind: ClassVar[str]
    guided: ClassVar[bool] = False

    strength: float = 1.0

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The tensors it needs, by name, as they are written to the file: single precision on the CPU."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything else that it needs; JSON values only."""

    @classmethod
    @abstractmethod
    def build(cls: type[HookT], tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> HookT:
        """Make a hook of what `tensors` and `settings` returned.

        Raises:
            ValueError, KeyError: something is missing, or of a wrong type or shape.
        """

    @abstractmethod
    def put_on(self, family: Family, strength: float, attaching: Attaching) -> None:
        """Put it on a model at a strength other than 0.

        Raises:
            WrongBaseError: its tensors are not for this model.
            ModelError: the model lacks what it needs.
        """

    def opened(self) -> Mapping[str, Delta] | None:
        """The changes of weights, by path, that it makes where it acts in full; None where it acts otherwise."""
        return None

    def attach(self, family: Family, strength: float) -> Callable[[], None]:
        """Put it on a model, at a strength that multiplies its own; what is returned takes it off.

        Raises:
            WrongBaseError, ModelError: see `put_on`; nothing is left on the model.
        """
        whole = self.strength * strength
        attaching = Attaching(self.digest(whole))
        if whole != 0:
            _check_not_compiled(family)
            try:
                self.put_on(family, whole, attaching)
            except BaseException:
                attaching.detach()
                raise
        return attaching.detach

    def scaled(self: HookT, strength: float) -> HookT:
        """The same hook at another strength, which multiplies the one it has."""
        return replace(self, strength=self.strength * strength)

    def digest(self, strength: float) -> str:
        """A digest of all that decides what it does at a strength."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(json.dumps([self.kind, self.settings(), strength], sort_keys=True).encode())
        for name, tensor in sorted(self.tensors().items()):
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(raw_bytes(tensor.detach().to("cpu", torch.float32)))
        return digest.hexdigest()


def hook_class(kind: str) -> type[Hook]:
    """The class behind a kind of hook, imported now.

    Raises:
        UnknownNameError: there is none of that name.
        PluginError: what is registered is no class of hooks.
    """
    loaded: type[Hook] = HOOKS.load(kind)
    return loaded


def contract(kind: str, record: Record, loaded: object) -> type[Hook]:
    """The `Contract` of hooks in the registry.

    Raises:
        PluginError: it is no class of hooks.
    """
    if not (isinstance(loaded, type) and issubclass(loaded, Hook)):
        raise PluginError(f"the hook '{kind}' is no class derived from excise.edits.hooks.Hook; derive it from that.")
    if missing := sorted(loaded.__abstractmethods__):
        raise PluginError(f"the hook '{kind}' has no `{missing[0]}`, which excise.edits.hooks.Hook asks for.")
    return loaded


def read_hook(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Hook:
    """A hook from its entry in a file's header and its tensors.

    Raises:
        UnknownNameError: the kind is not registered.
        ValueError, KeyError, TypeError: the entry or a tensor is missing or wrong.
    """
    kind = header["kind"]
    cls = hook_class(kind)
    if not isinstance(header["settings"], dict):
        raise ValueError(f"the settings of the hook '{kind}' are no mapping")
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"the tensor '{name}' of the hook '{kind}' is not finite")
    hook = cls.build(tensors, header["settings"])
    if extra := sorted(set(tensors) - set(hook.tensors())):
        raise ValueError(f"the hook '{kind}' has no place for the tensor '{extra[0]}'")
    strength = header["strength"]
    if isinstance(strength, bool) or not isinstance(strength, (int, float)) or not math.isfinite(strength):
        raise ValueError(f"the strength of the hook '{kind}' is {strength!r}, expected a finite number")
    return hook.scaled(float(strength))


def settings_of(numbers: type[SettingsT], settings: Mapping[str, Any]) -> SettingsT:
    """The settings of a hook as a data class, read strictly.

    Raises:
        ValueError: a setting is missing, unknown, of a wrong type, or not finite.
    """
    names = {field.name for field in fields(numbers)}  # type: ignore[arg-type]
    for name in sorted(names ^ set(settings)):
        raise ValueError(f"the setting '{name}' of a hook is {'missing' if name in names else 'unknown'}")
    for name, value in settings.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"the setting '{name}' of a hook is {value}, expected a finite number")
    try:
        return TypeAdapter(numbers).validate_json(json.dumps(dict(settings)), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        name, seen = str(first["loc"][-1]), first["input"]
        message = first["msg"][0].lower() + first["msg"][1:]
        raise ValueError(f"the setting '{name}' of a hook is {seen!r}: {message}") from error


def tensor_of(tensors: Mapping[str, Tensor], name: str, shape: tuple[int | None, ...]) -> Tensor:
    """A tensor of a hook.

    Args:
        shape: what it must have, None where any size will do.

    Raises:
        ValueError: there is none of that name, or of another shape.
    """
    if name not in tensors:
        raise ValueError(f"the tensor '{name}' of a hook is missing")
    seen = tuple(tensors[name].shape)
    if len(seen) != len(shape) or any(want not in (None, has) for want, has in zip(shape, seen, strict=True)):
        wanted = " x ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"the tensor '{name}' of a hook has shape {seen}, expected {wanted}")
    return tensors[name]


def check_one_guided(hooks: Iterable[Any]) -> None:
    """Refuse hooks that could not be in force together.

    Raises:
        ModelError: more than one changes guidance.
    """
    if sum(hook.guided for hook in hooks) > 1:
        raise ModelError(
            "two edits change guidance, which only one at a time can do; erase all the concepts with one of them, or "
            "remove the one that is applied first."
        )


def refuse_hooks(hooks: Iterable[Any], record: EditRecord, what: str) -> None:
    """Refuse an edit with hooks for work that knows weights alone.

    Args:
        what: that work, as the beginning of a sentence: "an export holds weights alone".

    Raises:
        ModelError: it has hooks.
    """
    if any(True for _ in hooks):
        raise ModelError(
            f"{what}, and this edit, made by {record.method}, acts while the model draws; the edit file carries it: "
            "excise generate --edit FILE, or edit.apply(pipe)."
        )


def _check_not_compiled(family: Family) -> None:
    """Refuse a model that would run past hooks.

    Raises:
        ModelError: a part of it is compiled.
    """
    parts = [getattr(family.pipe, name) for name in (family.denoiser_name, *family.encoder_names)]
    for part in parts:
        modules = () if part is None else part.modules()
        if any("_orig_mod" in m._modules or m._compiled_call_impl is not None for m in modules):
            raise ModelError(
                f"the {type(part).__name__} is compiled, and runs past what an edit puts on it; apply the edit to the "
                "model as it is loaded, without torch.compile."
            )
