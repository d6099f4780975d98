"""Files as other programs write them: every dialect of a LoRA, its relatives, differences, and what is refused."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
import torch.nn.functional as F
from compvis import _unet_name, single_file_state
from conftest import tiny_pipe, tiny_sana, tiny_sdxl
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from safetensors.torch import save_file
from torch.testing import assert_close

from excise import erase, export
from excise.errors import EditFileError, ExciseWarning, WrongBaseError
from excise.families import family_of
from excise.families.networks import module_in
from excise.families.original_names import unet_name
from excise.importing.import_edit import import_edit

KEY = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
RESNET = "down_blocks.0.resnets.0.conv1"
Q = "encoder.layers.0.self_attn.q_proj"


def rand(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def weight(pipe, path: str) -> torch.Tensor:
    family = family_of(pipe)
    name, _, rest = path.partition(".")
    encoder = family.text_encoders.get(name)
    return module_in(family.denoiser, path).weight if encoder is None else module_in(encoder, rest).weight


def imported(state, pipe, tmp_path, **more):
    save_file({n: t.contiguous().clone() for n, t in state.items()}, tmp_path / "theirs.safetensors", **more)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ExciseWarning)
        warnings.filterwarnings("ignore", "peft keeps the scale")  # of its names there is a test
        return import_edit(tmp_path / "theirs.safetensors", pipe, ["cat"])


def check_only(edit, pipe, path: str, wanted: torch.Tensor) -> None:
    """The edit has this change and no other."""
    assert edit.paths == [path]
    assert_close(edit.delta(path, weight(pipe, path)), wanted, rtol=1e-4, atol=1e-5)


ORIGINAL = "middle_block.1.transformer_blocks.0.attn2.to_k"
DENOISER = [
    f"lora_unet_{KEY.replace('.', '_')}.lora_{{}}.weight:down up",
    f"lora_unet_{ORIGINAL.replace('.', '_')}.lora_{{}}.weight:down up",
    f"lycoris_{KEY.replace('.', '_')}.lora_{{}}.weight:down up",
    f"unet.{KEY}.lora_{{}}.weight:A B",
    f"unet.{KEY}.lora_{{}}.default.weight:A B",
    f"base_model.model.unet.{KEY}.lora_{{}}.weight:A B",
    f"unet.base_model.model.{KEY}.lora_{{}}.weight:A B",
    f"unet.{KEY.replace('.to_k', '.processor.to_k')}_lora.{{}}.weight:down up",
    f"{KEY.replace('.to_k', '.processor.to_k')}_lora.{{}}.weight:down up",
    f"unet.{KEY}.lora.{{}}.weight:down up",
    f"diffusion_model.{ORIGINAL}.lora_{{}}.weight:down up",
    f"diffusion_model.{ORIGINAL}.lora_{{}}.weight:A B",
]


@pytest.mark.parametrize("dialect", DENOISER)
def test_a_map_of_the_denoiser_under_every_name(tokenizer, tmp_path, dialect):
    pipe, (name, sides) = tiny_pipe(tokenizer), dialect.split(":")
    out, into = weight(pipe, KEY).shape
    down, up = (name.format(side) for side in sides.split())
    check_only(
        imported({down: rand(2, into), up: rand(out, 2)}, pipe, tmp_path), pipe, KEY, rand(out, 2) @ rand(2, into)
    )


FLAT = Q.replace(".", "_")
OLDER = "self_attn.to_q_lora"
ENCODER = [
    f"lora_te_text_model_{FLAT}.lora_{{}}.weight:down up",
    f"lora_te1_text_model_{FLAT}.lora_{{}}.weight:down up",
    f"text_encoder.text_model.encoder.layers.0.{OLDER}.{{}}.weight:down up",
    f"text_encoder.text_model.{Q}.lora_linear_layer.{{}}.weight:down up",
    f"text_encoder.{Q}.lora_{{}}.weight:A B",
    f"text_encoder.base_model.model.text_model.{Q}.lora_{{}}.weight:A B",
    f"text_encoders.clip_l.transformer.text_model.{Q}.lora_{{}}.weight:down up",
]


@pytest.mark.parametrize("maker", [tiny_pipe, tiny_sdxl])
@pytest.mark.parametrize("dialect", ENCODER)
def test_a_map_of_the_text_encoder_under_every_name(tokenizer, tmp_path, dialect, maker):
    pipe, (name, sides) = maker(tokenizer), dialect.split(":")
    path = f"text_encoder.{Q}"
    out, into = weight(pipe, path).shape
    down, up = (name.format(side) for side in sides.split())
    state = {down: rand(2, into), up: rand(out, 2)}
    check_only(imported(state, pipe, tmp_path), pipe, path, rand(out, 2) @ rand(2, into))


@pytest.mark.parametrize(
    "stem",
    [f"lora_te2_text_model_{FLAT}", f"text_encoders.clip_g.transformer.text_model.{Q}", "lora_te2_text_projection"],
)
def test_the_second_text_encoder_of_sdxl(tokenizer, tmp_path, stem):
    pipe, path = tiny_sdxl(tokenizer), f"text_encoder_2.{'text_projection' if 'projection' in stem else Q}"
    out, into = weight(pipe, path).shape
    state = {f"{stem}.lora_down.weight": rand(2, into), f"{stem}.lora_up.weight": rand(out, 2)}
    state[f"{stem}.alpha"] = torch.tensor(1.0)
    check_only(imported(state, pipe, tmp_path), pipe, path, rand(out, 2) @ rand(2, into) / 2)


@pytest.fixture(scope="module")
def real_layout() -> UNet2DConditionModel:
    """A UNet with the blocks of SDXL, narrow."""
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 3),
        attention_head_dim=(1, 2, 4),
        norm_num_groups=4,
        cross_attention_dim=16,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=56,
    )


def test_original_names_are_those_that_diffusers_reads(real_layout):
    """Every linear map and convolution that its own converter knows comes back as the module it was."""
    modules = [n for n, m in real_layout.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    named = {path: unet_name(path, real_layout.config) for path in modules}
    assert len(set(named.values())) == len(modules)
    assert named["down_blocks.1.attentions.0.proj_in"] == "input_blocks.4.1.proj_in"
    assert named["up_blocks.1.attentions.2.proj_in"] == "output_blocks.5.1.proj_in"
    assert named["up_blocks.1.upsamplers.0.conv"] == "output_blocks.5.2.conv"
    assert named["down_blocks.1.downsamplers.0.conv"] == "input_blocks.6.0.op"
    assert named["add_embedding.linear_1"] == "label_emb.0.0"
    for path, original in named.items():
        key = f"lora_unet_{original.replace('.', '_')}"
        state = {f"{key}.lora_down.weight": torch.ones(1), f"{key}.lora_up.weight": torch.ones(1)}
        found, _ = StableDiffusionXLPipeline.lora_state_dict(state, unet_config=real_layout.config)
        name = (
            next(iter(found)).removeprefix("unet.").replace(".processor.", ".").replace("to_out_lora", "to_out.0_lora")
        )
        assert name.replace("_lora.", ".lora.").partition(".lora")[0] == path


def test_a_checkpoint_under_original_names_is_what_diffusers_reads(real_layout):
    """Norms and biases too: its converter gives back the very state."""
    state = real_layout.state_dict()
    theirs = {f"model.diffusion_model.{unet_name(name, real_layout.config)}": t for name, t in state.items()}
    back = convert_ldm_unet_checkpoint(theirs, {**real_layout.config, "num_class_embeds": None})
    assert back.keys() == state.keys()
    assert all(torch.equal(t, back[name]) for name, t in state.items())


def test_a_lora_of_sdxl_under_original_names_comes_back_whole(tokenizer, tmp_path):
    """As kohya trains it: every text-reading map and the one of the pooled prompt."""
    pipe = tiny_sdxl(tokenizer)
    edit = erase(pipe, ["cat"], "uce", preserve=["dog"])
    assert "add_embedding.linear_1" in edit.paths
    state = {}
    for path in edit.paths:
        name = "label_emb.0.0" if "add_embedding" in path else _unet_name(f"{path}.x", 2, pipe).removesuffix(".x")
        key = f"lora_unet_{name.replace('.', '_')}"
        state |= {f"{key}.lora_up.weight": edit.delta(path, weight(pipe, path))}
        state |= {f"{key}.lora_down.weight": torch.eye(weight(pipe, path).shape[1])}
        state |= {f"{key}.alpha": torch.tensor(float(weight(pipe, path).shape[1]))}
    back = imported(state, pipe, tmp_path)
    assert back.paths == edit.paths
    for path in edit.paths:
        assert_close(back.delta(path, weight(pipe, path)), edit.delta(path, weight(pipe, path)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("core", [False, True])
def test_a_lora_over_a_convolution(tokenizer, tmp_path, core):
    """It does what the convolutions it is made of do one after the other."""
    pipe = tiny_pipe(tokenizer)
    out, into, *kernel = weight(pipe, RESNET).shape
    down, up, mid = rand(3, into, *(() if core else kernel)), rand(out, 3), rand(3, 3, *kernel)
    down, up = (down[..., None, None] if core else down), up[..., None, None]
    stem = "lora_unet_" + RESNET.replace(".", "_")
    state = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(1.5)}
    edit = imported(state | ({f"{stem}.lora_mid.weight": mid} if core else {}), pipe, tmp_path)
    assert edit.paths == [RESNET]
    x = rand(1, into, 7, 7)
    steps = F.conv2d(F.conv2d(x, down), mid) if core else F.conv2d(x, down)
    found = F.conv2d(x, edit.delta(RESNET, weight(pipe, RESNET)))
    assert_close(found, F.conv2d(steps, up) / 2, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rank", [2, 6])
def test_loha_of_a_linear_map(tokenizer, tmp_path, rank):
    """Product by elements of two products; in factors where those are smaller."""
    pipe = tiny_pipe(tokenizer)
    out, into = weight(pipe, KEY).shape
    w = {"w1_a": rand(out, rank), "w1_b": rand(rank, into), "w2_a": rand(out, rank) + 1, "w2_b": rand(rank, into) - 1}
    state = {f"lycoris_{KEY.replace('.', '_')}.hada_{name}": t for name, t in w.items()}
    state[f"lycoris_{KEY.replace('.', '_')}.alpha"] = torch.tensor(1.0)
    edit = imported(state, pipe, tmp_path)
    check_only(edit, pipe, KEY, (w["w1_a"] @ w["w1_b"]) * (w["w2_a"] @ w["w2_b"]) / rank)
    assert hasattr(edit.modules[KEY], "b") == (rank == 2)
    assert edit.record.settings["layout"] == "LoHa"


def test_loha_of_a_convolution_with_cores(tokenizer, tmp_path):
    pipe = tiny_pipe(tokenizer)
    out, into, *kernel = weight(pipe, RESNET).shape
    w = {"t1": rand(2, 2, *kernel), "t2": rand(2, 2, *kernel) + 1, "w1_a": rand(2, out), "w1_b": rand(2, into)}
    w |= {"w2_a": rand(2, out) - 1, "w2_b": rand(2, into) + 1}
    one, two = (torch.einsum("ijkl,ip,jr->prkl", w[f"t{i}"], w[f"w{i}_a"], w[f"w{i}_b"]) for i in (1, 2))
    state = {f"lora_unet_{RESNET.replace('.', '_')}.hada_{name}": t for name, t in w.items()}
    check_only(imported(state, pipe, tmp_path), pipe, RESNET, one * two)


SHAPES = {  # of factors at a map of 48 x 32, as kron(w1, w2)
    "whole": {"w1": (4, 4), "w2": (12, 8)},
    "second": {"w1": (4, 2), "w2_a": (12, 2), "w2_b": (2, 16)},
    "both": {"w1_a": (4, 2), "w1_b": (2, 4), "w2_a": (12, 2), "w2_b": (2, 8)},
    "wide": {"w1": (2, 8), "w2_a": (24, 2), "w2_b": (2, 4)},
}


@pytest.mark.parametrize("form", SHAPES)
def test_lokr_of_a_linear_map(tokenizer, tmp_path, form):
    """A Kronecker product, scaled where a side is factorised and not where both are whole."""
    pipe = tiny_pipe(tokenizer)
    assert weight(pipe, KEY).shape == (48, 32)
    w = {name: rand(*shape) for name, shape in SHAPES[form].items()}
    state = {f"diffusion_model.{ORIGINAL}.lokr_{name}": t for name, t in w.items()}
    state[f"diffusion_model.{ORIGINAL}.alpha"] = torch.tensor(1.0)
    one, two = (w[f"w{i}"] if f"w{i}" in w else w[f"w{i}_a"] @ w[f"w{i}_b"] for i in (1, 2))
    wanted = torch.stack([torch.cat([a * two for a in row], dim=1) for row in one]).flatten(0, 1)  # block by block
    check_only(imported(state, pipe, tmp_path), pipe, KEY, wanted if form == "whole" else wanted / 2)


@pytest.mark.parametrize("form", ["whole", "factors", "core"])
def test_lokr_of_a_convolution(tokenizer, tmp_path, form):
    pipe = tiny_pipe(tokenizer)
    out, into, *kernel = weight(pipe, RESNET).shape
    small = (out // 4, into // 4)
    w = {"w1": rand(4, 4)}
    if form == "whole":
        w["w2"] = two = rand(*small, *kernel)
    elif form == "factors":
        w |= {"w2_a": rand(small[0], 2), "w2_b": rand(2, small[1] * 9)}
        two = (w["w2_a"] @ w["w2_b"]).view(*small, *kernel)
    else:
        w |= {"t2": rand(2, 2, *kernel), "w2_a": rand(2, small[0]), "w2_b": rand(2, small[1]) + 1}
        two = torch.einsum("ijkl,ip,jr->prkl", w["t2"], w["w2_a"], w["w2_b"])
    state = {f"lycoris_{RESNET.replace('.', '_')}.lokr_{name}": t for name, t in w.items()}
    wanted = torch.stack([torch.cat([a * two for a in row], dim=1) for row in w["w1"]]).flatten(0, 1)
    check_only(imported(state, pipe, tmp_path), pipe, RESNET, wanted)


def test_a_difference_of_comfyui(tokenizer, tmp_path):
    """Whole differences of weights, biases and norms; what does not change needs no place."""
    pipe = tiny_pipe(tokenizer)
    change = {
        f"diffusion_model.{ORIGINAL}.diff": rand(*weight(pipe, KEY).shape),
        "diffusion_model.input_blocks.0.0.diff": torch.zeros_like(weight(pipe, "conv_in")),
        "diffusion_model.input_blocks.0.0.diff_b": rand(len(weight(pipe, "conv_in"))),
        "diffusion_model.out.0.diff": rand(len(weight(pipe, "conv_norm_out"))),
        "text_encoders.clip_l.transformer.text_projection.diff": torch.zeros(32, 32),
    }
    edit = imported({n: t.half() for n, t in change.items()}, pipe, tmp_path)
    assert edit.paths == ["conv_in.bias", "conv_norm_out", KEY]
    assert_close(edit.delta(KEY, weight(pipe, KEY)), change[f"diffusion_model.{ORIGINAL}.diff"], rtol=1e-3, atol=1e-3)
    with edit.apply(pipe):
        pass
    norm = {f"lora_unet_conv_norm_out.{name}": torch.ones(16) for name in ("w_norm", "b_norm")}
    assert imported(norm, pipe, tmp_path).paths == ["conv_norm_out", "conv_norm_out.bias"]


def test_a_lora_that_comfyui_extracted(tokenizer, tmp_path):
    """Factors without a scale, convolutions and linear maps of any size, in half precision; differences of norms."""
    pipe = tiny_pipe(tokenizer)
    out, into, *kernel = weight(pipe, RESNET).shape
    stem = "diffusion_model.input_blocks.1.0.in_layers.2"
    state = {
        f"{stem}.lora_up.weight": rand(out, 2, 1, 1),
        f"{stem}.lora_down.weight": rand(2, into, *kernel),
        "diffusion_model.input_blocks.1.0.in_layers.0.diff": rand(into),
    }
    edit = imported({n: t.half() for n, t in state.items()}, pipe, tmp_path)
    assert edit.paths == [RESNET, "down_blocks.0.resnets.0.norm1"]
    wanted = F.conv2d(F.conv2d(rand(1, into, 5, 5), rand(2, into, *kernel)), rand(out, 2, 1, 1))
    assert_close(F.conv2d(rand(1, into, 5, 5), edit.delta(RESNET, weight(pipe, RESNET))), wanted, rtol=1e-2, atol=0.1)


STEM = f"lora_unet_{KEY.replace('.', '_')}"
REFUSED = {
    "a DoRA": ["lora_down.weight", "lora_up.weight", "dora_scale"],
    "an IA3": ["weight", "on_input"],
    "a GLoRA": ["a1.weight", "a2.weight", "b1.weight", "b2.weight", "alpha"],
    "an OFT or BOFT": ["oft_blocks", "rescale", "alpha"],
    "a VeRA": ["vera_lambda_b", "vera_lambda_d"],
    "a LoRA with biases": ["lora_A.weight", "lora_B.weight", "lora_B.bias"],
    "a patch of ComfyUI": ["set_weight"],
    "is no part of a LoRA": ["lora_down.weight", "lora_up.weight", "scalar"],
    "has down of its factors": ["lora_down.weight"],
    "has hada_w1_a, hada_w2_b of its factors": ["hada_w1_a", "hada_w2_b"],
    "has a scale alone of its factors": ["alpha"],
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_cannot_be_an_edit_is_refused_by_name(tokenizer, tmp_path, said):
    shapes = {"lora_up.weight": (48, 2), "lora_down.weight": (2, 32), "alpha": (1,)}
    state = {f"{STEM}.{end}": torch.ones(shapes.get(end, (2, 2))) for end in REFUSED[said]}
    with pytest.raises(EditFileError, match=said) as refusal:
        imported(state, tiny_pipe(tokenizer), tmp_path)
    assert KEY.replace(".", "_") in str(refusal.value)


def test_factors_that_do_not_fit_are_refused(tokenizer, tmp_path):
    pipe = tiny_pipe(tokenizer)
    good = {f"{STEM}.lora_down.weight": torch.ones(2, 32), f"{STEM}.lora_up.weight": torch.ones(48, 2)}
    swapped = {f"{STEM}.lora_down.weight": torch.ones(2, 48), f"{STEM}.lora_up.weight": torch.ones(32, 2)}
    odd = good | {f"{STEM}.lora_up.weight": torch.ones(48, 3)}
    kron = {f"{STEM}.lokr_w1": torch.ones(2, 3), f"{STEM}.lokr_w2": torch.ones(16, 16)}
    turned = {f"{STEM}.diff": torch.ones(32, 48)}
    thin = good | {f"{STEM}.lora_down.weight": torch.ones(2)}
    flat = [{f"{STEM}.diff": torch.ones(n)} for n in ((), (3,))]
    single = {f"{STEM}.lokr_w1": torch.ones(()), f"{STEM}.lokr_w2": torch.ones(48, 32)}
    for state in (swapped, odd, kron, turned, thin, *flat, single):
        with pytest.raises(WrongBaseError, match=r"at 'lora_unet_mid.* do not fit the base's \(48, 32\)"):
            imported(state, pipe, tmp_path)
    with pytest.raises(EditFileError, match="numbers that are not finite"):
        imported(good | {f"{STEM}.alpha": torch.tensor(float("nan"))}, pipe, tmp_path)
    other = {name.replace("mid_block_att", "mid_block_arr"): t for name, t in good.items()}
    with pytest.raises(WrongBaseError, match="changes 'lora_unet_mid_block_arrentions.*which the base does not have"):
        imported(good | other, pipe, tmp_path)


def test_a_difference_written_as_a_convolution_of_one_pixel(tokenizer, tmp_path):
    pipe = tiny_pipe(tokenizer)
    check_only(imported({f"{STEM}.diff": rand(48, 32)[..., None, None]}, pipe, tmp_path), pipe, KEY, rand(48, 32))


def test_one_map_under_two_names(tokenizer, tmp_path):
    """Alike it is one; otherwise there is no telling which was meant."""
    pipe = tiny_pipe(tokenizer)
    pairs = {f"{stem}.lora_{side}.weight": rand(*shape) for stem in (STEM, f"diffusion_model.{ORIGINAL}")
             for side, shape in (("down", (2, 32)), ("up", (48, 2)))}  # fmt: skip
    check_only(imported(pairs, pipe, tmp_path), pipe, KEY, rand(48, 2) @ rand(2, 32))
    pairs[f"{STEM}.lora_up.weight"] = rand(48, 2) + 1
    with pytest.raises(EditFileError, match="change one map of the base in two ways"):
        imported(pairs, pipe, tmp_path)


def advunlearn(encoder) -> dict[str, torch.Tensor]:
    """The state of its wrapper: the encoder, and its parts a second time under names of the wrapper's own."""
    state = {name.removeprefix("text_model."): t for name, t in encoder.state_dict().items()}
    again = {name.replace("embeddings.", "embedding.", 1): t for name, t in state.items()}
    return {f"text_encoder.text_model.{name}": t for name, t in state.items()} | again


