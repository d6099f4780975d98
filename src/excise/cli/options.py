"""Command-line options that several commands share, and the decorator that turns a record of options into a command."""

from __future__ import annotations

import copy
import functools
import inspect
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from operator import getitem
from pathlib import Path
from typing import Annotated, Any, Optional, TypeVar, cast, get_args, get_type_hints

import typer
from typer.models import OptionInfo

from excise.cli.groups import FIRST, GROUPS, REST, Groups

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="The model: a Hub id, a local diffusers folder, a single .safetensors file, or a built-in model such as "
        "canvas-sd.",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="The device to compute on: cpu, cuda, mps or auto.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
EditsOption = Annotated[
    Optional[list[str]],
    typer.Option("--edit", "-e", help="An edit to apply to the model: a file or a run folder; repeatable."),
]
PreserveOption = Annotated[
    Optional[list[str]], typer.Option("--preserve", "-p", help="A name to preserve; repeatable.")
]
PreserveFileOption = Annotated[
    Optional[Path],
    typer.Option(
        help="A file of names to preserve: text (one name a line), a CSV file with a column such as name or artist, or "
        "a YAML list."
    ),
]
VocabularyOption = Annotated[
    str,
    typer.Option(
        help="Further names to preserve: ordinary (everyday words), canvas or canvas-strict (the built-in world), "
        "none, or auto, which chooses by the model."
    ),
]
KindOption = Annotated[
    Optional[str],
    typer.Option(help="Kind of the concept: object, instance, style, person or explicit. By default it is guessed."),
]
SeedOption = Annotated[int, typer.Option(help="Random seed of the method.")]
PreviewOption = Annotated[
    Optional[bool],
    typer.Option(help="Draw a few images before and after the edit for the report. Built-in models do so by default."),
]
EditModelOption = Annotated[
    Optional[str],
    typer.Option("--model", "-m", help="The model that the edit is for; by default the one that it was made on."),
]
OtherBaseOption = Annotated[
    bool,
    typer.Option("--allow-other-base", help="Apply edits to a fine-tune of the model that they were made for."),
]
RequireOption = Annotated[
    Optional[list[str]],
    typer.Option(
        help="Gates such as 'ua>=0.95,ira>=0.95', held against the unfavourable end of the 95 % interval; exit "
        "status 1 if one fails; repeatable."
    ),
]
CacheOption = Annotated[
    Optional[Path],
    typer.Option(envvar="EXCISE_CACHE", help="Cache folder of drawn images, so that no image is drawn twice."),
]
NoCacheOption = Annotated[bool, typer.Option("--no-cache", help="Draw every image again, and store none.")]

R = TypeVar("R")


