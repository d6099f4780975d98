"""Find a model by hub id, folder, single file or built-in name, and pick its family."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from excise.errors import ModelError, unknown
from excise.families import architectures
from excise.families import capabilities as c
from excise.families.built_in import BUILT_IN, WEIGHTS
from excise.families.whole import cached, first_line, from_folder, from_hub, from_single_file
from excise.registry import Record, Registry

if TYPE_CHECKING:
    from excise.families.base import Family

FAMILIES = Registry(
    "family",
    "excise.families",
    {
        "sd": Record(
            "excise.families.sd:StableDiffusion",
            "Stable Diffusion 1.x and 2.x (StableDiffusionPipeline)",
            provides=frozenset(c.CAPABILITIES) - {c.POOLED},
            pipelines=("StableDiffusion",),
        ),
        "sdxl": Record(
            "excise.families.sdxl:StableDiffusionXL",
            "Stable Diffusion XL (StableDiffusionXLPipeline)",
            provides=frozenset(c.CAPABILITIES),
            pipelines=("StableDiffusionXL",),
        ),
        "sana": Record(
            "excise.families.sana:Sana",
            "SANA 0.6B to 4.8B (SanaPipeline)",
            provides=frozenset({c.TEXT_KV, c.ATTENTION, c.TEXT_ENCODER, c.GUIDANCE, c.CROSS_ATTENTION}),
            pipelines=("Sana",),
        ),
    },
    contract="excise.families.contract:contract",
    facts="excise.families.contract:facts",
)
PREDICTIONS = ("epsilon", "v_prediction")
_PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def family_of(pipe: Any) -> Family:
    """The adapter of a loaded pipeline: of a supported class, of a class derived from one, or of a sibling.

    Raises:
        ModelError: no family supports the pipeline.
    """
    name = _family_of_class(kind.__name__ for kind in type(pipe).__mro__)
    if name is not None:
        return FAMILIES.load(name)(pipe)
    raise _unsupported(type(pipe).__name__)


def _unsupported(pipeline: str, where: str = "") -> ModelError:
    """The error for a pipeline class that no family adapts; `where` begins its sentence."""
    supported = ", ".join(f"{name}Pipeline" for name in _pipelines())
    return ModelError(
        f"{where}{pipeline} is not supported yet; supported are {supported}, and their img2img, inpainting and "
        "ControlNet siblings."
    )


def family_name_of(model: str | Path) -> str | None:
    """The family of a model, told from its files alone: nothing is loaded, and torch is not imported.

    Args:
        model: as `load` takes it.

    Returns:
        None where only loading tells: for a hub id, and for files that cannot be read.
    """
    path = WEIGHTS / str(model) if str(model) in BUILT_IN else Path(model)
    try:
        if path.is_dir():
            return _family_of_class([_class_name(path)])
        if path.is_file() and path.suffix.lower() == ".safetensors":
            return architectures.family_of_file(path)
    except (OSError, ModelError):
        return None
    return None


def check_model(
    model: str | Path,
    *,
    variant: str | None = None,
    config: str | Path | None = None,
) -> None:
    """Refuse a model that cannot be loaded, as far as its name and its files tell; torch is not imported.

    Args:
        model, variant, config: as `load` takes them.

    Raises:
        UnknownNameError, ModelError: there is no such model here, it is of an architecture that no family adapts, or
            some of its files are missing; the message says what to do. A hub id is not looked up.
    """
    name, path = str(model), Path(model)
    if name in BUILT_IN:
        if not (WEIGHTS / name / "model_index.json").exists():
            raise ModelError(f"{name} is not in this installation; run: excise canvas train --model {name}")
    elif path.suffix.lower() in _PICKLES and not path.is_dir():
        raise ModelError(f"{name} is a pickle, which can run code when it is read; convert it to .safetensors first.")
    elif path.is_dir():
        _check_folder(path, variant)
    elif path.is_file():
        if path.suffix.lower() != ".safetensors":
            raise ModelError(f"{path} is no model; expected a .safetensors file, a diffusers folder or a hub id.")
        architectures.family_of_file(path)
        _check_config(config)
    elif _is_path(name) or _is_below_a_folder(path):
        raise ModelError(
            f"there is no file or folder {name}{_nearest_path(path)}; expected a diffusers folder, a .safetensors file "
            "or a hub id (org/name)."
        )
    elif not _HUB_ID.fullmatch(name):
        raise unknown(
            "model", name, BUILT_IN, "Or give a hub id (org/name), a diffusers folder or a .safetensors file."
        )


def _check_folder(path: Path, variant: str | None) -> None:
    """Refuse a folder that is no pipeline of a family, or that lacks weights."""
    if not (path / "model_index.json").exists():
        raise ModelError(f"{path} has no model_index.json; {architectures.content_of_folder(path)}.")
    pipeline = _class_name(path)
    ours = _family_of_class([pipeline]) is not None
    title = None if ours else architectures.title_of_class(pipeline)
    # A class of another name may derive from one that is supported, which only loading tells.
    if title is not None or not (ours or any(pipeline.startswith(name) for name in _pipelines())):
        raise _unsupported(pipeline, f"{path} is a model of the architecture {title}: " if title else f"{path}: ")
    architectures.check_weights(path, variant)


def _check_config(config: str | Path | None) -> None:
    """Refuse a folder of configurations that is none."""
    if config is None or (_HUB_ID.fullmatch(str(config)) and not _is_path(str(config)) and not Path(config).exists()):
        return
    if not (Path(config) / "model_index.json").exists():
        raise ModelError(
            f"--config {config} is no diffusers folder (it has no model_index.json); give a local folder of a model of "
            "the same architecture."
        )


def _class_name(path: Path) -> str:
    """The pipeline class that a folder's index names.

    Raises:
        ModelError: the index cannot be read.
    """
    try:
        index = json.loads((path / "model_index.json").read_text(encoding="utf-8"))
        return str(index.get("_class_name"))
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{path / 'model_index.json'} cannot be read ({error}); copy the folder again.") from error


def _is_path(name: str) -> bool:
    """Whether a name that is no file here can only be meant as one: no hub id looks like it."""
    ending = name.lower().endswith((".safetensors", *_PICKLES))
    return ending or name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1 or "\\" in name


def _is_below_a_folder(path: Path) -> bool:
    """Whether the first part of a relative name of several parts is a folder here, which no hub id is meant by."""
    return not path.is_absolute() and len(path.parts) > 1 and Path(path.parts[0]).is_dir()


def _nearest_path(path: Path) -> str:
    """The entry beside a missing path that is named most like it, as the end of a clause, or empty."""
    try:
        names = [p.name for p in path.parent.iterdir() if not p.name.startswith(".")]
    except OSError:
        return f" (there is no folder {path.parent} either)"
    near = difflib.get_close_matches(path.name, names, n=1)
    return f" (did you mean {path.parent / near[0]}?)" if near else ""


def _family_of_class(names: Iterable[str]) -> str | None:
    """The family of the first pipeline class that belongs to one.

    Siblings of a pipeline (img2img, inpainting, ControlNet) have its parts and encode text as it does.
    """
    pipelines = _pipelines()
    sibling = re.compile(
        rf"({'|'.join(map(re.escape, pipelines))})(ControlNet(Union)?)?(PAG)?(Img2Img|Inpaint)?Pipeline"
    )
    matches = (sibling.fullmatch(name) for name in names)
    return next((pipelines[match[1]] for match in matches if match), None)


def _pipelines() -> dict[str, str]:
    """Family by pipeline class (without the ending "Pipeline"), plug-in families included."""
    return {pipeline: name for name, record in FAMILIES.records().items() for pipeline in record.pipelines}


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
        config: for a single file, a local diffusers folder of the same architecture, so that nothing is fetched.
        prediction: epsilon or v_prediction, for a model whose files omit it or have it wrong.
        whole: False for work that reads text alone: text encoders are loaded, other weights stay in the files and are
            read when something asks for them, all of them when something draws (`Family.complete`).

    Raises:
        UnknownNameError, ModelError: the model cannot be found, read or used; the message says what to do.
    """
    check_model(model, variant=variant, config=config)  # before torch and diffusers are imported, which takes seconds
    name = str(model)
    path = WEIGHTS / name if name in BUILT_IN else Path(model)
    import torch

    from excise.families.partial import source_of
    from excise.support.precision import check

    where = pick_device(device)
    options = {"dtype": _dtype(dtype, where)}
    check(dtype if dtype != "auto" else "float32", where)
    hub = {"revision": revision, "variant": variant}
    with quiet():
        pipe = None
        if not whole:
            found = path if path.exists() else cached(name, hub, local_files_only)
            pipe = _with_text_alone(found, name, variant, config, options["dtype"], where)
        if pipe is not None:
            pass
        elif path.is_dir():
            pipe = from_folder(path, variant, options)
        elif path.is_file():
            pipe = from_single_file(path, config, local_files_only, options)
        else:
            pipe = from_hub(name, {**hub, **options}, local_files_only)
    family = family_of(pipe)
    if prediction is not None:
        _set_prediction(pipe, prediction)
    if any(source_of(part) for part in pipe.components.values()):
        return family  # its parts are where they belong
    pipe.to(where)
    if where.startswith("cpu"):
        family.denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return family


