"""Work that reads text alone leaves the other weights in their files, and comes to the same."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from situations import UNET_FORMATS

from excise import erase, load
from excise.edits.edit import applied
from excise.edits.originals import original_weights
from excise.exporting import export
from excise.families import outlined, streaming, tensors
from excise.families.built_in import BUILT_IN
from excise.families.capabilities import TEXT_MLP
from excise.families.networks import parameters
from excise.families.partial import source_of
from excise.methods import METHODS

PARTS = {"sd": "unet", "sdxl": "unet", "sana": "transformer"}


@pytest.fixture(params=["sd", "sdxl", "sana"])
def folder(request, make, tmp_path):
    make(request.param).save_pretrained(tmp_path / request.param)
    return tmp_path / request.param


@pytest.fixture
def sd_folder(make, tmp_path):
    make("sd").save_pretrained(tmp_path / "sd")
    return tmp_path / "sd"


def opened(folder, **options):
    return load(folder, device="cpu", **options)


def unread(family) -> list[str]:
    return [name for name, weight in parameters(family.denoiser).items() if weight.is_meta]


def saved(edit, path) -> bytes:
    edit.save(path)
    return path.read_bytes()


@pytest.mark.parametrize(
    "method", [name for name, record in METHODS.records().items() if record.shape == "closed-form"]
)
def test_every_closed_form_makes_the_same_edit_to_the_byte(folder, tmp_path, method):
    families, needs = [opened(folder), opened(folder, whole=False)], METHODS.record(method).needs
    if not needs <= families[0].provides:
        pytest.skip("not for this family")
    if folder.name != "sana" and TEXT_MLP not in needs:
        families.append(outlined(folder, device="cpu", encodes=True))
    settings = {"threshold": 5.0} if method == "speed" else {}
    edits = [erase(f, ["cat"], method, preserve=["dog"], vocabulary=None, **settings) for f in families]
    written = {saved(edit, tmp_path / f"{n}.safetensors") for n, edit in enumerate(edits)}
    assert len(written) == 1
    assert unread(families[1])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("method", ["uce", "emcid"])
@pytest.mark.parametrize("format", UNET_FORMATS)
def test_exports_are_the_same_to_the_byte(folder, tmp_path, format, method, dtype):
    if folder.name == "sana" and (format in ("kohya-lora", "single-file") or method == "emcid"):
        pytest.skip("not for this family")
    if method == "emcid" and folder.name == "sdxl" and format == "kohya-lora":
        pytest.skip("a fused map stands in no LoRA")
    options = {"dtype": dtype}
    edit = erase(opened(folder, **options), ["cat"], method, preserve=["dog"], vocabulary=None)
    text = opened(folder, whole=False, **options)
    written = []
    for family in (opened(folder, **options), text):
        out = tmp_path / str(len(written)) / "out"
        export(edit, family, out, format)
        written.append({str(f.relative_to(out)): f.read_bytes() for f in sorted(out.rglob("*")) if f.is_file()})
    assert list(written[0]) == list(written[1])
    assert not [name for name in written[0] if written[0][name] != written[1][name]]
    if format != "single-file":
        assert source_of(text.denoiser)
        assert source_of(text.pipe.text_encoder)
        assert unread(text)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_an_edit_is_the_same_to_the_byte(folder, dtype, tmp_path):
    whole, text = opened(folder, dtype=dtype), opened(folder, dtype=dtype, whole=False)
    assert unread(text)
    one, two = (erase(f, ["red cat"], "uce", preserve=["dog"], vocabulary=None) for f in (whole, text))
    assert saved(one, tmp_path / "one.safetensors") == saved(two, tmp_path / "two.safetensors")
    assert set(unread(text)) >= {f"{p.path}.weight" for p in text.projections()}
    assert source_of(text.pipe.vae)


def test_pictures_are_the_same_once_it_is_complete(folder):
    whole, text = opened(folder), opened(folder, whole=False)
    edit = erase(text, ["cat"], "uce", vocabulary=None)
    drawn = []
    for family in (whole, text):
        with applied(family, [edit]):
            drawn.append(family.sample(["a cat"], [0], steps=2, guidance=2.0, batch=1)[0].tobytes())
        drawn.append(family.sample(["a cat"], [0], steps=2, guidance=2.0, batch=1)[0].tobytes())
    assert drawn[:2] == drawn[2:]
    assert not unread(text)
    assert source_of(text.denoiser) is None
    for one, two in zip(whole.denoiser.state_dict().values(), text.denoiser.state_dict().values(), strict=True):
        assert torch.equal(one, two)
        assert one.stride() == two.stride()


def test_an_edit_below_reads_what_it_changes_and_leaves_the_originals(folder):
    text = opened(folder, whole=False)
    edit = erase(text, ["cat"], "uce", vocabulary=None)
    before = {path: weight.clone() for path, weight in original_weights(text, edit.paths).items()}
    with applied(text, [edit]):
        assert not {f"{path}.weight" for path in edit.paths} & set(unread(text))
        assert all(torch.equal(w, before[path]) for path, w in original_weights(text, edit.paths).items())
        changed = text.parameter(edit.paths[0]).detach()
        assert torch.allclose(changed, before[edit.paths[0]] + edit.delta(edit.paths[0], before[edit.paths[0]]))
    assert torch.equal(text.parameter(edit.paths[0]), before[edit.paths[0]])


def sharded(folder, part):
    """Cut a component's file into two shards of different precisions, with an index."""
    home = folder / part
    file = home / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    names = sorted(tensors)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for name, own in halves.items():
        save_file({n: tensors[n].half() if name[0] == "a" else tensors[n] for n in own}, home / name)
    file.unlink()
    places = {n: name for name, own in halves.items() for n in own}
    index = home / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def test_shards_of_mixed_precision_are_read_as_diffusers_reads_them(folder):
    sharded(folder, PARTS[folder.name])
    whole, text = opened(folder), opened(folder, whole=False)
    one, two = original_weights(whole), original_weights(text)
    assert list(one) == list(two)
    assert all(torch.equal(one[path], two[path]) for path in one)


