"""SurgUn as a whole: precision, memory, losses, what it refuses, and going on from a folder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import tiny_pipe
from surgun_help import SMALL

from excise import erase
from excise.edits.edit import Edit
from excise.errors import SettingError
from excise.families import family_of
from excise.families.pipeline import PipelineFamily
from excise.methods.base import Context
from excise.training.probes import Probe


@pytest.mark.parametrize("method", ["surgun", "esd"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_model_in_half_precision_is_trained_as_well(any_pipe, method, precision):
    any_pipe.to(dtype=torch.bfloat16)
    knobs = {"confine": False, "blocks": "all", **SMALL} if method == "surgun" else {"steps": 2, "batch": 2}
    edit = erase(any_pipe, ["cat"], method, preserve=["dog"], precision=precision, **knobs)
    assert all(np.isfinite(x["loss"]) for x in edit.record.measured["losses"])
    assert all(d.a.dtype == torch.float32 for d in edit.modules.values())
    assert (
        next(any_pipe.unet.parameters() if hasattr(any_pipe, "unet") else any_pipe.transformer.parameters()).dtype
        == torch.bfloat16
    )


@pytest.mark.parametrize("within", [False, True], ids=["", "within autocast"])
def test_half_precision_reads_the_weights_as_they_are_trained(tokenizer, within):
    """Autocast keeps the casts of weights until its outermost context ends, which may be the caller's."""

    def losses(lr):
        with torch.autocast("cpu", torch.bfloat16, enabled=within):
            options = {"confine": False, "blocks": "all", **SMALL, "lr": lr, "precision": "bf16"}
            edit = erase(tiny_pipe(tokenizer), ["cat"], method="surgun", preserve=["dog", "ox"], **options)
        return [row["loss"] for row in edit.record.measured["losses"]]

    still, moving = losses(1e-12), losses(1.0)
    assert still[0] == moving[0]
    assert all(a != b for a, b in zip(still[1:], moving[1:], strict=True))


def test_recomputing_changes_memory_alone(any_pipe):
    def losses(**knobs):
        edit = erase(any_pipe, ["cat"], "surgun", preserve=["dog"], confine=False, blocks="all", **SMALL, **knobs)
        return [x["loss"] for x in edit.record.measured["losses"]]

    calls, network = [], family_of(any_pipe).denoiser
    plain = losses()
    block = next(m for n, m in network.named_modules() if n.endswith("transformer_blocks.0"))
    hook = block.register_forward_pre_hook(lambda *_: calls.append(1))
    losses()
    once = len(calls)
    again = losses(checkpointing=True)
    hook.remove()
    assert again == pytest.approx(plain, rel=1e-5)
    assert len(calls) - once > once
    assert not any(getattr(m, "gradient_checkpointing", False) for m in network.modules())


def test_the_retain_loss_holds_kept_prompts_and_starts_at_zero(tokenizer):
    pipe = tiny_pipe(tokenizer)

    def retained(weight: float) -> list[float]:
        knobs = {**SMALL, "steps": 12, "batch": 4, "confine": False, "blocks": "all", "retain_weight": weight}
        losses = erase(pipe, ["cat"], "surgun", preserve=["dog"], **knobs).record.measured["losses"]
        return [x["retain"] for x in losses]

    free, held = retained(1e-6), retained(100.0)
    assert free[0] == held[0] == 0
    assert held[-1] < 0.5 * free[-1]
    with pytest.raises(SettingError, match="retain_weight and robust need prompts to keep"):
        erase(pipe, ["cat"], "surgun", confine=False, blocks="all", retain_weight=1.0, **SMALL)


