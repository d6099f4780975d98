"""Print a digest of one edit by every method on each built-in model, and the hash of every built-in protocol.

    python scripts/edit_digests.py > before.txt    # again after a change, and compare

A change that should leave results alone leaves every line alone. Trained methods take two steps on the smallest model.
"""

from __future__ import annotations

import argparse
import hashlib
import warnings
from typing import Any

from excise import erase, load
from excise.built_in import BUILT_IN
from excise.edit import Edit
from excise.errors import ExciseError
from excise.families.base import raw_bytes
from excise.methods import METHODS
from excise.protocols import PROTOCOLS

REQUESTS = (["cat"], ["neon"], ["cat", "guitar"])
TRAINED: dict[str, dict[str, Any]] = {
    "esd": {"steps": 2, "save_every": 2},
    "surgun": {"steps": 2, "save_every": 2, "pictures": 2},
}


def digest(edit: Edit) -> str:
    """SHA-256 of names, shapes and values of all tensors of an edit."""
    sha = hashlib.sha256()
    for name, tensor in sorted(edit.tensors().items()):
        sha.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        sha.update(raw_bytes(tensor.detach().cpu()))
    return sha.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description="Print digests of edits and protocols.")
    parser.add_argument("--model", action="append", choices=list(BUILT_IN), help="all of them by default")
    parser.add_argument("--method", action="append", choices=list(METHODS), help="all of them by default")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in PROTOCOLS:
        if name.startswith("canvas"):
            print("protocol", name, PROTOCOLS.load(name)().hash)
    for model in chosen.model or BUILT_IN:
        family = load(model)
        for method in chosen.method or METHODS:
            trained = METHODS.record(method).shape == "trained"
            if trained and model != "canvas-sd":
                continue
            for concepts in REQUESTS[:1] if trained else REQUESTS:
                try:
                    made = digest(erase(family, concepts, method, **TRAINED.get(method, {})))
                except ExciseError as error:
                    made = f"refused: {error}"
                print(model, method, "+".join(concepts), made, flush=True)


if __name__ == "__main__":
    main()
