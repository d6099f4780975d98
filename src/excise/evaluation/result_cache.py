"""A cache of finished evaluations, so that the same request loads no model and draws nothing. No torch here.

The key of a request covers the files it reads (path, size and modification time), the protocol's hash, the options and
package versions. Only models on this disk are cached: the content behind a Hub id may change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from excise.families.built_in import BUILT_IN, WEIGHTS
from excise.support.digests import short_digest
from excise.support.files import write_text

VERSION = 5  # 2: verdicts of every protocol; 3: counts at every threshold; 4: of test prompts alone; 5: any face counts


def request_key(model: str, files: Sequence[str], protocol_hash: str, options: Mapping[str, Any]) -> str | None:
    """Return the key of a request; None if the model is not a local file or folder, or a file is missing."""
    home = WEIGHTS / model if model in BUILT_IN else Path(model)
    if not home.exists():
        return None
    read = [p for p in (sorted(home.rglob("*")) if home.is_dir() else [home]) if p.is_file()]
    read += [Path(f) for f in files]
    if not all(p.exists() for p in read):
        return None
    stats = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in read]
    packages = {name: version(name) for name in ("excise", "torch", "diffusers", "transformers")}
    return short_digest([VERSION, model, stats, protocol_hash, dict(options), packages])


def find(cache: Path | None, key: str | None, out: Path | None) -> dict[str, Any] | None:
    """Return the cached document of a request; None without one, or if `out` is given and does not hold its run."""
    if cache is None or key is None:
        return None
    try:
        if out is not None:
            run = json.loads((out / "run.json").read_text(encoding="utf-8"))
            if run.get("request") != key or not (out / "report.html").exists():
                return None
        document: dict[str, Any] = json.loads(_path(cache, key).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if "metrics" in document else None


def keep(cache: Path | None, key: str | None, document: Mapping[str, Any]) -> None:
    """Save the document of a finished request."""
    if cache is not None and key is not None:
        write_text(_path(cache, key), json.dumps(document, ensure_ascii=False))


def _path(cache: Path, key: str) -> Path:
    return cache / "results" / f"{key}.json"
