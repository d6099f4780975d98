"""Adapters as changes of weights: LoRA in every dialect, LoHa, LoKr, and differences written whole.

A tensor's name is a map's name and what the tensor is of it ("....to_k" "lora_down.weight"). What belongs to one map is
collected, its map found in the base, and the product taken; what cannot be an edit is refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from excise.edits.deltas import Delta, Dense, LowRank
from excise.errors import EditFileError, WrongBaseError
from excise.importing.files import PEFT
from excise.importing.names import Names
from excise.importing.products import Factors, difference, loha, lokr, lora, rank

# What a tensor is of its map, by how its name ends; "(\.\w+)?" is the name that peft gives an adapter.
_PART = r"lora_linear_layer|lora"
ROLES = {
    "down": rf"[._](lora_down|lora_A(\.\w+)?|({_PART})\.down)\.weight",
    "up": rf"[._](lora_up|lora_B(\.\w+)?|({_PART})\.up)\.weight",
    "mid": r"\.lora_mid\.weight",
    "alpha": rf"(\.lora_(A|B|down|up)|[._]({_PART})\.(down|up))?\.alpha",
    **{f"hada_{part}": rf"\.hada_{part}(\.\w+)?" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f"lokr_{part}": rf"\.lokr_{part}(\.\w+)?" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
    "diff": r"\.(diff|w_norm)",
    "diff_b": r"\.(diff_b|b_norm)",
}
# The forms of a change: its name, the tensors it is made of, and their product.
Product = Callable[[Factors, torch.Size, float], Delta]
_HADA = {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}
_FIRST = {"lokr_w1"}, {"lokr_w1_a", "lokr_w1_b"}
_SECOND = {"lokr_w2"}, {"lokr_w2_a", "lokr_w2_b"}, {"lokr_w2_a", "lokr_w2_b", "lokr_t2"}
FORMS: list[tuple[str, set[str], Product]] = [
    ("LoRA", {"down", "up"}, lora),
    ("LoRA", {"down", "up", "mid"}, lora),
    ("LoHa", _HADA, loha),
    ("LoHa", _HADA | {"hada_t1", "hada_t2"}, loha),
    *(("LoKr", one | two, lokr) for one in _FIRST for two in _SECOND),
    ("difference", {"diff"}, difference),
]
# What cannot be an edit, by the ends of its names, and why.
REFUSED = [
    ("a DoRA", r"\.(dora_scale|lora_magnitude_vector(\..*)?|lora_magnitude)", "whose magnitudes an edit cannot hold"),
    ("an IA3", r"\.(on_input|ia3_l(\..*)?)", "which scales what a map reads or gives instead of adding to its weight"),
    ("a GLoRA", r"\.(a1|a2|b1|b2|bm)\.weight", "whose change is a product with the weights of its base"),
    ("an OFT or BOFT", r"\.(oft_blocks|oft_diag|oft_R(\..*)?|boft_\w+(\..*)?)", "which turns the weights of its base"),
    ("a VeRA", r"\.vera_\w+(\..*)?", "whose shared matrices are not in the file"),
    ("a LoRA with biases", r"\.lora_(B|up)(\.\w+)?\.bias", "which no edit of its weights can hold"),
    (
        "a patch of ComfyUI",
        r"\.(set_weight|reshape_weight)",
        "which replaces or enlarges weights instead of adding to them",
    ),
]
_ANY = re.compile(r"(?P<stem>.+?)(?:" + "|".join(f"(?P<{role}>{end})" for role, end in ROLES.items()) + ")")


@dataclass(frozen=True)
class Read:
    """Deltas by path, the forms they came in, and what a person should know of them."""

    modules: dict[str, Delta]
    forms: tuple[str, ...]
    notes: tuple[str, ...] = ()


def is_adapter(state: Mapping[str, Tensor]) -> bool:
    """Whether a file holds changes of maps, not their weights."""
    return any(_ANY.fullmatch(name) or _refusal(name) for name in state)


def read_adapter(state: Mapping[str, Tensor], about: Mapping[str, str], names: Names) -> Read:
    """Every change that an adapter file holds.

    Raises:
        EditFileError: it is of a kind that cannot be an edit, is not whole, or is damaged.
        WrongBaseError: it changes what the base does not have, or not in its shape.
    """
    for name in state:
        if refusal := _refusal(name):
            raise EditFileError(f"this is {refusal[0]} ('{name}'), {refusal[1]}; merge it where it was made.")
    told, modules, forms = _told(about), dict[str, Delta](), list[str]()
    for place, (stem, parts) in _by_place(_grouped(state), names).items():
        form, change = _change(stem, parts, place, names, told)
        forms.append(form)
        if _any(change):
            modules[place.removesuffix(".weight")] = change
    return Read(modules, tuple(dict.fromkeys(forms)), tuple(_notes(state, about, told)))


def _refusal(name: str) -> tuple[str, str] | None:
    return next(((kind, why) for kind, end, why in REFUSED if re.search(f"{end}$", name)), None)


def _grouped(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """What the tensors are, by the name of their map in the file; a bias counts as a map of its own."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        match = _ANY.fullmatch(name)
        if match is None:
            raise EditFileError(
                f"'{name}' is no part of a LoRA, LoHa, LoKr or difference, which the file has beside it; nothing else "
                "can be imported with them."
            )
        role = str(match.lastgroup)
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
            raise EditFileError(f"'{name}' holds numbers that are not finite; the file is damaged.")
        if role == "alpha" and tensor.numel() != 1:
            raise EditFileError(f"'{name}' holds {tensor.numel()} numbers; the scale of a factor is one.")
        stem, role = (f"{match['stem']}.bias", "diff") if role == "diff_b" else (f"{match['stem']}.weight", role)
        parts = found.setdefault(stem, {})
        if role in parts and not torch.equal(parts[role], tensor):
            raise EditFileError(f"'{name}' stands in the file twice, with other numbers; keep one of them.")
        parts[role] = tensor
    return found


