"""Publish files on the Hugging Face Hub: where they go, and the errors of the hub as sentences.

One commit holds all files, so that a repository never has a part of them. No torch here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from excise.errors import HubError, SettingError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"
_REPO = re.compile(r"\w[\w.-]*/\w[\w.-]*(?<![.-])", re.ASCII)
_NO_BRANCH = re.compile(
    r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(/|$)|^[-/.]|[/.]$|^@?$"
)  # as git refuses them
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
        private: whether a new repository is private. An existing one has to be; it is not changed.
        message: of the commit.
    """

    repo: str
    revision: str | None = None
    private: bool = False
    message: str = "Upload with excise"

    def check(self) -> None:
        """Refuse what is no name of a repository or a branch, and a commit without a message.

        Raises:
            SettingError: it is so.
        """
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented, not listed

        try:
            validate_repo_id(self.repo)
            is_repo = bool(_REPO.fullmatch(self.repo))
        except HFValidationError:
            is_repo = False
        if not is_repo:
            raise SettingError(
                f"'{self.repo}' names no repository; expected OWNER/NAME of letters, digits, '-', '_' and '.', at most "
                "96 of them and without '.git' at its end, such as --repo me/sd-without-cat."
            )
        if self.revision is not None and _NO_BRANCH.search(self.revision):
            raise SettingError(
                f"--revision '{self.revision}' names no branch; expected a name without spaces, such as --revision v1, "
                "or leave it out for the main branch."
            )
        if not self.message.strip():
            raise SettingError("--message is empty; give the commit a message, or leave it out.")


def check_token() -> None:
    """Refuse a token that cannot be sent; whether there is one, and whether the hub takes it, is not asked here.

    Raises:
        HubError: it holds characters that no token has. The message does not show it.
    """
    from huggingface_hub import get_token

    token = get_token() or ""
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise HubError(
            "the token of the hub holds characters that no token has (expected letters, digits and '_'); copy it "
            f"again, then {NO_LOGIN}."
        )


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
    check_token()
    api = api or HfApi()
    owner = place.repo.partition("/")[0]
    with _told(place):
        operations = [
            CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
            for name, content in upload.files.items()
        ]
        _check_owner(api.whoami(), owner)
        api.create_repo(place.repo, private=place.private, repo_type="model", exist_ok=True)
        if place.private and api.repo_info(place.repo, repo_type="model").private is False:
            raise HubError(
                f"{place.repo} is there already and is public, so that nothing in it would be private; choose another "
                "--repo, make it private in its settings on the hub, or leave out --private."
            )
        if place.revision is not None:
            api.create_branch(place.repo, branch=place.revision, repo_type="model", exist_ok=True)
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
    except HubError:
        raise
    except LocalTokenNotFoundError as error:
        raise HubError(f"nobody is logged in to the hub; {NO_LOGIN}.") from error
    except OfflineModeIsEnabled as error:
        raise HubError("HF_HUB_OFFLINE is set, so nothing is sent; unset it, or look with --dry-run.") from error
    except HfHubHTTPError as error:
        raise HubError(_refusal(error, place)) from error
    except Exception as error:
        transport = type(error).__module__.partition(".")[0].startswith(("httpx", "requests"))
        said = _said(error)
        if isinstance(error, ValueError) and not transport:  # as huggingface_hub refuses names, before it sends them
            raise HubError(f"the hub's client refused ({said}); nothing was published.") from None
        if not transport and not isinstance(error, (ConnectionError, TimeoutError)):
            raise
        raise HubError(
            f"the hub cannot be reached ({said}); nothing was published. Try again when there is a network, or look "
            "with --dry-run."
        ) from None


def _said(error: Exception) -> str:
    """What an error says, without the token, which some clients repeat."""
    from huggingface_hub import get_token

    if isinstance(error, UnicodeError):  # it names characters of what was sent
        return type(error).__name__
    said, token = str(error) or type(error).__name__, get_token()
    return said.replace(token, "...") if token else said


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
    return said.get(status or 0, f"the hub refused ({_said(error)}); nothing was published.")
