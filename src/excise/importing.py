"""What other tools erased, as an edit: whole or partial denoisers, text encoders, LoRAs, folders, CompVis checkpoints.

A file is read without running anything in it (safetensors, or pickles with weights alone), its names are brought to
those of the base model, and what differs from the base is the edit. Every tensor must find its place.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from excise.concept import Concept, as_concepts
from excise.edit import Delta, Dense, Edit, LowRank, as_family, base_of, original_weights
from excise.erasing import VERSIONED, guess_kind
from excise.errors import EditFileError, ExciseWarning, WrongBaseError
from excise.families.base import Family
from excise.record import EditRecord, Target

PICKLES = (".pt", ".pth", ".ckpt", ".bin")
NESTS = ("state_dict", "model", "model_state_dict")  # under which some tools put the weights
SAFE_TORCH = (2, 6)
MOST = 0.9  # of all tensors: a file that differs in more is likely of another base
IGNORED = re.compile(r"(first_stage_model\.|model_ema\.|.*position_ids$|.*\.num_batches_tracked$)")
_LORA = re.compile(
    r"(?P<path>.+?)(?:\.|_)(?P<side>lora_A|lora_B|lora\.down|lora\.up|lora_linear_layer\.down|"
    r"lora_linear_layer\.up)\.weight"
)


def import_edit(
    path: str | Path,
    model: Any,
    concepts: Sequence[str | Concept],
    *,
    kind: str | None = None,
    model_name: str | None = None,
) -> Edit:
    """Read another tool's result as an edit of the model it was made from.

    Args:
        path: a file, or a folder of a pipeline, of its denoiser, or of its text encoder.
        model: the base; it is not changed.
        concepts: what the result is said to have erased, for the record. kind: of those given as plain names.

    Raises:
        EditFileError: it cannot be read, holds code, or holds tensors that have no place in an edit.
        WrongBaseError: names or shapes are not those of the base, or nothing differs from it.
    """
    path, family = Path(path), as_family(model)
    found = [guess_kind(c, kind) for c in as_concepts(concepts, kind)]
    state, about = _read(path)
    if _is_lora(state):
        modules: dict[str, Delta] = dict(_lora(state, about, family))
        layout = "LoRA"
    else:
        named, layout = _named(state, family)
        modules = dict(_differences(named, family))
    matrices = sum(t.ndim > 1 for t in state.values())
    moved = sum(isinstance(d, Dense) and d.dw.ndim > 1 for d in modules.values())
    if matrices > len(family.projections()) and moved > MOST * matrices:
        warnings.warn(
            f"{moved} of {matrices} matrices differ from the base; if it is not the model that {path.name} was made "
            "from, the edit is the difference of two models.",
            ExciseWarning,
            stacklevel=2,
        )
    if not modules:
        raise WrongBaseError(f"{path} holds nothing that differs from the base, so there is nothing to import.")
    record = EditRecord(
        excise=version("excise"),
        base=base_of(family, model_name or str(family.pipe.config.get("_name_or_path") or "unnamed pipeline")),
        method="imported",
        settings={"file": path.name, "layout": layout},
        concepts=tuple(Target(name=c.name, kind=c.kind, anchor=c.anchor or "", synonyms=c.synonyms) for c in found),
        preserve=(),
        vocabulary=None,
        seed=0,
        versions={p: version(p) for p in VERSIONED},
        measured={},
    )
    return Edit(record, (), modules)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name and the metadata of one file; of a folder those of its parts, each part's name before them."""
    if path.is_dir():
        return _read_folder(path), {}
    if not path.is_file():
        raise EditFileError(f"there is no file or folder {path}; give the result of another tool.")
    if path.suffix.lower() in PICKLES:
        return _unpickled(path), {}
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise EditFileError(
            f"{path} is no safetensors file, or it is damaged ({error}); expected .safetensors, or a pickle of "
            f"weights ({', '.join(PICKLES)})."
        ) from error


