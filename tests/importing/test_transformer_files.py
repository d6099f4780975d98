"""LoRA files and weights of diffusion transformers as trainers write them come in as the same edit."""

from __future__ import annotations

import pytest
import torch
from dit_edits import MAPS, assert_same_deltas, built, wide
from safetensors.torch import save_file

from excise.edits.originals import original_weights
from excise.errors import EditFileError, WrongBaseError
from excise.families import family_of
from excise.families.networks import parameters
from excise.families.transformer_names import original_pieces, spans, stacked
from excise.importing.import_edit import import_edit

AB, DU = (".lora_A{}.weight", ".lora_B{}.weight"), (".lora_down{}.weight", ".lora_up{}.weight")
# Prefix, whether names are the original ones, factors, whether flat, alpha over rank (0: none), the infix of peft.
DIALECTS = {
    "diffusers": ("transformer.", False, AB, False, 0, ""),
    "diffusers with alpha": ("transformer.", False, AB, False, 0.5, ""),
    "peft": ("transformer.", False, AB, False, 0, ".default"),
    "peft, wrapped": ("base_model.model.", False, AB, False, 0, ".default"),
    "bare": ("", False, AB, False, 0, ""),
    "ComfyUI": ("diffusion_model.", True, AB, False, 0, ""),
    "ComfyUI, diffusers' names": ("diffusion_model.", False, AB, False, 0.5, ""),
    "ComfyUI, older factors": ("diffusion_model.", True, DU, False, 0.5, ""),
    "kohya's sd-scripts": ("lora_unet_", True, DU, True, 0.5, ""),
    "musubi-tuner": ("lora_unet_", False, DU, True, 2, ""),
    "OneTrainer": ("lora_transformer_", False, DU, True, 0.25, ""),
    "LyCORIS": ("lycoris_", False, DU, True, 1, ""),
}


@pytest.fixture(params=["flux-dev", "zimage"])
def pipe(request):
    return built(request.param)


def layers(edit, pipe, original: bool) -> dict[str, torch.Tensor]:
    """The change of each layer of a file, by its name there with dots."""
    family = family_of(pipe)
    weights = original_weights(family, edit.paths)
    deltas = {path: edit.delta(path, weights[path].detach()) for path in edit.paths}
    if not original:
        return deltas
    rows = {name: len(weight) for name, weight in parameters(family.denoiser).items()}
    changed = {}
    for name, pieces in original_pieces(family.name, rows).items():
        paths = {piece.name: piece.name.removesuffix(".weight") for piece in pieces}
        if not name.endswith(".weight") or not set(paths.values()) & set(deltas):
            continue
        width = next(deltas[path].shape[1] for path in paths.values() if path in deltas)
        whole = {own: deltas.get(path, torch.zeros(rows[own], width)) for own, path in paths.items()}
        changed[name.removesuffix(".weight")] = stacked(pieces, whole)
    return changed


def written(edit, pipe, path, dialect: str):
    prefix, original, (a, b), flat, scale, infix = DIALECTS[dialect]
    state = {}
    for name, change in layers(edit, pipe, original).items():
        u, s, v = torch.linalg.svd(change.double(), full_matrices=False)
        rank = int((s > 1e-6 * s[0]).sum())
        key = prefix + (name.replace(".", "_") if flat else name)
        state[key + a.format(infix)] = v[:rank].float().contiguous()
        up = u[:, :rank] * s[:rank] / (scale or 1)
        up[~change.any(dim=1)] = 0  # not what rounding leaves there
        state[key + b.format(infix)] = up.float().contiguous()
        if scale:
            state[f"{key}.alpha"] = torch.tensor(scale * rank)
    save_file(state, path)
    return path