def _by_place(groups: Mapping[str, Mapping[str, Tensor]], names: Names) -> dict[str, tuple[str, dict[str, Tensor]]]:
    """The same by the parameter of the base, with the map's name in the file.

    Raises:
        EditFileError: one parameter is changed twice, in different ways.
        WrongBaseError: the base does not have one.
    """
    found: dict[str, tuple[str, dict[str, Tensor]]] = {}
    homeless = []
    for stem, parts in groups.items():
        place = names.place(stem)
        if place is None:
            if parts.keys() != {"diff"} or bool(parts["diff"].any()):  # a change of nothing needs no place
                homeless.append(stem.removesuffix(".weight"))
            continue
        single = {role: tensor.float() for role, tensor in parts.items()}
        if place in found and not _same(found[place][1], single):
            raise EditFileError(
                f"'{stem}' and '{found[place][0]}' change one map of the base in two ways; keep one of them."
            )
        found[place] = stem, single
    if homeless:
        more = f" and {len(homeless) - 1} other maps" if len(homeless) > 1 else ""
        raise WrongBaseError(
            f"the LoRA changes '{homeless[0]}'{more}, which the base does not have; give its base model."
        )
    return found


def _same(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(tensor, two[role]) for role, tensor in one.items())


def _change(
    stem: str, parts: dict[str, Tensor], place: str, names: Names, told: Mapping[str, Any]
) -> tuple[str, Delta]:
    """The form of one map's change and the change."""
    alpha = parts.pop("alpha", None)
    form = next(((name, product) for name, needed, product in FORMS if needed == parts.keys()), None)
    map_, shape = stem.removesuffix(".weight"), names.parameters[place].shape
    if form is None:
        raise EditFileError(
            f"'{map_}' has {', '.join(sorted(parts)) or 'a scale alone'} of its factors, which is no whole LoRA, LoHa "
            "or LoKr; the file was cut or changed."
        )
    name, product = form
    try:
        change = product(parts, shape, _scale(alpha, rank(parts), place, names, told))
        fits = isinstance(change, Dense) or _meet(change, shape)
    except (RuntimeError, IndexError, ValueError, TypeError):  # factors of sizes that cannot be multiplied
        fits = False
    if not fits:
        raise WrongBaseError(f"the factors of the LoRA at '{map_}' do not fit the base's {tuple(shape)}.")
    return name, change


def _scale(alpha: Tensor | None, rank: int | None, place: str, names: Names, told: Mapping[str, Any]) -> float:
    """Alpha over the rank: alpha as it stands with the map, as the file says it of all, or else the rank."""
    if alpha is not None:
        return float(alpha) / rank if rank else 1.0
    part = next((e for e in names.encoders if place.startswith(f"{e}.")), names.denoiser_name)
    said = told.get(f"{part}.lora_alpha", told.get("lora_alpha", told.get("alpha")))
    over = rank or told.get(f"{part}.r", told.get("r"))
    return 1.0 if said is None or not over else float(said) / float(over)


def _meet(change: LowRank, shape: torch.Size) -> bool:
    (out, rank), (other, into) = change.b.shape, change.a.shape
    return rank == other and (out, into) == shape


def _any(change: Delta) -> bool:
    return bool(change.dw.any()) if isinstance(change, Dense) else bool(change.a.any() and change.b.any())


def _told(about: Mapping[str, str]) -> dict[str, Any]:
    """What a file says of its LoRA as a whole, as diffusers writes it inside and peft beside it.

    Raises:
        EditFileError: it cannot be read, or says what is not handled.
    """
    told: dict[str, Any] = {}
    try:
        for name in (PEFT, "lora_adapter_metadata"):
            told |= json.loads(about.get(name, "{}"))
    except (ValueError, TypeError) as error:
        raise EditFileError("the LoRA's own description of itself cannot be read; the file was changed.") from error
    for name in ("use_rslora", "use_dora", "alpha_pattern", "rank_pattern", "fan_in_fan_out"):
        if any(key.rpartition(".")[2] == name and value for key, value in told.items()):
            raise EditFileError(f"the LoRA uses '{name}', which cannot be imported; merge it where it was made.")
    return told


def _notes(state: Mapping[str, Tensor], about: Mapping[str, str], told: Mapping[str, Any]) -> list[str]:
    """What the file leaves out, though its program uses it."""
    notes = []
    downs = {name: t for name, t in state.items() if name.endswith(".lora_down.weight")}
    whole = all(n.startswith("lora_unet_") for n in state) and any("_ff_net_" in n for n in state)
    if downs and whole and all(len(t) == 1 for t in downs.values()) and "excise_record" not in about:
        notes.append(
            "this LoRA is of rank 1 over whole transformer blocks, as SPM writes it: SPM's gate, which tells by the "
            "prompt how much it acts, is not in the file, so the edit is always on."
        )
    if any("base_model.model." in name for name in state) and not told and not any(n.endswith("alpha") for n in state):
        notes.append(
            f"peft keeps the scale of these factors in {PEFT}, which does not lie beside the file; they were read with "
            "a scale of 1 (lora_alpha = r)."
        )
    return notes