def _unpickled(path: Path) -> dict[str, Tensor]:
    if tuple(int(x) for x in torch.__version__.split("+")[0].split(".")[:2]) < SAFE_TORCH:
        raise EditFileError(
            f"{path} is a pickle, and torch {torch.__version__} cannot read one safely (CVE-2025-32434); upgrade torch "
            f"to {'.'.join(map(str, SAFE_TORCH))}, or save the state_dict as safetensors where it was made."
        )
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may fail in any way
        raise EditFileError(
            f"{path} holds more than weights, or is damaged; nothing in it was executed. Save its state_dict as "
            "safetensors where it was made."
        ) from error
    if not isinstance(content, Mapping) or not content:
        raise EditFileError(f"{path} holds {type(content).__name__}; expected tensors by name.")
    try:
        left = _flat(content)
    except RecursionError as error:
        raise EditFileError(f"{path} holds something that holds itself; expected tensors by name.") from error
    if not left:
        raise EditFileError(f"{path} holds no tensors by name.")
    return left


def _flat(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Tensors by name out of what a pickle holds: under a part of the pipeline's name, or nested as some tools do."""
    found: dict[str, Tensor] = {}
    for key, value in content.items():
        if isinstance(value, Tensor):
            found[str(key)] = value
        elif isinstance(value, Mapping):
            before = "" if key in NESTS else f"{key}."
            found |= {before + name: tensor for name, tensor in _flat(value).items()}
    return found


def _read_folder(path: Path) -> dict[str, Tensor]:
    """A pipeline's folder (denoiser and text encoders), or that of one of its parts."""
    parts = [p for p in sorted(path.iterdir()) if p.is_dir() and re.match(r"(unet|transformer|text_encoder)", p.name)]
    if not parts:
        return _read_weights(path)
    return {f"{part.name}.{name}": t for part in parts for name, t in _read_weights(part).items()}


def _read_weights(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    # Where a variant in half precision lies beside the full weights, the full ones are meant.
    files = [f for f in files if ".fp16." not in f.name and ".fp16-" not in f.name] or files
    if not files:
        raise EditFileError(f"{folder} holds neither .safetensors nor .bin files; expected a folder of diffusers.")
    found: dict[str, Tensor] = {}
    for file in files:
        found |= _read(file)[0]
    return found


def _named(state: Mapping[str, Tensor], family: Family) -> tuple[dict[str, Tensor], str]:
    """Parameters by the names they have in the base, and what the layout is called."""
    if any(name.startswith("model.diffusion_model.") for name in state):
        return _from_compvis(state, family), "CompVis"
    known, found, homeless = _parameters(family), {}, []
    encoder = _encoder_of(state, family, known)
    for name, tensor in state.items():
        place = next((n for n in _candidates(name, family, encoder) if n in known), None)
        if place is None:
            if not IGNORED.match(name):
                homeless.append(name)
        else:
            found[place] = tensor
    if homeless:
        raise WrongBaseError(
            f"{len(homeless)} tensors have no place in the base, '{homeless[0]}' for one; give the model that the "
            "result was made from."
        )
    return found, "diffusers"


def _encoder_of(state: Mapping[str, Tensor], family: Family, known: Mapping[str, Tensor]) -> str:
    """The text encoder whose names and shapes are those of `state`, where that stands for one alone; else "".

    Raises:
        WrongBaseError: several fit.
    """
    shapes = {name.removeprefix("text_model."): t.shape for name, t in state.items() if not IGNORED.match(name)}
    fits = [
        encoder
        for encoder in family.text_encoders
        if all(f"{encoder}.{n}" in known and known[f"{encoder}.{n}"].shape == shape for n, shape in shapes.items())
    ]
    if len(fits) > 1:
        raise WrongBaseError(
            f"these weights fit {' and '.join(fits)} alike; put them into a folder of that name and import the folder "
            "around it."
        )
    return fits[0] if fits else ""


def _candidates(name: str, family: Family, encoder: str = "") -> Iterable[str]:
    """What a parameter may be called in the base: as it is, without its part, or as one of a text encoder's."""
    for part in (family.denoiser_name, *family.text_encoders):
        if name.startswith(f"{part}."):
            rest = name.removeprefix(f"{part}.")
            yield rest if part == family.denoiser_name else f"{part}.{rest.removeprefix('text_model.')}"
            return
    yield f"{encoder}.{name.removeprefix('text_model.')}" if encoder else name


def _parameters(family: Family) -> dict[str, Tensor]:
    """Every parameter that an edit may change, by name, edits in force left aside."""
    found: dict[str, Tensor] = dict(family.denoiser.named_parameters())
    for name, encoder in family.text_encoders.items():
        found |= {f"{name}.{n.removeprefix('text_model.')}": p for n, p in encoder.named_parameters()}
    return found


def _from_compvis(state: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint, convert_ldm_unet_checkpoint

    if family.name != "sd":
        raise WrongBaseError(f"a CompVis checkpoint is of Stable Diffusion 1.x; the base is of '{family.name}'.")
    config = dict(family.denoiser.config)  # type: ignore[arg-type]
    try:
        found = dict(convert_ldm_unet_checkpoint(dict(state), config))
    except KeyError as error:
        raise WrongBaseError(
            f"the checkpoint has no {error}, which the base has; give the model it came from."
        ) from error
    of_denoiser = [n for n in state if n.startswith("model.diffusion_model.")]
    if len(found) < len(of_denoiser):
        raise WrongBaseError(
            f"{len(of_denoiser) - len(found)} of the checkpoint's {len(of_denoiser)} tensors of a denoiser have no "
            "place in the base; give the model it came from."
        )
    if strange := next((n for n in state if n.startswith("cond_stage_model.model.")), None):
        raise WrongBaseError(f"'{strange}' is of a text encoder in the names of OpenCLIP, which are not read.")
    prefix = "cond_stage_model.transformer."
    if any(name.startswith(prefix) for name in state):
        text = convert_ldm_clip_checkpoint({k: v for k, v in state.items() if k.startswith(prefix)})
        found |= {f"text_encoder.{n.removeprefix('text_model.')}": t for n, t in text.items() if not IGNORED.match(n)}
    return found


def _differences(named: Mapping[str, Tensor], family: Family) -> Iterable[tuple[str, Delta]]:
    """What differs from the base beyond the rounding of the file's precision."""
    known = _parameters(family)
    paths = {name: name.removesuffix(".weight") for name in named}
    originals = original_weights(family, paths.values())
    for name, tensor in named.items():
        base = originals.get(paths[name], known.get(name))
        if base is None or base.shape != tensor.shape:
            seen = tuple(tensor.shape)
            raise WrongBaseError(
                f"'{name}' has the shape {seen}, in the base {tuple(base.shape) if base is not None else 'nothing'}; "
                "give the model that the result was made from."
            )
        if not bool(torch.isfinite(tensor.float()).all()):
            raise EditFileError(f"'{name}' holds numbers that are not finite; the file is damaged.")
        one, two = tensor.float().cpu(), base.detach().float().cpu()
        # What is no more than the rounding of the coarser of both is no difference.
        eps = max(torch.finfo(t.dtype).eps for t in (tensor, base) if t.is_floating_point())
        if not torch.allclose(one, two, rtol=eps, atol=eps * float(two.abs().mean()) / 16):
            yield paths[name], Dense(one - two)


def _is_lora(state: Mapping[str, Tensor]) -> bool:
    return any("lora" in name for name in state)


def _lora(state: dict[str, Tensor], about: Mapping[str, str], family: Family) -> Iterable[tuple[str, Delta]]:
    """The factors of a LoRA in the dialects of diffusers, peft and kohya; alpha / rank is put into b."""
    if any("dora_scale" in name or "lora_magnitude" in name for name in state):
        raise EditFileError("this is a DoRA, whose magnitudes an edit cannot hold; merge it where it was made.")
    try:
        read = type(family.pipe).lora_state_dict(dict(state), unet_config=family.denoiser.config)
    except (ValueError, KeyError) as error:
        raise EditFileError(
            f"this is no whole LoRA on linear maps that diffusers knows: {str(error).split(chr(10))[0]}"
        ) from error
    converted, alphas = read if isinstance(read, tuple) else (read, None)
    told = _told(about)
    # Alphas come under the name of a factor, or of the map itself.
    own = {n: t for n, t in converted.items() if n.endswith(".alpha")}
    if wrong := next((n for n, t in own.items() if t.numel() != 1), None):
        raise EditFileError(f"'{wrong}' holds {own[wrong].numel()} numbers; the scale of a factor is one.")
    given = {**(alphas or {}), **{n: float(t) for n, t in own.items()}}
    scales = {_placed(name.removesuffix(".alpha")): alpha for name, alpha in given.items()}
    factors: dict[str, dict[str, Tensor]] = {}
    for name, tensor in converted.items():
        if name.endswith(".alpha"):
            continue
        match = _LORA.fullmatch(name)
        if match is None:
            raise EditFileError(f"'{name}' is no factor of a LoRA on linear maps; only such LoRAs can be imported.")
        side = "a" if match["side"].endswith(("A", "down")) else "b"
        factors.setdefault(_placed(name), {})[side] = tensor
    known = _parameters(family)
    for place, both in factors.items():
        path = next((p for p in _candidates(place, family) if f"{p}.weight" in known), None)
        if path is None:
            path = next((p for p in _candidates(f"{place}.0", family) if f"{p}.weight" in known), None)
        if path is None:
            raise WrongBaseError(f"the LoRA changes '{place}', which the base does not have; give its base model.")
        shape = known[f"{path}.weight"].shape
        # A map over channels may be written as a convolution of one pixel, in the file and in the model.
        a, b = (_flattened(both.get(side)) for side in "ab")
        if a is None or b is None or (b.shape[0], a.shape[1]) != tuple(shape[:2]) or shape[2:].numel() != 1:
            raise WrongBaseError(f"the factors of the LoRA at '{place}' do not fit the base's {tuple(shape)}.")
        if not bool(torch.isfinite(a.float()).all() and torch.isfinite(b.float()).all()):
            raise EditFileError(f"'{place}' holds numbers that are not finite; the file is damaged.")
        if not a.any() or not b.any():  # our own exports name a map so that other programs know the base
            continue
        part = place.partition(".")[0]
        alpha = scales.get(place, told.get(f"{part}.lora_alpha", len(a)))
        scaled = b.float() * (float(alpha) / len(a))
        yield path, LowRank(scaled, a.float()) if len(shape) == 2 else Dense((scaled @ a.float()).view(shape))


def _told(about: Mapping[str, str]) -> dict[str, Any]:
    """What a file says of its LoRA, as diffusers writes it.

    Raises:
        EditFileError: it cannot be read, or says what is not handled.
    """
    try:
        told: dict[str, Any] = json.loads(about.get("lora_adapter_metadata", "{}"))
    except ValueError as error:
        raise EditFileError("the LoRA's own description of itself cannot be read; the file was changed.") from error
    for name in ("use_rslora", "use_dora", "alpha_pattern", "rank_pattern"):
        if any(key.endswith(f".{name}") and value for key, value in told.items()):
            raise EditFileError(f"the LoRA uses '{name}', which cannot be imported; merge it where it was made.")
    return told


def _flattened(factor: Tensor | None) -> Tensor | None:
    """(n, m) of a factor, also of one that is written as a convolution of one pixel; None of any other."""
    if factor is None or factor.ndim < 2 or factor.shape[2:].numel() != 1:
        return None
    return factor.flatten(1)


def _placed(name: str) -> str:
    """The map that a factor, or its alpha, belongs to."""
    match = _LORA.fullmatch(name)
    return (match["path"] if match else name).replace(".processor.", ".")
