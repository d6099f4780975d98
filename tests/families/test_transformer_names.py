"""Original names of transformers are those that diffusers' own converters read, with the rows where they read them."""

from __future__ import annotations

import diffusers
import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_flux2_transformer_checkpoint_to_diffusers,
    convert_flux_transformer_checkpoint_to_diffusers,
    convert_krea2_transformer_checkpoint_to_diffusers,
    convert_sd3_transformer_checkpoint_to_diffusers,
    convert_z_image_transformer_checkpoint_to_diffusers,
)

from excise.errors import WrongBaseError
from excise.families.transformer_names import Piece, original_pieces, spans, stacked

CONVERTERS = {
    "flux": convert_flux_transformer_checkpoint_to_diffusers,
    "zimage": convert_z_image_transformer_checkpoint_to_diffusers,
    "flux2": convert_flux2_transformer_checkpoint_to_diffusers,
}


def networks():
    """Networks of the true widths, which the converters count on, without numbers."""
    with torch.device("meta"):
        for guidance in (True, False):
            yield "flux", diffusers.FluxTransformer2DModel(num_layers=2, num_single_layers=2, guidance_embeds=guidance)
        yield "zimage", diffusers.ZImageTransformer2DModel(n_layers=2)
        yield "flux2", diffusers.Flux2Transformer2DModel(num_layers=2, num_single_layers=2)


@pytest.mark.parametrize(("family", "network"), networks())
def test_converters_of_diffusers_give_back_what_was_stacked(family, network):
    """Weights have their true number of rows, and one column."""
    generator = torch.Generator().manual_seed(0)
    own = {
        name: torch.randn(len(weight), *([1] * (weight.ndim - 1)), generator=generator)
        for name, weight in network.state_dict().items()
    }
    pieces = original_pieces(family, own)
    state = {name: stacked(row, own) for name, row in pieces.items()}
    assert sum(len(t) for t in state.values()) == sum(len(t) for t in own.values())
    read = CONVERTERS[family](dict(state))
    assert read.keys() == own.keys()
    assert all(torch.equal(read[name], weight) for name, weight in own.items())


@pytest.mark.parametrize("family", CONVERTERS)
def test_spans_are_where_the_pieces_lie(family):
    network = next(network for name, network in networks() if name == family)
    own = {name: torch.arange(len(weight)) for name, weight in network.state_dict().items()}
    lengths = {name: len(weight) for name, weight in own.items()}
    for row in original_pieces(family, own).values():
        whole = stacked(row, own)
        for piece, theirs, ours in spans(row, lengths):
            assert torch.equal(whole[theirs], own[piece.name][ours])


def test_a_weight_without_a_place_is_refused_where_there_is_no_other_name():
    with pytest.raises(WrongBaseError, match="has no place for 'extra.weight'; use --format merged"):
        original_pieces("flux", ["context_embedder.weight", "extra.weight"])
    assert original_pieces("zimage", ["extra.weight"]) == {"extra.weight": (Piece("extra.weight"),)}
    with pytest.raises(WrongBaseError, match="no 'layers.0.attention.to_k.weight', which stands beside"):
        original_pieces("zimage", ["layers.0.attention.to_q.weight"])


def test_names_that_are_known_in_part_are_those_that_the_converter_of_diffusers_reads():
    """Of Stable Diffusion 3 the maps of the table come back from the converter as they were."""
    with torch.device("meta"):
        network = diffusers.SD3Transformer2DModel(num_layers=3, qk_norm="rms_norm", dual_attention_layers=(0,))
    own = {name: torch.randn(len(weight), 1) for name, weight in network.state_dict().items()}
    pieces = original_pieces("sd3", own, whole=False)
    state = {name: stacked(row, own) for name, row in pieces.items()}
    named = {piece.name for row in pieces.values() for piece in row}
    assert {"context_embedder.weight", "transformer_blocks.2.attn.add_v_proj.weight"} < named

    class Read(dict):
        """A checkpoint that has everything: what the table does not name is not looked at."""

        def pop(self, name):
            return super().pop(name, torch.zeros(6, 1))

    read = convert_sd3_transformer_checkpoint_to_diffusers(
        Read({**state, "joint_blocks.0.x_block.attn.ln_q.weight": torch.zeros(1)})
    )
    assert all(torch.equal(read[name], own[name]) for name in named)


def test_the_maps_of_krea_are_named_as_its_converter_reads_them():
    with torch.device("meta"):
        network = diffusers.Krea2Transformer2DModel(num_layers=1)
    own = [name for name, weight in network.state_dict().items() if weight.ndim == 2]
    pieces = original_pieces("krea2", own, whole=False)
    read = convert_krea2_transformer_checkpoint_to_diffusers({name: row[0].name for name, row in pieces.items()})
    assert all(name == ours for name, ours in read.items())
    assert {"txt_in.linear_2.weight", "transformer_blocks.0.ff.up.weight"} < set(read)
    assert sum("text_fusion" in name for name in read) == sum("text_fusion" in name for name in own)