@dataclass(frozen=True)
class Source:
    """The options that say how a model is loaded."""

    device: DeviceOption = "auto"
    dtype: Annotated[
        str, typer.Option(help="The precision to load the model in: float32, float16, bfloat16 or auto.")
    ] = "auto"
    revision: Annotated[Optional[str], typer.Option(help="Branch, tag or commit of a Hub model.")] = None
    variant: Annotated[
        Optional[str], typer.Option(help="Weight variant of a folder or Hub model, for example fp16.")
    ] = None
    config: Annotated[
        Optional[str],
        typer.Option(
            help="For a model in one file: a diffusers folder of the same architecture. Where the file holds the "
            "transformer of a newer model alone, the other parts are read from there."
        ),
    ] = None
    local_files_only: Annotated[bool, typer.Option("--local-files-only", help="Never use the network.")] = False
    prediction: Annotated[
        Optional[str],
        typer.Option(help="The prediction type of the model, epsilon or v_prediction, where its files do not tell."),
    ] = None

    def given(self) -> str:
        """The options that differ from their defaults, as a command line that begins with a space, or empty."""
        words = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                words.append("--" + field.name.replace("_", "-"))
                words += [] if value is True else [str(value)]
        return "".join(f" {shlex.quote(word)}" for word in words)

    def remembering(self, edit: Path) -> Source:
        """These options, and for each that is not given the one with which the edit of a run folder was made.

        The device is not remembered, for the folder may have come from another machine.

        Args:
            edit: the edit file, or its run folder; where no `run.json` of ours is beside it, nothing is remembered.
        """
        import json

        from excise.support.runs import edit_path

        edit = edit_path(edit)
        try:
            run = json.loads((edit.parent / "run.json").read_text(encoding="utf-8"))
            is_its_run = Path(run.get("edit") or edit.name).name == edit.name
            words = shlex.split(run.get("load_options", "")) if is_its_run else []
        except (OSError, ValueError, AttributeError):
            return self
        given, names = dict[str, Any](), {f.name: f.default for f in fields(self) if f.name != "device"}
        for word, value in zip(words, [*words[1:], ""], strict=False):
            name = word.removeprefix("--").replace("-", "_")
            if word.startswith("--") and name in names and getattr(self, name) == names[name]:
                given[name] = True if names[name] is False else value
        return replace(self, **given)

    def check(self, model: str | None) -> None:
        """Refuse a model that its name and files show to be of no use, before anything large is imported."""
        from excise.families import check_model

        if model is not None:
            check_model(model, variant=self.variant, config=self.config)

    def load(self, model: str, revision: str | None = None, *, whole: bool = True) -> Any:
        """Return the family adapter of `model`; `revision` is used where the option is not given.

        Args:
            whole: see `excise.families.load`.
        """
        from excise.cli import show
        from excise.families import load

        options = {**self.__dict__, "revision": self.revision or revision}
        with show.waiting(f"loading {model}"):
            return load(model, **options, whole=whole)

    def outline(self, model: str, revision: str | None = None, *, encodes: bool = False) -> Any:
        """Return the family adapter of `model` for work that draws nothing: an outline where that will do.

        Args:
            revision: is used where the option is not given.
            encodes: whether text is encoded.
        """
        from excise.families import outlined

        return outlined(model, **self.__dict__, encodes=encodes) or self.load(model, revision, whole=False)

    def load_for(
        self, method: str, model: str, revision: str | None = None, *, draws: bool, below: Sequence[Any] = ()
    ) -> Any:
        """Return the family adapter of `model`, with no more of it read than a method needs.

        Args:
            draws: whether pictures are drawn as well.
            below: edits that are applied while the method works.
        """
        from excise.families.capabilities import TEXT_MLP
        from excise.methods import METHODS, reads_text_alone

        steers = any(edit.hooks for edit in below)  # hooks may stand on any module
        if draws or steers or not reads_text_alone(method):
            return self.load(model, revision)
        if below or TEXT_MLP in METHODS.record(method).needs:
            return self.load(model, revision, whole=False)
        return self.outline(model, revision, encodes=True)


def command(run: Callable[[R], None]) -> Callable[..., None]:
    """Turn a function of one record of options into a typer command.

    Each field of the record, a dataclass, becomes an option: its annotation holds the typer option, its default is the
    option's default. A field that is a dataclass itself, such as `Source`, contributes its own fields. The help shows
    the options in the panels of `excise.cli.groups`.
    """
    record = next(hint for name, hint in get_type_hints(run).items() if name != "return")
    parameters = _laid_out(_parameters(record), GROUPS.get(run.__name__.rstrip("_"), {}))

    @functools.wraps(run)
    def call(**values: Any) -> None:
        run(_build(record, values))

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    return call


