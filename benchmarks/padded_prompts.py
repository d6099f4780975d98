"""Time the pipeline's own `encode_prompt` on padded prompts of a request, a sample of them, and scale it up.

    python -m benchmarks.padded_prompts FOLDER --erased erased.txt --kept kept.txt [--sample 2] [--dtype bfloat16]

Every distinct prompt that the request needs (each name in each template) would be encoded once, as the pipeline pads
it. Prints one line of JSON: CPU seconds of a prompt and of all, their number, and the peak memory of this process.
"""

from __future__ import annotations

import argparse
import inspect
import json
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def prompts_of(erased: Sequence[str], kept: Sequence[str], kind: str = "object") -> list[str]:
    """Return the distinct prompts of a request without anchors: names in templates, templates without a name."""
    from excise.concepts.concept import TEMPLATES

    filled = [t.replace("{}", name) for name in (*erased, *kept, "") for t in TEMPLATES[kind]]
    return list(dict.fromkeys(" ".join(text.split()) for text in filled))


def measure(folder: Path, prompts: Sequence[str], sample: int, dtype: str) -> dict[str, Any]:
    """Encode a sample of prompts with the pipeline's text encoders, after one that is not timed."""
    import torch
    from diffusers import DiffusionPipeline

    absent = {"transformer": None, "vae": None}
    pipe = DiffusionPipeline.from_pretrained(folder, torch_dtype=getattr(torch, dtype), **absent)
    takes = inspect.signature(pipe.encode_prompt).parameters
    options = {"prompt_2": None} if "prompt_2" in takes else {"do_classifier_free_guidance": False}

    def encode(texts: list[str]) -> None:
        with torch.no_grad():
            pipe.encode_prompt(texts, device=torch.device("cpu"), **options)

    encode([""])
    began = time.process_time()
    encode(list(prompts[:sample]))
    each = (time.process_time() - began) / sample
    return {
        "prompts": len(prompts),
        "sample": sample,
        "cpu_each": round(each, 3),
        "cpu": round(each * len(prompts), 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
        "threads": torch.get_num_threads(),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--erased", type=Path, required=True, help="file of names, one a line")
    parser.add_argument("--kept", type=Path, required=True, help="file of names, one a line")
    parser.add_argument("--sample", type=int, default=2, help="prompts that are timed")
    parser.add_argument("--dtype", default="bfloat16")
    options = parser.parse_args(arguments)
    erased, kept = (path.read_text(encoding="utf-8").split("\n") for path in (options.erased, options.kept))
    prompts = prompts_of([n for n in erased if n], [n for n in kept if n])
    print(json.dumps(measure(options.folder, prompts, options.sample, options.dtype)))


if __name__ == "__main__":
    main()
