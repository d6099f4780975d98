"""Ship an edit in the forms that others load: a diffusers LoRA, a kohya LoRA, or a merged pipeline folder.

Each export is read back, and the figure returned says how far it is from the edit. Two traps are avoided: diffusers
loses `lora_alpha` when no metadata is given, and its kohya converter writes alpha = rank whatever alpha was. Here alpha
equals the rank always (the scale is folded into the up factor), and the metadata is written all the same.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from excise.edit import Dense, Edit, LowRank, as_family, check_base, original_weights
from excise.errors import OutputError, WrongBaseError, unknown
from excise.families.base import Family
from excise.families.networks import as_saved, in_encoder
from excise.files import make_folder, write_atomically
from excise.linalg.low_rank import compress

FORMATS = ("diffusers-lora", "kohya-lora", "merged")
DIFFUSERS_NAME = "pytorch_lora_weights.safetensors"
KOHYA_NAME = "excise_kohya_lora.safetensors"
# What kohya's scripts call a base model, and what ModelSpec does.
KOHYA = {
    "sd": ("sd_v1", "stable-diffusion-v1"),
    "sd2": ("sd_v2", "stable-diffusion-v2"),
    "sdxl": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base"),
}


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the file, or the folder of a merged pipeline.
        rank: the largest LoRA rank; 0 for a merged pipeline.
        error: largest over the edited weights of |exported change - change| / |change| (Frobenius).
    """

    path: Path
    format: str
    rank: int
    error: float


def export(
    edit: Edit, model: Any, out: str | Path, format: str = "diffusers-lora", *, allow_other_base: bool = False
) -> Exported:
    """Write `edit` for the world outside.

    Args:
        edit: what to ship.
        model: the pipeline (or adapter) it is for, without the edit applied.
        out: a folder.
        format: diffusers-lora, kohya-lora or merged.

    Raises:
        UnknownNameError: no such format.
        WrongBaseError: another model, or a family that the format is not made for.
        OutputError: `out` cannot be written.
    """
    if format not in FORMATS:
        raise unknown("export format", format, FORMATS)
    family = as_family(model)
    check_base(edit, family, allow_other_base)
    folder = make_folder(Path(out))
    if format == "merged":
        return _merged(edit, family, folder, allow_other_base)
    if format == "kohya-lora" and family.name not in KOHYA:
        raise WrongBaseError(
            f"no tool reads a kohya LoRA for the family '{family.name}' (it exists for {', '.join(KOHYA)}); "
            "use --format diffusers-lora or merged."
        )
    weights = original_weights(family, edit.paths)
    if other := [p for p in edit.paths if weights[p].ndim != 2]:
        raise WrongBaseError(f"a LoRA changes linear maps alone, this edit also '{other[0]}'; use --format merged.")
    encoders = [p for p in edit.paths if in_encoder(p, family.text_encoders)]
    if encoders and family.name not in KOHYA:
        raise WrongBaseError(
            f"diffusers loads no LoRA into the text encoder of the family '{family.name}', which this edit changes; "
            "use --format merged."
        )
    if format == "kohya-lora" and (homeless := [p for p in edit.paths if "attentions." not in p and p not in encoders]):
        raise WrongBaseError(
            f"a kohya LoRA has no place for '{homeless[0]}', which this edit changes; use --format diffusers-lora or "
            "merged, or erase with --set pooled=false."
        )
    factors = lora_factors(edit, weights)
    if format == "diffusers-lora":
        path = folder / DIFFUSERS_NAME
        state, metadata = _diffusers_state(factors, family), _adapter_metadata(edit, factors, family)
    else:
        path = folder / KOHYA_NAME
        state, metadata = _kohya_state(factors, family), _kohya_metadata(edit, factors, family)
    write_atomically(path, lambda p: save_file(state, p, metadata={"format": "pt", **metadata}))
    change = _diffusers_change if format == "diffusers-lora" else _kohya_change
    written = load_file(path)
    return Exported(path, format, _rank(factors), _largest_error(edit, weights, lambda p: change(written, p, family)))


def lora_factors(edit: Edit, weights: Mapping[str, Tensor]) -> dict[str, LowRank]:
    """Every changed weight as one pair of factors of one common rank: parts are joined along the rank, which is exact.

    A dense part, and a joint rank above the smaller side of the weight, is reduced to its numerical rank.
    """
    factors = {}
    for path in edit.paths:
        weight = weights[path].detach()
        parts = [m.low_rank(weight) for m in edit.text_maps if path in m.modules]
        own = edit.modules.get(path)
        if isinstance(own, LowRank):
            parts.append(LowRank(own.b.to(parts[0].b) if parts else own.b, own.a.to(parts[0].a) if parts else own.a))
        elif isinstance(own, Dense):
            n = own.dw.shape[1]
            parts.append(LowRank(own.dw.float(), torch.eye(n)))
        b, a = torch.cat([p.b.float() for p in parts], dim=1), torch.cat([p.a.float() for p in parts], dim=0)
        if b.shape[1] > min(weight.shape):
            b, a = (f.float() for f in compress(b.double(), a.double(), tolerance=1e-8))
        factors[path] = LowRank(b, a)
    top = max(len(f.a) for f in factors.values())
    return {path: _padded(f, top) for path, f in factors.items()}


def _padded(factors: LowRank, rank: int) -> LowRank:
    """The same product at `rank`, with zeros: one rank for all modules, since loaders mix up alphas that differ."""
    missing = rank - len(factors.a)
    return LowRank(F.pad(factors.b, (0, missing)).contiguous(), F.pad(factors.a, (0, 0, 0, missing)).contiguous())


