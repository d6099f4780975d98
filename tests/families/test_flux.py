"""What FLUX.1 does differently from the families with cross-attention."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_flux import build
from torch.testing import assert_close

from excise import erase, load
from excise.errors import ModelError
from excise.families import family_of
from excise.families.conditions import Condition
from excise.families.flux import Flux
from excise.families.networks import parameters
from excise.families.noising import noising
from excise.families.streaming import streams
from excise.training.adapters import Adapter

EMBEDDER, POOLED = "context_embedder", "time_text_embed.text_embedder.linear_1"


@pytest.fixture
def pipe():
    return build()


@pytest.fixture
def family(pipe):
    return family_of(pipe)


def predict(family, condition, seed: int = 0, time: float = 500.0) -> torch.Tensor:
    latents = torch.randn(len(condition), *family.latent_shape, generator=torch.Generator().manual_seed(seed))
    return family.predict(latents, torch.full((len(condition),), time), condition)


def test_latents_and_pictures_are_shifted_and_scaled(pipe, family):
    latents = family.latents(family.sample(["a cat"], [0], steps=1, guidance=1.0, batch=1))
    assert latents.shape == (1, *family.latent_shape)
    vae = pipe.vae.config
    pixels = pipe.vae.decode(latents / vae.scaling_factor + vae.shift_factor).sample
    theirs = pipe.image_processor.postprocess(pixels, output_type="pil")[0]
    assert np.array_equal(np.asarray(family.decode(latents)[0]), np.asarray(theirs))


def test_tokens_without_a_start_token(family):
    states = family.encode(["a photo of the cat on grass", "cat", "on grass"], ["cat", None, 0])
    assert states.first.tolist() == [4, 0, 0]
    assert states.last.tolist() == [4, 0, 0]
    assert states.end.tolist() == [7, 1, 2]
    sizes = {t: len(states.span(0, t)) for t in ("last", "subject", "from_last", "all_but_start", "all")}
    assert sizes == {"last": 1, "subject": 1, "from_last": 28, "all_but_start": 32, "all": 32}
    assert states.pooled.shape == (3, 24)


def test_a_prompt_is_encoded_once_and_no_state_is_kept_that_is_not_wanted(pipe, family):
    texts = ["a cat", "a photo of a cat", "a cat", "", "a cat"]
    subjects = ["cat", "cat", None, None, "a"]
    given = []
    encode = pipe.encode_prompt

    def counted(prompt, **options):
        given.extend(prompt)
        return encode(prompt=prompt, **options)

    pipe.encode_prompt = counted
    whole = family.encode(texts, subjects)
    assert given == ["a cat", "a photo of a cat", ""]
    assert len(whole.rows) == 3 * 32
    assert_close(whole.states[2], encode("a cat", max_sequence_length=32)[0][0])
    assert torch.equal(whole.pooled[0], whole.pooled[4])
    some = family.encode(texts, subjects, ["last", "last", "last", "all", "end"])
    assert len(some.rows) == 3 + 5 + 32  # of "a cat" through its end token, for one request wants that
    for index in range(2):
        assert_close(some.span(index, "last"), whole.span(index, "last"))
    assert_close(some.span(3, "all"), whole.span(3, "all"))
    with pytest.raises(ModelError, match="until='all'"):
        some.span(0, "from_last")


def test_in_bfloat16_no_block_is_read_and_t5_is_read_layer_by_layer(tmp_path):
    """As its library has it, T5 keeps no part in single precision in bfloat16, so that its files can be streamed."""
    build().save_pretrained(tmp_path / "flux")
    edits = []
    for whole in (True, False):
        family = load(tmp_path / "flux", device="cpu", dtype="bfloat16", whole=whole)
        edits.append(erase(family, ["cat"], "uce", preserve=["dog"], vocabulary=None))
        edits[-1].save(tmp_path / f"{whole}.safetensors")
        kinds = {weight.dtype for weight in parameters(family.pipe.text_encoder_2).values()}
        assert kinds == {torch.bfloat16}
    assert streams(family.pipe.text_encoder)
    assert streams(family.pipe.text_encoder_2)
    assert all(weight.is_meta for weight in parameters(family.denoiser).values())
    assert (tmp_path / "True.safetensors").read_bytes() == (tmp_path / "False.safetensors").read_bytes()


def test_inputs_of_maps_are_what_reaches_them(family):
    texts = ["a cat", "a big red dog"]
    inputs = family.inputs([EMBEDDER, POOLED], texts)
    states = family.encode(texts)
    assert torch.equal(inputs[EMBEDDER].rows, states.states)
    assert torch.equal(inputs[EMBEDDER].read, states.read)
    assert torch.equal(inputs[POOLED].rows, states.pooled)
    assert inputs[POOLED].read is None
    assert [p.path for p in family.projections("ep")] == [EMBEDDER, POOLED]
    with pytest.raises(ModelError, match="does not call 'text_encoder_2.encoder'"):
        family.inputs(["text_encoder_2.encoder"], texts)


def test_attention_is_joint(family):
    joint = family.maps("joint")
    assert [m.path for m in joint] == [m.path for m in family.maps("attention")]
    parts = {(m.block.split(".")[0], m.part) for m in joint}
    double = {("transformer_blocks", p) for p in ("q", "k", "v", "out", "add_q", "add_k", "add_v", "add_out")}
    assert parts == double | {("single_transformer_blocks", p) for p in "qkv"}
    assert len(joint) == 2 * 8 + 2 * 3
    with pytest.raises(ModelError, match="no weights of the role 'self'; it has: joint, attention, door, text_mlp"):
        family.maps("self")
    assert [p.path for p in family.projections()] == [EMBEDDER]
    # Without T5's table, which T5 itself reads by another module.
    assert [m.path for m in family.maps("embedding")] == ["text_encoder.embeddings.token_embedding"]
    assert {m.block for m in family.maps("text_mlp")} == {
        *(f"text_encoder.encoder.layers.{i}" for i in range(2)),
        *(f"text_encoder_2.encoder.block.{i}" for i in range(2)),
    }


def test_a_rank_one_delta_on_the_embedder_reads_a_word_as_its_anchor(family):
    """With W' x = W a for the word's row x and W' y = W y for all other rows y, the model reads the anchor's row."""
    prompt, row = "a cat on grass", 1
    rows = family.inputs([EMBEDDER], [prompt, "a dog on grass"])[EMBEDDER].rows.double()
    assert family.encode([prompt], ["cat"]).last.tolist() == [row]
    word, anchor = rows[0, row], rows[1, row]
    reads_word = torch.linalg.pinv(rows[0])[:, row]  # 1 on the word's row, 0 on all others
    condition = family.condition([prompt])
    states = condition.inputs["encoder_hidden_states"].clone()
    states[0, row] = anchor
    wanted = predict(family, Condition({**condition.inputs, "encoder_hidden_states": states}))
    before = predict(family, condition)
    weight = family.parameter(EMBEDDER)
    with torch.no_grad():
        weight += torch.outer(weight.double() @ (anchor - word), reads_word).to(weight)
    edited = predict(family, condition)
    assert_close(edited, wanted, rtol=1e-5, atol=1e-5)
    assert (edited - before).abs().max() > 1e-2


def test_gradients_flow_through_a_prediction_to_the_text_encoders(family):
    family.pipe.text_encoder.requires_grad_(True)
    family.pipe.text_encoder_2.requires_grad_(True)
    predict(family, family.live_condition(["a cat"])).square().mean().backward()
    for m in family.maps("text_mlp"):
        if m.path.startswith("text_encoder_2") or ".layers.0" in m.path:
            assert family.parameter(m.path).grad.abs().max() > 0


def test_joint_maps_can_be_trained(family):
    """One step of ESD: away from what the concept adds to the unconditional prediction."""
    concept, empty = family.condition(["a cat"]), family.unconditional()
    before, free = predict(family, concept), predict(family, empty)
    with Adapter(family, [m.path for m in family.maps("joint")], 2, seed=0) as adapter:
        optimiser = torch.optim.Adam(adapter.parameters.values(), lr=1e-2)
        loss = (predict(family, concept) - (free - (before - free))).square().mean()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            after = predict(family, concept)
            assert (after - (free - (before - free))).square().mean() < loss
            assert set(adapter.deltas()) == {m.path for m in family.maps("joint")}
    assert torch.equal(predict(family, concept), before)


def test_the_schedule_shifts_with_the_picture(pipe, family):
    """The shift of training times is that of the sampler: s' = k s / (1 + (k - 1) s) with k = e^mu."""
    plan = family.noising
    assert (plan.kind, family.prediction) == ("flow", "flow")
    tokens = (family.image_size // pipe.vae_scale_factor // 2) ** 2
    mu = 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
    assert plan.shift == pytest.approx(math.exp(mu))
    uniform = np.linspace(1.0, 0.25, 4)
    pipe.scheduler.set_timesteps(sigmas=uniform, mu=mu)
    ours = plan.shift * uniform / (1 + (plan.shift - 1) * uniform)
    assert_close(pipe.scheduler.sigmas[:-1], torch.tensor(ours, dtype=torch.float32))
    pipe.vae.register_to_config(sample_size=64)
    assert family.noising.shift > plan.shift
    with pytest.raises(ModelError, match="shifts with the picture's size"):
        noising(pipe.scheduler)


class Unpadded(Flux):
    """The same family, were its prompts not padded."""

    pads_text = False

    def _condition(self, texts):
        whole = super()._condition(texts)
        length = max(len(row) for row in self.pipe.tokenizer_2(list(texts)).input_ids)
        states = whole.inputs["encoder_hidden_states"][:, :length]
        return Condition({**whole.inputs, "encoder_hidden_states": states})

    def unconditional(self):
        return super()._condition([""])


def test_prompts_of_other_lengths_are_drawn_in_groups_where_padding_changes_the_picture(pipe):
    family = Unpadded(pipe)
    requests = [("a cat", 1), ("a big red dog", 2), ("a car", 3), ("a cat", 4)]
    together = next(family.batches([requests], steps=2, guidance=1.0))
    for image, request in zip(together, requests, strict=True):
        alone = next(family.batches([[request]], steps=2, guidance=1.0))[0]
        assert np.abs(np.asarray(image).astype(int) - np.asarray(alone).astype(int)).max() <= 1
