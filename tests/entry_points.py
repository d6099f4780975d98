"""Entry points of a package that is not installed, as `importlib.metadata` would give them."""

from __future__ import annotations

from typing import Any


class Entry:
    """An entry point: loading it returns `value`, or raises `error`."""

    dist = None

    def __init__(self, name: str, value: Any, error: Exception | None = None) -> None:
        self.name, self.value, self._loads, self._error = name, f"my_package:{name}", value, error

    def load(self) -> Any:
        if self._error:
            raise self._error
        return self._loads
