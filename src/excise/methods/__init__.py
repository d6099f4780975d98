"""The registry of methods; a method is imported when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from excise.families import capabilities as c
from excise.registry import Record, Registry

if TYPE_CHECKING:
    from excise.methods.base import Method
    from excise.support.settings import Settings

METHODS = Registry(
    "method",
    "excise.methods",
    {
        "ace": Record(
            "excise.methods.trained.ace:ACE",
            "the unconditional half of guidance learns the concept, so that edits of pictures lose it too",
            paper="Wang et al., CVPR 2025, arXiv 2501.01633",
            shape="trained",
            config="excise.methods.trained.ace_config:ACEConfig",
            needs=frozenset({c.ATTENTION, c.GUIDANCE}),
            cost="a LoRA training on the model's own trajectories, no pictures; minutes on a CPU for built-in models",
            licence="written from the paper's description; official code has no licence and is not used",
        ),
        "adavd": Record(
            "excise.methods.inference.adavd:AdaVD",
            "the target's part of every cross-attention value taken out while the model draws",
            paper="Wang et al., CVPR 2025, arXiv 2412.06143",
            shape="inference-time",
            config="excise.methods.inference.adavd_config:AdaVDConfig",
            needs=frozenset({c.CROSS_ATTENTION}),
            cost="nothing to make; a small product in each cross-attention while drawing",
            licence="written from the paper's description; official code not used",
        ),
        "advunlearn": Record(
            "excise.methods.trained.advunlearn:AdvUnlearn",
            "the text encoder erases a concept against words that are learnt to regain it",
            paper="Zhang et al., NeurIPS 2024, arXiv 2405.15234",
            shape="trained",
            config="excise.methods.trained.advunlearn_config:AdvUnlearnConfig",
            needs=frozenset({c.TEXT_ENCODER, c.GUIDANCE}),
            cost="a training with adversarial passes in each step, no pictures; minutes on a CPU for built-in models",
            licence="written from the paper; official code is MIT and not used",
        ),
        "ant": Record(
            "excise.methods.trained.ant:ANT",
            "guidance turned round in the middle and late steps alone, in weights that matter for the concept",
            paper="Li et al., ACM MM 2025, arXiv 2504.12782",
            shape="trained",
            config="excise.methods.trained.ant_config:ANTConfig",
            needs=frozenset({c.ATTENTION, c.GUIDANCE}),
            cost="a short training on the model's own trajectories, no pictures; minutes on a CPU for built-in models",
            licence="written from the paper; official code is MIT and not used",
        ),
        "concept-ablation": Record(
            "excise.methods.trained.concept_ablation:ConceptAblation",
            "on pictures of the anchor, the target's prompt learns what the anchor's predicts",
            paper="Kumari et al., ICCV 2023, arXiv 2303.13516",
            shape="trained",
            config="excise.methods.trained.concept_ablation_config:ConceptAblationConfig",
            needs=frozenset({c.ATTENTION}),
            cost="some pictures and a short training; minutes on a CPU for built-in models",
            licence="written from the paper; official code is MIT and not used",
        ),
        "cure": Record(
            "excise.methods.closed_form.cure:CURE",
            "the target's spectral directions projected out, except those of retained prompts",
            paper="NeurIPS 2025, arXiv 2505.12677",
            shape="closed-form",
            config="excise.methods.closed_form.cure_config:CUREConfig",
            needs=frozenset({c.STATIC_TEXT}),
            cost="singular vectors of the text states; under a second on a CPU",
            licence="written from the paper; no official code is known",
        ),
        "doco": Record(
            "excise.methods.trained.doco:DoCo",
            "a discriminator can no longer tell what the target's prompt gives from what the anchor's gives",
            paper="Wu et al., AAAI 2025, arXiv 2405.15304",
            shape="trained",
            config="excise.methods.trained.doco_config:DoCoConfig",
            needs=frozenset({c.ATTENTION}),
            cost="some pictures, a discriminator and a training; minutes on a CPU for built-in models",
            licence="written from the paper's description; official code has no licence and is not used",
        ),
        "emcid": Record(
            "excise.methods.closed_form.emcid:EMCID",
            "the text encoder's MLPs rewritten so that hundreds of targets read as their anchors",
            paper="Xiong et al., arXiv 2403.13807",
            shape="closed-form",
            config="excise.methods.closed_form.emcid_config:EMCIDConfig",
            needs=frozenset({c.TEXT_MLP}),
            cost="one pass of the text encoder over all prompts for each of its layers, a solve each; minutes on a CPU",
            licence="written from the paper; official code not used",
        ),
        "eraseanything": Record(
            "excise.methods.trained.eraseanything:EraseAnything",
            "a LoRA on the text's queries and keys of joint attention, trained to erase and to preserve in turn",
            paper="Gao et al., ICML 2025, arXiv 2412.20413",
            shape="trained",
            config="excise.methods.trained.eraseanything_config:EraseAnythingConfig",
            needs=frozenset({c.ATTENTION, c.GUIDANCE, c.DUAL_STREAM}),
            cost="a few pictures and a short LoRA training on the model's own trajectories; needs a GPU for FLUX.1",
            licence="written from the paper; official code is BSD-3-Clause and not used",
        ),
        "esd": Record(
            "excise.methods.trained.esd:ESD",
            "the negated guidance of a frozen copy, distilled into the weights",
            paper="Gandikota et al., ICCV 2023, arXiv 2303.07345",
            shape="trained",
            config="excise.methods.trained.esd_config:ESDConfig",
            needs=frozenset({c.ATTENTION, c.GUIDANCE}),
            cost="a short training on the model's own trajectories, no pictures; minutes on a CPU for built-in models",
            licence="written from the paper; official code is MIT",
        ),
        "few-shot": Record(
            "excise.methods.trained.few_shot:FewShot",
            "the text encoder unlearns to guide the denoising of a few pictures of the target",
            paper="Fuchi and Takagi, BMVC 2024, arXiv 2405.07288",
            shape="trained",
            config="excise.methods.trained.few_shot_config:FewShotConfig",
            needs=frozenset({c.TEXT_ENCODER}),
            cost="a few pictures and a few steps; minutes on a CPU for built-in models",
            licence="written from the paper; official code is MIT and not used",
        ),
        "forget-me-not": Record(
            "excise.methods.trained.forget_me_not:ForgetMeNot",
            "pictures pay no attention to the target's words any more",
            paper="Zhang et al., CVPR 2024 workshop, arXiv 2303.17591",
            shape="trained",
            config="excise.methods.trained.forget_me_not_config:ForgetMeNotConfig",
            needs=frozenset({c.ATTENTION, c.CROSS_ATTENTION}),
            cost="a few pictures and tens of steps; a minute on a CPU for built-in models",
            licence="written from the paper; official code is MIT and not used",
        ),
        "mace": Record(
            "excise.methods.closed_form.mace:MACE",
            "the words around a target read as if it were its anchor (the closed-form stage of MACE)",
            paper="Lu et al., CVPR 2024, arXiv 2403.06135",
            shape="closed-form",
            config="excise.methods.closed_form.mace_config:MACEConfig",
            needs=frozenset({c.STATIC_TEXT}),
            cost="one text-width solve for the whole model; under a second on a CPU",
            licence="written from the paper; official code is non-commercial",
        ),
        "mace-full": Record(
            "excise.methods.trained.mace_full:MACEFull",
            "MACE's refinement, an adapter for each target that takes attention off its words, and their fusion",
            paper="Lu et al., CVPR 2024, arXiv 2403.06135",
            shape="trained",
            config="excise.methods.trained.mace_full_config:MACEFullConfig",
            needs=frozenset({c.STATIC_TEXT, c.ATTENTION, c.CROSS_ATTENTION}),
            cost="a closed form, some pictures and a short training a target; a minute each on built-in models",
            licence="written from the paper; official code is non-commercial",
        ),
        "realera": Record(
            "excise.methods.trained.realera:RealEra",
            "the neighbourhood of a concept's words read as its anchor, and what is beyond it held",
            paper="Liu et al., arXiv 2410.09140",
            shape="trained",
            config="excise.methods.trained.realera_config:RealEraConfig",
            needs=frozenset({c.STATIC_TEXT, c.ATTENTION, c.GUIDANCE}),
            cost="a closed form, then a training on the model's own trajectories; minutes on a CPU for built-in models",
            licence="written from the paper's abstract; no official code is known",
        ),
        "rece": Record(
            "excise.methods.closed_form.rece:RECE",
            "UCE, then rounds that also erase the embeddings which would restore the target",
            paper="Gong et al., ECCV 2024, arXiv 2407.12383",
            shape="closed-form",
            config="excise.methods.closed_form.rece_config:RECEConfig",
            needs=frozenset({c.STATIC_TEXT}),
            cost="a few text-width solves for the whole model; seconds on a CPU",
            licence="written from the paper; official code is Apache-2.0",
        ),
        "receler": Record(
            "excise.methods.trained.receler:Receler",
            "light erasers behind cross-attention, trained against prompts that regain the concept",
            paper="Huang et al., ECCV 2024, arXiv 2311.17717",
            shape="trained",
            config="excise.methods.trained.receler_config:RecelerConfig",
            needs=frozenset({c.ATTENTION, c.GUIDANCE, c.CROSS_ATTENTION}),
            cost="a training with adversarial passes in each step, no pictures; minutes on a CPU for built-in models",
            licence="written from the paper; official code is MIT and not used",
        ),
        "rgd": Record(
            "excise.methods.trained.rgd:RGD",
            "ascent on the target and descent on what is kept, each gradient freed of its part against the other",
            paper="NeurIPS 2024, arXiv 2412.07808",
            shape="trained",
            config="excise.methods.trained.rgd_config:RGDConfig",
            needs=frozenset({c.ATTENTION}),
            cost="pictures and a training of three backward passes a step; minutes on a CPU for built-in models",
            licence="written from the paper's description; official code has no licence and is not used",
        ),
        "safree": Record(
            "excise.methods.inference.safree:SAFREE",
            "prompts projected off the concept while the model draws, with the concept as negative prompt",
            paper="Yoon et al., ICLR 2025, arXiv 2410.12761",
            shape="inference-time",
            config="excise.methods.inference.safree_config:SAFREEConfig",
            needs=frozenset({c.GUIDED_CALL, c.CLIP_TEXT}),
            cost="nothing to make; a pass of the text encoder a prompt, one of the denoiser more in filtered steps",
            licence="written from the paper; official code not used",
        ),
        "salun": Record(
            "excise.methods.trained.salun:SalUn",
            "the target remapped to its anchor in the half of the weights that matter most for it",
            paper="Fan et al., ICLR 2024, arXiv 2310.12508",
            shape="trained",
            config="excise.methods.trained.salun_config:SalUnConfig",
            needs=frozenset({c.ATTENTION, c.GUIDANCE}),
            cost="pictures and a training of the weights themselves; minutes on a CPU for built-in models",
            licence="written from the paper; official code is MIT and not used",
        ),
        "scapre": Record(
            "excise.methods.closed_form.scapre:ScaPre",
            "many concepts at once, each row of each projection weighted by its relevance to them",
            paper="Deng et al., ICLR 2026, arXiv 2601.06162",
            shape="closed-form",
            config="excise.methods.closed_form.scapre_config:ScaPreConfig",
            needs=frozenset({c.STATIC_TEXT}),
            cost="one text-width eigendecomposition for the whole model, products a layer; seconds on a CPU",
            licence="written from the paper's abstract and second-hand accounts; official code is MIT",
        ),
        "sculpting-memory": Record(
            "excise.methods.trained.sculpting_memory:SculptingMemory",
            "the target becomes its superclass in weights that are chosen anew on the way",
            paper="ICCV 2025, arXiv 2504.09039",
            shape="trained",
            config="excise.methods.trained.sculpting_memory_config:SculptingMemoryConfig",
            needs=frozenset({c.ATTENTION}),
            cost="pictures and a training of the weights themselves; minutes on a CPU for built-in models",
            licence="written from the paper's description; official code has no licence and is not used",
        ),
        "selective-amnesia": Record(
            "excise.methods.trained.selective_amnesia:SelectiveAmnesia",
            "a surrogate learnt in the target's place, while weights that matter for the rest are held",
            paper="Heng and Soh, NeurIPS 2023, arXiv 2305.10120",
            shape="trained",
            config="excise.methods.trained.selective_amnesia_config:SelectiveAmnesiaConfig",
            needs=frozenset({c.ATTENTION}),
            cost="pictures and the longest training of all; minutes on a CPU for built-in models",
            licence="written from the paper; official code is MIT and not used",
        ),
        "sld": Record(
            "excise.methods.inference.sld:SLD",
            "guidance away from the concept's own prompt while the model draws",
            paper="Schramowski et al., CVPR 2023, arXiv 2211.05105",
            shape="inference-time",
            config="excise.methods.inference.sld_config:SLDConfig",
            needs=frozenset({c.GUIDED_CALL}),
            cost="nothing to make; half a pass of the denoiser in every step",
            licence="written from the paper; official code is MIT",
        ),
        "slug": Record(
            "excise.methods.trained.slug:SLUG",
            "one gradient and one layer, with a step that is searched by looking at pictures",
            paper="Cai et al., ICML 2025, arXiv 2407.11867",
            shape="trained",
            config="excise.methods.trained.slug_config:SLUGConfig",
            needs=frozenset({c.TEXT_ENCODER}),
            cost="a few gradients, then some twenty looks at pictures; minutes on a CPU for built-in models",
            licence="written from the paper's description; official code has no licence and is not used",
        ),
        "speed": Record(
            "excise.methods.closed_form.speed:SPEED",
            "closed-form erasure inside the null space of retained states",
            paper="Li et al., ICLR 2026, arXiv 2503.07392",
            shape="closed-form",
            config="excise.methods.closed_form.speed_config:SPEEDConfig",
            needs=frozenset({c.STATIC_TEXT}),
            cost="one text-width eigendecomposition for each edited layer; seconds on a CPU",
            licence="written from the paper; official code is Apache-2.0",
        ),
        "spm": Record(
            "excise.methods.trained.spm:SPM",
            "adapters of rank one that erase a concept and hold everything else at random text states",
            paper="Lyu et al., CVPR 2024, arXiv 2312.16145",
            shape="trained",
            config="excise.methods.trained.spm_config:SPMConfig",
            needs=frozenset({c.ATTENTION, c.GUIDANCE}),
            cost="a long training on the model's own trajectories, no pictures; minutes on a CPU for built-in models",
            licence="written from the paper; official code is Apache-2.0 and not used",
        ),
        "surgun": Record(
            "excise.methods.trained.surgun.method:SurgUn",
            "forgetting as competition: the target's prompts learn to yield several other things",
            paper="Ranjan et al., arXiv 2603.00975",
            shape="trained",
            config="excise.methods.trained.surgun.config:SurgUnConfig",
            needs=frozenset({c.ATTENTION}),
            cost="pictures, a short LoRA training, calibration; minutes on a CPU for the built-in models",
            licence="written from the paper's abstracts; no official code is known",
        ),
        "trce": Record(
            "excise.methods.trained.trce:TRCE",
            "prompts read as their safe twins, then early denoising steered to the safe side",
            paper="Chen et al., ICCV 2025, arXiv 2503.07389",
            shape="trained",
            config="excise.methods.trained.trce_config:TRCEConfig",
            needs=frozenset({c.STATIC_TEXT, c.ATTENTION, c.GUIDANCE, c.CROSS_ATTENTION}),
            cost="a closed form, then a training on the model's own trajectories; minutes on a CPU for built-in models",
            licence="written from the paper's description; official code has no licence and is not used",
        ),
        "uce": Record(
            "excise.methods.closed_form.uce:UCE",
            "least-squares remapping of the projections that read text",
            paper="Gandikota et al., WACV 2024, arXiv 2308.14761",
            shape="closed-form",
            config="excise.methods.closed_form.uce_config:UCEConfig",
            needs=frozenset({c.STATIC_TEXT}),
            cost="one text-width solve for the whole model; under a second on a CPU",
            licence="written from the paper; official code is MIT",
        ),
        "zerase": Record(
            "excise.methods.trained.zerase:ZErase",
            "a LoRA on the maps that read the text alone, trained to read the concept as its anchor",
            paper="ICML 2026, arXiv 2603.25074",
            shape="trained",
            config="excise.methods.trained.zerase_config:ZEraseConfig",
            needs=frozenset({c.ATTENTION, c.GUIDANCE, c.SINGLE_STREAM}),
            cost="a short LoRA training on the model's own trajectories, no pictures; needs a GPU for Z-Image",
            licence="written from accounts of the paper; official code not used",
        ),
    },
    contract="excise.methods.contract:contract",
    facts="excise.methods.contract:facts",
)

CONTROLS = ("identity", "noise", "oracle")
"""Controls of a benchmark, in addition to methods; see `excise.evaluation.controls`."""


def load_method(name: str) -> Method[Settings]:
    """Import a method and return an instance of it.

    Raises:
        UnknownNameError: there is no method of this name.
        PluginError: the method cannot be imported or breaks the contract; the message names the member.
    """
    from excise.methods.contract import checked

    return checked(name, METHODS.record(name), METHODS.load(name))


def settings_of(name: str) -> type[Settings]:
    """The class of a method's settings; of a built-in method without importing the method, hence without torch.

    Raises:
        UnknownNameError, PluginError: as `load_method`.
    """
    record = METHODS.record(name)
    if METHODS.is_built_in(name):
        config: type[Settings] = record.load_config()
        return config
    return load_method(name).Config


def reads_text_alone(name: str) -> bool:
    """Whether a method needs no more of a model than its text encoders and the maps that read text.

    Raises:
        UnknownNameError: there is no such method.
    """
    return METHODS.record(name).shape == "closed-form"


__all__ = ["CONTROLS", "METHODS", "load_method", "reads_text_alone", "settings_of"]
