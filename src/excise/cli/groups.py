"""How the long helps are laid out: the options that matter first, the others in panels by the question they answer."""

from __future__ import annotations

from collections.abc import Mapping

FIRST = ""
"""The key of the options that matter most, which stand above all panels."""
REST = "More"
"""The panel of options that no other panel names."""
WHERE = "Where: the model and the machine"
MODEL = ("device", "dtype", "revision", "variant", "config", "local_files_only", "prediction")

Groups = Mapping[str, tuple[str, ...]]
"""Names of options, as the record of a command has them, by the title of their panel."""

GROUPS: Mapping[str, Groups] = {
    "erase": {
        FIRST: ("concept", "model", "method", "preserve_file", "out"),
        "What to erase": ("concept_file", "kind", "anchor", "edit"),
        "How to erase": ("set_", "advise", "robust", "judge", "seed", "keep_states"),
        "What to keep": ("preserve", "vocabulary"),
        WHERE: MODEL,
        "Look: pictures and output": ("preview", "charts", "dry_run", "force", "as_json"),
    },
    "update": {
        FIRST: ("add", "add_file", "drop"),
        "What to erase": ("kind",),
        WHERE: ("model", *MODEL),
        "Look: pictures and output": ("preview", "as_json"),
    },
    "fuse": {
        FIRST: ("out", "preserve_file"),
        "How to fuse": ("retain_scale", "ridge"),
        "What to keep": ("preserve", "vocabulary"),
        WHERE: ("model", *MODEL),
        "Look: pictures and output": ("preview", "force", "as_json"),
    },
    "apply": {
        FIRST: ("out",),
        WHERE: MODEL,
        "Look: pictures and output": ("cache", "no_cache", "as_json"),
    },
    "import": {
        FIRST: ("concept", "model", "out"),
        "What it erases": ("kind",),
        "What to keep": ("preserve",),
        WHERE: MODEL,
        "Look: pictures and output": ("preview", "force", "as_json"),
    },
    "generate": {
        FIRST: ("prompt", "prompts", "model", "edit", "out"),
        "How to draw": ("seed", "count", "steps", "guidance", "negative", "width", "height", "strength"),
        WHERE: ("allow_other_base", *MODEL),
        "Look: pictures and output": ("force", "as_json"),
    },
    "export": {
        FIRST: ("for_", "out"),
        "How to write it": ("format",),
        WHERE: ("model", "allow_other_base", *MODEL),
        "Look: pictures and output": ("as_json",),
    },
    "push": {
        FIRST: ("repo", "dry_run", "yes"),
        "How to upload it": ("private", "revision", "message", "include"),
        "Look: pictures and output": ("as_json",),
    },
    "evaluate": {
        FIRST: ("concept", "model", "edit", "require", "out"),
        "What to measure": ("protocol", "preserve", "preserve_file", "ask", "pictures", "group", "untouched"),
        "How to measure": ("judge", "judge_weights", "batch", "cache", "no_cache"),
        WHERE: ("allow_other_base", *MODEL),
        "Look: pictures and output": ("force", "as_json"),
    },
    "judge": {
        FIRST: ("before", "concept", "judge", "require", "out"),
        "What the pictures are": ("prompts", "protocol", "group"),
        "People as judges": ("rate", "ratings"),
        "How to measure": ("judge_weights",),
        "Look: pictures and output": ("force", "as_json"),
    },
    "sequence": {
        FIRST: ("concept", "concept_file", "model", "method", "out"),
        "What to delete": ("kind", "anchor"),
        "How to delete": ("set_", "anew", "seed"),
        "What to keep": ("preserve", "preserve_file", "vocabulary"),
        "How to measure": ("share", "judge", "judge_weights", "pictures", "batch", "cache", "no_cache"),
        WHERE: MODEL,
        "Look: pictures and output": ("force", "as_json"),
    },
    "attack": {
        FIRST: ("concept", "model", "edit", "suite", "out"),
        "What to recover": ("kind", "synonym", "other", "ask"),
        "How to attack": ("only", "settings", "images", "tests", "judge", "seed"),
        "What to compare with": ("base", "oracle", "require"),
        WHERE: ("allow_other_base", *MODEL),
        "Look: pictures and output": ("force", "as_json"),
    },
    "doctor": {
        FIRST: ("model", "judges"),
        WHERE: MODEL,
        "Look: pictures and output": ("as_json",),
    },
}