def lose_a_shard(folder, monkeypatch):
    sharded(folder, "unet")
    (folder / "unet" / "b.safetensors").unlink()


def take_the_index_of_another_model(folder, monkeypatch):
    index = sharded(folder, "unet")
    content = json.loads(index.read_text())
    content["weight_map"]["layers.0.weight"] = "a.safetensors"
    index.write_text(json.dumps(content))


def damage_the_index(folder, monkeypatch):
    sharded(folder, "unet").write_text("{")


def lose_a_map(folder, monkeypatch):
    changed(folder, lambda name, tensors: {n: t for n, t in tensors.items() if n != name})


def give_a_map_another_shape(folder, monkeypatch):
    changed(folder, lambda name, tensors: {**tensors, name: tensors[name][:, :-1].contiguous()})


def give_a_map_another_kind(folder, monkeypatch):
    changed(folder, lambda name, tensors: {**tensors, name: tensors[name].to(torch.complex64)})


def changed(folder, change):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    save_file(change(next(name for name in tensors if "attn2.to_v.weight" in name), tensors), file)


def cut_a_file(folder, monkeypatch):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def lose_the_disk(folder, monkeypatch):
    """Once the headers are read, the files go away."""
    fill = tensors._fill

    def gone(*args):
        shutil.rmtree(folder / "unet", ignore_errors=True)
        fill(*args)

    monkeypatch.setattr(tensors, "_fill", gone)


def leave_no_memory(folder, monkeypatch):
    """Nor let the encoder be read layer by layer."""
    monkeypatch.setattr(streaming, "free_memory", lambda device: 0.0)
    file = folder / "text_encoder" / "model.safetensors"
    save_file({f"other.{name}": t for name, t in load_file(file).items()}, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lose_a_shard, "lacks b.safetensors"),
        (take_the_index_of_another_model, "the index is of another model"),
        (damage_the_index, "cannot be read as an index of shards"),
        (lose_a_map, "attn2.to_v.weight', which the model's configuration asks for"),
        (give_a_map_another_shape, "belongs to another model"),
        (give_a_map_another_kind, "is kept as C64"),
        (cut_a_file, "cut short"),
        (lose_the_disk, "cannot be read any more"),
        (leave_no_memory, "are free, and its files name weights in a way that only reads them all at once"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_files_that_cannot_be_read_are_told_in_one_sentence(sd_folder, damage, says, tmp_path, monkeypatch, excise):
    damage(sd_folder, monkeypatch)
    words = ["--model", sd_folder, "--concept", "cat", "--method", "uce", "--no-preview", "--out", tmp_path / "out"]
    status, _, err = excise("erase", *words)
    assert status == 2
    assert says in err
    sentence = [line for line in err.splitlines() if line.startswith("excise: ") and "warning" not in line]
    assert len(sentence) == 1
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_variant_is_read_where_it_is_and_plain_files_elsewhere(sd_folder):
    file = sd_folder / "unet" / "diffusion_pytorch_model.safetensors"
    halves = {name: tensor.half() for name, tensor in load_file(file).items()}
    save_file(halves, file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    file.unlink()
    options = {"variant": "fp16", "dtype": "float32"}
    one, two = (original_weights(opened(sd_folder, whole=w, **options)) for w in (True, False))
    assert all(torch.equal(one[path], two[path]) for path in one)


@pytest.mark.parametrize("model", BUILT_IN)
@pytest.mark.canvas
def test_built_in_models_are_opened_in_the_same_way(model):
    whole, text = load(model, device="cpu"), load(model, device="cpu", whole=False)
    assert unread(text)
    text.complete_text()
    one, two = (dict(parameters(f.pipe.text_encoder)) for f in (whole, text))
    assert list(one) == list(two)
    assert all(torch.equal(one[name], two[name]) and one[name].dtype == two[name].dtype for name in one)
    with torch.no_grad():
        assert torch.equal(whole.encode(["a cat"]).states, text.encode(["a cat"]).states)


def test_a_safety_checker_is_left_to_diffusers(make, tmp_path):
    """A network of transformers that a pipeline of diffusers brings along is built by neither library's own way."""
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    pictures = {**small, "image_size": 8, "patch_size": 4}
    pipe = make("sd")
    pipe.register_modules(
        safety_checker=StableDiffusionSafetyChecker(
            CLIPConfig(text_config=small, vision_config=pictures, projection_dim=16)
        ),
        feature_extractor=CLIPImageProcessor(size=8),
    )
    pipe.save_pretrained(tmp_path)
    family = opened(tmp_path, whole=False)
    assert isinstance(family.pipe.safety_checker, StableDiffusionSafetyChecker)
    assert torch.equal(family.encode(["a cat"]).states, opened(tmp_path).encode(["a cat"]).states)