@pytest.mark.filterwarnings("ignore:peft keeps the scale")
@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_of_a_lora(pipe, tmp_path, dialect):
    edit = wide(pipe)
    back = import_edit(written(edit, pipe, tmp_path / "theirs.safetensors", dialect), pipe, ["cat"])
    assert_same_deltas(back, edit, pipe, 1e-4)
    ranks = {path: len(delta.a) for path, delta in back.modules.items()}
    assert max(ranks.values()) <= 6  # factors of a stack lose the directions of the other maps, or keep a few


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
def test_weights_under_their_original_names(pipe, tmp_path, prefix):
    edit, family = wide(pipe), family_of(pipe)
    with edit.apply(pipe), torch.no_grad():
        own = {name: weight.detach().clone() for name, weight in parameters(family.denoiser).items()}
    state = {prefix + name: stacked(row, own).clone() for name, row in original_pieces(family.name, own).items()}
    save_file(state, tmp_path / "model.safetensors")
    assert_same_deltas(import_edit(tmp_path / "model.safetensors", pipe, ["cat"]), edit, pipe, 1e-3)


def test_a_difference_of_a_stack_is_taken_apart(tmp_path):
    pipe = built("flux-dev")
    edit = wide(pipe, ["single_transformer_blocks.0.attn.to_v", "norm_out.linear"])
    state = {f"diffusion_model.{name}.diff": change for name, change in layers(edit, pipe, True).items()}
    assert sorted(state) == [
        "diffusion_model.final_layer.adaLN_modulation.1.diff",
        "diffusion_model.single_blocks.0.linear1.diff",
    ]
    save_file(state, tmp_path / "diff.safetensors")
    assert_same_deltas(import_edit(tmp_path / "diff.safetensors", pipe, ["cat"]), edit, pipe)


def test_one_map_under_two_names_is_refused(tmp_path):
    pipe = built("flux-dev")
    width = pipe.transformer.inner_dim
    state = {}
    for key, rows in (("transformer_blocks.0.attn.add_k_proj", width), ("double_blocks.0.txt_attn.qkv", 3 * width)):
        state[f"diffusion_model.{key}.lora_A.weight"] = torch.ones(1, width)
        state[f"diffusion_model.{key}.lora_B.weight"] = torch.ones(rows, 1)
    save_file(state, tmp_path / "two.safetensors")
    with pytest.raises(EditFileError, match="which another name in the file changes too; keep one of them"):
        import_edit(tmp_path / "two.safetensors", pipe, ["cat"])


def test_a_stack_of_another_size_is_refused(tmp_path):
    pipe = built("flux-dev")
    save_file({"double_blocks.0.txt_attn.qkv.weight": torch.zeros(9, 9)}, tmp_path / "other.safetensors")
    with pytest.raises(WrongBaseError, match="'double_blocks.0.txt_attn.qkv.weight' has 9 rows, in the base 96"):
        import_edit(tmp_path / "other.safetensors", pipe, ["cat"])
    key = "lora_unet_double_blocks_0_txt_attn_qkv"
    state = {f"{key}.lora_down.weight": torch.ones(1, 5), f"{key}.lora_up.weight": torch.ones(7, 1)}
    save_file(state, tmp_path / "lora.safetensors")
    with pytest.raises(WrongBaseError, match=r"do not fit the base's \(96, 32\)"):
        import_edit(tmp_path / "lora.safetensors", pipe, ["cat"])


def test_text_encoders_by_the_numbers_that_trainers_give_them(tmp_path):
    """sd-scripts counts T5 as the third."""
    pipe = built("flux-dev")
    path = "text_encoder_2.encoder.block.0.layer.0.SelfAttention.k"
    edit = wide(pipe, [path])
    delta = edit.modules[path]
    for stem in (
        "lora_te3_encoder_block_0_layer_0_SelfAttention_k",
        "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.k",
    ):
        save_file({f"{stem}.lora_down.weight": delta.a, f"{stem}.lora_up.weight": delta.b}, tmp_path / "t.safetensors")
        assert_same_deltas(import_edit(tmp_path / "t.safetensors", pipe, ["cat"]), edit, pipe)


def test_the_maps_of_these_tests_are_stacked_and_single():
    for name, paths in MAPS.items():
        pipe = built("flux-dev" if name == "flux" else name)
        pieces = original_pieces(name, parameters(pipe.transformer))
        counts = [len(row) for row in pieces.values() if {f"{path}.weight" for path in paths} & {p.name for p in row}]
        assert {1, 3} <= set(counts)
        lengths = {n: len(weight) for n, weight in parameters(pipe.transformer).items()}
        assert all(spans(row, lengths) for row in pieces.values())
