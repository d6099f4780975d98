"""Networks in the states in which users bring them: compiled, with a LoRA, fused, offloaded, quantised or hooked.

Here a path means the same module with and without wrappers: `torch.compile` puts a level `_orig_mod` over a module,
peft a level `base_layer` over each layer, and `PeftModel` two levels over a whole network. No path contains them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from excise.errors import ModelError
from excise.families.attached import Attached
from excise.families.quantised import BESIDE

PLAIN: tuple[torch.dtype, ...] = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
EIGHT_BITS: tuple[torch.dtype, ...] = (torch.float8_e4m3fn, torch.float8_e5m2)
FUSED = {
    "to_qkv": ("to_q", "to_k", "to_v"),
    "to_kv": ("to_k", "to_v"),
    "to_added_qkv": ("add_q_proj", "add_k_proj", "add_v_proj"),
}
"""The maps that `fuse_qkv_projections` of diffusers adds to an attention layer, and those that each is a copy of."""


def bare(module: Any) -> Any:
    """The module inside all of its wrappers."""
    while True:
        children = module._modules
        if "_orig_mod" in children or "base_layer" in children:
            module = children.get("_orig_mod", children.get("base_layer"))
        elif hasattr(type(module), "get_base_model"):
            module = module.get_base_model()
        else:
            return module


def walk(network: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Like `named_modules`, without wrappers and the modules that they add; a shared module comes once."""
    seen = set()

    def below(module: Any, path: str) -> Iterator[tuple[str, Any]]:
        module = bare(module)
        if module in seen:
            return
        seen.add(module)
        yield path, module
        for name, child in module._modules.items():
            if child is not None:
                yield from below(child, f"{path}.{name}" if path else name)

    return below(network, path)


def parameters(network: Any, prefix: str = "") -> dict[str, nn.Parameter]:
    """Like `named_parameters`, without wrappers; names begin with `prefix`."""
    names: dict[nn.Parameter, str] = {}
    for path, module in walk(network):
        for name, weight in module._parameters.items():
            if weight is not None:
                names.setdefault(weight, f"{prefix}{path}.{name}" if path else prefix + name)
    return {name: weight for weight, name in names.items()}


def in_encoder(path: str, encoders: Mapping[str, Any]) -> bool:
    """Whether a path belongs to one of the text encoders, not to the denoiser."""
    return path.partition(".")[0] in encoders


def module_in(network: Any, path: str) -> Any:
    """The module at a path of a network, without wrappers; a path may leave out the level `text_model`.

    In transformers 5 the modules of CLIP are at the top; in earlier versions, and in CLIP with a projection, they are
    one level down.

    Raises:
        AttributeError: there is none.
    """
    network = bare(network)
    inner = network._modules.get("text_model")
    if inner is not None:
        with suppress(AttributeError):
            return _down(inner, path)
    return _down(network, path)


def _down(module: Any, path: str) -> Any:
    for name in path.split(".") if path else ():
        child = bare(module)._modules.get(name)
        if child is None:
            raise AttributeError(f"no module at '{path}'")
        module = child
    return bare(module)


def parameter_in(network: Any, path: str) -> tuple[Any, str]:
    """The module that holds a parameter, and the parameter's name; a path of a module means its weight.

    Raises:
        AttributeError: there is none.
    """
    head, _, last = path.rpartition(".")
    with suppress(AttributeError):
        parent = module_in(network, head)
        if isinstance(parent._parameters.get(last), nn.Parameter):
            return parent, last
    module = module_in(network, path)
    if not isinstance(module._parameters.get("weight"), nn.Parameter):
        raise AttributeError(f"no parameter at '{path}'")
    return module, "weight"


