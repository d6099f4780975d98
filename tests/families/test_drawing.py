"""Images kept by content: nothing twice, damage repaired, several processes sharing the work."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from peft import LoraConfig
from PIL import Image

from excise.edits.bases import base_of
from excise.edits.deltas import LowRank
from excise.edits.edit import Edit
from excise.edits.record import EditRecord
from excise.errors import ModelError, UnknownNameError
from excise.families import family_of
from excise.families.drawing import Workers, draw, model_key
from excise.families.networks import hooked

ASKED = [(p, seed) for seed in range(3) for p in ("a cat", "a dog")]


@pytest.fixture
def family(pipe):
    return family_of(pipe)


class Counting:
    """A family that counts the images it draws."""

    def __init__(self, family):
        self._family, self.drawn = family, 0

    def __getattr__(self, name):
        return getattr(self._family, name)

    def batches(self, requests, **options):
        for images in self._family.batches(requests, **options):
            self.drawn += len(images)
            yield images


def run(family, cache=None, **options):
    return draw(family, ASKED, steps=2, guidance=2.0, batch=4, cache=cache, **options)


def bytes_of(images):
    return [i.tobytes() for i in images]


def test_nothing_is_drawn_twice_and_damage_is_repaired(family, tmp_path, caplog):
    counting = Counting(family)
    first = run(counting, tmp_path)
    wanted, files = bytes_of(first), [p.read_bytes() for p in first.paths]
    assert counting.drawn == 6
    assert bytes_of(run(counting, tmp_path)) == wanted
    assert counting.drawn == 6
    first.paths[1].write_bytes(files[1][:40])
    again = run(counting, tmp_path)
    assert counting.drawn == 10  # the whole batch, so that its bytes are those of an uninterrupted run
    assert [p.read_bytes() for p in again.paths] == files
    assert "damaged" in caplog.text


def test_without_a_cache_the_images_live_as_long_as_they_are_held(family):
    images = run(family)
    folder = images.paths[0].parent
    assert isinstance(images[0], Image.Image)
    assert len(images[1:3]) == 2
    del images
    assert not folder.exists()


def test_the_key_follows_the_weights_in_force(family, tmp_path):
    before = model_key(family)
    path = family.projections("v")[0].path
    weight = family.denoiser.get_submodule(path).weight
    delta = LowRank(torch.ones(weight.shape[0], 1), torch.arange(float(weight.shape[1]))[None])
    record = EditRecord(excise="0", base=base_of(family, "tiny"), method="test", concepts=())
    plain = run(family, tmp_path)
    with Edit(record, (), {path: delta}).apply(family):
        assert model_key(family) != before
        edited = run(family, tmp_path)
    assert model_key(family) == before
    assert not set(plain.paths) & set(edited.paths)
    assert bytes_of(plain) != bytes_of(edited)


def test_two_workers_make_the_bytes_of_one(family, tmp_path):
    one = run(family, tmp_path / "one")
    counts = []
    for rank in range(2):
        counting = Counting(family)
        draw(counting, ASKED, steps=2, guidance=2.0, batch=4, cache=tmp_path / "two", workers=Workers(rank, 2))
        counts.append(counting.drawn)
    two = run(family, tmp_path / "two")
    assert counts == [4, 2]
    assert [p.read_bytes() for p in one.paths] == [p.read_bytes() for p in two.paths]


def test_other_samplers(family, tmp_path):
    own = family.pipe.scheduler
    assert bytes_of(run(family, sampler="ddim")) == bytes_of(run(family, sampler="ddim"))
    assert family.pipe.scheduler is own
    with pytest.raises(UnknownNameError, match="no sampler 'dimm'. Did you mean 'ddim'"):
        run(family, sampler="dimm")


class Louder(AttnProcessor2_0):
    """An attention processor of one's own."""

    def __call__(self, *args, **kwargs):
        return 2 * super().__call__(*args, **kwargs)


def _hook(family):
    hook = family.denoiser.conv_in.register_forward_hook(lambda module, inputs, output: 2 * output)
    return hook.remove


def _pre_hook(family):
    hook = family.pipe.vae.register_forward_pre_hook(lambda module, inputs: None)
    return hook.remove


def _processor(family):
    own = dict(family.denoiser.attn_processors)
    family.denoiser.set_attn_processor(Louder())
    return lambda: family.denoiser.set_attn_processor(own)


def _forward(family):
    own = family.denoiser.conv_out.forward
    family.denoiser.conv_out.forward = lambda x: 2 * own(x)
    return lambda: family.denoiser.conv_out.__dict__.pop("forward")


def _freeu(family):
    family.denoiser.enable_freeu(s1=0.9, s2=0.2, b1=1.4, b2=1.6)
    return family.denoiser.disable_freeu


@pytest.mark.parametrize("change", [_hook, _pre_hook, _processor, _forward, _freeu])
def test_a_model_with_ways_of_its_own_shares_no_pictures(family, tmp_path, change):
    counting, key = Counting(family), model_key(family)
    plain = bytes_of(run(counting, tmp_path))
    undo = change(family)
    first, files = model_key(family), sorted(tmp_path.rglob("*.png"))
    assert first != key
    assert first != model_key(family)  # nothing tells what it is, so nothing of it is kept
    own = bytes_of(run(counting, tmp_path))
    assert counting.drawn == 12
    assert bytes_of(run(family)) == own
    assert sorted(tmp_path.rglob("*.png")) == files
    with pytest.raises(ModelError, match="cannot be drawn by several processes"):
        run(family, tmp_path, workers=Workers(0, 2))
    undo()
    assert model_key(family) == key
    assert bytes_of(run(counting, tmp_path)) == plain
    assert counting.drawn == 12
    assert (own != plain) == (change is not _pre_hook)


def test_a_lora_has_pictures_of_its_own_at_every_scale(family, tmp_path):
    key, denoiser = model_key(family), family.denoiser
    denoiser.add_adapter(LoraConfig(r=2, target_modules=["to_k"], init_lora_weights=False), "one")
    full = model_key(family)
    denoiser.set_adapters(["one"], [0.5])
    half = model_key(family)
    denoiser.disable_lora()
    off = model_key(family)
    denoiser.enable_lora()
    denoiser.set_adapters(["one"], [1.0])
    assert model_key(family) == full
    assert len({key, full, half, off}) == 4
    counting = Counting(family)
    assert bytes_of(run(counting, tmp_path)) == bytes_of(run(counting, tmp_path))
    assert counting.drawn == 6
    denoiser.unload_lora()
    assert model_key(family) == key


def test_a_model_as_it_is_loaded_has_no_ways_of_its_own(any_pipe):
    family = family_of(any_pipe)
    before = model_key(family)
    family.sample(["a cat"], [0], steps=1, guidance=2.0, batch=1)
    assert not any(hooked(part) for part in any_pipe.components.values() if isinstance(part, torch.nn.Module))
    assert model_key(family) == before
    family.denoiser.compile(backend="eager")
    assert model_key(family) == before
