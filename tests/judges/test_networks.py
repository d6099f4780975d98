"""The networks of local judges: published layouts with random values, against their formulas in plain torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from real_judges import PEOPLE, pictures, residual, residual_forward, transformer, transformer_forward
from safetensors.torch import save_file

from excise.errors import ModelError
from excise.evaluation.evaluate import evaluate
from excise.judges import JUDGES, local, resnet, vit


def few(item):
    return item.asked["style"] in ("Monet", "Rust") and item.asked["object"] in ("Dogs", "Sea") and item.index == 0


def test_the_vision_transformers_of_unlearncanvas(pipe, smaller, tmp_path):
    torch.manual_seed(0)
    states = {name: transformer(outputs) for name, outputs in (("style", 51), ("object", 20))}
    torch.save({"model_state_dict": states["style"]}, tmp_path / "style.pth")
    save_file(states["object"], tmp_path / "object.safetensors")
    judge = JUDGES.load("unlearncanvas-vit")(tmp_path)
    x = judge.prepare(pictures(3))
    verdicts = judge.verdicts(pictures(3))
    for attribute, state in states.items():
        expected = transformer_forward(state, x)
        with torch.no_grad():
            found = judge.networks[attribute](x.to(local.device())).cpu()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert verdicts[attribute] == [judge.labels[attribute][i] for i in expected.argmax(dim=-1)]
    smaller("unlearncanvas", few)
    result = evaluate(pipe, ["Dogs"], protocol="unlearncanvas", judge_weights=tmp_path).result
    assert {"ua", "ira", "cra", "h"} <= set(result.metrics)


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("stem", [8, 16])
def test_residual_networks_of_torchvision(deep, stem):
    torch.manual_seed(0)
    state, x = residual(11, deep, stem), torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        found = resnet.network(state, Path("x"))(x.to(local.device())).cpu()
    torch.testing.assert_close(found, residual_forward(state, x), rtol=1e-4, atol=1e-4)


def test_residual_networks_judge_classes_and_people(pipe, people, smaller, tmp_path):
    torch.manual_seed(0)
    state = residual(1000)
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "resnet50-19c8e357.pth")
    judge = JUDGES.load("imagenet-resnet50")(tmp_path)
    index = residual_forward(state, judge.prepare(pictures(3))).argmax(dim=-1)
    assert judge.verdicts(pictures(3))["class"] == [judge.labels["class"][i] for i in index]
    smaller("imagenette", lambda i: i.index < 1)
    assert evaluate(pipe, protocol="imagenette", judge_weights=tmp_path).result.metrics["accuracy"]["n"] == 10

    (tmp_path / "labels.txt").write_text("\n".join([*PEOPLE["erased"], *PEOPLE["kept"]]))
    save_file(residual(3, deep=False), tmp_path / "classifier.safetensors")
    smaller("celebrity", lambda i: i.index < 1 and "sketch" in i.prompt)
    assert evaluate(pipe, protocol="celebrity", judge_weights=tmp_path).result.metrics["acc_e"]["n"] == 2


def test_published_sizes_are_read_off_the_checkpoint():
    with torch.device("meta"):
        large = transformer(1000, width=1024, depth=24, patch=16, inner=4096)
        fifty = residual(1000, stem=64, widths=(256, 512, 1024, 2048), depths=(3, 4, 6, 3))
        eighteen = residual(1000, deep=False, stem=64, widths=(64, 128, 256, 512), depths=(2, 2, 2, 2))
    learnt = [
        sum(v.numel() for k, v in s.items() if "running" not in k and "tracked" not in k)
        for s in (large, fifty, eighteen)
    ]
    assert learnt == [304_326_632, 25_557_032, 11_689_512]  # as published
    config = vit.config_of(large, Path("x"))
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (1024, 24, 16)
    assert (config.intermediate_size, config.patch_size, config.num_labels) == (4096, 16, 1000)
    config = resnet.config_of(fifty, Path("x"))
    assert (config.layer_type, config.depths, config.hidden_sizes) == (
        "bottleneck",
        [3, 4, 6, 3],
        [256, 512, 1024, 2048],
    )
    config = resnet.config_of(eighteen, Path("x"))
    assert (config.layer_type, config.depths, config.hidden_sizes) == ("basic", [2, 2, 2, 2], [64, 128, 256, 512])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm.bias": None}, "norm.bias is missing"),
        ({"blocks.0.attn.qkv.bias": None}, "blocks.0.attn.qkv.bias is missing"),
        ({"blocks.0.ls1.gamma": (128,)}, "blocks.0.ls1.gamma is not part of it"),
        ({"head_dist.weight": (20, 128)}, "head_dist.weight is not part of it"),
        ({"pos_embed": (1, 145, 128)}, r"pos_embed has the shape \(1, 145, 128\) for \(1, 50, 128\)"),
        ({"blocks.1.mlp.fc2.weight": (128, 99)}, "blocks.1.mlp.fc2.weight has the shape"),
        ({"blocks.3.norm1.bias": (128,)}, r"blocks.2.norm1.weight is missing.* and \d+ more"),
    ],
)
def test_a_transformer_of_another_architecture_is_refused(change, message):
    state = transformer(20) | {k: torch.zeros(v or 0) for k, v in change.items()}
    state = {k: v for k, v in state.items() if change.get(k, ()) is not None}
    with pytest.raises(ModelError, match=f"x.pth is not a Vision Transformer in the layout of timm's .*: .*{message}"):
        vit.network(state, Path("x.pth"))


def test_a_transformer_whose_heads_are_unknown_is_refused():
    with pytest.raises(ModelError, match="is 96 wide; .* a multiple of 64"):
        vit.network(transformer(20, width=96), Path("x.pth"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bn1.bias": None}, "bn1.bias is missing"),
        ({"layer2.0.downsample.0.weight": None}, "layer2.0.downsample.0.weight is missing"),
        ({"layer1.0.conv4.weight": (4, 4, 1, 1)}, "layer1.0.conv4.weight is not part of it"),
        ({"layer2.1.conv2.weight": (8, 1, 3, 3)}, "layer2.1.conv2.weight has the shape"),  # in groups, as a ResNeXt
        ({"layer1.0.conv1.weight": (8, 8, 1, 1)}, "layer1.0.conv1.weight has the shape"),  # as a wide ResNet
    ],
)
def test_a_residual_network_of_another_architecture_is_refused(change, message):
    state = residual(20) | {k: torch.zeros(v or 0) for k, v in change.items()}
    state = {k: v for k, v in state.items() if change.get(k, ()) is not None}
    with pytest.raises(ModelError, match=rf"x.pth is not a ResNet in the layout of torchvision: .*{message}"):
        resnet.network(state, Path("x.pth"))
