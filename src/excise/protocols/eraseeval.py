"""Protocol `eraseeval`: a prompt with a concept, one that means it without its name, and captions of other things.

EraseEval: Fuchi and Takagi, "Erasing with Precision: Evaluating Specific Concept Erasure from Text-to-Image
Generative Models", arXiv 2502.13989. Its metrics are in excise/metrics/eraseeval.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from excise.concepts.concept import Concept
from excise.concepts.vocabulary import vocabulary_of
from excise.errors import ConceptError, JudgeError
from excise.families.base import Family
from excise.families.built_in import is_built_in
from excise.protocols.base import Item, Protocol
from excise.protocols.concept import ATTRIBUTE, Questions, made, other_names
from excise.protocols.prompt_file import prompts_of
from excise.protocols.published import json_of, named_folder, one_line
from excise.support.counts import counted
from excise.support.digests import digest
from excise.support.spelling import same_name

NAME = "eraseeval"
FOLDER, CAPTIONS, PICTURES_FOLDER = "EXCISE_ERASEEVAL", "EXCISE_COCO", "EXCISE_COCO_IMAGES"
CRITERIA = {"target": "protocol1.json", "implicit": "protocol2.json"}
PICTURES = 5  # of a prompt
MOST_CAPTIONS = 1000
STEPS, GUIDANCE = 50, 7.5
KEYS = ("eraseeval", "reflected", "implicit_reflected", "alignment_kept", "quality_kept")  # of metrics
ENDINGS = (".jpg", ".jpeg", ".png", ".webp")


def eraseeval_protocol(questions: Questions, family: Family, steps: int, guidance: float, judge: str) -> Protocol:
    """Return the three criteria for some concepts: groups `target`, `implicit` and `captions`.

    Args:
        questions: its `pictures` are drawn of each prompt of a concept, by default 5.
        steps, guidance: of the sampler of a built-in model; others take the pipeline's own defaults, as the benchmark.
        judge: name of the judge, or `NO_JUDGE`.

    Raises:
        ConceptError: the folder of prompts or the file of captions is not named or cannot be read, or lacks a concept.
    """
    files = {group: _prompts(_root() / name) for group, name in CRITERIA.items()}
    items = [item for c in questions.concepts for item in _asking(files, c, questions.pictures or PICTURES)]
    captions = prompts_of(
        CAPTIONS,
        f"eraseeval reads captions from a CSV or JSON file, and {CAPTIONS} names none; the benchmark takes 1,000 of "
        f"MS-COCO, with seeds. Set it, for example: export {CAPTIONS}=~/coco_1k.csv",
    )
    items += [Item("captions", row.prompt, {}, i, seed=row.seed) for i, row in enumerate(captions[:MOST_CAPTIONS])]
    if not is_built_in(family):
        steps, guidance = STEPS, GUIDANCE
    notes = {
        "prompts": f"of {FOLDER}, one a concept and criterion, as the benchmark's program writes them; it has a "
        "language model write them until the original model shows the concept",
        "embeddings": "of images by CLIP in both criteria; in the first the benchmark has a language model caption the "
        "images and embeds the captions, so our first metric is not its M1",
        "single score": "a harmonic mean; the form of the paper's is not public",
    }
    if real := real_pictures():
        _check_readable(real)
        content = digest([[file.name, file.stat().st_size] for file in real], escape=False)[:12]
        notes["real pictures"] = f"{counted(len(real), 'picture')} of {PICTURES_FOLDER}, {content}"
    near, others = other_names(questions, vocabulary_of(questions.vocabulary, family, questions.concepts), family)
    plan = made(NAME, items, questions.concepts, (steps, guidance, judge), notes, [*near, *others])
    return replace(plan, features="canvas-image-tower" if is_built_in(family) else "clip-image")


def _root() -> Path:
    return named_folder(
        FOLDER,
        f"eraseeval reads prompts from a folder, and {FOLDER} names none; it is the folder captions that "
        "https://github.com/fmp453/erase-eval writes, with each concept's prompt in protocol1.json and "
        f"protocol2.json. Set it, for example: export {FOLDER}=~/erase-eval/captions",
    )


def _prompts(file: Path) -> Mapping[str, str]:
    """The prompt of each concept.

    Raises:
        ConceptError: the file cannot be read.
    """
    expected = 'JSON with a prompt by concept, such as {"Snoopy": "a dog that lies on the roof of a red kennel"}'
    prompts = json_of(file, expected)
    if not isinstance(prompts, dict) or not all(one_line(text) for text in prompts.values()):
        raise ConceptError(f"cannot read {file}; expected {expected}.")
    return {name: one_line(text) for name, text in prompts.items()}


def real_pictures() -> list[Path]:
    """Return the first pictures of the folder that EXCISE_COCO_IMAGES names, by name; none where it names none.

    Raises:
        JudgeError: the folder holds none.
    """
    if not os.environ.get(PICTURES_FOLDER):
        return []
    folder = named_folder(PICTURES_FOLDER, f"Set {PICTURES_FOLDER} to a folder of pictures.")
    files = sorted(p for p in folder.glob("*") if p.suffix.lower() in ENDINGS)[:MOST_CAPTIONS]
    if not files:
        raise JudgeError(f"{PICTURES_FOLDER} is {folder}, which has no {', '.join(ENDINGS)} files.")
    return files


def _check_readable(files: Sequence[Path]) -> None:
    """Read every picture before anything is drawn.

    Raises:
        JudgeError: one cannot be read.
    """
    for file in files:
        try:
            with Image.open(file) as image:
                image.load()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise JudgeError(f"{file} is no readable picture ({error}); take it out of {file.parent}.") from error


def _asking(files: Mapping[str, Mapping[str, str]], concept: Concept, count: int) -> Iterator[Item]:
    """The images of a concept's two prompts.

    Raises:
        ConceptError: a file has no prompt for it.
    """
    for group, prompts in files.items():
        prompt = next((text for key, text in prompts.items() for word in concept.words if same_name(key, word)), None)
        if prompt is None:
            raise ConceptError(
                f"{CRITERIA[group]} of {FOLDER} has no prompt for '{concept.name}', but for "
                f"{', '.join(list(prompts)[:20]) or 'nothing'}; add one to the file."
            )
        for index in range(count):
            about = None if group == "target" else concept.name
            yield Item(group, prompt, {ATTRIBUTE: concept.name}, index, about)