def test_the_text_encoder_of_advunlearn(tokenizer, tmp_path):
    theirs, base = tiny_pipe(tokenizer), tiny_pipe(tokenizer)
    with torch.no_grad():
        for p in theirs.text_encoder.parameters():
            p.mul_(1.5).add_(0.1)
    torch.save(advunlearn(theirs.text_encoder), tmp_path / "TextEncoder.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ExciseWarning)  # all of an encoder may be trained
        edit = import_edit(tmp_path / "TextEncoder.pt", base, ["cat"])
    assert len(edit.paths) == len(list(base.text_encoder.parameters()))
    state = advunlearn(theirs.text_encoder)
    state["encoder.layers.0.mlp.fc1.weight"] = state["encoder.layers.0.mlp.fc1.weight"] + 1
    torch.save(state, tmp_path / "TextEncoder.pt")
    with pytest.raises(EditFileError, match="'text_encoder.encoder.layers.0.mlp.fc1.weight' stands .* under two names"):
        import_edit(tmp_path / "TextEncoder.pt", base, ["cat"])


def test_modules_beside_the_model_are_called_what_they_are(tokenizer, tmp_path):
    pipe = tiny_pipe(tokenizer)
    eraser = {f"{side}.{kind}": torch.ones(4, 4) for side in ("down", "up") for kind in ("weight", "bias")}
    torch.save({"mid_block.attentions.0": eraser, "up_blocks.0.attentions.1": eraser}, tmp_path / "eraser_weights.pt")
    for path in (tmp_path / "eraser_weights.pt", tmp_path):
        with pytest.raises(EditFileError, match="modules that Receler puts beside a model's own weights"):
            import_edit(path, pipe, ["cat"])
    sparse = {name: torch.ones(4, 4) for name in ("encoder.weight", "encoder.bias", "W_dec", "b_dec")}
    with pytest.raises(EditFileError, match="modules that SAeUron puts .* excise.attack"):
        imported(sparse, pipe, tmp_path)


def test_the_gate_of_spm_is_missed(tokenizer, tmp_path):
    """It is no part of the file; an edit of our own of rank 1 has none to miss."""
    pipe = tiny_pipe(tokenizer)
    block = "mid_block.attentions.0.transformer_blocks.0"
    state = {}
    for path in (f"{block}.attn2.to_k", f"{block}.ff.net.2"):
        out, into = weight(pipe, path).shape
        stem = f"lora_unet_{path.replace('.', '_')}"
        state |= {f"{stem}.lora_down.weight": rand(1, into), f"{stem}.lora_up.weight": rand(out, 1)}
        state[f"{stem}.alpha"] = torch.tensor(1.0)
    save_file(state, tmp_path / "spm.safetensors", metadata={"prompts": "cat", "rank": "1", "alpha": "1.0"})
    with pytest.warns(ExciseWarning, match="SPM's gate.* is not in the file, so the edit is always on"):
        edit = import_edit(tmp_path / "spm.safetensors", pipe, ["cat"])
    assert len(edit.paths) == 2
    path = export(erase(pipe, ["cat"], "uce", preserve=["dog"]), pipe, tmp_path, "kohya-lora").path
    with warnings.catch_warnings():
        warnings.simplefilter("error", ExciseWarning)
        import_edit(path, pipe, ["cat"])


def test_all_that_a_method_trains_may_differ(tokenizer, tmp_path):
    """ESD's file holds the 64 matrices it trained, and all of them differ."""
    pipe = tiny_pipe(tokenizer)
    state = {n: p * 1.1 for n, p in pipe.unet.named_parameters() if "attn2" in n}
    assert len({n for n, p in state.items() if p.ndim > 1}) == 2 * len([n for n in state if "to_k" in n or "to_v" in n])
    assert len(imported(state, pipe, tmp_path).paths) == len(state)


def test_the_scale_that_peft_keeps_beside_its_factors(tokenizer, tmp_path):
    pipe = tiny_pipe(tokenizer)
    state = {f"base_model.model.{KEY}.lora_A.weight": rand(2, 32), f"base_model.model.{KEY}.lora_B.weight": rand(48, 2)}
    file, wanted = tmp_path / "adapter_model.safetensors", rand(48, 2) @ rand(2, 32)
    save_file(state, file)
    with pytest.warns(ExciseWarning, match="keeps the scale of these factors in adapter_config.json"):
        check_only(import_edit(file, pipe, ["cat"]), pipe, KEY, wanted)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 8}))
    for path in (file, tmp_path):
        check_only(import_edit(path, pipe, ["cat"]), pipe, KEY, 4 * wanted)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 8, "use_rslora": True}))
    with pytest.raises(EditFileError, match="uses 'use_rslora'"):
        import_edit(file, pipe, ["cat"])


