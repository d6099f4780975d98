"""Commands and files that pages of the documentation print."""

from __future__ import annotations

import re
from pathlib import Path

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"# (\S+\.txt),.*\n")


def blocks(page: Path, *languages: str) -> list[str]:
    """The contents of a page's fenced blocks in some languages; "" is a block that names none."""
    return [text for language, text in _BLOCK.findall(page.read_text(encoding="utf-8")) if language in languages]


def lines(page: Path) -> list[str]:
    """Every line of a page's blocks of commands, without comments; continued lines as one."""
    joined = [block.replace("\\\n", " ") for block in blocks(page, "", "sh", "bash")]
    every = [re.sub(r"\s+#.*", "", line).strip() for block in joined for line in block.splitlines()]
    return [line for line in every if line]


def commands(page: Path) -> list[str]:
    """The commands of our own among them, but those that are shortened."""
    return [line for line in lines(page) if line.startswith("excise ") and "..." not in line]


def files(page: Path) -> dict[str, str]:
    """By name, the text files that a page shows under a first line such as "# names.txt, one a line"."""
    named = [(_NAMED.match(text), text) for text in blocks(page, "text")]
    return {found.group(1): text for found, text in named if found}
