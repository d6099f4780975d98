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
    from excise.attacks.front import attack
    from excise.concepts.concept import Concept
    from excise.edits.edit import Edit, stack
    from excise.edits.fuse import fuse
    from excise.erasing.advise import advise
    from excise.erasing.erase import erase
    from excise.erasing.update import update
    from excise.errors import ExciseError
    from excise.evaluation.evaluate import evaluate
    from excise.evaluation.judging import judge
    from excise.exporting import export
    from excise.families import load
    from excise.policy.front import apply_policy

__version__ = "0.1.0"
_HOMES = {
    "Concept": "excise.concepts.concept",
    "Edit": "excise.edits.edit",
    "ExciseError": "excise.errors",
    "advise": "excise.erasing.advise",
    "apply_policy": "excise.policy.front",
    "attack": "excise.attacks.front",
    "erase": "excise.erasing.erase",
    "evaluate": "excise.evaluation.evaluate",
    "export": "excise.exporting",
    "fuse": "excise.edits.fuse",
    "judge": "excise.evaluation.judging",
    "load": "excise.families",
    "stack": "excise.edits.edit",
    "update": "excise.erasing.update",
}
__all__ = [
    "Concept",
    "Edit",
    "ExciseError",
    "advise",
    "apply_policy",
    "attack",
    "erase",
    "evaluate",
    "export",
    "fuse",
    "judge",
    "load",
    "stack",
    "update",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'excise' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