def test_the_scale_that_diffusers_keeps_in_the_header(tokenizer, tmp_path):
    """It counts whether the file is named or the folder that it lies in."""
    pipe = tiny_pipe(tokenizer)
    state = {f"unet.{KEY}.lora_A.weight": rand(2, 32), f"unet.{KEY}.lora_B.weight": rand(48, 2)}
    told = {"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 8})}
    save_file(state, tmp_path / "pytorch_lora_weights.safetensors", metadata=told)
    for path in (tmp_path / "pytorch_lora_weights.safetensors", tmp_path):
        check_only(import_edit(path, pipe, ["cat"]), pipe, KEY, 4 * rand(48, 2) @ rand(2, 32))


def test_a_lora_of_sana_under_the_names_of_peft(gemma_tokenizer, tmp_path):
    pipe, path = tiny_sana(gemma_tokenizer), "transformer_blocks.0.attn2.to_k"
    out, into = pipe.transformer.get_submodule(path).weight.shape
    state = {f"transformer.base_model.model.{path}.lora_A.default.weight": rand(2, into),
             f"transformer.base_model.model.{path}.lora_B.default.weight": rand(out, 2),
             f"transformer.base_model.model.{path}.alpha": torch.tensor(2.0)}  # fmt: skip
    assert imported(state, pipe, tmp_path).paths == [path]


def open_clip(encoder) -> dict[str, torch.Tensor]:
    """A text encoder of transformers in OpenCLIP's names, with one more layer that nothing reads."""
    state = {name.removeprefix("text_model."): t for name, t in encoder.state_dict().items()}
    found = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "logit_scale": torch.tensor(1.0),
        "text_projection": state.get("text_projection.weight", torch.eye(4)).T.contiguous(),
    }
    ours = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    for i in range(encoder.config.num_hidden_layers):
        here, there = f"encoder.layers.{i}", f"transformer.resblocks.{i}"
        for kind in ("weight", "bias"):
            rows = [state[f"{here}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            found[f"{there}.attn.in_proj_{kind}"] = torch.cat(rows)
            found[f"{there}.attn.out_proj.{kind}"] = state[f"{here}.self_attn.out_proj.{kind}"]
            found |= {f"{there}.{b}.{kind}": state[f"{here}.{a}.{kind}"] for a, b in ours.items()}
    return found


def test_a_single_file_of_sdxl(tokenizer, tmp_path):
    theirs, base = tiny_sdxl(tokenizer), tiny_sdxl(tokenizer)
    with torch.no_grad():
        theirs.unet.get_submodule(KEY).weight.mul_(2)
        theirs.unet.add_embedding.linear_1.bias.add_(1)
        theirs.text_encoder.get_submodule(Q).weight.mul_(2)
        theirs.text_encoder_2.get_submodule(f"text_model.{Q}").weight.mul_(2)
        theirs.text_encoder_2.text_projection.weight.mul_(2)
    named = {n: t for n, t in theirs.unet.state_dict().items() if "add_embedding" not in n}
    state = {f"model.diffusion_model.{_unet_name(n, 2, theirs)}": t for n, t in named.items()}
    for i, part in ((0, "linear_1"), (2, "linear_2")):
        for kind in ("weight", "bias"):
            state[f"model.diffusion_model.label_emb.0.{i}.{kind}"] = getattr(
                getattr(theirs.unet.add_embedding, part), kind
            )
    for name, t in theirs.text_encoder.state_dict().items():
        state[f"conditioner.embedders.0.transformer.text_model.{name.removeprefix('text_model.')}"] = t
    state |= {f"conditioner.embedders.1.model.{n}": t for n, t in open_clip(theirs.text_encoder_2).items()}
    state |= {"denoiser.sigmas": torch.ones(4), "first_stage_model.decoder.conv_in.weight": torch.ones(4, 4)}
    edit = imported(state, base, tmp_path)
    wanted = {KEY, "add_embedding.linear_1.bias", f"text_encoder.{Q}", f"text_encoder_2.{Q}"}
    assert set(edit.paths) == wanted | {"text_encoder_2.text_projection"}


def test_a_single_file_of_stable_diffusion_2(tokenizer, tmp_path):
    """OpenCLIP's text encoder, of which the last layer and the projection are not read."""
    theirs, base = tiny_pipe(tokenizer), tiny_pipe(tokenizer)
    with torch.no_grad():
        theirs.text_encoder.get_submodule(Q).weight.mul_(2)
    state = {n: t for n, t in single_file_state(theirs).items() if not n.startswith("cond_stage_model.")}
    state |= {f"cond_stage_model.model.{n}": t for n, t in open_clip(theirs.text_encoder).items()}
    state["cond_stage_model.model.transformer.resblocks.2.ln_1.weight"] = torch.ones(32)
    assert imported(state, base, tmp_path).paths == [f"text_encoder.{Q}"]
