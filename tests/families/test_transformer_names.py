"""Original names of transformers are those that diffusers' own converters read, with the rows where they read them."""

from __future__ import annotations

import diffusers
import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_flux_transformer_checkpoint_to_diffusers,
    convert_z_image_transformer_checkpoint_to_diffusers,
)

from excise.errors import WrongBaseError
from excise.families.transformer_names import ORIGINAL_NAMES, Piece, original_pieces, spans, stacked

CONVERTERS = {
    "flux": convert_flux_transformer_checkpoint_to_diffusers,
    "zimage": convert_z_image_transformer_checkpoint_to_diffusers,
}


def networks():
    """Networks of the true widths, which the converters count on, without numbers."""
    with torch.device("meta"):
        for guidance in (True, False):
            yield "flux", diffusers.FluxTransformer2DModel(num_layers=2, num_single_layers=2, guidance_embeds=guidance)
        yield "zimage", diffusers.ZImageTransformer2DModel(n_layers=2)


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


@pytest.mark.parametrize("family", ORIGINAL_NAMES)
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
