"""Publish files on the Hugging Face Hub: what goes up and what stays, and the errors of the hub as sentences.

Only what a stranger needs goes up: weights in safetensors, cards, JSON and what a tokenizer reads. Pickles never do;
pictures, cached text states and the record of the run, which tells of folders of this machine, stay unless they are
asked for. One commit holds all files, so that a repository never has a part of them. No torch here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from excise.errors import EditFileError, HubError, SettingError
from excise.support.runs import EDIT_NAME, RUN_NAME, STATES

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD, VERIFIED = "README.md", "verified.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy", ".npz", ".msgpack", ".h5")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".html")
WEIGHTS, RECORDS = (".safetensors",), (".json", ".md")
TOKENIZERS = (".txt", ".model")  # vocabularies beside a tokenizer's configuration
LONGEST = 96  # characters of a repository's name
_REPO = re.compile(r"\w[\w.-]*/\w[\w.-]*(?<![.-])", re.ASCII)
KEPT_BACK = (STATES, "images", "training", "attacks")  # folders of a run
NO_LOGIN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"


@dataclass(frozen=True)
class Upload:
    """What is published.

    Attributes:
        source: what was asked for.
        files: by their path in the repository, the local file or the content itself.
        left: by path, the reason why a file stays.
    """

    source: Path
    files: Mapping[str, Path | bytes]
    left: Mapping[str, str] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each file in bytes."""
        return {n: len(f) if isinstance(f, bytes) else f.stat().st_size for n, f in self.files.items()}


@dataclass(frozen=True)
class Place:
    """Where it is published.

    Attributes:
        repo: "owner/name". revision: a branch, made where it is not there; None is the main one.
        private: whether a new repository is private. An existing one stays as it is.
        message: of the commit.
    """

    repo: str
    revision: str | None = None
    private: bool = False
    message: str = "Upload with excise"

    def check(self) -> None:
        """Refuse what is no name of a repository.

        Raises:
            SettingError: it is none.
        """
        owner_name = _REPO.fullmatch(self.repo) and ".." not in self.repo and "--" not in self.repo
        if not owner_name or len(self.repo) > LONGEST:
            raise SettingError(
                f"'{self.repo}' names no repository; expected OWNER/NAME of letters, digits, '-', '_' and '.', such as "
                "--repo me/sd-without-cat."
            )


def folder_upload(folder: Path, include: Sequence[str] = ()) -> Upload:
    """Return what is published of a folder.

    Args:
        include: patterns of paths in the folder, such as "images/*", that go up as well. Pickles never do.

    Raises:
        EditFileError: it has no card, or nothing in it is a model.
    """
    files: dict[str, Path | bytes] = {}
    left: dict[str, str] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        reason = _reason(path, name, include)
        if reason:
            left[name] = reason
        else:
            files[name] = path
    if CARD not in files:
        raise EditFileError(
            f"{folder} has no {CARD}, which tells strangers what a model is; push a folder that excise export wrote "
            "(of several programs, each folder by itself), or write one."
        )
    if not any(name.endswith(WEIGHTS) for name in files):
        raise EditFileError(
            f"{folder} holds no safetensors file; push a folder that excise export wrote, or an edit file."
        )
    return Upload(folder, files, left)


def file_upload(file: Path, card: Path | bytes, include: Sequence[str] = ()) -> Upload:
    """Return what is published of one file: itself, its card as README.md, and what was verified of it.

    Args:
        include: patterns of further files beside it.
    """
    files: dict[str, Path | bytes] = {CARD: card, file.name: file}
    left: dict[str, str] = {}
    verified = file.parent / VERIFIED
    if verified.is_file() and file.name == EDIT_NAME:
        if _names_a_folder(verified):
            left[VERIFIED] = "tells of folders of this machine; what it verified stands in the card"
        else:
            files[VERIFIED] = verified
    if include:
        for path in sorted(p for p in file.parent.rglob("*") if p.is_file()):
            name = path.relative_to(file.parent).as_posix()
            if name not in (*files, CARD) and _matches(name, include):
                reason = _reason(path, name, include)
                left |= {name: reason} if reason else {}
                files |= {} if reason else {name: path}
    return Upload(file, files, left)