def check_plain(weight: Any, path: str, kept_in: Sequence[torch.dtype] = PLAIN) -> None:
    """Refuse a weight that cannot be read and written as the numbers that the forward pass uses.

    Args:
        path: of the weight, for messages.
        kept_in: precisions that are accepted.

    Raises:
        ModelError: it is offloaded, quantised, or kept in eight bits.
    """
    if weight.is_meta:
        raise ModelError(
            f"'{path}' is offloaded: its weight is not in the model until it runs. Take the offloading off first "
            "(pipe.remove_all_hooks()), and switch it on again afterwards; pipe.enable_model_cpu_offload() may stay."
        )
    if type(weight) not in (Tensor, nn.Parameter) or weight.dtype not in kept_in or hasattr(weight, "quant_state"):
        kind = type(weight).__name__ if type(weight) not in (Tensor, nn.Parameter) else str(weight.dtype)
        raise ModelError(
            f"'{path}' is quantised or kept in eight bits ({kind}), so an edit would be lost in it; expected float32, "
            "float16 or bfloat16. Do this on the model as it is loaded without that, and quantise or cast it "
            f"afterwards; {BESIDE}"
        )


def check_not_grouped(network: Any) -> None:
    """Refuse a network whose offloading keeps copies of its parameters.

    Raises:
        ModelError: diffusers' group offloading is on.
    """
    for _, module in walk(network):
        registry = getattr(module, "_diffusers_hook", None)
        if registry is not None and "group_offloading" in getattr(registry, "hooks", {}):
            raise ModelError(
                f"the {type(bare(network)).__name__} is offloaded in groups, which keep copies of its weights that an "
                "edit would not reach; apply or remove edits before enable_group_offload(), or load the model again."
            )


def fused_copies(network: Any) -> Iterator[tuple[Any, str, list[Any]]]:
    """Attention layers with a fused copy of their maps: the layer, the copy's name, the maps in their order."""
    for _, layer in walk(network):
        for name, parts in FUSED.items():
            if layer._modules.get(name) is not None and all(layer._modules.get(p) is not None for p in parts):
                yield layer, name, [bare(layer._modules[p]) for p in parts]


def fused_into(network: Any) -> set[Any]:
    """The layers into whose weights peft has fused a LoRA that it has not taken out again."""
    return {bare(module) for module in network.modules() if getattr(module, "merged_adapters", ())}


def check_read(network: Any) -> None:
    """Refuse a network whose attention does not read the weights of its maps.

    Raises:
        ModelError: a processor has its own keys and values, or a map or its fused copy was changed alone.
    """
    for path, layer in walk(network):
        processor = getattr(layer, "processor", None)
        if getattr(processor, "train_kv", False):  # of Custom Diffusion
            raise ModelError(
                f"'{path}' reads keys and values of its {type(processor).__name__} instead of its own, so an edit "
                "would do nothing there; use the model without these processors."
            )
    for layer, name, parts in fused_copies(network):
        if _reads_fused(layer) and not torch.equal(layer._modules[name].weight, torch.cat([p.weight for p in parts])):
            raise ModelError(
                f"'{name}' of a {type(layer).__name__} layer is what the model reads, and it is no copy of "
                f"{', '.join(FUSED[name])} any more; call unfuse_qkv_projections() and fuse_qkv_projections() again."
            )


def _reads_fused(layer: Any) -> bool:
    """Whether an attention layer reads its fused copy; diffusers leaves unused copies in place."""
    return "Fused" in type(getattr(layer, "processor", None)).__name__


@contextmanager
def as_saved(pipe: Any, unread: Collection[str] = ()) -> Iterator[None]:
    """Temporarily take the fused copies, which no reader of files expects, out of a pipeline that is saved.

    Args:
        unread: components whose weights are still in their files.

    Raises:
        ModelError: its files would not reproduce it: a LoRA is loaded, weights are offloaded or quantised.
    """
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    for name, part in parts.items():
        check_own_layers(part, "a folder holds")
        for path, weight in parameters(part, f"{name}.").items():
            if name not in unread or not weight.is_meta:
                check_plain(weight, path)
    copies = [(layer, fused, layer._modules[fused]) for p in parts.values() for layer, fused, _ in fused_copies(p)]
    try:
        for layer, fused, _ in copies:
            del layer._modules[fused]
        yield
    finally:
        for layer, fused, copy in copies:
            layer._modules[fused] = copy


