"""excise push: publish an export or an edit on the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from excise.cli import options as o

if TYPE_CHECKING:
    from excise.support.hub import Place, Upload


@dataclass(frozen=True, kw_only=True)
class PushOptions:
    """The options of `excise push`."""

    path: Annotated[
        Path,
        typer.Argument(help="A folder that excise export wrote, one of its files, an edit file or its run folder."),
    ]
    repo: Annotated[str, typer.Option(help="The repository, OWNER/NAME; it is made if it is not there.")]
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False
    revision: Annotated[
        Optional[str], typer.Option(help="The branch; it is made if it is not there. By default the main one.")
    ] = None
    message: Annotated[str, typer.Option(help="The message of the commit.")] = "Upload with excise"
    include: Annotated[
        Optional[list[str]],
        typer.Option(
            help="A pattern of further files to upload, such as 'images/*'; pictures, pages and cached states stay "
            "here otherwise, hidden files unless the pattern begins with a dot, and pickles always. Repeatable."
        ),
    ] = None
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Upload without asking.")] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be uploaded; needs no network.")] = False
    as_json: o.JsonOption = False


@o.command
def push(options: PushOptions) -> None:
    """Upload an export with its model card, or an edit file with one, to the Hugging Face Hub; shows first what.

    The token is that of `hf auth login`, or HF_TOKEN. Only weights in safetensors, cards and JSON records go up.

    Example: excise push shipped --repo me/sd-without-cat --dry-run
    """
    from excise.cli import show
    from excise.errors import SettingError
    from excise.support.hub import Place, check_token
    from excise.support.hub import push as publish

    place = Place(options.repo, options.revision, options.private, options.message)
    place.check()
    if options.as_json and not (options.yes or options.dry_run):
        raise SettingError("--json asks nothing; add --yes to upload, or --dry-run to look.")
    if not options.dry_run:
        check_token()
    upload = planned(options.path, options.include or ())
    if not options.as_json:
        _show(upload, place)
    if options.dry_run:
        if options.as_json:
            show.print_json(_document(upload, place, None))
        else:
            show.say("nothing was uploaded (--dry-run)")
        return
    if not options.yes and not typer.confirm(f"Upload to {place.repo}?", err=True):
        show.say("nothing was uploaded")
        return
    with show.waiting(f"uploading to {place.repo}"):
        address = publish(upload, place)
    if options.as_json:
        show.print_json(_document(upload, place, address))
    else:
        show.say(f"uploaded: {address}")


def planned(path: Path, include: tuple[str, ...] | list[str] = ()) -> Upload:
    """Return what is uploaded of a path.

    Raises:
        EditFileError: there is nothing to upload, or no card.
    """
    from excise.edits.exports import located
    from excise.edits.uploads import CARDS, file_upload, folder_upload, is_card
    from excise.errors import EditFileError
    from excise.support.hub import CARD
    from excise.support.runs import edit_path

    if path.is_dir() and not edit_path(path).is_file():
        return folder_upload(path, include)
    (file,) = located(edit_path(path))
    if (card := _edit_card(file)) is not None:
        return file_upload(file, card, include)
    names = (f"{file.stem}.md", *reversed(CARDS))
    beside = next((file.parent / name for name in names if is_card(file.parent / name, file)), None)
    if beside is None:
        raise EditFileError(
            f"{file} has no model card beside it ({', '.join(names[:-1])} or {CARD}, which begins with a front "
            "matter); push what excise export wrote, or write one."
        )
    return file_upload(file, beside, include)


def _edit_card(file: Path) -> Path | bytes | None:
    """The card of an edit file: a README.md of its owner's beside it, else one written now; None of exports.

    A README.md of ours is that of an export of the edit.
    """
    from excise.edits.exports import read_export
    from excise.edits.uploads import is_card, is_ours
    from excise.support.hub import CARD

    if read_export(file) is not None:
        return None
    if is_card(file.parent / CARD) and not is_ours(file.parent / CARD):
        return file.parent / CARD

    from excise.edits.edit import Edit
    from excise.edits.verified import checks_of
    from excise.exporting.card import edit_card

    return edit_card(file, Edit.load(file).record, checks_of(file)).encode()


def _show(upload: Upload, place: Place) -> None:
    """Print what would be uploaded, what stays, and where it goes."""
    from excise.cli import show
    from excise.edits.uploads import names_told
    from excise.support.counts import counted, size_text

    sizes = upload.sizes
    where = f"branch {place.revision}" if place.revision else "the main branch"
    kind = "private if it is new" if place.private else "public if it is new"
    show.say(f"to https://huggingface.co/{place.repo}, {where}, {kind}: '{place.message}'")
    notes = {name: "written now from the record" for name, file in upload.files.items() if isinstance(file, bytes)}
    show.table([(name, size_text(size), notes.get(name, "")) for name, size in sizes.items()], ("file", "size", ""))
    show.say(f"{counted(len(sizes), 'file')}, {size_text(sum(sizes.values()))}")
    for name, told in names_told(upload).items():
        for local in told:
            show.say(f"mind: {name} names '{local}', which is of this machine alone and goes up with it")
    for name, reason in upload.left.items():
        show.say(f"stays here: {name} ({reason})")


def _document(upload: Upload, place: Place, address: str | None) -> dict[str, Any]:
    from excise.edits.uploads import names_told

    return {
        "repo": place.repo,
        "revision": place.revision,
        "private": place.private,
        "message": place.message,
        "files": upload.sizes,
        "left": dict(upload.left),
        "local": names_told(upload),
        "uploaded": address,
    }
