"""Presets that stand for a published program have its values, written here as facts with the file that gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_pipe

from excise.families import family_of
from excise.methods import METHODS, settings_of
from excise.support.settings import configure
from excise.training.adapters import other_linears

DOCS = Path(__file__).parents[2] / "docs" / "methods"
ADAMW = {"weight_decay": 1e-2, "beta2": 0.999, "lr_warmup": 0.0, "lr_scheduler": "constant"}
"""As torch has it, without a warm-up."""
ADAM = {**ADAMW, "weight_decay": 0.0}
LAST = {"calibrate": "last"}
PHOTOS_OF_FOUR = 4

PROGRAMS: dict[tuple[str, str, str], tuple[str, dict[str, Any]]] = {
    ("ace", "published", "object"): (
        "120L020904/ACE, shell-scripts/lora-train-ace-test.sh; lambda_pl 0.8 is a weight of 0.8 / (1 - 0.8)",
        {
            **{"rank": 4, "lr": 1e-3, "steps": 1500, "sampler_steps": 30, "eta": 3.0, "eta_prior": 3.0},
            **{"uncond_share": 0.99, "retain_weight": pytest.approx(0.8 / (1 - 0.8)), **ADAM, **LAST},
        },
    ),
    ("advunlearn", "official", "object"): (
        "OPTML-Group/AdvUnlearn, train-scripts/AdvUnlearn.py, defaults of its arguments",
        {
            **{"weights": "full", "lr": 1e-5, "steps": 1000, "batch": 1, "encoder_maps": "all", **ADAM, **LAST},
            **{"warmup_steps": 200, "attack": "adam", "attack_steps": 30, "attack_lr": 1e-3, "words": 1, "eta": 1.0},
            **{"guidance": 3.0, "sampler_steps": 50, "by": "student", "retain_weight": 1.0},
        },
    ),
    ("advunlearn", "official", "explicit"): (
        "OPTML-Group/AdvUnlearn, README, its command for nudity",
        {"weights": "full", "lr": 1e-5, "steps": 1000, "retain_weight": 0.3, **ADAM, **LAST},
    ),
    ("advunlearn", "fast", "object"): (
        "OPTML-Group/AdvUnlearn, README, fast AT: one step along the sign",
        {"attack": "fast"},
    ),
    ("ant", "multi", "person"): (
        "lileyang1210/ANT, Multiple/examples/config.yaml and prompts.yaml; 4 of 50 steps are early",
        {
            **{"weights": "lora", "rank": 64, "steps": 10, "lr": 5e-4, "guidance": 7.5, "boundary": 4 / 50},
            **{"uncond_weight": 2.5, "early_weight": 0.5, "batch": 2, **ADAMW, **LAST},
        },
    ),
    ("ant", "official", "object"): (
        "lileyang1210/ANT, Single/configs/ant_train.yaml",
        {
            **{"weights": "full", "mask": "saliency", "mask_share": 0.5, "mask_within": "map", "steps": 250},
            **{"lr": 5e-4, "guidance": 3.0, "boundary": 7 / 50, "early_weight": 1.0, "uncond_weight": 0.5},
            **{**ADAM, **LAST},
        },
    ),
    ("concept-ablation", "official", "style"): (
        "nupurkmr9/concept-ablation, diffusers/README.md, one GPU: base rate 2e-6 times a batch of 4 (--scale_lr)",
        {
            **{"weights": "full", "modules": "cross_kv", "lr": 2e-6 * 4, "steps": 200, "batch": 4, "pictures": 1000},
            **{"target": "model", "shown": "anchor", "prior_weight": 0.0, **ADAMW, **LAST},
        },
    ),
    ("concept-ablation", "official", "explicit"): (
        "nupurkmr9/concept-ablation, diffusers/README.md, nudity on one GPU: base rate 4e-6, 800 steps, "
        "--parameter_group attn --with_prior_preservation",
        {
            **{"weights": "full", "modules": "attention", "lr": 4e-6 * 4, "steps": 800, "batch": 4},
            **{"pictures": 1000, "prior_weight": 1.0, **ADAMW, **LAST},
        },
    ),
    ("concept-ablation", "memorised", "instance"): (
        "nupurkmr9/concept-ablation, diffusers/README.md, memorised images: base rate 5e-7, 400 steps on four "
        "pictures, --parameter_group full-weight --with_prior_preservation",
        {
            **{"weights": "full", "modules": "all", "lr": 5e-7 * 4, "steps": 400, "batch": 4},
            **{"pictures": 1000, "prior_weight": 1.0, **ADAMW, **LAST},
        },
    ),
    ("doco", "official", "object"): (
        "yongliang-wu/DoCo, README: base rate 6e-6 times a batch of 8, and a judge alone for 1,000 of 2,000 steps",
        {
            **{"weights": "full", "modules": "cross_kv", "lr": pytest.approx(6e-6 * 8), "batch": 8, "judge_lr": 1e-4},
            **{"warmup": 1000, "steps": 2000 - 1000, "pictures": 1000, "combine": "project", **ADAMW, **LAST},
        },
    ),
    ("doco", "official", "style"): (
        "yongliang-wu/DoCo, README, its command for styles (--dlr 0.0005)",
        {"lr": pytest.approx(6e-6 * 8), "warmup": 1000, "steps": 1000, "judge_lr": 5e-4, **ADAMW, **LAST},
    ),
    ("eraseanything", "official", "object"): (
        "tomguluson92/EraseAnything, config/config.yaml",
        {
            **{"rank": 8, "lr": 1e-3, "steps": 200, "batch": 1, "sampler_steps": 28, "eta": 1.0, "erase_weight": 1.0},
            **{"attention_weight": 1e-3, "flow_weight": 0.1, "contrast_weight": 0.1, "temperature": 0.07},
            **{"unrelated": 3, "lr_scheduler": "constant", "beta2": 0.999, **LAST},
        },
    ),
    ("esd", "official", "style"): (
        "rohitgandikota/erasing, train-scripts/train-esd.py, defaults of its arguments; train_method xattn for styles",
        {
            **{"weights": "full", "variant": "x", "lr": 1e-5, "steps": 1000, "batch": 1, "eta": 1.0, "base": "empty"},
            **{"by": "student", "sampler_steps": 50, "guidance": 3.0, "target": "negate", **ADAM, **LAST},
        },
    ),
    ("esd", "official", "explicit"): (
        "rohitgandikota/erasing, train-scripts/train-esd.py; train_method noxattn for explicit content",
        {"weights": "full", "variant": "u", "lr": 1e-5, "steps": 1000, "eta": 1.0, **ADAM, **LAST},
    ),
    ("esd", "later", "object"): (
        "rohitgandikota/erasing, esd_sd.py, defaults of its arguments; the latents are the untouched model's",
        {
            **{"weights": "full", "variant": "x", "lr": 5e-5, "steps": 200, "batch": 1, "eta": 2.0, "base": "concept"},
            **{"by": "teacher", "sampler_steps": 50, "guidance": 3.0, "target": "negate", **ADAM, **LAST},
        },
    ),
    ("esd", "sdd", "object"): (
        "fmp453/erase-eval, its port of SDD",
        {
            **{"weights": "full", "variant": "x", "target": "self", "lr": 1e-5, "steps": 1300},
            **{"ema": 0.998, "by": "mean"},
        },
    ),
    ("few-shot", "official", "object"): (
        "fmp453/few-shot-erasing, train.py, defaults of its arguments; five epochs of four pictures, two at a time",
        {
            **{"weights": "full", "lr": 1e-5, "batch": 2, "pictures": PHOTOS_OF_FOUR, "last_attention": True},
            **{"steps": 5 * PHOTOS_OF_FOUR // 2, "bound": 0.0, **ADAM, "beta2": 0.98, **LAST},
        },
    ),
    ("forget-me-not", "official", "object"): (
        "SHI-Labs/Forget-Me-Not, configs/attn.yaml (only_optimize_ca: false) and the ten pictures of data/elon-musk",
        {
            **{"weights": "full", "modules": "all", "lr": 2e-6, "steps": 35, "batch": 1, "pictures": 10},
            **{**ADAMW, **LAST},
        },
    ),
    ("mace-full", "object", "object"): (
        "Shilin-LU/MACE, configs/object",
        {"rank": 1, "lr": 1e-5, "steps": 50, "pictures": 8, "earliest": 0.6, "latest": 0.8},
    ),
    ("mace-full", "style", "style"): (
        "Shilin-LU/MACE, configs/art",
        {"rank": 1, "lr": 1e-4, "steps": 50, "pictures": 8, "earliest": 0.6, "latest": 0.8},
    ),
    ("mace-full", "person", "person"): (
        "Shilin-LU/MACE, configs/celebrity",
        {"rank": 1, "lr": 1e-4, "steps": 50, "pictures": 8, "earliest": 0.6, "latest": 0.8},
    ),
    ("mace-full", "explicit", "explicit"): (
        "Shilin-LU/MACE, configs/explicit_content: every timestep alike",
        {"rank": 1, "lr": 1e-5, "steps": 120, "pictures": 8, "earliest": 0.0, "latest": 1.0},
    ),
    ("receler", "official", "object"): (
        "jasper0314-huang/Receler, train_receler.py, defaults of its arguments",
        {
            **{"rank": 128, "lr": 3e-4, "steps": 500, "eta": 1.0, "local_weight": 0.1, "threshold": 0.1, "tokens": 16},
            **{"adversary_steps": 50, "adversary_lr": 0.1, "guidance": 3.0, "by": "student", **ADAM, **LAST},
        },
    ),
    ("rgd", "official", "explicit"): (
        "reds-lab/Restricted_gradient_diversity_unlearning, run-surgery.sh and train-scripts/nsfw_RGD.py: one "
        "epoch of 800 pictures",
        {
            **{"weights": "full", "modules": "all", "lr": 1e-5, "batch": 8, "pictures": 800, "steps": 800 // 8},
            **{"retain_weight": 1.6, "bound": 1.1, "combine": "restricted", **ADAM, **LAST},
        },
    ),
    ("salun", "official", "object"): (
        "OPTML-Group/Unlearn-Saliency, SD/train-scripts/random_label.py: five epochs, here of as many pictures as for "
        "nudity; generate_mask.py: all of them, at (1 + 7.5) f(c) - 7.5 f(0)",
        {
            **{"weights": "full", "train": "all", "lr": 1e-5, "batch": 8, "steps": 5 * 800 // 8, "retain_weight": 0.1},
            **{"mask_share": 0.5, "mask_within": "all", "mask_passes": 800 // 8, "mask_guidance": 1 + 7.5},
            **{"pictures": 800, **ADAM, **LAST},
        },
    ),
    ("salun", "official", "explicit"): (
        "OPTML-Group/Unlearn-Saliency, SD/train-scripts/nsfw_removal.py: one epoch of 800 pictures, eight at a time",
        {
            **{"lr": 1e-5, "batch": 8, "pictures": 800, "steps": 800 // 8, "retain_weight": 0.1, **ADAM, **LAST},
            **{"mask_passes": 800 // 8, "mask_guidance": 1 + 7.5},
        },
    ),
    ("sculpting-memory", "official", "object"): (
        "coulsonlee/Sculpting-Memory-ICCV-2025, configs_sp0.5_scale0.25_mask100.yaml and multi_dst_train.py: ten "
        "epochs of 100 pictures, two at a time, of which the first 50 batches choose the mask; Adam, one cycle",
        {
            **{"lr": 3e-6, "batch": 2, "pictures": 100, "steps": 10 * 100 // 2 - 50, "mask_passes": 50},
            **{"mask_share": 0.5, "mask_within": "map", "refresh": 100, "turnover": 0.2, "retain_weight": 0.25},
            **{"distil_weight": 0.0, **ADAM, "lr_scheduler": "cosine", "lr_warmup": 0.3, **LAST},
        },
    ),
    ("selective-amnesia", "official", "person"): (
        "clear-nus/selective-amnesia, sd/configs/stable-diffusion/forget_brad_pitt.yaml and sd/main_forget.py: base "
        "rate 1e-5 times four pictures on four GPUs, 200 epochs of 1,000 pictures",
        {
            **{"weights": "full", "modules": "all", "lr": pytest.approx(1e-5 * 4 * 4), "batch": 4 * 4},
            **{"pictures": 1000, "steps": 200 * 1000 // (4 * 4), "fisher_weight": 50.0, "retain_weight": 1.0},
            **{**ADAMW, **LAST},
        },
    ),
    ("spm", "official", "object"): (
        "Con6924/SPM, configs/snoopy/config.yaml and prompt.yaml",
        {
            **{"rank": 1, "lr": 1e-4, "steps": 3000, "batch": 1, "sampler_steps": 30, "eta": 1.0, "save_every": 500},
            **{"anchoring_weight": 1000.0, "by": "student", "weight_decay": 1e-2, "beta2": 0.999},
            **{"lr_scheduler": "cosine", "lr_cycles": 3, "lr_warmup": pytest.approx(500 / 3000), **LAST},
        },
    ),
    ("trce", "official", "explicit"): (
        "ddgoodgood/TRCE, config/stage2/stage2_sexual_default.yaml, run_trce_stage2.py and stage2_data_preparation.py: "
        "three epochs of 20 concepts, five drawings of each, one at a time; 26 of 50 steps",
        {
            **{"weights": "full", "lr": 1e-6, "batch": 1, "steps": 3 * 20 * 5, "contrast_guidance": 15.0, "beta": 1.0},
            **{"margin": 0.01, "retain_weight": 100.0, "latest": 26 / 50, "sampler_steps": 50, "guidance": 3.0},
            **{"by": "teacher", **ADAMW, **LAST},
        },
    ),
}
"""By method, preset and kind of concept: the source, and the settings that it gives."""
OURS = {"esd": {"trace", "all-but-one"}, "mace-full": {"instance"}}
"""Presets of methods whose constants no source gives, and one that is another's."""


