"""The untouched model: edits removed and applied again, parts put back, hooks and LoRAs that stay."""

from __future__ import annotations

import pytest
import torch
from attack_runs import run
from conftest import tiny_pipe, tiny_sdxl

from excise import erase, export
from excise.attacks.original import edits_removed, networks
from excise.edits.edit import applied, applied_edits
from excise.errors import ExciseWarning
from excise.families import family_of
from excise.families.networks import hooked


def test_edits_come_back_in_their_order(tokenizer):
    pipe = tiny_pipe(tokenizer)
    edits = [erase(pipe, [name], "uce", preserve=["dog"]) for name in ("cat", "car")]
    family = family_of(pipe)
    with applied(family, edits):
        before = applied_edits(family)
        with edits_removed(family, before):
            assert applied_edits(family) == []
        assert [e for e, _ in applied_edits(family)] == [e for e, _ in before]


def test_a_swap_puts_one_part_back(tokenizer):
    pipe = tiny_pipe(tokenizer)
    edits = [
        erase(pipe, ["cat"], "uce", preserve=["dog"]),
        erase(pipe, ["cat"], "emcid", preserve=["dog"], anchor="car"),
    ]
    family = family_of(pipe)
    reading, encoding = family.projections()[0].module, pipe.text_encoder.encoder.layers[-1].mlp.fc2
    plain = (reading.weight, encoding.weight)
    states = []
    pipe.unet.register_forward_hook(lambda *_: states.append((reading.weight is plain[0], encoding.weight is plain[1])))
    for part, wanted in (("text encoder put back", (False, True)), ("denoiser put back", (True, False))):
        states.clear()
        with pytest.warns(ExciseWarning):
            found = run(pipe, edits=edits, names=[part])
        assert found.results[0].why == ""
        assert wanted in states
        assert (False, False) in states  # its control is attacked with both edits
    assert (reading.weight is plain[0], encoding.weight is plain[1]) == (True, True)
    with pytest.warns(ExciseWarning):
        alone = run(pipe, edits=edits[:1], names=["text encoder put back", "denoiser put back"])
    assert "the text encoder is the original one already" in alone.results[0].why
    assert "only the denoiser was changed" in alone.results[1].why


def test_the_quick_suite_says_that_only_the_text_encoder_was_changed(tokenizer):
    """Such an edit ends with one file, so the figures of other attacks must not stand alone."""
    pipe = tiny_pipe(tokenizer)
    edits = [erase(pipe, ["cat"], "emcid", preserve=["dog"], anchor="car")]
    found = run(pipe, edits=edits, suite="quick", names=["text encoder put back"])
    assert "only the text encoder was changed" in found.results[0].why


def test_parts_of_a_base_are_put_back(tokenizer, tmp_path):
    """What was erased by other means, in both parts, and where the base is another pipeline."""
    pipe, base = tiny_pipe(tokenizer), tiny_pipe(tokenizer)
    base.unet.to(memory_format=torch.channels_last)  # as it is loaded on a CPU
    names = ["text encoder put back", "denoiser put back"]
    with torch.no_grad():
        family_of(pipe).projections()[0].module.weight.mul_(2)
    alone = run(pipe, base=base, names=names)
    assert "the text encoder is the original one already" in alone.results[0].why
    assert "only the denoiser was changed" in alone.results[1].why
    with torch.no_grad():
        pipe.text_encoder.encoder.layers[-1].mlp.fc2.weight.mul_(2)
    own, drawn = (pipe.text_encoder, pipe.unet), {}
    for part, mixed_by_hand in zip(names, ((base.text_encoder, own[1]), (own[0], base.unet)), strict=True):
        run(pipe, base=base, names=[part], folder=tmp_path / part)
        assert (pipe.text_encoder, pipe.unet) == own
        mixture = tiny_pipe(tokenizer)
        mixture.text_encoder, mixture.unet = mixed_by_hand
        run(mixture, base=base, names=["seeds"], folder=tmp_path / f"{part} by hand")
        for name in (part, f"{part} by hand"):
            drawn[name] = {p.read_bytes() for p in (tmp_path / name).rglob("*.png")}
        assert drawn[f"{part} by hand"] < drawn[part]  # beside those of the control
    half = tiny_pipe(tokenizer).to(torch.bfloat16)
    assert "torch.bfloat16; load both alike" in run(pipe, base=half, names=names[:1]).results[0].why


def test_hooks_of_transformers_are_none(tokenizer):
    """It reads a layer of SDXL's text encoders by hooks of its own, which stay."""
    pipe = tiny_sdxl(tokenizer)
    family_of(pipe).condition(["a cat"])
    assert not any(map(hooked, networks(family_of(pipe))))


def test_a_model_that_ships_a_lora_is_not_attacked_without_it(tokenizer, tmp_path):
    pipe = tiny_pipe(tokenizer)
    done = export(erase(pipe, ["cat"], "uce", preserve=["dog"]), pipe, tmp_path)
    pipe.load_lora_weights(str(done.path.parent), weight_name=done.path.name)
    with pytest.warns(ExciseWarning, match="give that one with --base|give that one"):
        found = run(pipe, names=["relearning, 5 pictures", "seeds"])
    assert "the model ships a LoRA" in found.results[0].why
    assert found.results[1].model is not None
