"""EMCID: equal to its formula written out token by token, exact to take off, loaded by others as a LoRA."""

from __future__ import annotations

import pytest
import torch
from conftest import tiny_pipe, tiny_sana, tiny_sdxl
from dits import CASES
from torch.testing import assert_close

from excise import Concept, Edit, erase, export, update
from excise.edits.bases import base_of
from excise.edits.originals import original_weights
from excise.errors import ConceptError, ModelError, WrongBaseError
from excise.families import family_of
from excise.families.load import as_family

KEPT = ["dog", "tree"]


@pytest.fixture(params=["sd", "sdxl"])
def clip_pipe(request, tokenizer):
    return {"sd": tiny_pipe, "sdxl": tiny_sdxl}[request.param](tokenizer)


def made(pipe, concepts=("cat",), **more) -> Edit:
    return erase(pipe, list(concepts), "emcid", preserve=KEPT, vocabulary=None, **{"anchor": "car", **more})


def streams(pipe, prompt: str) -> torch.Tensor:
    """(L, d) what the UNet is given."""
    return family_of(pipe).condition([prompt]).inputs["encoder_hidden_states"][0]


def predicted(pipe, prompt: str) -> torch.Tensor:
    family = as_family(pipe)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return family.predict(latents, torch.tensor([500]), family.condition([prompt]))


def by_formula(look, templates) -> torch.Tensor:
    """The change of one layer; `look` returns a prompt's inputs, its last stream and the token of its last word."""
    X, R, K = [], [], []
    for template in templates:
        x, s, start = look(template.format("cat"))
        _, wanted, theirs = look(template.format("car"))
        for i in range(len(x) - max(start, theirs)):
            X.append(x[start + i])
            R.append(wanted[theirs + i] - s[start + i])
    for text in [t.format(n) for n in KEPT for t in templates] + [""]:
        K += list(look(text)[0])
    X, R, K = torch.stack(X, 1), torch.stack(R, 1), torch.stack(K, 1)
    A = X @ X.T / X.shape[1] + 3.0 * K @ K.T / K.shape[1]
    A += 0.01 * A.trace() / len(A) * torch.eye(len(A), dtype=A.dtype)
    return R @ X.T @ torch.linalg.inv(A) / X.shape[1]


def test_one_layer_is_its_formula_token_by_token(tokenizer):
    """D = R X' (X X' + lambda K K' + ridge I)^-1, every column gathered by hand from the encoder itself."""
    pipe = tiny_pipe(tokenizer)
    templates = ["{}", "a {}"]
    encoder, seen = pipe.text_encoder, {}
    last = encoder.encoder.layers[-1]
    last.mlp.fc2.register_forward_pre_hook(lambda m, a: seen.update(x=a[0][0].detach().double()))
    last.register_forward_hook(lambda m, a, out: seen.update(s=(out[0] if isinstance(out, tuple) else out)[0].double()))

    def look(text: str) -> tuple[torch.Tensor, torch.Tensor, int]:
        ids = tokenizer(text, padding="max_length", max_length=encoder.config.max_position_embeddings).input_ids
        encoder(torch.tensor([ids]))
        return seen["x"], seen["s"], len(tokenizer(text).input_ids) - 2  # the last word stands before the end token

    D = by_formula(look, templates)
    last.mlp.fc2._forward_pre_hooks.clear()
    last._forward_hooks.clear()

    import excise.concepts.vocabulary
    import excise.erasing.erase
    import excise.methods.closed_form.text_problem

    with pytest.MonkeyPatch.context() as patch:
        few = {**excise.erasing.erase.TEMPLATES, "object": templates}
        patch.setattr(excise.erasing.erase, "TEMPLATES", few)
        patch.setattr(excise.concepts.vocabulary, "TEMPLATES", few)
        edit = made(pipe, layers=1, retain_scale=3.0, ridge=0.01)
    (path,) = edit.paths
    assert path == f"text_encoder.encoder.layers.{len(encoder.encoder.layers) - 1}.mlp.fc2"
    assert_close(edit.modules[path].dw.double(), D, rtol=1e-4, atol=1e-6)


def test_a_target_is_read_as_its_anchor_and_others_as_before(clip_pipe):
    cat, car, dog = (streams(clip_pipe, f"a {n}") for n in ("cat", "car", "dog"))
    with made(clip_pipe, retain_scale=1.0).apply(clip_pipe):
        now, kept = streams(clip_pipe, "a cat"), streams(clip_pipe, "a dog")
    assert (now - car).norm() < 0.5 * (cat - car).norm()
    assert (kept - dog).norm() < 0.5 * (now - cat).norm()


