"""Stand-ins for judges with local weights: networks of the right architecture with random values."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from excise.protocols import PROTOCOLS

PEOPLE = {"erased": ["Ada Lovelace", "Alan Turing"], "kept": ["Grace Hopper"]}


def pictures(count, side=40):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)]


class Says(nn.Module):
    """A network that gives one output, for every image, a logit above the others."""

    def __init__(self, index, outputs, logit=20.0):
        super().__init__()
        self.logits = torch.zeros(outputs)
        self.logits[index] = logit

    def forward(self, x):
        return self.logits.to(x).expand(len(x), -1)


def transformer(outputs, width=128, depth=2, patch=32, inner=192, side=224):
    """A state dict as timm's VisionTransformer gives it; its tokens vary so little that the eps of a norm matters."""
    tokens = (side // patch) ** 2 + 1
    state = {"cls_token": torch.randn(1, 1, width) * 1e-3, "pos_embed": torch.randn(1, tokens, width) * 1e-3}
    linear = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    linear |= {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
    rows = {f"blocks.{n}.{row}": shape for n in range(depth) for row, shape in linear.items()}
    for row, shape in {**rows, "head": (outputs, width)}.items():
        state[f"{row}.weight"] = torch.randn(shape) * 2 / shape[1] ** 0.5
        state[f"{row}.bias"] = torch.randn(shape[0])
    state["patch_embed.proj.weight"] = torch.randn(width, 3, patch, patch) * 1e-4
    state["patch_embed.proj.bias"] = torch.randn(width) * 1e-3
    for row in [f"blocks.{n}.norm{i}" for n in range(depth) for i in (1, 2)] + ["norm"]:
        state[f"{row}.weight"], state[f"{row}.bias"] = torch.rand(width) + 0.5, torch.randn(width)
    return state


def transformer_forward(state, x, head_width=64):
    def linear(x, row):
        return F.linear(x, state[f"{row}.weight"], state[f"{row}.bias"])

    def norm(x, row):
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * state[f"{row}.weight"]
            + (state[f"{row}.bias"])
        )

    weight = state["patch_embed.proj.weight"]
    x = F.conv2d(x, weight, state["patch_embed.proj.bias"], stride=weight.shape[-1]).flatten(2).transpose(1, 2)
    x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x], dim=1) + state["pos_embed"]
    for block in sorted({k.split(".norm1")[0] for k in state if ".norm1" in k}):
        qkv = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv")
        q, k, v = qkv.unflatten(-1, (3, -1, head_width)).permute(2, 0, 3, 1, 4)
        seen = (q @ k.transpose(-2, -1) / head_width**0.5).softmax(dim=-1) @ v
        x = x + linear(seen.transpose(1, 2).flatten(2), f"{block}.attn.proj")
        inner = linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")
        x = x + linear(inner * (1 + torch.erf(inner / 2**0.5)) / 2, f"{block}.mlp.fc2")
    return linear(norm(x, "norm")[:, 0], "head")


def residual(outputs, deep=True, stem=8, widths=(16, 32, 48, 64), depths=(1, 2, 1, 1)):
    """A state dict as torchvision's ResNet gives it, of Bottleneck blocks or of BasicBlock."""
    layers, before = {"conv1": (stem, 3, 7, 7)}, stem
    for n, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
        for block in range(depth):
            name, inner = f"layer{n}.{block}", width // 4
            if deep:
                layers[f"{name}.conv1"], layers[f"{name}.conv2"] = (inner, before, 1, 1), (inner, inner, 3, 3)
                layers[f"{name}.conv3"] = (width, inner, 1, 1)
            else:
                layers[f"{name}.conv1"], layers[f"{name}.conv2"] = (width, before, 3, 3), (width, width, 3, 3)
            if block == 0 and (n > 1 or before != width):
                layers[f"{name}.downsample.0"] = (width, before, 1, 1)
            before = width
    state = {}
    for name, shape in layers.items():
        state[f"{name}.weight"] = torch.randn(shape) * (2 / (shape[1] * shape[2] * shape[3])) ** 0.5
        normed = name.replace("conv", "bn").replace("downsample.0", "downsample.1")
        for part in ("weight", "running_var"):
            state[f"{normed}.{part}"] = torch.rand(shape[0]) + 0.5
        for part in ("bias", "running_mean"):
            state[f"{normed}.{part}"] = torch.randn(shape[0]) / 4
        state[f"{normed}.num_batches_tracked"] = torch.tensor(7)
    return state | {"fc.weight": torch.randn(outputs, before) / 4, "fc.bias": torch.randn(outputs)}


