"""Print digests of edits, edit files, images and seeds, and hashes of protocols, to compare before and after a change.

    python scripts/edit_digests.py > before.txt    # run it again after the change and compare

Every method erases a few concepts on each built-in model; the edits are saved and hashed, and two of them are
evaluated. A change that should leave results alone leaves every line alone. Trained methods take two steps on the
smallest model.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

from excise import erase, evaluate, load
from excise.edits.edit import Edit
from excise.errors import ExciseError
from excise.families.built_in import BUILT_IN
from excise.families.fingerprints import raw_bytes
from excise.methods import METHODS
from excise.protocols import PROTOCOLS
from excise.support import digests

REQUESTS = (["cat"], ["neon"], ["cat", "guitar"])
TRAINED: dict[str, dict[str, Any]] = {
    "esd": {"steps": 2, "save_every": 2},
    "surgun": {"steps": 2, "save_every": 2, "pictures": 2},
}
EVALUATED = {"canvas-sd": ("uce", "cat"), "canvas-sana": ("speed", "neon")}
"""Method and concept of the edit that is evaluated, by model."""


def digest(edit: Edit) -> str:
    """Return the SHA-256 of names, shapes, dtypes and values of all tensors of an edit."""
    sha = hashlib.sha256()
    for name, tensor in sorted(edit.tensors().items()):
        sha.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        sha.update(raw_bytes(tensor.detach().cpu()))
    return sha.hexdigest()


def file_digest(edit: Edit) -> str:
    """Return the SHA-256 of the file that an edit is saved as."""
    with tempfile.TemporaryDirectory() as folder:
        return digests.file_digest(edit.save(Path(folder) / "edit.safetensors"))


def evaluation_digests(model: str) -> tuple[str, str, str]:
    """Return SHA-256 digests of the images of an evaluation, of their prompts and seeds, and of its metrics."""
    method, concept = EVALUATED[model]
    family = load(model)
    done = evaluate(family, [concept], edits=[erase(family, [concept], method)], protocol="canvas-aliases")
    pictures = hashlib.sha256()
    for picture in done.images:
        pictures.update(picture.tobytes())
    requests = [(s.prompt, s.seed) for s in done.result.shown]
    seeds, metrics = (hashlib.sha256(json.dumps(x).encode()).hexdigest() for x in (requests, done.result.metrics))
    return pictures.hexdigest(), seeds, metrics


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
                    edit = erase(family, concepts, method, model_name=model, **TRAINED.get(method, {}))
                    made = f"tensors {digest(edit)} file {file_digest(edit)}"
                except ExciseError as error:
                    made = f"refused: {error}"
                print(model, method, "+".join(concepts), made, flush=True)
        if model in EVALUATED:
            pictures, seeds, metrics = evaluation_digests(model)
            print(model, "evaluation pictures", pictures, "seeds", seeds, "metrics", metrics, flush=True)


if __name__ == "__main__":
    main()
