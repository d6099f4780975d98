"""Read adapter files as changes of weights: LoRA in all its layouts, LoHa, LoKr, and full differences.

A tensor's name consists of the name of a layer and the role of the tensor ("....to_k", "lora_down.weight"). The tensors
of each layer are collected, the layer is looked up in the base, and the factors are multiplied. Kinds of adapters that
an edit cannot represent are refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from excise.edits.deltas import Delta, Dense, LowRank
from excise.errors import EditFileError, WrongBaseError
from excise.families.transformer_names import Piece
from excise.importing.files import PEFT
from excise.importing.names import Names
from excise.importing.products import Factors, difference, loha, lokr, lora, rank

# The role of a tensor by the end of its name; "(\.\w+)?" is the adapter name that peft inserts.
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
# Kinds of change: the name, the roles it consists of, and the function that multiplies them.
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
# Kinds that an edit cannot represent: the name, the end of a tensor's name, and the reason.
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


class Scale(NamedTuple):
    """Alpha and rank of an adapter as a whole, where it has a configuration that says them."""

    alpha: float | None
    rank: float | None


@dataclass(frozen=True)
class AdapterContent:
    """The content of an adapter file.

    Attributes:
        modules: deltas by path.
        forms: kinds of change that occur ("LoRA", "LoHa", ...).
        notes: warnings for the user.
    """

    modules: dict[str, Delta]
    forms: tuple[str, ...]
    notes: tuple[str, ...] = ()


def is_adapter(state: Mapping[str, Tensor]) -> bool:
    """Return whether tensors are changes of layers (an adapter), not weights."""
    return any(_ANY.fullmatch(name) or _refused_kind(name) for name in state)


def read_adapter(state: Mapping[str, Tensor], metadata: Mapping[str, str], names: Names) -> AdapterContent:
    """Return every change of an adapter file.

    Args:
        state: the tensors of the file.
        metadata: of the file, with peft's configuration if there is one.
        names: the parameters of the base.

    Raises:
        EditFileError: an edit cannot represent this kind of adapter, or the file is incomplete or damaged.
        WrongBaseError: the base has no such layer, or one of another shape.
    """
    for name in state:
        if refused := _refused_kind(name):
            raise EditFileError(f"this is {refused[0]} ('{name}'), {refused[1]}; merge it where it was made.")
    config, modules, forms = _configuration(metadata), dict[str, Delta](), list[str]()
    groups = _group_by_layer(state)
    stacks = {stem: pieces for stem in groups if (pieces := names.stack(stem)) is not None}
    single = {stem: parts for stem, parts in groups.items() if stem not in stacks}
    for place, (stem, parts) in _group_by_parameter(single, names).items():
        form, delta = _delta_of(stem, parts, names.parameters[place].shape, _general_scale(place, names, config))
        forms.append(form)
        if _is_nonzero(delta):
            modules[place.removesuffix(".weight")] = delta
    for stem, pieces in stacks.items():
        form, deltas = _deltas_of_stack(stem, groups[stem], pieces, names, config)
        forms.append(form)
        for place, delta in deltas.items():
            if place.removesuffix(".weight") in modules:
                raise EditFileError(
                    f"'{stem}' changes '{place}', which another name in the file changes too; keep one of them."
                )
            modules[place.removesuffix(".weight")] = delta
    return AdapterContent(modules, tuple(dict.fromkeys(forms)), tuple(_notes(state, metadata, config)))


def _refused_kind(name: str) -> tuple[str, str] | None:
    return next(((kind, why) for kind, end, why in REFUSED if re.search(f"{end}$", name)), None)


def _group_by_layer(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Collect tensors by the parameter's name in the file ("....weight", "....bias") and by role."""
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        match = _ANY.fullmatch(name)
        if match is None:
            raise EditFileError(
                f"'{name}' is no part of a LoRA, LoHa, LoKr or difference, which the rest of the file is; import a "
                "file that holds nothing else."
            )
        role = str(match.lastgroup)
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
            raise EditFileError(f"'{name}' holds numbers that are not finite; the file is damaged.")
        if role == "alpha" and tensor.numel() != 1:
            raise EditFileError(f"'{name}' holds {tensor.numel()} numbers; the scale of a factor is one.")
        stem, role = (f"{match['stem']}.bias", "diff") if role == "diff_b" else (f"{match['stem']}.weight", role)
        parts = groups.setdefault(stem, {})
        if role in parts and not torch.equal(parts[role], tensor):
            raise EditFileError(f"'{name}' stands in the file twice, with other numbers; keep one of them.")
        parts[role] = tensor
    return groups