def test_what_is_also_erased_or_was_is_no_probe_of_what_is_kept(any_pipe, monkeypatch):
    """With "canvas" as vocabulary: neighbours of a target that are targets themselves, or gone already."""
    seen: list[Probe] = []
    monkeypatch.setattr("excise.training.run.Preview", lambda family, probes, *_, **named: seen.extend(probes))
    context = Context(lambda images, names: [True] * len(names))

    def probes(names: list[str]) -> list[Probe]:
        seen.clear()
        erase(any_pipe, names, "surgun", context=context, **{**SMALL, "vocabulary": "canvas"})
        return list(seen)

    def kept(found: list[Probe]) -> set[str]:
        return {p.name for p in found if p.role in ("related", "unrelated")}

    assert "dog" in kept(probes(["cat"]))
    both = probes(["cat", "dog"])
    assert not {"cat", "dog"} & kept(both)
    assert {p.name for p in both if p.role == "target"} == {"cat", "dog"}
    with erase(any_pipe, ["dog"], "uce", vocabulary="canvas").apply(any_pipe):
        after = probes(["cat"])
    assert "dog" not in kept(after)
    assert {p.name for p in after if p.role == "gone"} == {"dog"}
    assert {p.prompt for p in after if p.role == "gone"} <= {p.prompt for p in both if p.name == "dog"}


def test_what_cannot_be_trained_is_refused_before_anything_is_drawn(tokenizer, monkeypatch):
    pipe = tiny_pipe(tokenizer)
    monkeypatch.setattr(PipelineFamily, "batches", lambda *_, **__: pytest.fail("it has drawn"))
    context = Context(lambda images, names: [True] * len(names))

    def refused(match: str, **knobs) -> None:
        with pytest.raises(SettingError, match=match):
            erase(pipe, ["cat"], "surgun", **{"preserve": ["dog"], "context": context, **SMALL, **knobs})

    refused("SurgUn needs names to protect", preserve=[])
    refused("no attention block 'nowhere'", blocks="nowhere")
    refused("no attention block 'nowhere'", blocks="nowhere", confine=False)
    refused("blocks was 'random:x'; expected a number", blocks="random:x")
    refused("needs --set confine=false", blocks="worst:1")
    refused("without a judge no blocks can be localised", context=Context(), confine=False)
    refused("precision fp16 needs a GPU", precision="fp16")
    refused("no tracker 'pencil' is installed", tracker="pencil")


@pytest.mark.parametrize("contrast", ["ratio", "logasc", "npo", "duo", "ga", "none"])
def test_every_contrast_trains(tokenizer, contrast):
    pipe = tiny_pipe(tokenizer)
    edit = erase(pipe, ["cat", "car"], "surgun", confine=False, blocks="all", contrast=contrast, **SMALL)
    losses = edit.record.measured["losses"]
    assert len(losses) == 4
    assert all(np.isfinite(x["loss"]) for x in losses)
    assert not set(edit.record.measured["distractors"]["cat"]) & {"car"}


def test_another_request_in_the_same_folder_is_trained_anew(tokenizer, tmp_path):
    pipe = tiny_pipe(tokenizer)

    def losses(name: str, folder=tmp_path, **more) -> list[float]:
        context = Context(folder=folder)
        edit = erase(
            pipe, [name], "surgun", preserve=["dog"], context=context, confine=False, blocks="all", **SMALL, **more
        )
        return [x["loss"] for x in edit.record.measured["losses"]]

    cat = losses("cat")
    assert losses("cat") == cat
    assert losses("car") == losses("car", folder=None) != cat
    assert losses("car", weight=0.5) == losses("car", folder=None, weight=0.5)


def test_a_second_concept_is_erased_on_top_of_the_first(any_pipe, excise, tmp_path):
    any_pipe.save_pretrained(tmp_path / "model")
    knobs = {**SMALL, "confine": "false", "blocks": "all"}
    del knobs["vocabulary"]  # an option of its own
    settings = [part for k, v in knobs.items() for part in ("--set", f"{k}={v}")]

    def run(concept: str, out: str, *more) -> None:
        command = ["erase", "--model", tmp_path / "model", "--method", "surgun", "-c", concept, "--out", tmp_path / out]
        status, _, err = excise(*command, *settings, *more)
        assert status == 0, err

    run("cat", "first")
    run("car", "second", "--edit", tmp_path / "first/edit.safetensors")
    run("car", "alone")
    first, second, alone = (Edit.load(tmp_path / f"{x}/edit.safetensors") for x in ("first", "second", "alone"))
    assert second.record.measured["after"] == ["surgun: cat"]
    assert "after" not in alone.record.measured
    assert second.record.base == alone.record.base
    path = second.paths[0]
    assert not torch.equal(second.modules[path].b, alone.modules[path].b)
    with first.apply(any_pipe), second.apply(any_pipe):  # in the order in which they were made
        pass