def giphy_folder(folder, names, width=5, shift=0.0):
    """A tiny network in the layout of GIPHY's archive, with the state dict that it stands for."""
    torch.manual_seed(0)
    state = {k: v + shift if shift else v for k, v in residual(width).items()}
    places = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}

    def theirs(name):
        head, _, rest = name.partition(".")
        return f"model.fc1.{rest}" if head == "fc" else f"model.stem.{places[head]}.{rest}"

    last = {"model.fc2.weight": torch.randn(len(names), width), "model.fc2.bias": torch.randn(len(names))}
    centers = {"center_loss_criterion.centers": torch.zeros(len(names), width)}
    (folder / "face_recognition").mkdir(parents=True)
    states = {"model_state": {**{theirs(k): v for k, v in state.items()}, **last, **centers}, "epoch": 3}
    torch.save(states, folder / "face_recognition" / "best_model_states.pkl")
    rows = [f"{name.replace(' ', '_')}_[m.0{i}],{i}" for i, name in enumerate(names)]
    (folder / "face_recognition" / "labels.csv").write_text("\n".join(["Labels,Index", *rows[::-1]]) + "\n")
    return state, last


def residual_forward(state, x):
    def normed(x, conv, bn, stride=1):
        weight = state[f"{conv}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, var, scale, bias = (
            state[f"{bn}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + bias

    x = F.max_pool2d(normed(x, "conv1", "bn1", 2).relu(), 3, stride=2, padding=1)
    for block in sorted({k.split(".conv1")[0] for k in state if ".conv1" in k}):
        stride = 1 if block.startswith("layer1.") or not block.endswith(".0") else 2
        short, count = x, 3 if f"{block}.conv3.weight" in state else 2
        if f"{block}.downsample.0.weight" in state:
            short = normed(x, f"{block}.downsample.0", f"{block}.downsample.1", stride)
        halving = 2 if count == 3 else 1  # the 3x3 convolution of a bottleneck, the first of a basic block
        for i in range(1, count + 1):
            x = normed(x, f"{block}.conv{i}", f"{block}.bn{i}", stride if i == halving else 1)
            x = x.relu() if i < count else (x + short).relu()
    return F.linear(x.mean(dim=(2, 3)), state["fc.weight"], state["fc.bias"])


@pytest.fixture
def people(tmp_path, monkeypatch):
    """Name lists where `celebrity` looks for them."""
    folder = tmp_path / "people"
    folder.mkdir()
    for group, names in PEOPLE.items():
        (folder / f"{group}.txt").write_text("# of our choice\n" + "\n".join(names) + "\n")
    monkeypatch.setenv("EXCISE_CELEBRITY", str(folder))
    return folder


@pytest.fixture
def smaller(monkeypatch):
    """Cuts a protocol down to some items and two steps, under its own name."""

    def cut(name, keep):
        plan = PROTOCOLS.load(name)()
        small = replace(plan, items=tuple(filter(keep, plan.items)), steps=2)
        module, attribute = PROTOCOLS.record(name).target.split(":")
        monkeypatch.setattr(import_module(module), attribute, lambda: small)
        return small

    return cut


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory, tokenizer):
    """A CLIPModel of a few thousand weights, as transformers saves it."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    block = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 16, "eos_token_id": tokenizer.eos_token_id}
    ends = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    vision = {"image_size": 32, "patch_size": 16}
    config = CLIPConfig(text_config={**block, **text, **ends}, vision_config={**block, **vision}, projection_dim=16)
    folder = tmp_path_factory.mktemp("clip")
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def vit_folder(tmp_path_factory):
    """A tiny random ViT with three named labels, as transformers saves it."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(0)
    config = ViTConfig(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        id2label={0: "cat", 1: "dog", 2: "tench"}, label2id={"cat": 0, "dog": 1, "tench": 2},
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("vit")
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
