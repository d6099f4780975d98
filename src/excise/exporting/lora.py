"""Write LoRA files in two layouts: diffusers' own, and kohya's, which most other programs read.

Two faults of readers are avoided. diffusers loses `lora_alpha` without metadata, and its kohya converter writes alpha =
rank whatever alpha was. Here alpha always equals the largest rank (the scale is folded into the up factor), and the
metadata is written all the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from excise.edits.accounts import split_path
from excise.edits.deltas import LowRank
from excise.edits.edit import Edit
from excise.edits.exports import export_name
from excise.edits.originals import original_weights
from excise.edits.provenance import Evidence
from excise.errors import WrongBaseError
from excise.exporting.factors import check_maps, lora_factors, padded, shaped
from excise.exporting.record import architecture, model_spec, our_record
from excise.families.base import Family
from excise.families.networks import in_encoder
from excise.families.original_names import unet_name
from excise.support.files import write_tensors

# By family (or version), its name in kohya's scripts.
KOHYA = {"sd": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}


def check(edit: Edit, family: Family, format: str) -> None:
    """Refuse an edit that the layout cannot represent.

    Raises:
        WrongBaseError: the edit changes no weight, one that a LoRA cannot change, or one without a name in the layout.
    """
    if format == "comfyui-lora":
        raise WrongBaseError(
            f"a comfyui LoRA exists for diffusion transformers, not for the family '{family.name}'; use --format "
            f"{'kohya-lora, which ComfyUI reads' if family.name in KOHYA else 'diffusers-lora or merged'}."
        )
    if format == "kohya-lora" and family.name not in KOHYA:
        raise WrongBaseError(
            f"no tool reads a kohya LoRA for the family '{family.name}' (it exists for {', '.join(KOHYA)}); "
            "use --format diffusers-lora or merged."
        )
    check_maps(edit, family)
    if family.name not in KOHYA and any(in_encoder(p, family.text_encoders) for p in edit.paths):
        raise WrongBaseError(
            f"diffusers loads no LoRA into the text encoder of the family '{family.name}', which this edit changes; "
            "use --format merged."
        )
    if format == "kohya-lora":
        for path in edit.paths:
            kohya_key(path, family)


def write(
    edit: Edit, family: Family, weights: Mapping[str, Tensor], folder: Path, format: str, evidence: Evidence
) -> tuple[Path, int, Callable[[str], Tensor]]:
    """Write a LoRA file into `folder`.

    Returns:
        The file, its largest rank, and a function of a path that returns the change of that weight, read from the file.

    Raises:
        OutputError: the file cannot be written.
    """
    path, factors = folder / export_name(format, [c.name for c in edit.record.concepts]), lora_factors(edit, weights)
    if format == "kohya-lora":
        factors = _with_one_alpha(factors, _rank(factors))
        metadata = _kohya_metadata(edit, factors, family, evidence)
    else:
        factors = padded(factors)
        metadata = _adapter_metadata(edit, factors, family, evidence)
    state: dict[str, Tensor] = {}
    for place, f in {**factors, **_markers(edit, family, format)}.items():
        key, shape = key_of(place, family, format), weights[place].shape if place in weights else f.a.shape
        state |= dict(zip(_factor_names(place, family, format), shaped(f, shape), strict=True))
        if format == "kohya-lora":
            state[f"{key}.alpha"] = torch.tensor(float(_rank(factors)))
    write_tensors(path, state, {"format": "pt", **metadata})
    written = load_file(path)

    def change(place: str) -> Tensor:
        down, up = (written[name].flatten(1) for name in _factor_names(place, family, format))
        alpha = written.get(f"{key_of(place, family, format)}.alpha", torch.tensor(float(len(down))))
        return (up @ down * (alpha / len(down))).view(weights[place].shape)

    return path, _rank(factors), change


def map_names(edit: Edit, family: Family, format: str) -> list[str]:
    """Return the names in a file of the layers that the edit changes, in the order of `edit.paths`."""
    return [key_of(path, family, format) for path in edit.paths]


def marker_names(edit: Edit, family: Family, format: str) -> list[str]:
    """Return the names in a file of the zero changes that some readers need (see `_markers`)."""
    return [key_of(path, family, format) for path in _markers(edit, family, format)]


def key_of(path: str, family: Family, format: str) -> str:
    """Return the name of a layer in a file, without the suffix of a factor."""
    return kohya_key(path, family) if format == "kohya-lora" else diffusers_key(path, family)


def diffusers_key(path: str, family: Family) -> str:
    """Return the name of a layer in diffusers' layout.

    In a text encoder it contains `text_model`, which transformers 5 no longer uses: loaders of all versions find it.
    """
    part, rest = component_path(path, family)
    return f"{part}.text_model.{rest}" if part in family.text_encoders else f"{part}.{rest}"


def kohya_key(path: str, family: Family) -> str:
    """Return the name of a layer in kohya's layout: diffusers' for Stable Diffusion 1 and 2, the original for SDXL.

    Raises:
        WrongBaseError: the original layout has no name for the layer.
    """
    part, rest = component_path(path, family)
    if part in family.text_encoders:
        which = "te" if len(family.text_encoders) == 1 else f"te{list(family.text_encoders).index(part) + 1}"
        return f"lora_{which}_text_model_" + rest.replace(".", "_")
    if family.name == "sdxl":
        rest = unet_name(rest, family.denoiser.config)  # type: ignore[arg-type]
    return "lora_unet_" + rest.replace(".", "_")


def component_path(path: str, family: Family) -> tuple[str, str]:
    """Split a path into the pipeline component (denoiser or text encoder) and the path inside that component."""
    name, rest = split_path(path, family.text_encoders)
    return name or family.denoiser_name, rest


def _factor_names(path: str, family: Family, format: str) -> tuple[str, str]:
    """Return the names of the factors (down, up) of a layer.

    In a text encoder they are those of diffusers before peft: its loader recognises an MLP by no others.
    """
    key = key_of(path, family, format)
    if format == "kohya-lora":
        return f"{key}.lora_down.weight", f"{key}.lora_up.weight"
    if in_encoder(path, family.text_encoders):
        return f"{key}.lora_linear_layer.down.weight", f"{key}.lora_linear_layer.up.weight"
    return f"{key}.lora_A.weight", f"{key}.lora_B.weight"


def _with_one_alpha(factors: Mapping[str, LowRank], alpha: int) -> dict[str, LowRank]:
    """Rescale factors so that a reader, which multiplies by `alpha` / rank, gets the same products.

    Ranks may differ in a file, alphas may not: diffusers (0.42.1) looks for the alphas of attention layers under names
    that no module has, and applies the most common one to all of them. All programs handle one alpha and many ranks.
    """
    return {path: f if len(f.a) == alpha else LowRank(f.b * (len(f.a) / alpha), f.a) for path, f in factors.items()}


def _markers(edit: Edit, family: Family, format: str) -> dict[str, LowRank]:
    """Return zero changes, by path, of layers without which some reader would ignore the others.

    InvokeAI recognises the base of a LoRA by the width of its text projections and refuses a file without one.
    diffusers (0.42.1) reads queries, keys and values of a text encoder only if the file has an output layer or an MLP
    of it too.
    """
    if format != "kohya-lora":
        return {}
    missing = []
    text_projections = [p.path for p in family.projections("kv")]
    if not set(text_projections) & set(edit.paths):
        missing.append(text_projections[0])
    for encoder in family.text_encoders:
        paths = [p for p in edit.paths if component_path(p, family)[0] == encoder]
        if paths and not any(".mlp." in p or p.endswith(".out_proj") for p in paths):
            missing.append(paths[0].rpartition(".")[0] + ".out_proj")
    shapes = {path: weight.shape for path, weight in original_weights(family, missing).items()}
    return {path: LowRank(torch.zeros(shape[0], 1), torch.zeros(1, shape[1])) for path, shape in shapes.items()}


def _adapter_metadata(edit: Edit, factors: Mapping[str, LowRank], family: Family, evidence: Evidence) -> dict[str, str]:
    """Return the metadata that diffusers reads (`lora_adapter_metadata`), with the edit's record."""
    rank = _rank(factors)
    targets: dict[str, list[str]] = {}
    for path in sorted(factors):
        part, rest = component_path(path, family)
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
    return {"lora_adapter_metadata": json.dumps(adapter), **our_record(edit, evidence)}


def _kohya_metadata(edit: Edit, factors: Mapping[str, LowRank], family: Family, evidence: Evidence) -> dict[str, str]:
    """Return the metadata of kohya's scripts, by which web UIs sort: a file for 2.x without `ss_v2` passes for 1.x."""
    ranks, kind = {len(f.a) for f in factors.values()}, architecture(family)
    rank = str(ranks.pop()) if len(ranks) == 1 else "Dynamic"
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": str(_rank(factors)),
        "ss_base_model_version": KOHYA[kind.name],
        **({"ss_v2": "True"} if kind.name == "sd2" else {}),
        **model_spec(edit, f"{kind.spec}/lora", evidence),
    }


def _rank(factors: Mapping[str, LowRank]) -> int:
    return max(len(f.a) for f in factors.values())
