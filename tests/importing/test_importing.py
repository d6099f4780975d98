"""Other tools' results, written here in the layouts they are known to use, read as edits: applied, undone, shipped."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from compvis import single_file_state
from conftest import tiny_pipe, tiny_sana, tiny_sdxl
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from typer.testing import CliRunner

from excise import Edit, erase, export
from excise.cli.main import app
from excise.edits.bases import base_of
from excise.errors import ConceptError, EditFileError, ExciseWarning, WrongBaseError
from excise.families import family_of
from excise.families.load import as_family
from excise.importing.import_edit import import_edit


def predicted(pipe, prompt: str = "a cat") -> torch.Tensor:
    family = as_family(pipe)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return family.predict(latents, torch.tensor([500]), family.condition([prompt]))


def erased(tokenizer, maker=tiny_pipe):
    """A pipeline that another tool changed: keys and values, a convolution, a bias and a norm of its UNet."""
    pipe = maker(tokenizer)
    generator = torch.Generator().manual_seed(1)
    names = ["attn2.to_k.weight", "attn2.to_v.weight", "conv_in.weight", "conv_in.bias", "conv_norm_out.weight"]
    with torch.no_grad():
        for name, p in pipe.unet.named_parameters():
            if any(name.endswith(n) for n in names):
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return pipe


def kv(pipe) -> dict[str, torch.Tensor]:
    return {n: p.detach() for n, p in pipe.unet.named_parameters() if "attn2.to_k" in n or "attn2.to_v" in n}


def whole_unet_pickle(pipe, folder: Path) -> Path:  # ScaPre, RECE
    torch.save(pipe.unet.state_dict(), folder / "unet.pt")
    return folder / "unet.pt"


def nested_pickle(pipe, folder: Path) -> Path:
    torch.save({"state_dict": pipe.unet.state_dict(), "epoch": 3}, folder / "nested.pth")
    return folder / "nested.pth"


def folder_of_pipeline(pipe, folder: Path) -> Path:  # MACE
    pipe.save_pretrained(folder / "pipe")
    return folder / "pipe"


def folder_of_unet(pipe, folder: Path) -> Path:  # erase-eval
    pipe.unet.save_pretrained(folder / "unet")
    return folder / "unet"


def compvis(pipe, folder: Path) -> Path:
    torch.save({"state_dict": single_file_state(pipe), "global_step": 1}, folder / "model.ckpt")
    return folder / "model.ckpt"


@pytest.mark.parametrize("write", [whole_unet_pickle, nested_pickle, folder_of_pipeline, folder_of_unet, compvis])
def test_a_whole_unet(tokenizer, tmp_path, write):
    theirs, base = erased(tokenizer), tiny_pipe(tokenizer)
    plain, wanted = predicted(base), predicted(theirs)
    edit = import_edit(write(theirs, tmp_path), base, ["cat"])
    loaded = Edit.load(edit.save(tmp_path / "edit.safetensors"))
    assert loaded.record.method == "imported"
    assert {"conv_in", "conv_in.bias", "conv_norm_out"} < set(loaded.paths)  # and nothing that did not change
    assert all("attn2" in p or p.startswith("conv_") for p in loaded.paths)
    with loaded.apply(base):
        assert_close(predicted(base), wanted, rtol=1e-4, atol=1e-5)
    assert torch.equal(predicted(base), plain)
    merged = export(loaded, base, tmp_path / "merged", "merged")
    assert merged.error < 1e-5
    with pytest.raises(
        WrongBaseError, match="a LoRA changes linear maps and convolutions alone, this edit also 'conv_"
    ):
        export(loaded, base, tmp_path / "lora")


def partial_safetensors(pipe, folder: Path) -> Path:  # UCE, ESD
    save_file(kv(pipe), folder / "partial.safetensors")
    return folder / "partial.safetensors"


def partial_with_part(pipe, folder: Path) -> Path:
    save_file({f"unet.{n}": t for n, t in kv(pipe).items()}, folder / "part.safetensors")
    return folder / "part.safetensors"


def partial_pickle(pipe, folder: Path) -> Path:  # SPEED
    torch.save(kv(pipe), folder / "kv.pt")
    return folder / "kv.pt"


def partial_in_half(pipe, folder: Path) -> Path:
    save_file({n: t.half() for n, t in pipe.unet.state_dict().items()}, folder / "half.safetensors")
    return folder / "half.safetensors"


@pytest.mark.parametrize("maker", [tiny_pipe, tiny_sdxl])
@pytest.mark.parametrize("write", [partial_safetensors, partial_with_part, partial_pickle, partial_in_half])
def test_partial_weights(tokenizer, tmp_path, write, maker):
    theirs, base = maker(tokenizer), maker(tokenizer)
    with torch.no_grad():
        for name, p in theirs.unet.named_parameters():
            if name in kv(theirs):
                p.mul_(1.1)
    edit = import_edit(write(theirs, tmp_path), base, ["cat"])
    assert {p.rsplit(".", 1)[1] for p in edit.paths} == {"to_k", "to_v"}
    with edit.apply(base):
        assert_close(predicted(base), predicted(theirs), rtol=1e-2, atol=2e-3)
    done = export(edit, base, tmp_path / "lora")
    assert done.error < 1e-4


@pytest.mark.parametrize("format", ["diffusers-lora", "kohya-lora"])
@pytest.mark.parametrize("method", ["uce", "emcid"])
def test_a_lora_comes_back_as_it_left(tokenizer, tmp_path, format, method):
    pipe = tiny_pipe(tokenizer)
    more = {"anchor": "car"} if method == "emcid" else {}
    edit = erase(pipe, ["cat"], method, preserve=["dog"], **more)
    with edit.apply(pipe):
        wanted = predicted(pipe)
    back = import_edit(export(edit, pipe, tmp_path, format).path, pipe, ["cat"])
    assert set(back.paths) == set(edit.paths)
    with back.apply(pipe):
        assert_close(predicted(pipe), wanted, rtol=1e-3, atol=1e-4)


def test_alpha_scales_a_lora(tokenizer, tmp_path):
    """Half the alpha, half the change."""
    pipe = tiny_pipe(tokenizer)
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    path = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    shape = pipe.unet.get_submodule(path).weight.shape
    up, down = torch.randn(shape[0], 4), torch.randn(4, shape[1])
    for alpha in (4.0, 2.0):
        file = tmp_path / f"{alpha}.safetensors"
        state = {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down, f"{key}.alpha": torch.tensor(alpha)}
        save_file(state, file)
        found = import_edit(file, pipe, ["cat"]).delta(path, pipe.unet.get_submodule(path).weight)
        assert_close(found, up @ down * alpha / 4, rtol=1e-4, atol=1e-5)


def test_an_erased_text_encoder(tokenizer, tmp_path):
    theirs, base = tiny_pipe(tokenizer), tiny_pipe(tokenizer)
    with torch.no_grad():
        theirs.text_encoder.get_submodule("encoder.layers.0.self_attn.q_proj").weight.mul_(1.5)
        theirs.text_encoder.get_submodule("final_layer_norm").bias.add_(0.1)
    theirs.text_encoder.save_pretrained(tmp_path / "encoder")  # AdvUnlearn
    plain = predicted(base)
    edit = import_edit(tmp_path / "encoder", base, ["cat"])
    assert edit.paths == ["text_encoder.encoder.layers.0.self_attn.q_proj", "text_encoder.final_layer_norm.bias"]
    before = base_of(family_of(base), "tiny")
    with edit.apply(base):
        assert_close(predicted(base), predicted(theirs), rtol=1e-4, atol=1e-5)
        assert base_of(family_of(base), "tiny") == before
    assert torch.equal(predicted(base), plain)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/excise-was-here"),))


def test_what_cannot_be_read_is_refused_with_the_reason(tokenizer, tmp_path):
    pipe = tiny_pipe(tokenizer)

    def refused(path, error, match, concepts=("cat",)):
        with pytest.raises(error, match=match):
            import_edit(path, pipe, list(concepts))

    refused(tmp_path / "none.pt", EditFileError, "there is no file or folder")
    marker = Path("/tmp/excise-was-here")
    marker.unlink(missing_ok=True)
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"unet": Evil()}))
    refused(tmp_path / "evil.pt", EditFileError, "more than weights, or is damaged; nothing in it was executed")
    assert not marker.exists()
    torch.save([1, 2], tmp_path / "list.pt")
    refused(tmp_path / "list.pt", EditFileError, "holds list; expected tensors by name")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    refused(tmp_path / "cut.safetensors", EditFileError, "is no safetensors file, or it is damaged")
    name = next(iter(kv(pipe)))
    save_file({name: torch.zeros(3, 3)}, tmp_path / "shape.safetensors")
    refused(tmp_path / "shape.safetensors", WrongBaseError, r"has the shape \(3, 3\), in the base \(")
    save_file({"blocks.0.to_k.weight": torch.zeros(3, 3)}, tmp_path / "names.safetensors")
    refused(tmp_path / "names.safetensors", WrongBaseError, "1 tensors have no place in the base, 'blocks.0.to_k")
    save_file({n: t.clone() for n, t in kv(pipe).items()}, tmp_path / "same.safetensors")
    refused(tmp_path / "same.safetensors", WrongBaseError, "nothing that differs from the base")
    save_file({name: torch.full_like(kv(pipe)[name], float("nan"))}, tmp_path / "nan.safetensors")
    refused(tmp_path / "nan.safetensors", EditFileError, "numbers that are not finite")
    key = "lora_unet_down_blocks_0_resnets_0_conv1"
    loha = {f"{key}.hada_w1_a": torch.zeros(2, 2), f"{key}.lora_mid.weight": torch.zeros(2, 2)}
    save_file(loha, tmp_path / "loha.safetensors")
    refused(tmp_path / "loha.safetensors", (EditFileError, WrongBaseError), "LoRA")
    refused(tmp_path / "same.safetensors", ConceptError, "is empty", [""])
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", EditFileError, "holds neither .safetensors nor .bin")
    save_file({name: kv(pipe)[name].to(torch.float8_e4m3fn)}, tmp_path / "fp8.safetensors")
    read = import_edit(tmp_path / "fp8.safetensors", erased(tokenizer), ["Monet"], kind="style")  # coarse, but read
    assert (list(read.modules), read.record.concepts[0].kind) == ([name.removesuffix(".weight")], "style")
    endless: dict = {}
    endless["model"] = endless
    torch.save(endless, tmp_path / "endless.pt")
    refused(tmp_path / "endless.pt", EditFileError, "holds something that holds itself")
    state = single_file_state(pipe) | {"model.diffusion_model.extra.weight": torch.zeros(3, 3)}
    torch.save(state, tmp_path / "more.ckpt")
    refused(tmp_path / "more.ckpt", WrongBaseError, "1 tensors have no place in the base, .model.diffusion_model.extra")
    key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    half = {f"{key}.lora_down.weight": torch.zeros(2, 32), f"{key}.alpha": torch.ones(1)}
    save_file(half, tmp_path / "half.safetensors")
    refused(tmp_path / "half.safetensors", (EditFileError, WrongBaseError), "LoRA")


def test_an_exact_file_on_a_base_in_half_precision_is_not_all_difference(tokenizer, tmp_path):
    theirs, base = tiny_pipe(tokenizer), tiny_pipe(tokenizer)
    path = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    with torch.no_grad():
        theirs.unet.get_submodule(path).weight.mul_(1.5)
    for kind in (torch.float16, torch.bfloat16):
        assert import_edit(whole_unet_pickle(theirs, tmp_path), base.to(kind), ["cat"]).paths == [path]
        base = tiny_pipe(tokenizer)


def test_parts_in_one_pickle(tokenizer, tmp_path):
    theirs, base = erased(tokenizer), tiny_pipe(tokenizer)
    with torch.no_grad():
        theirs.text_encoder.get_submodule("final_layer_norm").bias.add_(0.1)
    parts = {"unet": theirs.unet.state_dict(), "text_encoder": theirs.text_encoder.state_dict()}
    torch.save(parts, tmp_path / "both.pt")
    edit = import_edit(tmp_path / "both.pt", base, ["cat"])
    assert {"conv_in", "text_encoder.final_layer_norm.bias"} < set(edit.paths)
    with edit.apply(base):
        assert_close(predicted(base), predicted(theirs), rtol=1e-4, atol=1e-5)


def test_the_second_encoder_is_told_from_the_first(tokenizer, tmp_path):
    """By shapes where a folder does not say; its projection lies beside the rest of it."""
    theirs, base = tiny_sdxl(tokenizer), tiny_sdxl(tokenizer)
    with torch.no_grad():
        theirs.text_encoder_2.text_projection.weight.mul_(2)
    theirs.text_encoder_2.save_pretrained(tmp_path / "any")
    edit = import_edit(tmp_path / "any", base, ["cat"])
    assert edit.paths == ["text_encoder_2.text_projection"]
    with edit.apply(base):
        assert_close(predicted(base), predicted(theirs), rtol=1e-4, atol=1e-5)


def test_full_weights_go_before_a_variant_in_half(tokenizer, tmp_path):
    theirs = erased(tokenizer)
    theirs.unet.save_pretrained(tmp_path / "unet")
    other = tiny_pipe(tokenizer, seed=5)
    other.unet.half().save_pretrained(tmp_path / "unet", variant="fp16")
    edit = import_edit(tmp_path / "unet", tiny_pipe(tokenizer), ["cat"])
    assert {p.split(".")[0] for p in edit.paths if "attn2" not in p} == {"conv_in", "conv_norm_out"}


def test_a_lora_of_sana(gemma_tokenizer, tmp_path):
    pipe = tiny_sana(gemma_tokenizer)
    edit = erase(pipe, ["cat"], "uce", preserve=["dog"])
    back = import_edit(export(edit, pipe, tmp_path).path, pipe, ["cat"])
    assert set(back.paths) == set(edit.paths)
    weight = pipe.transformer.get_submodule(edit.paths[0]).weight
    assert_close(back.delta(edit.paths[0], weight), edit.delta(edit.paths[0], weight), rtol=1e-3, atol=1e-5)


def test_factors_written_as_convolutions_of_one_pixel(tokenizer, tmp_path):
    pipe = tiny_pipe(tokenizer)
    path = "mid_block.attentions.0.proj_in"
    weight = pipe.unet.get_submodule(path).weight
    up, down = torch.randn(weight.shape[0], 2), torch.randn(2, weight.shape[1])
    key = "lora_unet_mid_block_attentions_0_proj_in"
    save_file(
        {f"{key}.lora_up.weight": up[..., None, None], f"{key}.lora_down.weight": down[..., None, None]},
        tmp_path / "conv.safetensors",
    )
    found = import_edit(tmp_path / "conv.safetensors", pipe, ["cat"]).delta(path, weight)
    assert_close(found.flatten(1), (up @ down), rtol=1e-4, atol=1e-5)
    assert found.shape == weight.shape


def test_what_a_lora_says_of_itself_is_heeded(tokenizer, tmp_path):
    pipe = tiny_pipe(tokenizer)
    path = export(erase(pipe, ["cat"], "uce", preserve=["dog"]), pipe, tmp_path, "diffusers-lora").path
    with safe_open(path, "pt") as file:
        told = json.loads(file.metadata()["lora_adapter_metadata"])
    for more, match in (({"unet.use_rslora": True}, "uses 'use_rslora'"), (None, "cannot be read")):
        text = json.dumps({**told, **more}) if more else "{"
        save_file(load_file(path), tmp_path / "told.safetensors", metadata={"lora_adapter_metadata": text})
        with pytest.raises(EditFileError, match=match):
            import_edit(tmp_path / "told.safetensors", pipe, ["cat"])


def test_another_base_of_the_same_make_is_warned_of(tokenizer, tmp_path):
    with pytest.warns(ExciseWarning, match="matrices differ from the base; if it is not the model"):
        import_edit(whole_unet_pickle(tiny_pipe(tokenizer, seed=7), tmp_path), tiny_pipe(tokenizer), ["cat"])


def test_from_the_command_line(tokenizer, tmp_path):
    base, theirs = tiny_pipe(tokenizer), erased(tokenizer)
    base.save_pretrained(tmp_path / "base")
    file = partial_safetensors(theirs, tmp_path)
    command = ["import", str(file), "--model", str(tmp_path / "base"), "-c", "cat", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, [*command, "--no-preview"])
    assert done.exit_code == 0, done.output
    assert Edit.load(tmp_path / "run" / "edit.safetensors").record.settings["file"] == "partial.safetensors"
    assert (tmp_path / "run" / "report.html").exists()