def _group_by_parameter(
    groups: Mapping[str, Mapping[str, Tensor]], names: Names
) -> dict[str, tuple[str, dict[str, Tensor]]]:
    """Return, by parameter of the base, its name in the file and its tensors by role, in float32.

    Raises:
        EditFileError: two names mean one parameter and change it differently.
        WrongBaseError: the base does not have a parameter.
    """
    by_parameter: dict[str, tuple[str, dict[str, Tensor]]] = {}
    unmatched = []
    for stem, parts in groups.items():
        place = names.place(stem)
        if place is None:
            if parts.keys() != {"diff"} or bool(parts["diff"].any()):  # a zero change needs no parameter
                unmatched.append(stem.removesuffix(".weight"))
            continue
        single = {role: tensor.float() for role, tensor in parts.items()}
        if place in by_parameter and not _equal(by_parameter[place][1], single):
            raise EditFileError(
                f"'{stem}' and '{by_parameter[place][0]}' change one map of the base in two ways; keep one of them."
            )
        by_parameter[place] = stem, single
    if unmatched:
        more = f" and {len(unmatched) - 1} other maps" if len(unmatched) > 1 else ""
        raise WrongBaseError(
            f"the LoRA changes '{unmatched[0]}'{more}, which the base does not have; give its base model."
        )
    return by_parameter


def _equal(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(tensor, two[role]) for role, tensor in one.items())


def _deltas_of_stack(
    stem: str, parts: Mapping[str, Tensor], pieces: Sequence[Piece], names: Names, config: Mapping[str, Any]
) -> tuple[str, dict[str, Delta]]:
    """Return the kind of a change of parameters that are one in the file, and the change of each; raises `_delta_of`.

    Args:
        pieces: the rows of the base's parameters that are stacked in the file.
    """
    spans = names.spans(pieces)
    first = names.parameters[pieces[0].name].shape
    shape = torch.Size((spans[-1][1].stop, *first[1:]))
    single = {role: tensor.float() for role, tensor in parts.items()}
    form, whole = _delta_of(stem, single, shape, _general_scale(pieces[0].name, names, config))
    deltas: dict[str, Delta] = {}
    for name in dict.fromkeys(piece.name for piece in pieces):
        rows = sorted((ours.start, theirs) for piece, theirs, ours in spans if piece.name == name)
        delta = _rows(whole, [theirs for _, theirs in rows])
        if _is_nonzero(delta):
            deltas[name] = delta
    return form, deltas


def _rows(delta: Delta, parts: Sequence[slice]) -> Delta:
    """Return consecutive parts of a change's rows; of factors without the directions that do not reach them."""
    if isinstance(delta, Dense):
        return Dense(torch.cat([delta.dw[part] for part in parts]))
    b = torch.cat([delta.b[part] for part in parts])
    reached = b.any(dim=0)
    return LowRank(b[:, reached].contiguous(), delta.a[reached].contiguous())