def _parted(path: str, family: Family) -> tuple[str, str]:
    """A module path as the name of its part of the pipeline, and the path in there."""
    name, _, rest = path.partition(".")
    return (name, rest) if name in family.text_encoders else (family.denoiser_name, path)


def _diffusers_keys(path: str, family: Family) -> tuple[str, str]:
    """Names of the factors a and b.

    In a text encoder they are those that diffusers had before it took peft's: its loader knows an MLP by them alone.
    And the level that transformers 5 left out is there: loaders of all versions find it.
    """
    part, rest = _parted(path, family)
    if part in family.text_encoders:
        key = f"{part}.text_model.{rest}.lora_linear_layer"
        return f"{key}.down.weight", f"{key}.up.weight"
    return f"{part}.{rest}.lora_A.weight", f"{part}.{rest}.lora_B.weight"


def _kohya_key(path: str, family: Family) -> str:
    part, rest = _parted(path, family)
    if part not in family.text_encoders:
        return "lora_unet_" + rest.replace(".", "_")
    which = "te" if len(family.text_encoders) == 1 else f"te{list(family.text_encoders).index(part) + 1}"
    return f"lora_{which}_text_model_" + rest.replace(".", "_")


def _diffusers_state(factors: Mapping[str, LowRank], family: Family) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for path, f in factors.items():
        a, b = _diffusers_keys(path, family)
        state |= {a: f.a, b: f.b}
    return state


def _kohya_state(factors: Mapping[str, LowRank], family: Family) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for path, f in factors.items():
        key = _kohya_key(path, family)
        state |= {f"{key}.lora_down.weight": f.a, f"{key}.lora_up.weight": f.b}
        state[f"{key}.alpha"] = torch.tensor(float(len(f.a)))
    return state


def _adapter_metadata(edit: Edit, factors: Mapping[str, LowRank], family: Family) -> dict[str, str]:
    """What diffusers reads (`lora_adapter_metadata`), and our own record beside it."""
    rank = _rank(factors)
    targets: dict[str, list[str]] = {}
    for path in sorted(factors):
        part, rest = _parted(path, family)
        targets.setdefault(part, []).append(rest)
    adapter = {
        f"{part}.{name}": value
        for part, paths in targets.items()
        for name, value in {
            "r": rank,
            "lora_alpha": rank,
            "target_modules": paths,
            "peft_type": "LORA",
            "bias": "none",
        }.items()
    }
    return {"lora_adapter_metadata": json.dumps(adapter), **_our_metadata(edit)}


def _kohya_metadata(edit: Edit, factors: Mapping[str, LowRank], family: Family) -> dict[str, str]:
    rank = str(_rank(factors))
    version, architecture = KOHYA["sd2" if family.name == "sd" and family.text_width == 1024 else family.name]
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": rank,
        "ss_base_model_version": version,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.title": f"without {', '.join(c.name for c in edit.record.concepts)}",
        **_our_metadata(edit),
    }


def _rank(factors: Mapping[str, LowRank]) -> int:
    return len(next(iter(factors.values())).a)


def _our_metadata(edit: Edit) -> dict[str, str]:
    return {"excise_record": json.dumps(edit.record.model_dump(mode="json"), ensure_ascii=False, sort_keys=True)}


def _diffusers_change(state: Mapping[str, Tensor], path: str, family: Family) -> Tensor:
    """What a diffusers LoRA adds to a weight, read as its users do: up @ down, alpha being the rank."""
    a, b = _diffusers_keys(path, family)
    return state[b] @ state[a]


def _kohya_change(state: Mapping[str, Tensor], path: str, family: Family) -> Tensor:
    """The same of a kohya LoRA: up @ down * alpha / rank."""
    key = _kohya_key(path, family)
    down = state[f"{key}.lora_down.weight"]
    return state[f"{key}.lora_up.weight"] @ down * (state[f"{key}.alpha"] / len(down))


def _merged(edit: Edit, family: Family, folder: Path, allow_other_base: bool) -> Exported:
    """A pipeline folder with the edit inside; written beside `folder` and moved in only when it is complete."""
    weights = original_weights(family, edit.paths)
    partial = Path(tempfile.mkdtemp(dir=folder, prefix=".partial-"))
    try:
        with edit.apply(family, allow_other_base=allow_other_base), as_saved(family.pipe):
            family.pipe.save_pretrained(partial, safe_serialization=True)
        for part in partial.iterdir():
            target = folder / part.name
            if target.is_dir():
                shutil.rmtree(target)
            part.replace(target)
    except OSError as error:
        raise OutputError(
            f"writing {folder} failed: {error.strerror or error}. Free some space and run it again."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    parts = {_parted(path, family)[0] for path in edit.paths}
    merged = {part: _state(folder / part) for part in parts}

    def change(path: str) -> Tensor:
        part, rest = _parted(path, family)
        name = f"{rest}.weight" if f"{rest}.weight" in merged[part] else rest
        return merged[part][name].float() - weights[path].float().cpu()

    return Exported(folder, "merged", 0, _largest_error(edit, weights, change))


def _state(folder: Path) -> dict[str, Tensor]:
    """The tensors of one part of a saved pipeline, by the names that paths have."""
    state: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        state |= load_file(file)
    return {name.removeprefix("text_model."): tensor for name, tensor in state.items()}


def _largest_error(edit: Edit, weights: Mapping[str, Tensor], change: Callable[[str], Tensor]) -> float:
    errors = []
    for path in edit.paths:
        wanted = edit.delta(path, weights[path].detach().cpu()).double()
        size = wanted.norm()
        if size > 0:
            errors.append(float((change(path).cpu().double() - wanted).norm() / size))
    return max(errors, default=0.0)