def test_several_layers_share_the_work(tokenizer):
    pipe = tiny_pipe(tokenizer)
    count = pipe.text_encoder.config.num_hidden_layers
    assert len(made(pipe, layers=1).paths) == 1
    assert len(made(pipe, layers=99).paths) == count > 1


def test_it_is_taken_off_again_exactly(clip_pipe):
    family = family_of(clip_pipe)
    base, picture = base_of(family, "tiny"), predicted(clip_pipe, "a cat")
    edit = made(clip_pipe)
    weights = {path: family_weight(clip_pipe, path) for path in edit.paths}
    with edit.apply(clip_pipe):
        assert not torch.equal(predicted(clip_pipe, "a cat"), picture)
        assert base_of(family, "tiny") == base  # an edit in force is no other model
        assert all(torch.equal(w, weights[p]) for p, w in original_weights(family, edit.paths).items())
        assert all(family_weight(clip_pipe, path) is not w for path, w in weights.items())
    assert all(family_weight(clip_pipe, path) is w for path, w in weights.items())
    assert torch.equal(predicted(clip_pipe, "a cat"), picture)


def family_weight(pipe, path: str) -> torch.nn.Parameter:
    encoder, _, rest = path.partition(".")
    modules = dict(getattr(pipe, encoder).named_modules())
    return next(m for name, m in modules.items() if name.removeprefix("text_model.") == rest).weight


def test_with_an_edit_of_the_denoiser_on_top(clip_pipe, tmp_path):
    """Both are in force, each leaves alone, and files hold them."""
    edit = Edit.load(made(clip_pipe).save(tmp_path / "e.safetensors"))
    other = erase(clip_pipe, ["tree"], "uce", preserve=["dog"])
    plain = predicted(clip_pipe, "a cat")
    with edit.apply(clip_pipe):
        one = predicted(clip_pipe, "a cat")
        with other.apply(clip_pipe):
            assert not torch.equal(predicted(clip_pipe, "a cat"), one)
        assert torch.equal(predicted(clip_pipe, "a cat"), one)
    assert torch.equal(predicted(clip_pipe, "a cat"), plain)


@pytest.mark.parametrize("format", ["diffusers-lora", "kohya-lora"])
def test_stock_pipelines_load_it_as_a_lora(clip_pipe, tokenizer, tmp_path, format):
    edit = made(clip_pipe)
    base = predicted(clip_pipe, "a cat")
    with edit.apply(clip_pipe):
        wanted = predicted(clip_pipe, "a cat")
    done = export(edit, clip_pipe, tmp_path, format)
    assert done.error < 1e-4
    clip_pipe.load_lora_weights(str(done.path.parent), weight_name=done.path.name)
    effect, miss = (wanted - base).abs().max(), (predicted(clip_pipe, "a cat") - wanted).abs().max()
    assert effect > 1e-4
    assert miss < 1e-2 * effect
    clip_pipe.unload_lora_weights()
    assert torch.equal(predicted(clip_pipe, "a cat"), base)


def test_a_merged_pipeline_has_it_inside(clip_pipe, tmp_path):
    edit = made(clip_pipe)
    with edit.apply(clip_pipe):
        wanted = predicted(clip_pipe, "a cat")
    done = export(edit, clip_pipe, tmp_path, "merged")
    assert done.error < 1e-4
    merged = type(clip_pipe).from_pretrained(done.path)
    assert_close(predicted(merged, "a cat"), wanted, rtol=1e-4, atol=1e-5)


def test_concepts_added_later_give_the_edit_made_at_once(tokenizer):
    pipe = tiny_pipe(tokenizer)
    at_once, later = made(pipe, ["cat", "fish"]), update(pipe, made(pipe), add=["fish"])
    assert [c.name for c in later.record.concepts] == ["cat", "fish"]
    assert all(torch.equal(later.tensors()[name], t) for name, t in at_once.tensors().items())


def test_a_fine_tune_with_the_same_encoder_takes_it_another_does_not(tokenizer):
    pipe, tuned, foreign = tiny_pipe(tokenizer), tiny_pipe(tokenizer), tiny_pipe(tokenizer, seed=1)
    with torch.no_grad():
        tuned.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.weight.add_(0.1)
    edit = made(pipe)
    with pytest.raises(WrongBaseError, match="has other weights"):
        edit.apply(tuned)
    plain = predicted(tuned, "a cat")
    with edit.apply(tuned, allow_other_base=True):
        assert not torch.equal(predicted(tuned, "a cat"), plain)
    with pytest.raises(WrongBaseError, match="another text encoder"):
        edit.apply(foreign, allow_other_base=True)


