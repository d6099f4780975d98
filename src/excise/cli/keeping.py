"""What lies in a folder before a command writes to it: no finished run of another request is replaced unawares.

A run folder is finished when it has its `run.json`, which is written last. That file holds the request: the options
that differ from their defaults, and digests of the files that these name. No torch here.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from excise.errors import OutputError
from excise.support.digests import file_digest, short_digest
from excise.support.runs import EDIT_NAME, RUN_NAME, edit_path

ForceOption = Annotated[bool, typer.Option("--force", help="Replace a finished run of another request in --out.")]

# Options that change where results go, how they are shown or what is required of them, but not what they are.
_ASIDE = ("out", "as_json", "force", "dry_run", "require", "cache", "no_cache")
# Options that name files or folders, which are part of the request by their content.
_FILES = (
    "model", "base", "oracle", "edit", "file", "files", "judge", "judge_weights", "config", "concept_file",
    "preserve_file", "ask", "prompts", "folder", "before", "ratings",
)  # fmt: skip
_ARGUMENTS = ("file", "files", "run", "folder")  # given without the name of an option
MOST = 3  # differences that are told of each
_LARGE = 1 << 25  # bytes; larger files are known by size and time of change
OPTIONS, INPUTS = "options", "inputs"


@dataclass(frozen=True)
class Asked:
    """A request as `run.json` holds it.

    Attributes:
        verb: the command.
        options: the options that differ from their defaults, by name.
        inputs: a digest of each file or folder that the options name, and the version of this package.
    """

    verb: str
    options: Mapping[str, Any]
    inputs: Mapping[str, str]

    def entries(self) -> dict[str, Any]:
        """The entries of `run.json`."""
        return {OPTIONS: dict(self.options), INPUTS: dict(self.inputs)}


def asked(verb: str, options: Any) -> Asked:
    """Return the request that a record of options makes.

    Args:
        verb: the command.
        options: a dataclass as `options.command` builds it.
    """
    given = {name: value for name, value in _values(options) if name not in _ASIDE}
    paths = {str(path) for name in _FILES for path in _listed(given.get(name))}
    inputs = {path: found for path in sorted(paths) if (found := digest_of(Path(path)))}
    inputs |= _protocol_files(given.get("protocol"))
    plain = {name: [str(v) for v in value] if isinstance(value, list) else value for name, value in given.items()}
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in plain.items()}
    return Asked(verb, plain, {**inputs, "excise": version("excise")})


def _protocol_files(protocol: object) -> dict[str, str]:
    """By environment variable, what a protocol reads by it: the path and its digest."""
    from excise.protocols import READS

    named = {v: path for v in READS.get(str(protocol), ()) if (path := os.environ.get(v))}
    return {v: f"{path} {digest_of(Path(os.path.expanduser(path))) or ''}".strip() for v, path in named.items()}


def finished(out: Path, request: Asked, *, force: bool = False, writes: Iterable[str] = ()) -> dict[str, Any] | None:
    """Return the `run.json` of a finished run of the same request in a folder, or None where the folder is free.

    Args:
        out: the folder; it need not exist.
        force: replace whatever is there; nothing is returned then.
        writes: further files that the command would write; one of them without a `run.json` is not replaced either.

    Raises:
        OutputError: the folder holds a finished run of another request, or a file that no finished run wrote.
    """
    if force:
        return None
    run = read_run(out)
    if run is None:
        stray = next((name for name in writes if (out / name).exists()), None)
        if stray is None:
            return None
        raise OutputError(
            f"{out / stray} is there already and belongs to no finished run (there is no {RUN_NAME}); choose another "
            "--out, move it away, or replace it with --force."
        )
    difference = _difference(run, request)
    if difference is None:
        return run if all((out / name).exists() for name in writes) else None
    raise OutputError(
        f"{out} holds a finished run of another request ({difference}); choose another --out, or replace it with "
        "--force."
    )


def continued(out: Path, request: Asked, aside: Sequence[str]) -> dict[str, Any] | None:
    """Return the `run.json` of a finished run that differs from a request by some options at most; None without one.

    Args:
        aside: the names of these options.
    """
    run = read_run(out)
    options = run.get(OPTIONS) if run else None
    if not isinstance(options, dict):
        return None
    others = {name: value for name, value in request.options.items() if name not in aside}
    before = {name: value for name, value in options.items() if name in aside}
    files = {str(path) for one in (request.options, options) for name in aside for path in _listed(one.get(name))}
    inputs = {path: found for path, found in request.inputs.items() if path not in files}
    known = {path: found for path, found in (run or {}).get(INPUTS, {}).items() if path not in files}
    same = Asked(request.verb, {**others, **before}, inputs)
    return run if _difference({**(run or {}), INPUTS: known}, same) is None else None


def read_run(out: Path) -> dict[str, Any] | None:
    """Return the content of a folder's `run.json`; None without one, empty where it cannot be read."""
    try:
        content = json.loads((out / RUN_NAME).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def check_apart(out: Path, edits: Sequence[str | Path], option: str = "--edit") -> None:
    """Refuse an output folder whose edit the command reads, because writing the result would destroy it.

    Args:
        edits: edit files, or run folders that hold one.
        option: by which these are given.

    Raises:
        OutputError: one of them is the edit of `out`.
    """
    target = (out / EDIT_NAME).resolve()
    for edit in edits:
        if edit_path(edit).resolve() == target:
            raise OutputError(
                f"{option} {edit} lies in --out {out}, where the result would replace it; choose another --out."
            )


def _difference(run: Mapping[str, Any], request: Asked) -> str | None:
    """How a finished run differs from a request, in a few words; None where it does not."""
    verb, options, inputs = run.get("verb"), run.get(OPTIONS), run.get(INPUTS)
    if verb != request.verb:
        return f"excise {verb}" if verb else f"its {RUN_NAME} cannot be read"
    if not isinstance(options, dict) or not isinstance(inputs, dict):
        return f"excise {verb}, by a version that did not write down the request"
    names = [n for n in dict.fromkeys([*options, *request.options]) if options.get(n) != request.options.get(n)]
    if names:
        shown = [f"{_shown(n, options.get(n))}, now {_shown(n, request.options.get(n))}" for n in names[:MOST]]
        more = f"; and {len(names) - MOST} more" if len(names) > MOST else ""
        return "; ".join(shown) + more
    files = [n for n in dict.fromkeys([*inputs, *request.inputs]) if inputs.get(n) != request.inputs.get(n)]
    if files == ["excise"]:
        return f"made by excise {inputs.get('excise')}, now {request.inputs['excise']}"
    return f"{next(f for f in files if f != 'excise')} has changed since" if files else None


def _shown(name: str, value: Any) -> str:
    """An option as it is written on a command line."""
    flag = "--" + {"set_": "set", "only": "attack"}.get(name, name).strip("_").replace("_", "-")
    if value is None:
        return f"no {flag}"
    if isinstance(value, bool):
        return flag if value else f"--no-{flag[2:]}"
    values = value if isinstance(value, list) else [value]
    start = "" if name in _ARGUMENTS else f"{flag} "
    text = " ".join(f"{start}{shlex.quote(str(v))}" for v in values[:3])
    return text + (f" and {len(values) - 3} more" if len(values) > 3 else "")


def _values(options: Any) -> Iterator[tuple[str, Any]]:
    """The fields of a record of options that differ from their defaults, those of nested records included."""
    for field in fields(options):
        value = getattr(options, field.name)
        if is_dataclass(value):
            yield from _values(value)
        elif value not in (None, [], field.default if field.default is not MISSING else None):
            yield field.name, value


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def digest_of(path: Path) -> str | None:
    """A digest of a file's content, or of the names, sizes and times of the files in a folder; None without one."""
    try:
        if path.is_dir() and (path / EDIT_NAME).is_file():
            path = path / EDIT_NAME
        if path.is_dir():
            files = [p for p in sorted(path.rglob("*")) if p.is_file()]
            return short_digest([(str(p.relative_to(path)), p.stat().st_size, p.stat().st_mtime_ns) for p in files])
        if not path.is_file():
            return None
        status = path.stat()
        return file_digest(path) if status.st_size < _LARGE else short_digest([status.st_size, status.st_mtime_ns])
    except OSError:
        return None