def check_own_layers(network: Any, what: str) -> None:
    """Refuse a network with wrappers around its layers.

    Args:
        what: the work that needs plain layers, with its verb, for the message.

    Raises:
        ModelError: a LoRA is loaded, or a layer compiled.
    """
    wrapped = [path for path, module in bare(network).named_modules() if bare(module) is not module]
    if wrapped:
        raise ModelError(
            f"{what} the layers as they are, but a LoRA or torch.compile stands around '{wrapped[0]}'; unload the LoRA "
            "(pipe.unload_lora_weights()), or compile afterwards."
        )


def check_trainable(denoiser: Any) -> None:
    """Refuse a denoiser in which a trained method cannot place its adapters.

    Raises:
        ModelError: its layers have wrappers, or fused copies are read instead of them.
    """
    check_own_layers(denoiser, "training takes")
    if any(_reads_fused(layer) for layer, _, _ in fused_copies(denoiser)):
        raise ModelError(
            "training takes the layers as they are, but this model reads fused projections; call "
            "pipe.unfuse_qkv_projections() first."
        )


_READERS = ("transformers", "excise.families.streaming")  # whose hooks change nothing of what a layer computes


def hooked(network: nn.Module) -> bool:
    """Whether anything but weights and configuration changes what a network computes.

    That is a foreign hook, a replaced forward pass or attention processor, or FreeU. Hooks of edits do not count
    (`attached` lists them), nor do those by which transformers reads its own layers, nor those of offloading and
    streaming.
    """
    return any(_is_hooked(module) for module in network.modules())


def _is_hooked(module: nn.Module) -> bool:
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    mover = getattr(module, "_hf_hook", None)
    registered = getattr(getattr(module, "_diffusers_hook", None), "hooks", {})
    forward = module.__dict__.get("forward")
    replaced = forward is not None and getattr(forward, "__func__", None) is not type(module).forward
    return (
        any(not isinstance(hook, Attached) and not _of(hook, *_READERS) for hook in hooks)
        or (mover is not None and not _of(type(mover), "accelerate"))
        or any("group_offloading" not in name for name in registered)
        or (replaced and mover is None and not registered and "_orig_mod" not in module._modules)
        or _has_own_ways(getattr(module, "processor", None))
        or any(getattr(module, factor, None) is not None for factor in ("s1", "s2", "b1", "b2"))
    )


def _of(thing: Any, *packages: str) -> bool:
    return f"{getattr(thing, '__module__', '')}.".startswith(tuple(f"{package}." for package in packages))


def _has_own_ways(processor: Any) -> bool:
    """Whether an attention processor is not from diffusers, or has attributes that may change pictures."""
    if processor is None or not callable(processor):
        return False
    return not _of(type(processor), "diffusers") or any(value is not None for value in vars(processor).values())


def adapters(network: nn.Module) -> str:
    """The scales and switches of a network's LoRAs, which no weight shows, as a text; "" without any LoRA."""
    names = ("scaling", "active_adapters", "disable_adapters", "merged_adapters")
    layers = [(path, m) for path, m in network.named_modules() if "base_layer" in m._modules]
    return "".join(f"{path} {[getattr(module, name, None) for name in names]}" for path, module in layers)


def values(weights: Mapping[str, Tensor], each: int) -> Tensor:
    """(n,): up to `each` evenly spaced values of every weight, by the order of names, in single precision."""
    return torch.cat([some(weight, each) for _, weight in sorted(weights.items())])


def some(weight: Tensor, count: int) -> Tensor:
    """(n,): up to `count` evenly spaced values of a weight, on the CPU in single precision."""
    flat = weight.detach().reshape(-1)
    at = torch.arange(min(count, flat.numel()), device=flat.device) * max(1, flat.numel() // count)
    return flat[at].float().cpu()


def computes_in(network: Any) -> torch.dtype:
    """The precision in which a network computes, which may differ from that of its stored weights."""
    first: torch.dtype = next(iter(network.parameters())).dtype
    return first if first in PLAIN else network.dtype
