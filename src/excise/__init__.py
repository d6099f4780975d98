"""excise: remove concepts from text-to-image diffusion models, with proof, and reversibly.

>>> import excise                                                    # doctest: +SKIP
>>> pipe = excise.load("canvas-sd")                                  # doctest: +SKIP
>>> edit = excise.erase(pipe, ["cat"], method="speed", preserve=["dog"])  # doctest: +SKIP
>>> edit.save("cat.safetensors")                                     # doctest: +SKIP

Importing this package imports neither torch nor diffusers; the names below are loaded when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from excise.advising import advise
    from excise.concept import Concept
    from excise.edit import Edit, stack
    from excise.erasing import erase
    from excise.errors import ExciseError
    from excise.evaluation import evaluate
    from excise.exporting import export
    from excise.families import load
    from excise.fusing import fuse
    from excise.updating import update

__version__ = "0.1.0"
_HOMES = {
    "Concept": "excise.concept",
    "Edit": "excise.edit",
    "ExciseError": "excise.errors",
    "advise": "excise.advising",
    "erase": "excise.erasing",
    "evaluate": "excise.evaluation",
    "export": "excise.exporting",
    "fuse": "excise.fusing",
    "load": "excise.families",
    "stack": "excise.edit",
    "update": "excise.updating",
}
__all__ = ["Concept", "Edit", "ExciseError", "advise", "erase", "evaluate", "export", "fuse", "load", "stack", "update"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'excise' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