def test_what_it_is_not_for(gemma_tokenizer, tokenizer, tmp_path):
    sana = tiny_sana(gemma_tokenizer)
    with pytest.raises(ModelError, match=r"emcid needs .*\(text_mlp\), which the model family 'sana' does not provide"):
        made(sana)
    with pytest.raises(ConceptError, match="is itself to be erased"):
        made(tiny_pipe(tokenizer), [Concept("cat"), Concept("car")])


@pytest.fixture(params=["flux-dev", "zimage"])
def transformer_pipe(request):
    return CASES[request.param].build()


def rows_of(pipe, prompt: str) -> dict[str, torch.Tensor]:
    """What the transformer is given of a prompt."""
    inputs = family_of(pipe).condition([prompt]).inputs
    return {name: t.double() for name, t in inputs.items() if t.is_floating_point()}


def test_t5_and_decoders_read_a_target_as_its_anchor(transformer_pipe):
    before = {n: rows_of(transformer_pipe, f"a {n}") for n in ("cat", "car", "dog")}
    edit = made(transformer_pipe, retain_scale=1.0)
    assert {p.partition(".")[0] for p in edit.paths} == set(family_of(transformer_pipe).text_encoders)
    with edit.apply(transformer_pipe):
        after = {n: rows_of(transformer_pipe, f"a {n}") for n in before}
    for name, cat in before["cat"].items():
        assert (after["cat"][name] - before["car"][name]).norm() < 0.5 * (cat - before["car"][name]).norm()
        moved = (after["cat"][name] - cat).norm()
        assert (after["dog"][name] - before["dog"][name]).norm() < 0.5 * moved
    assert all(torch.equal(t, before["cat"][k]) for k, t in rows_of(transformer_pipe, "a cat").items())


def test_one_layer_of_t5_is_its_formula_token_by_token(monkeypatch):
    """T5 reads padding, so every row from the subject's last token on is erased and every row is kept."""
    import excise.concepts.vocabulary
    import excise.erasing.erase

    templates = ["{}", "a {}"]
    few = {**excise.erasing.erase.TEMPLATES, "object": templates}
    monkeypatch.setattr(excise.erasing.erase, "TEMPLATES", few)
    monkeypatch.setattr(excise.concepts.vocabulary, "TEMPLATES", few)
    pipe = CASES["flux-dev"].build()
    edit = made(pipe, layers=1, retain_scale=3.0, ridge=0.01)
    encoder, tokenizer, length, seen = pipe.text_encoder_2, pipe.tokenizer_2, family_of(pipe).max_tokens, {}
    block = encoder.encoder.block[-1]
    block.layer[1].DenseReluDense.wo.register_forward_pre_hook(lambda m, a: seen.update(x=a[0][0].detach().double()))
    block.register_forward_hook(lambda m, a, out: seen.update(s=out[0][0].detach().double()))

    def look(text: str) -> tuple[torch.Tensor, torch.Tensor, int]:
        ids = tokenizer(text, padding="max_length", max_length=length).input_ids
        encoder(torch.tensor([ids]))
        return seen["x"], seen["s"], len(tokenizer(text).input_ids) - 2  # the last piece stands before the end token

    D = by_formula(look, templates)
    path = next(p for p in edit.paths if p.startswith("text_encoder_2."))
    assert_close(edit.modules[path].dw.double(), D, rtol=1e-4, atol=1e-6)


def test_what_changes_t5_or_a_decoder_leaves_as_a_merged_folder(transformer_pipe, tmp_path):
    edit = made(transformer_pipe)
    with pytest.raises(WrongBaseError, match=r"this edit changes 'text_encoder.*use --format merged"):
        export(edit, transformer_pipe, tmp_path, "diffusers-lora")
    done = export(edit, transformer_pipe, tmp_path, "merged")
    with edit.apply(transformer_pipe):
        wanted = rows_of(transformer_pipe, "a cat")
    merged = type(transformer_pipe).from_pretrained(done.path)
    for name, rows in rows_of(merged, "a cat").items():
        assert_close(rows, wanted[name], rtol=1e-4, atol=1e-5)
