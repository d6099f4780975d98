"""Headers of safetensors files are in one order, so that the same request gives the same bytes."""

from __future__ import annotations

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from excise.support.headers import sort_metadata


def test_the_same_metadata_give_the_same_bytes(tmp_path):
    metadata = {f"key {i}": f'tab\t, line\n, quote ", e-acute é, {i}' for i in range(20)}
    tensors = {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(1)}
    files = [tmp_path / f"{i}.safetensors" for i in range(4)]
    for file in files:
        save_file(tensors, file, metadata=metadata)
        sort_metadata(file)
    assert len({file.read_bytes() for file in files}) == 1
    with safe_open(files[0], framework="pt") as opened:
        assert opened.metadata() == metadata
        assert torch.equal(opened.get_tensor("b"), tensors["b"])