def _parameters(record: Any) -> list[inspect.Parameter]:
    """The fields of a record as keyword parameters, those of nested records in their place."""
    hints = get_type_hints(record, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for field in fields(record):
        hint = hints[field.name]
        if is_dataclass(hint):
            parameters += _parameters(hint)
        else:
            default = inspect.Parameter.empty if field.default is MISSING else field.default
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters.append(inspect.Parameter(field.name, kind, default=default, annotation=hint))
    return parameters


def _laid_out(parameters: list[inspect.Parameter], groups: Groups) -> list[inspect.Parameter]:
    """The parameters in the order of their panels, each with the title of its panel and a short name for its value."""
    panels = {name: title for title, names in groups.items() for name in names}
    order = {name: i for i, name in enumerate(panels)}
    panel_less = FIRST if not groups else REST
    shown = []
    for parameter in sorted(parameters, key=lambda p: order.get(p.name, len(order))):  # a stable sort
        base, info = get_args(parameter.annotation)
        if isinstance(info, OptionInfo):
            info = copy.copy(info)  # records of several commands share it
            info.rich_help_panel = panels.get(parameter.name, panel_less) or None
            info.metavar = info.metavar or _value_name(base)
        shown.append(parameter.replace(annotation=getitem(cast(Any, Annotated), (base, info))))
    return shown


def _value_name(base: Any) -> str:
    """What the value of an option is called in the help; nothing for a flag."""
    names: dict[Any, str] = {bool: "", Path: "PATH", int: "N", float: "X"}
    kinds = {kind for part in (base, *get_args(base)) for kind in (part, *get_args(part))}
    return next((name for kind, name in names.items() if kind in kinds), "TEXT")


def _build(record: Any, values: dict[str, Any]) -> Any:
    """An instance of a record, and of the records in it, from the values of its options."""
    hints = get_type_hints(record)
    return record(**{n: _build(hint, values) if is_dataclass(hint) else values[n] for n, hint in hints.items()})


def image_cache(cache: Path | None, no_cache: bool) -> Path | None:
    """The cache folder of drawn images: the one given, or one in the user's cache folder; None with `no_cache`."""
    return None if no_cache else cache or user_cache() / "images"


def user_cache() -> Path:
    """The user's cache folder of this package."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "excise"


def load_edits(paths: list[str] | None) -> list[Any]:
    """Load every `--edit`."""
    from excise.edits.edit import Edit

    return [Edit.load(p) for p in paths or []]


def check_judge(given: Path | None) -> None:
    """Refuse what `--judge` was given, where it is neither a folder nor the name of a judge.

    Raises:
        JudgeError: it is none of these.
    """
    if given is not None:
        from excise.judges.named import check_named

        check_named(given)


def check_weights(folder: Path | None) -> None:
    """Refuse `--judge-weights` that are no folder.

    Raises:
        JudgeError: there is no such folder.
    """
    from excise.errors import JudgeError

    if folder is not None and not folder.is_dir():
        found = f"{folder} is a file" if folder.exists() else f"there is no folder {folder}"
        raise JudgeError(f"{found}; --judge-weights takes a folder with the weights of a judge, such as a CLIP model.")


def own_prompts(file: Path | None) -> list[str]:
    """Return the prompts of a text file, one a line; none without a file.

    Raises:
        ConceptError: the file cannot be read.
    """
    from excise.errors import ConceptError
    from excise.support.strict import read_text

    lines = read_text(file, "prompts", ConceptError).splitlines() if file else []
    return [line.strip() for line in lines if line.strip()]


def names_to_preserve(preserve: list[str] | None, file: Path | None) -> list[str]:
    """Return the names of `--preserve` and `--preserve-file`, checked."""
    from excise.concepts.concept import check_name, read_names, warn_of_commas

    names = [check_name(p, "name to preserve") for p in preserve or []]
    warn_of_commas(names, "--preserve")
    return names + (read_names(file) if file else [])


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """Parse `key=value` texts. Numbers, lists, true, false and null are read as JSON, everything else as text.

    Raises:
        SettingError: a text without "=", or a key that is given twice.
    """
    import json

    from excise.errors import SettingError

    settings: dict[str, Any] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        key = key.strip()
        if not sign or not key:
            raise SettingError(f"--set got '{pair}'; expected key=value, with a setting that the method or attack has.")
        if key in settings:
            raise SettingError(f"--set names '{key}' twice; give it once.")
        try:
            settings[key] = json.loads(text)
        except ValueError:
            settings[key] = text
    return settings


KEPT = "nothing of it can be kept"
SHOWN = "no picture will show it"


def warn_outside_canvas(model: str | None, names: Sequence[str], so: str = "nothing of it can be erased") -> None:
    """Warn of names that a built-in model was never trained on, with the name that may be meant.

    Args:
        model: for any other model nothing is said. so: what follows, for the message.
    """
    from excise.canvas import world
    from excise.concepts.known_names import warn_of_names_outside
    from excise.families.built_in import names_built_in

    if names and model is not None and names_built_in(model):
        warn_of_names_outside(world.known_words(), [n for n in names if world.pair(n) is None], model, so)


def check_no_slips(model: str | None, names: Sequence[str], option: str = "--concept") -> None:
    """Refuse names that a built-in model does not know and that are one slip away from one that it knows.

    Raises:
        ConceptError: with the name that is meant.
    """
    from excise.canvas import world
    from excise.concepts.known_names import check_no_slips as check
    from excise.families.built_in import names_built_in

    if names and model is not None and names_built_in(model):
        check(world.known_words(), [n for n in names if world.pair(n) is None], model, option)
