"""Options that several verbs share, written once."""

from __future__ import annotations

import functools
import inspect
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

ModelOption = Annotated[
    str,
    typer.Option("--model", "-m", help="Hub id, local diffusers folder, single .safetensors file, or canvas-sd."),
]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")]
DtypeOption = Annotated[str, typer.Option(help="float32, float16, bfloat16 or auto.")]
RevisionOption = Annotated[Optional[str], typer.Option(help="Branch, tag or commit of a hub model.")]
VariantOption = Annotated[
    Optional[str], typer.Option(help="Weight variant of a folder or hub model, for example fp16.")
]
LocalOption = Annotated[bool, typer.Option("--local-files-only", help="Never use the network.")]
ConfigOption = Annotated[
    Optional[str], typer.Option(help="For a single file: a local diffusers folder of the same architecture.")
]
PredictionOption = Annotated[
    Optional[str],
    typer.Option(help="epsilon or v_prediction, for a model whose files do not say what it predicts."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
EditsOption = Annotated[Optional[list[str]], typer.Option("--edit", "-e", help="An edit file to apply; repeatable.")]
PreserveOption = Annotated[Optional[list[str]], typer.Option("--preserve", "-p", help="A name to keep; repeatable.")]
PreserveFileOption = Annotated[
    Optional[Path],
    typer.Option(help="Names to keep: text (one a line), CSV with a column called name, artist, ..., or a YAML list."),
]
VocabularyOption = Annotated[str, typer.Option(help="Names to keep: auto, ordinary, none, canvas or canvas-strict.")]
KindOption = Annotated[Optional[str], typer.Option(help="object, instance, style, person or explicit.")]
PreviewOption = Annotated[
    Optional[bool], typer.Option(help="Draw a few images before and after; on by default for built-in models.")
]
EditModelOption = Annotated[
    Optional[str], typer.Option("--model", "-m", help="The model it is for; the one it was made on by default.")
]
OtherBaseOption = Annotated[
    bool, typer.Option("--allow-other-base", help="Use an edit on a fine-tune of the model it was made for.")
]


CacheOption = Annotated[
    Optional[Path],
    typer.Option(envvar="EXCISE_CACHE", help="Folder of drawn images, kept so that none is drawn twice."),
]
NoCacheOption = Annotated[bool, typer.Option("--no-cache", help="Draw everything anew and keep nothing.")]


def image_cache(cache: Path | None, no_cache: bool) -> Path | None:
    """Where drawn images are kept: as asked for, or in the user's cache folder."""
    return None if no_cache else cache or user_cache() / "images"


def user_cache() -> Path:
    """The folder in which this user's caches lie."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "excise"


@dataclass(frozen=True)
class Source:
    """Where a model comes from and how it is loaded: what the model options of a verb say together."""

    device: str = "auto"
    dtype: str = "auto"
    revision: str | None = None
    variant: str | None = None
    config: str | None = None
    local_files_only: bool = False
    prediction: str | None = None

    def given(self) -> str:
        """What differs from the defaults, as the options of a command line; begins with a space where there is any."""
        words = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                words.append("--" + field.name.replace("_", "-"))
                words += [] if value is True else [str(value)]
        return "".join(f" {shlex.quote(word)}" for word in words)

    def load(self, model: str, revision: str | None = None) -> Any:
        """The family adapter of `model`; `revision` is used where the option is not given."""
        from excise.families import load

        options = {**self.__dict__, "revision": self.revision or revision}
        return load(model, **options)


_SOURCE_OPTIONS: dict[str, Any] = {
    "device": DeviceOption,
    "dtype": DtypeOption,
    "revision": RevisionOption,
    "variant": VariantOption,
    "config": ConfigOption,
    "local_files_only": LocalOption,
    "prediction": PredictionOption,
}


def with_source(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the options of `Source` in place of its keyword-only `source` parameter."""

    @functools.wraps(verb)
    def command(**given: Any) -> None:
        source = Source(**{name: given.pop(name) for name in _SOURCE_OPTIONS})
        verb(**given, source=source)

    own = [p for p in inspect.signature(verb, eval_str=True).parameters.values() if p.name != "source"]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=getattr(Source, name), annotation=annotation)
        for name, annotation in _SOURCE_OPTIONS.items()
    ]
    command.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    command.__annotations__ = {**{p.name: p.annotation for p in own}, **_SOURCE_OPTIONS}
    return command


def load_edits(paths: list[str] | None) -> list[Any]:
    """The edits of every `--edit`."""
    from excise.edits.edit import Edit

    return [Edit.load(p) for p in paths or []]


def kept_names(preserve: list[str] | None, file: Path | None) -> list[str]:
    """The names of `--preserve` and `--preserve-file`, checked."""
    from excise.concepts.concept import check_name, read_names, warn_of_commas

    names = [check_name(p, "name to preserve") for p in preserve or []]
    warn_of_commas(names, "--preserve")
    return names + (read_names(file) if file else [])


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """`key=value` texts to settings; numbers, true, false and null are read as such.

    Raises:
        SettingError: no "=", or one key twice.
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