def _delta_of(stem: str, parts: dict[str, Tensor], shape: torch.Size, general: Scale) -> tuple[str, Delta]:
    """Return the kind of a change and the change itself.

    Args:
        stem: the parameter's name in the file, for messages.
        parts: its tensors by role.
        shape: of the parameter in the base.
        general: what the configuration of the adapter as a whole says.

    Raises:
        EditFileError: factors are missing.
        WrongBaseError: the product does not have the parameter's shape.
    """
    alpha = parts.pop("alpha", None)
    form = next(((name, product) for name, roles, product in FORMS if roles == parts.keys()), None)
    layer = stem.removesuffix(".weight")
    if form is None:
        raise EditFileError(
            f"'{layer}' has {', '.join(sorted(parts)) or 'a scale alone'} of its factors, which is no whole LoRA, LoHa "
            "or LoKr; the file was cut or changed."
        )
    name, product = form
    try:
        delta = product(parts, shape, _scale(alpha, rank(parts), general))
        fits = isinstance(delta, Dense) or _fits(delta, shape)
    except (RuntimeError, IndexError, ValueError, TypeError):  # factors of sizes that cannot be multiplied
        fits = False
    if not fits:
        raise WrongBaseError(f"the factors of the LoRA at '{layer}' do not fit the base's {tuple(shape)}.")
    return name, delta


def _general_scale(place: str, names: Names, config: Mapping[str, Any]) -> Scale:
    """Return alpha and rank of the whole adapter in the component of a parameter, as far as it says them."""
    part = next((e for e in names.encoders if place.startswith(f"{e}.")), names.denoiser_name)
    alpha = config.get(f"{part}.lora_alpha", config.get("lora_alpha", config.get("alpha")))
    return Scale(alpha, config.get(f"{part}.r", config.get("r")))


def _scale(alpha: Tensor | None, rank: int | None, general: Scale) -> float:
    """Return alpha / rank: alpha of the layer, else of the whole adapter, else the rank itself (a scale of 1)."""
    if alpha is not None:
        return float(alpha) / rank if rank else 1.0
    divisor = rank or general.rank
    return 1.0 if general.alpha is None or not divisor else float(general.alpha) / float(divisor)


def _fits(delta: LowRank, shape: torch.Size) -> bool:
    (rows, rank), (inner, columns) = delta.b.shape, delta.a.shape
    return rank == inner and (rows, columns) == shape


def _is_nonzero(delta: Delta) -> bool:
    return bool(delta.dw.any()) if isinstance(delta, Dense) else bool(delta.a.any() and delta.b.any())


def _configuration(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the configuration of the whole adapter: diffusers writes it into the file, peft into one of its own.

    Raises:
        EditFileError: it cannot be read, or uses an option that is not supported.
    """
    config: dict[str, Any] = {}
    try:
        for name in (PEFT, "lora_adapter_metadata"):
            config |= json.loads(metadata.get(name, "{}"))
    except (ValueError, TypeError) as error:
        raise EditFileError("the LoRA's own description of itself cannot be read; the file was changed.") from error
    for name in ("use_rslora", "use_dora", "alpha_pattern", "rank_pattern", "fan_in_fan_out"):
        if any(key.rpartition(".")[2] == name and value for key, value in config.items()):
            raise EditFileError(f"the LoRA uses '{name}', which cannot be imported; merge it where it was made.")
    return config


def _notes(state: Mapping[str, Tensor], metadata: Mapping[str, str], config: Mapping[str, Any]) -> list[str]:
    """Return warnings about what the method's own program uses and the file does not contain."""
    notes = []
    downs = {name: t for name, t in state.items() if name.endswith(".lora_down.weight")}
    whole_blocks = all(n.startswith("lora_unet_") for n in state) and any("_ff_net_" in n for n in state)
    if downs and whole_blocks and all(len(t) == 1 for t in downs.values()) and "excise_record" not in metadata:
        notes.append(
            "this LoRA is of rank 1 over whole transformer blocks, as SPM writes it: SPM's gate, which tells by the "
            "prompt how much it acts, is not in the file, so the edit is always on."
        )
    if (
        any("base_model.model." in name for name in state)
        and not config
        and not any(n.endswith("alpha") for n in state)
    ):
        notes.append(
            f"peft keeps the scale of these factors in {PEFT}, which is not in the file's folder; they were read with "
            "a scale of 1 (lora_alpha = r)."
        )
    return notes