def _names_a_folder(verified: Path) -> bool:
    """Whether a file of checks names a model by its folder, or cannot be read."""
    try:
        checks = [c for own in json.loads(verified.read_text(encoding="utf-8"))["edits"].values() for c in own]
        return any(is_local(str(check["model"])) for check in checks)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return True


def is_local(model: str) -> bool:
    """Whether the name of a model is a path of this machine."""
    return Path(model).is_absolute() or (("/" in model or "\\" in model) and Path(model).exists())


def _reason(path: Path, name: str, include: Sequence[str]) -> str:
    """Why a file stays; empty where it goes up."""
    suffix, parts = path.suffix.lower(), name.split("/")
    if suffix in PICKLES:
        return "a pickle or another file that may hold code"
    if path.is_symlink() and not path.resolve().is_relative_to(path.parent.resolve()):
        return "a link out of its folder"
    if _matches(name, include):
        return ""
    if any(part.startswith(".") for part in parts):
        return "hidden"
    if any(part in KEPT_BACK for part in parts[:-1]):
        return f"in the folder {next(p for p in parts if p in KEPT_BACK)} of a run"
    if suffix in PICTURES:
        return "a picture, or a page with pictures"
    if name == RUN_NAME:
        return "tells of folders of this machine"
    if suffix in (*WEIGHTS, *RECORDS) or (suffix in TOKENIZERS and "tokenizer" in parts[0]):
        return ""
    return "neither weights nor a record"


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def push(upload: Upload, place: Place, api: HfApi | None = None) -> str:
    """Publish files in one commit, and return its address; the repository and the branch are made where needed.

    Raises:
        HubError: nobody is logged in, the hub cannot be reached, or the repository is someone else's.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise HubError("HF_HUB_OFFLINE is set, so nothing is sent; unset it, or look with --dry-run.")
    if not get_token():
        raise HubError(f"nobody is logged in to the hub; {NO_LOGIN}.")
    api = api or HfApi()
    owner = place.repo.partition("/")[0]
    with _told(place):
        _check_owner(api.whoami(), owner)
        api.create_repo(place.repo, private=place.private, repo_type="model", exist_ok=True)
        if place.revision is not None:
            api.create_branch(place.repo, branch=place.revision, repo_type="model", exist_ok=True)
        operations = [
            CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
            for name, content in upload.files.items()
        ]
        commit = api.create_commit(
            place.repo, operations, commit_message=place.message, revision=place.revision, repo_type="model"
        )
    return str(commit.commit_url)


def _check_owner(known: Mapping[str, Any], owner: str) -> None:
    """Refuse an owner that is neither the user nor an organisation of theirs.

    Raises:
        HubError: it is someone else.
    """
    names = [str(known["name"]), *(str(o["name"]) for o in known.get("orgs", []))]
    if owner.lower() not in (name.lower() for name in names):
        raise HubError(
            f"the token is of {names[0]}, who may not write for '{owner}'; expected --repo OWNER/NAME with one of "
            f"{', '.join(names)} as OWNER."
        )


@contextmanager
def _told(place: Place) -> Iterator[None]:
    """Turn the errors of the hub inside the block into sentences.

    Raises:
        HubError: as `push`.
    """
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except LocalTokenNotFoundError as error:
        raise HubError(f"nobody is logged in to the hub; {NO_LOGIN}.") from error
    except OfflineModeIsEnabled as error:
        raise HubError("HF_HUB_OFFLINE is set, so nothing is sent; unset it, or look with --dry-run.") from error
    except HfHubHTTPError as error:
        raise HubError(_refusal(error, place)) from error
    except Exception as error:
        transport = type(error).__module__.partition(".")[0].startswith(("httpx", "requests"))
        if not transport and not isinstance(error, (ConnectionError, TimeoutError)):
            raise
        raise HubError(
            f"the hub cannot be reached ({error or type(error).__name__}); nothing was published. Try again when there "
            "is a network, or look with --dry-run."
        ) from error


def _refusal(error: Any, place: Place) -> str:
    """What a refusal of the hub means."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    said = {
        401: f"the hub does not accept the token; {NO_LOGIN}.",
        403: f"the token may not write to {place.repo}, which is someone else's or needs a token with write access; "
        "choose another --repo, or another token.",
        404: f"the hub has no {place.repo} that this token may see; check --repo.",
        409: f"{place.repo} was changed at the same moment; run it again.",
    }
    return said.get(status or 0, f"the hub refused ({error}); nothing was published.")
