"""How to load an export in the program it is for, in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from excise.exporting.layouts import TRANSFORMERS
from excise.families.built_in import BUILT_IN

LORA, EDIT = "kohya-lora", "edit"
SINGLE, MERGED, DIFFUSERS, COMFY = "single-file", "merged", "diffusers-lora", "comfyui-lora"


def usage(format: str, programs: Sequence[str], file: str, base: str, pipeline: str, family: str = "") -> list[str]:
    """Return one paragraph (or code block) for each program that reads an export completely.

    Args:
        format: of the export.
        programs: their names for `--for`, the one that it was made for first.
        file: the name of the exported file; of a merged folder, a place holder for it.
        base: the name of the base model.
        pipeline: the class in diffusers that loads the base.
        family: of the base.
    """
    table = TEXTS
    if family in TRANSFORMERS:
        table = {**TRANSFORMER_TEXTS, ("diffusers", SINGLE): _transformer_single(TRANSFORMERS[family].transformer)}
    texts = (table.get((program, format)) for program in programs)
    return [text(file, base, pipeline) for text in texts if text is not None]


def _code(*lines: str) -> str:
    return "\n".join(["```python", *lines, "```"])


def _diffusers_lora(file: str, base: str, pipeline: str) -> str:
    return "**diffusers:**\n\n" + _code(
        f"from diffusers import {pipeline}",
        "",
        f'pipe = {pipeline}.from_pretrained("{base}")',
        f'pipe.load_lora_weights(".", weight_name="{file}")  # "." is the folder of this file',
    )


def _diffusers_merged(file: str, base: str, pipeline: str) -> str:
    return "**diffusers:**\n\n" + _code(
        f"from diffusers import {pipeline}", "", f'pipe = {pipeline}.from_pretrained("{file}")'
    )


def _diffusers_single(file: str, base: str, pipeline: str) -> str:
    return "**diffusers:**\n\n" + _code(
        f"from diffusers import {pipeline}", "", f'pipe = {pipeline}.from_single_file("{file}")'
    )


def _transformer_single(network: str) -> Text:
    """The text for a file of a transformer of this class."""
    return lambda file, base, pipeline: (
        "**diffusers:**\n\n"
        + _code(
            f"from diffusers import {pipeline}, {network}",
            "",
            f'transformer = {network}.from_single_file("{file}", config="{base}", subfolder="transformer")',
            f'pipe = {pipeline}.from_pretrained("{base}", transformer=transformer)',
        )
    )


def _sd_cpp_transformer_lora(file: str, base: str, _: str) -> str:
    return (
        f"**stable-diffusion.cpp:** add `--lora-model-dir .` to the command that draws with `{base}`, and "
        f"`<lora:{_stem(file)}:1>` to the prompt."
    )


def _comfyui_transformer_lora(file: str, base: str, _: str) -> str:
    return (
        f"**ComfyUI:** put `{file}` into `models/loras`, load the transformer, the text encoders and the autoencoder "
        f"of `{base}` as without it (*Load Diffusion Model*, one of the *CLIP* loaders, *Load VAE*), and set "
        "*LoraLoaderModelOnly* behind the transformer with `strength_model` 1."
    )


def _edit(file: str, base: str, _: str) -> str:
    return (
        f"**excise:** `excise generate --model {base} --edit {file} --prompt 'a photo' --out pictures`, and "
        f"`excise export {file} --model {base} --for comfyui --out shipped` for other programs. In Python:\n\n"
        + _code(
            "import excise",
            "",
            f'pipe = excise.load("{base}")',
            f'with excise.Edit.load("{file}").apply(pipe):  # behind the block the model is as it was',
            '    images = pipe.sample(["a photo"], [0], steps=30, guidance=7.5, batch=1)',
        )
    )


Text = Callable[[str, str, str], str]
TEXTS: dict[tuple[str, str], Text] = {
    ("excise", EDIT): _edit,
    ("comfyui", LORA): lambda file, base, _: (
        f"**ComfyUI:** put `{file}` into `models/loras`, load {_checkpoint(base)} with *Load Checkpoint*, and "
        "set a *Load LoRA* node behind it with `strength_model` 1 and `strength_clip` 1."
    ),
    ("comfyui", SINGLE): lambda file, *_: (
        f"**ComfyUI:** put `{file}` into `models/checkpoints` and choose it in *Load Checkpoint*."
    ),
    ("webui", LORA): lambda file, base, _: (
        f"**AUTOMATIC1111 and other web UIs:** put `{file}` into `models/Lora`, choose {_checkpoint(base)}, and "
        f"write `<lora:{_stem(file)}:1>` into the prompt."
    ),
    ("webui", SINGLE): lambda file, *_: (
        f"**AUTOMATIC1111 and other web UIs:** put `{file}` into `models/Stable-diffusion`, and choose it as "
        "the checkpoint."
    ),
    ("invokeai", LORA): lambda file, base, _: (
        f"**InvokeAI:** add `{file}` in the model manager, and use it with `{base}` at weight 1."
    ),
    ("invokeai", SINGLE): lambda file, *_: f"**InvokeAI:** add `{file}` in the model manager.",
    ("invokeai", MERGED): lambda *_: "**InvokeAI:** add this folder in the model manager.",
    ("sd-cpp", LORA): lambda file, base, _: (
        f"**stable-diffusion.cpp:** `sd -m {base} --lora-model-dir . -p 'a photo <lora:{_stem(file)}:1>'`"
    ),
    ("sd-cpp", SINGLE): lambda file, *_: f"**stable-diffusion.cpp:** `sd -m {file} -p 'a photo'`",
    ("sd-scripts", LORA): lambda file, base, _: (
        f"**kohya's sd-scripts:** `python gen_img.py --ckpt {base} --network_module networks.lora "
        f"--network_weights {file} --network_mul 1 --prompt 'a photo'`"
    ),
    ("sd-scripts", SINGLE): lambda file, *_: (
        f"**kohya's sd-scripts:** `python gen_img.py --ckpt {file} --prompt 'a photo'`"
    ),
    ("diffusers", DIFFUSERS): _diffusers_lora,
    ("diffusers", LORA): _diffusers_lora,
    ("diffusers", MERGED): _diffusers_merged,
    ("diffusers", SINGLE): _diffusers_single,
    ("sd-cpp", DIFFUSERS): lambda file, base, _: (
        f"**stable-diffusion.cpp:** `sd -m {base} --lora-model-dir . -p 'a photo <lora:{_stem(file)}:1>'`"
    ),
}

TRANSFORMER_TEXTS: dict[tuple[str, str], Text] = {
    ("excise", EDIT): _edit,
    **{("diffusers", format): _diffusers_lora for format in (COMFY, DIFFUSERS, LORA)},
    ("diffusers", MERGED): _diffusers_merged,
    **{("comfyui", format): _comfyui_transformer_lora for format in (COMFY, DIFFUSERS, LORA)},
    ("comfyui", SINGLE): lambda file, base, _: (
        f"**ComfyUI:** put `{file}` into `models/diffusion_models` and choose it in *Load Diffusion Model*; text "
        f"encoders and autoencoder stay those of `{base}`."
    ),
    **{("sd-cpp", format): _sd_cpp_transformer_lora for format in (COMFY, DIFFUSERS, LORA)},
}


def _checkpoint(base: str) -> str:
    """What such a program has to load: one file in its folder of checkpoints, never a folder of diffusers.

    >>> _checkpoint("sd15.safetensors"), _checkpoint("runwayml/sd15")
    ('`sd15.safetensors`', 'the checkpoint file of `runwayml/sd15` (one file, not the folder of diffusers)')
    """
    if base.endswith((".safetensors", ".ckpt")):
        return f"`{base}`"
    if base.rpartition("/")[2] in BUILT_IN:
        instead = "this built-in model has none; `--format single-file` writes the edited model as one"
        return f"a checkpoint file of `{base}` ({instead})"
    return f"the checkpoint file of `{base}` (one file, not the folder of diffusers)"


def _stem(file: str) -> str:
    return file.rpartition(".")[0] or file
