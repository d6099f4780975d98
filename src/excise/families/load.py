"""Load a model by hub id, folder, single file or built-in name, and give it the adapter of its family."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from excise.errors import ModelError, unknown
from excise.families import quantised
from excise.families.architectures import family_of_file, holds_transformer_alone
from excise.families.built_in import BUILT_IN
from excise.families.locate import FAMILIES, check_model, family_of_class, located, pipeline_class, unsupported
from excise.families.whole import cached, first_line, from_folder, from_hub, from_single_file

if TYPE_CHECKING:
    from excise.families.base import Family
    from excise.families.pipeline import PipelineFamily

PREDICTIONS = ("epsilon", "v_prediction")


def family_of(pipe: Any) -> Family:
    """The adapter of a loaded pipeline: of a supported class, of a class derived from one, or of a sibling.

    Raises:
        ModelError: no family supports the pipeline.
    """
    name = family_of_class(kind.__name__ for kind in type(pipe).__mro__)
    if name is not None:
        return FAMILIES.load(name)(pipe)
    raise unsupported(type(pipe).__name__)


def load(
    model: str | Path,
    *,
    revision: str | None = None,
    variant: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    local_files_only: bool = False,
    config: str | Path | None = None,
    prediction: str | None = None,
    whole: bool = True,
) -> Family:
    """Load a text-to-image model.

    Args:
        model: a built-in name (`canvas-sd`), a local diffusers folder, a single `.safetensors` file or a hub id.
        revision, variant, local_files_only: passed to diffusers.
        dtype: float32, float16, bfloat16, or auto (float16 on a GPU, else float32).
        device: cpu, cuda, cuda:0, mps, or auto.
        config: for a single file of Stable Diffusion, a local diffusers folder of the same architecture, so that
            nothing is fetched; for one of a newer model's transformer, the folder or hub id of its other parts.
        prediction: epsilon or v_prediction, for a model whose files omit it or have it wrong.
        whole: False for work that reads text alone: weights stay in the files and are read when something asks for
            them, those of text encoders when they run, all of them when something draws (`Family.complete`).

    Raises:
        UnknownNameError, ModelError: the model cannot be found, read or used; the message says what to do.
    """
    check_model(model, variant=variant, config=config)  # before torch and diffusers are imported, which takes seconds
    import torch

    from excise.families.partial import source_of
    from excise.support.precision import check

    where = pick_device(device)
    options = {"dtype": _dtype(dtype, where)}
    check(dtype if dtype != "auto" else "float32", where)
    name, path = str(model), located(model)
    hub = {"revision": revision, "variant": variant}
    pipe = None
    with quiet():
        if path.is_file() and (beside := _folder_beside(path, config, hub, local_files_only)) is not None:
            pipe = _with_weights_in_files(beside, name, variant, config, options["dtype"], where, path)
            if whole:
                family_of(pipe).complete()
        elif not whole:
            folder = path if path.exists() else cached(name, hub, local_files_only)
            if not path.exists():
                quantised.check_folder(folder)
            pipe = _with_weights_in_files(folder, name, variant, config, options["dtype"], where)
        if pipe is None:
            pipe = _whole(name, path, config, local_files_only, hub, options)
    family = family_of(pipe)
    if prediction is not None:
        _set_prediction(pipe, prediction)
    if any(source_of(part) for part in pipe.components.values()):
        return family  # its parts are where they belong
    pipe.to(where)
    if where.startswith("cpu"):
        family.denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return family


def _whole(
    name: str,
    path: Path,
    config: str | Path | None,
    local_files_only: bool,
    hub: dict[str, Any],
    options: dict[str, Any],
) -> Any:
    """A pipeline with all its weights, as diffusers reads it from a folder, a single file or the hub."""
    if path.is_dir():
        return from_folder(path, hub["variant"], options)
    if path.is_file():
        return from_single_file(path, config, local_files_only, options)
    return from_hub(name, {**hub, **options}, local_files_only)


def outlined(
    model: str | Path,
    *,
    variant: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    config: str | Path | None = None,
    prediction: str | None = None,
    encodes: bool = False,
    **others: Any,
) -> Family | None:
    """The adapter of a model's outline, for work that draws nothing; diffusers is not imported.

    Args:
        model, variant, dtype, device, config, prediction: as `load` takes them.
        encodes: whether text is encoded; its encoders are then read as they run.
        others: its other arguments, which are of no use for a folder.

    Returns:
        None for a model that is no folder, or of a family that needs more than an outline.

    Raises:
        UnknownNameError, ModelError: as `load`.
    """
    check_model(model, variant=variant, config=config)
    path = located(model)
    if not path.is_dir() or prediction is not None:
        return None
    from excise.families.opening import Opening, open_encoders
    from excise.families.outline import outline

    kind = _adapter(path)
    if kind is None or not kind.outlines:
        return None
    where = pick_device(device)
    precision, encoders = _dtype(dtype, where), None
    if encodes:
        with quiet("transformers"):
            opening = Opening(kind.encoder_names, kind.denoiser_name, kind.text_modules, precision, where, variant)
            if (encoders := open_encoders(path, opening)) is None:
                return None
    pipe = outline(path, kind.denoiser_name, precision, where, variant, encoders)
    family: Family = kind(pipe)
    return family


def _folder_beside(path: Path, config: str | Path | None, hub: dict[str, Any], local_files_only: bool) -> Path | None:
    """The folder of the other parts of a pipeline whose transformer is in a file; None for a file with all of them."""
    if not holds_transformer_alone(family_of_file(path)):
        return None
    if Path(str(config)).is_dir():
        return Path(str(config))
    folder = cached(str(config), hub, local_files_only)
    check_model(path, config=folder)  # only now is the family of its model known
    return folder


def _with_weights_in_files(
    path: Path,
    name: str,
    variant: str | None,
    config: str | Path | None,
    dtype: Any,
    device: str,
    transformer: Path | None = None,
) -> Any:
    """A pipeline whose weights stay in their files; None where only diffusers can load it, which loads all.

    Args:
        transformer: a single file that holds the denoiser's weights, instead of the folder `path`.

    Raises:
        ModelError: its files cannot be read.
    """
    from excise.families.opening import Opening, open_folder, open_single_file

    kind = _adapter(path)
    if kind is None:
        return None
    opening = Opening(kind.encoder_names, kind.denoiser_name, kind.text_modules, dtype, device, variant)
    try:
        if path.is_dir():
            return open_folder(path, opening, None if name in (*BUILT_IN, str(path)) else name, transformer)
        if config is not None and Path(config).is_dir():
            return open_single_file(path, Path(config), kind.draws_with, opening)
    except ModelError:
        raise
    except Exception as error:
        why = (quantised.told_by_config(path) if path.is_dir() else None) or first_line(error)
        raise ModelError(f"cannot read the model in {path}: {why}") from error
    return None


def _adapter(path: Path) -> type[PipelineFamily] | None:
    """The adapter of a folder's or file's family, if it is one of pipelines of diffusers.

    Raises:
        ModelError: the file is of no family.
    """
    from excise.families.pipeline import PipelineFamily

    name = family_of_class([pipeline_class(path)]) if path.is_dir() else family_of_file(path)
    kind = FAMILIES.load(name) if name is not None else None
    return kind if kind is not None and issubclass(kind, PipelineFamily) else None


def _set_prediction(pipe: Any, prediction: str) -> None:
    """Give the pipeline a scheduler that interprets the denoiser's output as `prediction`.

    Raises:
        UnknownNameError: it is neither epsilon nor v_prediction.
        ModelError: the model predicts a flow.
    """
    if prediction not in PREDICTIONS:
        raise unknown("prediction", prediction, PREDICTIONS)
    own = pipe.scheduler
    if "flow" in type(own).__name__.lower() or own.config.get("use_flow_sigmas"):
        raise ModelError(f"the model's {type(own).__name__} is for a flow, not {prediction}; leave --prediction out.")
    if own.config.get("prediction_type") not in (*PREDICTIONS, None):
        raise ModelError(
            f"the model's {type(own).__name__} is for '{own.config.prediction_type}', not {prediction}; leave "
            "--prediction out."
        )
    pipe.scheduler = type(own).from_config(own.config, prediction_type=prediction)


def pick_device(device: str) -> str:
    """The named device; "auto" means a GPU where there is one.

    Raises:
        ModelError: torch does not know the device, or this machine does not have it.
    """
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return "cuda:" + os.environ.get("LOCAL_RANK", "0")  # set in what `accelerate launch` starts
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"device '{device}' cannot be used here ({str(error).splitlines()[0]}); try --device cpu."
        ) from error
    return device


def _dtype(dtype: str, device: str) -> Any:
    """The torch type of a name; "auto" means half precision on a GPU, else single."""
    import torch

    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if dtype == "auto":
        return torch.float32 if device == "cpu" else torch.float16
    if dtype not in known:
        raise unknown("dtype", dtype, ["auto", *known])
    return known[dtype]


@contextmanager
def quiet(*libraries: str) -> Iterator[None]:
    """Silence the progress bars and notices of libraries inside the block, by default of diffusers and transformers."""
    logs = [import_module(f"{library}.utils.logging") for library in libraries or ("diffusers", "transformers")]
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    for log in logs:
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, (level, bar) in zip(logs, before, strict=True):
            log.set_verbosity(level)
            if bar:
                log.enable_progress_bar()


def as_family(model: Any) -> Family:
    """The adapter of a pipeline; an adapter is returned as it is."""
    from excise.families.base import Family

    return model if isinstance(model, Family) else family_of(model)