@pytest.mark.parametrize(("method", "preset", "kind"), PROGRAMS, ids=lambda part: part)
def test_a_preset_of_a_program_has_its_values(method, preset, kind):
    source, facts = PROGRAMS[method, preset, kind]
    config = configure(settings_of(method), method, {"preset": preset}, kind)
    assert {name: getattr(config, name) for name in facts} == facts, source


TRAINED = [name for name, record in METHODS.records().items() if record.shape == "trained" and name != "surgun"]


@pytest.mark.parametrize("method", TRAINED)
def test_every_preset_of_a_program_is_held_to_a_source(method):
    held = {
        f"{preset}-{kind}" if f"{preset}-{kind}" in settings_of(method).presets else preset
        for name, preset, kind in PROGRAMS
        if name == method
    }
    presets = {p for p in settings_of(method).presets if not p.startswith("canvas")}
    assert presets - OURS.get(method, set()) <= held


@pytest.mark.parametrize("method", [name for name in TRAINED if "official" in settings_of(name).presets])
def test_the_page_of_a_method_tells_its_official_preset(method):
    page = (DOCS / f"{method}.md").read_text(encoding="utf-8")
    assert "preset=official" in page
    for preset in settings_of(method).presets:
        assert preset.startswith("canvas") or preset in page, preset


@pytest.mark.parametrize("method", ["concept-ablation", "forget-me-not"])
def test_every_linear_map_of_the_denoiser_can_be_trained(method, tokenizer):
    family = family_of(tiny_pipe(tokenizer))
    loaded = METHODS.load(method)()
    paths = loaded.targets(family, loaded.Config(modules="all"))
    reading = loaded.targets(family, loaded.Config(modules="cross"))
    assert sorted(paths) == sorted([*reading, *other_linears(family)])
    assert len(set(paths)) == len(paths)
