"""Names of models as strangers may read them: which are those of a hub, and which tell of folders of one machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from excise.families.built_in import BUILT_IN

UNNAMED = "unnamed pipeline"  # of a pipeline that knows no name of itself
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_FILES = (".safetensors", ".gguf", ".ckpt", ".pt", ".pth", ".bin")
_PATH = re.compile(
    r"(?<![\w/.~\\+])(?:file:/*)?"
    r"(?:~\w*/[^\s'\"`,;]*"  # below a home
    r"|/[^\s'\"`,;/]+/[^\s'\"`,;]+"  # absolute, of two parts or more
    r"|[A-Za-z]:[\\/][^\s'\"`,;]+"  # of Windows
    r"|\\\\[^\s'\"`,;]+)"  # of a network
)
_NAMES = ("model", "_name_or_path", "name_or_path")  # keys under which a model is named


def is_hub_id(model: str) -> bool:
    """Whether a name is that of a repository on a hub, and of nothing that is here.

    >>> is_hub_id("org/name"), is_hub_id("../name"), is_hub_id("models/sd.safetensors"), is_hub_id("canvas-sd")
    (True, False, False, False)
    """
    return bool(_HUB_ID.fullmatch(model)) and not model.lower().endswith(_FILES) and not _exists(model)


def is_local(model: str) -> bool:
    """Whether the name of a model means something on this machine alone: no built-in name, and no hub id.

    >>> is_local("canvas-sd"), is_local("org/name"), is_local("/models/sd"), is_local("models/of/mine"), is_local("sd")
    (False, False, True, True, True)
    """
    return model not in (*BUILT_IN, UNNAMED) and not is_hub_id(model)


def base_name(model: str) -> str:
    r"""Return the name of a model as strangers may read it: a hub id as it is, of a path its last part.

    >>> base_name("org/name"), base_name("/models/sd"), base_name("C:\\models\\sd")
    ('org/name', 'sd', 'sd')
    """
    if not is_local(model):
        return model
    return re.split(r"[\\/]", model.rstrip("\\/"))[-1] or model


def without_folders(text: str) -> str:
    """Return a text with the last part alone of every absolute path in it.

    >>> without_folders("judged by /models/clip, see https://example.org/a/b")
    'judged by clip, see https://example.org/a/b'
    """
    return _PATH.sub(lambda match: re.split(r"[\\/]", match[0].rstrip("\\/"))[-1], text)


def local_names(content: Any) -> list[str]:
    """Return the strings in a JSON value that tell of folders of this machine, sorted.

    These are names of models that are paths, whatever holds an absolute path, and paths of what exists here. Of the
    base of a record every name counts that no other machine knows.
    """
    return sorted({text for text, key, parent in _strings(content) if _is_told(text, key, parent)})


def _is_told(text: str, key: str, parent: str) -> bool:
    if parent == "values":  # numbers of a base in base64
        return False
    if key == "model" and parent == "base":
        return is_local(text)
    if key in _NAMES and is_local(text) and base_name(text) != text:
        return True
    return holds_path(text)


def holds_path(text: str) -> bool:
    """Whether a text holds an absolute path, or is a path of something that is here."""
    return bool(_PATH.search(text)) or (("/" in text or "\\" in text) and text != "/" and _exists(text))


def _strings(content: Any, key: str = "", parent: str = "") -> Iterator[tuple[str, str, str]]:
    """Every string of a JSON value, keys included, with its key and the key of what holds it."""
    if isinstance(content, str):
        yield content, key, parent
    elif isinstance(content, Mapping):
        for name, value in content.items():
            yield str(name), "", key
            yield from _strings(value, str(name), key)
    elif isinstance(content, (list, tuple)):
        for value in content:
            yield from _strings(value, key, parent)


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # too long, or with a null in it: no path
        return False
