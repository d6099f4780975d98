"""Callables that excise itself puts on modules: each carries a digest of all that decides what it does.

By that digest a cache of images knows a model with them; any other hook on a model switches the cache off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True, eq=False)
class Attached:
    """A hook of excise on a module.

    Attributes:
        run: called by torch with the arguments of the hook.
        digest: of everything that decides what `run` does.
    """

    run: Callable[..., Any]
    digest: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Do as `run` does."""
        return self.run(*args, **kwargs)


class Attaching:
    """Puts hooks on modules one by one; `detach` takes all of them off again.

    Args:
        digest: of everything that decides what the hooks do.
    """

    def __init__(self, digest: str) -> None:
        self._digest = digest
        self._handles: list[Any] = []

    def before(self, module: nn.Module, run: Callable[[Any, Any, Any], Any]) -> None:
        """Call `run(module, args, kwargs)` before each forward pass; it returns new (args, kwargs) or None."""
        self._handles.append(module.register_forward_pre_hook(Attached(run, self._digest), with_kwargs=True))

    def after(self, module: nn.Module, run: Callable[[Any, Any, Any, Any], Any]) -> None:
        """Call `run(module, args, kwargs, output)` after each forward pass; it returns a new output or None."""
        self._handles.append(module.register_forward_hook(Attached(run, self._digest), with_kwargs=True))

    def detach(self) -> None:
        """Take every hook off; a second call does nothing."""
        while self._handles:
            self._handles.pop().remove()


def attached(network: nn.Module) -> Iterator[tuple[str, str]]:
    """Path and digest of every hook of excise in a network, in the order in which a module runs them."""
    for path, module in network.named_modules():
        for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
            if isinstance(hook, Attached):
                yield path, hook.digest