def outlined(
    model: str | Path,
    *,
    variant: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    prediction: str | None = None,
    **others: Any,
) -> Family | None:
    """The adapter of a model's outline, for work that encodes and draws nothing; diffusers is not imported.

    Args:
        model, variant, dtype, device, prediction: as `load` takes them.
        others: its other arguments, which are of no use for a folder.

    Returns:
        None for a model that is no folder, or of a family that needs more than an outline.

    Raises:
        UnknownNameError, ModelError: as `load`.
    """
    check_model(model, variant=variant)
    path = WEIGHTS / str(model) if str(model) in BUILT_IN else Path(model)
    own = _family_of_class([_class_name(path)]) if path.is_dir() else None
    kind = FAMILIES.load(own) if own is not None else None
    if kind is None or not getattr(kind, "outlines", False) or prediction is not None:
        return None
    from excise.families.outline import outline

    where = pick_device(device)
    pipe = outline(path, str(path), kind.denoiser_name, _dtype(dtype, where), where, variant)
    family: Family = kind(pipe)
    return family


def _with_text_alone(
    path: Path, name: str, variant: str | None, config: str | Path | None, dtype: Any, device: str
) -> Any:
    """A pipeline whose text encoders alone are in memory; None where only diffusers can load it, which loads all.

    Raises:
        ModelError: its files cannot be read.
    """
    from excise.families.opening import Opening, open_folder, open_single_file
    from excise.families.pipeline import PipelineFamily

    own = _family_of_class([_class_name(path)]) if path.is_dir() else architectures.family_of_file(path)
    kind = FAMILIES.load(own) if own is not None else None
    if kind is None or not issubclass(kind, PipelineFamily):
        return None
    opening = Opening(kind.encoder_names, kind.denoiser_name, kind.text_modules, dtype, device, variant)
    try:
        if path.is_dir():
            return open_folder(path, opening, None if name in (*BUILT_IN, str(path)) else name)
        if config is not None and Path(config).is_dir():
            return open_single_file(path, Path(config), kind.draws_with, opening)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"cannot read the model in {path}: {first_line(error)}") from error
    return None


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
def quiet() -> Iterator[None]:
    """Silence the progress bars and notices of diffusers and transformers inside the block."""
    import diffusers.utils.logging as d
    import transformers.utils.logging as t

    logs = (d, t)
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
