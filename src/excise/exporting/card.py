"""The model card of an export: a README.md with a front matter that model hubs read, written from the record alone.

Names of concepts and models are other people's text: they are escaped in Markdown and quoted in YAML. A README that is
not ours is never replaced: the card is then written under another name.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from excise.concepts.concept import NOTHING
from excise.edits.record import EditRecord
from excise.edits.uploads import CARDS, OURS
from excise.edits.verified import Check, conditions, public, sentences
from excise.exporting.readers import LORA
from excise.exporting.usage import EDIT, usage
from excise.families.base import Family
from excise.families.built_in import BUILT_IN, WEIGHTS
from excise.families.model_names import base_name, is_hub_id, without_folders
from excise.support.choices import written
from excise.support.digests import file_digest
from excise.support.files import write_text

MOST_NAMES = 40
FIGURES = {
    "ua": "pictures that ask for it and no longer show it",
    "ua_relative": "of those in which the untouched model shows it",
    "acc_e": "pictures that ask for it and still show it",
    "ira": "pictures of other prompts that are right in its attribute",
    "ira_relative": "pictures of other names still right, of those right before",
    "cra": "pictures of other prompts that are right in the other attribute",
    "acc_r": "pictures of names to keep that show them",
    "worst_back": "prompts on which the strongest attack recovers it",
    "taught_back": "prompts on which an attack that shows the model pictures of it recovers it",
    "erased": "pictures of the worst concept that no longer show it, of those that did",
    "retained": "pictures of other names still right, of those right before",
}
"""The figures of a check that a card gives, rates between 0 and 1, in words."""
LICENCE = ("license", "license_name", "license_link")  # as model hubs spell them
FAMILY_TAGS = {"sd": "stable-diffusion", "sdxl": "stable-diffusion-xl", "sana": "sana", "zimage": "z-image"}


@dataclass(frozen=True)
class Card:
    """What a card tells.

    Attributes:
        record: of the edit.
        checks: what was verified of the edit.
        format: of the export. file: its name; of a merged folder, the folder's.
        pipeline: the class in diffusers that loads the base.
        programs: names of the programs that read all of it, that of `--for` first.
        licence: the fields of the base's own card, if that is known.
        edit: the SHA-256 of the edit file.
        others: names of the concepts that other exports in the folder remove, by file.
        losses: sentences about programs that read a part of it and raise no error.
        absent: of a merged folder, the parts that diffusers has to be told it lacks.
    """

    record: EditRecord
    checks: Sequence[Check]
    format: str
    file: str
    pipeline: str
    programs: Sequence[str] = ()
    licence: Mapping[str, str] = field(default_factory=dict)
    edit: str | None = None
    others: Mapping[str, Sequence[str]] = field(default_factory=dict)
    losses: Sequence[str] = ()
    absent: Sequence[str] = ()

    @property
    def is_lora(self) -> bool:
        """Whether the export is a LoRA."""
        return self.format in LORA

    @property
    def is_added(self) -> bool:
        """Whether it is added to a model, rather than a whole one."""
        return self.is_lora or self.format == EDIT


def write_card(folder: Path, card: Card) -> Path | None:
    """Write a card into a folder; beside an export of other concepts, whose card stays, under the file's own name.

    Returns:
        The file; None where every name for it is taken by files that are not ours.

    Raises:
        OutputError: it cannot be written.
    """
    apart = any(sorted(names) != sorted(c.name for c in card.record.concepts) for names in card.others.values())
    names = (f"{Path(card.file).stem}.md",) if apart else CARDS
    path = next((folder / name for name in names if _is_free(folder / name)), None)
    if path is not None:
        write_text(path, text(card))
    return path


def text(card: Card) -> str:
    """Return a card as Markdown with its front matter."""
    base, names = base_name(card.record.base.model), [c.name for c in card.record.concepts]
    title = f"{base} without {', '.join(names[:MOST_NAMES]) or 'what its record does not name'}"
    kind = "a LoRA that removes" if card.is_lora else "the whole model with an edit merged in, which removes"
    if card.format == EDIT:
        kind = "an edit, a small file of changes that removes"
    maker = "excise erase" if card.format == EDIT else "excise export"
    lead = f"This is {kind} the concepts below from **{_md(base)}**. It was written by `{maker}`."
    sections = (
        ("What was removed", _removed(card)),
        ("From which model", _base(card)),
        ("How to load it", _usage(card, base)),
        ("How to undo it", _undo(card)),
        ("What was verified", _verified(card)),
        ("What it does not do", _limits(card)),
    )
    body = "\n\n".join(f"## {heading}\n\n{content}" for heading, content in sections)
    for file, concepts in card.others.items():
        name = _code(file)
        lead += f" Beside it, `{name}` removes {_md(', '.join(concepts))}: see `excise inspect {name}`."
    return f"---\n{OURS}\n{_front_matter(card)}---\n\n# {_md(title)}\n\n{lead}\n\n{body}\n"


def edit_card(edit: Path, record: EditRecord, checks: Sequence[Check]) -> str:
    """Return the card of an edit file itself, as it is published; no model is loaded."""
    return text(Card(record, checks, EDIT, edit.name, "", ("excise",), {}, file_digest(edit)))


def licence_of(family: Family) -> dict[str, str]:
    """Return the licence in the card of a model on this disk, by the keys of model hubs; nothing where it has none."""
    folder = Path(str(family.pipe.config.get("_name_or_path") or ""))
    readme = folder / "README.md"
    if not readme.is_file() and folder.parent == WEIGHTS:  # canvas-sd shares the card of all weights
        readme = WEIGHTS / "README.md"
    try:
        match = re.match(r"---\n(.*?)\n---\s", readme.read_text(encoding="utf-8"), re.DOTALL)
        content = yaml.safe_load(match[1]) if match else None
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {key: str(content[key]) for key in LICENCE if content.get(key)}


def _is_free(path: Path) -> bool:
    """Whether nothing stands at a path, or a card of ours."""
    if not path.exists():
        return True
    try:
        return OURS in path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def _front_matter(card: Card) -> str:
    record, base = card.record, card.record.base
    content: dict[str, Any] = {}
    if is_hub_id(base.model):
        content["base_model"] = base.model
        content["base_model_relation"] = "adapter" if card.is_added else "finetune"
    content |= card.licence
    content |= {"library_name": "diffusers", "pipeline_tag": "text-to-image"}
    tags = ["text-to-image", "concept-erasure", FAMILY_TAGS.get(base.family, base.family), f"method:{record.method}"]
    content["tags"] = [*tags, *(["lora"] if card.is_lora else []), "excise"]
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)


def _removed(card: Card) -> str:
    record = card.record
    rows = ["| concept | kind | is read as | synonyms |", "|---|---|---|---|"]
    for c in record.concepts:
        cells = (c.name, c.kind, c.anchor or NOTHING, ", ".join(c.synonyms) or "-")
        rows.append("| " + " | ".join(map(_md, cells)) + " |")
    made = [f"Method: `{_code(record.method)}`, seed {record.seed}, excise {_md(record.excise)}."]
    if record.settings:
        settings = (_code(f"{name} = {without_folders(written(value))}") for name, value in record.settings.items())
        made.append("Settings: " + ", ".join(f"`{setting}`" for setting in settings) + ".")
    if record.stack:
        parts = "; ".join(f"`{_code(p.method)}` for {', '.join(_md(c.name) for c in p.concepts)}" for p in record.stack)
        made.append(f"It joins {len(record.stack)} edits: {parts}.")
    kept = [_md(name) for name in record.preserve[:MOST_NAMES]]
    more = f" and {len(record.preserve) - MOST_NAMES} more" if len(record.preserve) > MOST_NAMES else ""
    names = ", ".join(kept) + more if kept else "none given"
    made.append(f"Names to keep: {names}; vocabulary: {_md(without_folders(record.vocabulary or 'none'))}.")
    return "\n".join(rows) + "\n\n" + "\n".join(f"- {line}" for line in made)


def _base(card: Card) -> str:
    base = card.record.base
    lines = [
        f"- name: {_md(base_name(base.model))}" + (f", revision {_md(base.revision)}" if base.revision else ""),
        f"- family: {_md(base.family)}",
        f"- fingerprint of its weights that read text (SHA-256, half precision): `{_code(base.weights)}`",
        f"- fingerprint of its text encoder: `{_code(base.text_encoder)}`",
    ]
    if card.edit is not None:
        begin = "the edit file has" if card.format == EDIT else "exported from the edit file with"
        lines.append(f"- {begin} the SHA-256 `{_code(card.edit)}`")
    if card.licence.get("license"):
        lines.append(f"- licence of the base: {_md(card.licence['license'])}; it holds for this file as well")
    else:
        lines.append("- licence of the base: not known here; whatever it is, it holds for this file as well")
    return "\n".join(lines)


def _usage(card: Card, base: str) -> str:
    base = _word(f"PATH/TO/{base}" if card.record.base.model in BUILT_IN else base)
    paragraphs = usage(card.format, card.programs, _word(card.file), base, card.pipeline, card.record.base.family)
    lost = [f"**Not all of it arrives everywhere:** {_md(sentence)}." for sentence in card.losses]
    if not paragraphs:
        return "\n\n".join(["No program is known here that reads all of it.", *lost])
    if card.absent:
        given = ", ".join(f"{name}=None" for name in card.absent)
        lost.append(f"This model was saved without {' and '.join(card.absent)}; add `{given}` to `from_pretrained`.")
    scale = "Use it at strength 1: what was verified holds for that strength alone.\n\n" if card.is_added else ""
    return scale + "\n\n".join([*paragraphs, *lost])


def _verified(card: Card) -> str:
    checks = [public(check) for check in card.checks]
    lines = sentences(checks)
    if not lines:
        return (
            "**Not yet verified.** No check of this edit is on record. `excise evaluate --edit EDIT --concept NAME` "
            "makes one, and exports made after it say what was found."
        )
    if not any(check.verifies for check in checks):
        found = "\n".join(f"- {_md(line)}" for line in lines)
        return f"**Not yet verified.** It was attacked, and no more:\n\n{found}{_figures(checks)}"
    failed = any(not gate.passed for check in checks for gate in check.gates)
    first = "**At least one gate failed.**\n\n" if failed else ""
    return first + "\n".join(f"- {_md(line)}" for line in lines) + _figures(checks)


def _figures(checks: Sequence[Check]) -> str:
    """The figures behind the verdicts, each with its interval and number, as a table; empty where there are none."""
    rows = []
    for check in checks:
        where = _md(f"{check.protocol} (hash {check.hash[:12]}), {check.judge}{conditions(check)}")
        for key in (k for k in FIGURES if k in check.metrics):
            m = check.metrics[key]
            value, low, high = (f"{100 * m[end]:.1f}" for end in ("value", "low", "high"))
            rows.append(f"| {FIGURES[key]} (`{key}`) | {value} % | {low} to {high} % | {m['n']:g} | {where} |")
    head = "| figure | value | 95 % interval | n | protocol, judge, what else was applied |\n|---|---|---|---|---|\n"
    return f"\n\n{head}" + "\n".join(rows) if rows else ""


def _undo(card: Card) -> str:
    if card.is_lora:
        return (
            "It is an addition to the model: whoever does not load it, or loads it at strength 0, has the whole model. "
            "Unload it (in diffusers: `pipe.unload_lora_weights()`), or load the base alone."
        )
    if card.is_added:
        return "Draw without the file: the model itself is not changed. In Python, what `apply` returns has `remove()`."
    return "It changes this copy alone: whoever has the base model has the concepts. Load that one instead."


def _limits(card: Card) -> str:
    return "\n".join(
        [
            "- It was made for one model, known by the fingerprints above. On others nothing is known about it.",
            "- It is not proof against attacks: other words, learned tokens or fine-tuning may bring a concept back. "
            "`excise attack` measures how often.",
            "- Names other than those above may have changed as well; only what is listed as verified was looked at.",
            "- It is no filter of prompts or pictures, and no statement about the law.",
        ]
    )


def _code(value: str) -> str:
    """A text for a code span: one line, without what ends the span."""
    return " ".join(value.split()).replace("`", "'") or "-"


def _word(value: str) -> str:
    """A name for a command or a line of code: whatever a shell or Python would read as more is a '_'."""
    return re.sub(r"[^\w./@+-]", "_", value)


def _md(value: str) -> str:
    """Escape a text for Markdown, tables and HTML included."""
    flat = " ".join(html.escape(value, quote=False).split())
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", flat)
