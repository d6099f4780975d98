"""Commands and files that pages of the documentation print."""

from __future__ import annotations

import re
from pathlib import Path

_BLOCK = re.compile(r"^```(?:sh|bash|)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"^```text\n# (\S+\.txt),[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_YAML = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)


def lines(page: Path) -> list[str]:
    """Every line of a page's blocks of commands, without comments; continued lines as one."""
    blocks = [block.replace("\\\n", " ") for block in _BLOCK.findall(page.read_text(encoding="utf-8"))]
    every = [re.sub(r"\s+#.*", "", line).strip() for block in blocks for line in block.splitlines()]
    return [line for line in every if line]


def commands(page: Path) -> list[str]:
    """The commands of our own among them, but those that are shortened."""
    return [line for line in lines(page) if line.startswith("excise ") and "..." not in line]


def files(page: Path) -> dict[str, str]:
    """By name, the text files that a page shows under a first line such as "# names.txt, one a line"."""
    return dict(_FILE.findall(page.read_text(encoding="utf-8")))


def yaml_block(page: Path) -> str:
    """The only block of YAML of a page."""
    (block,) = _YAML.findall(page.read_text(encoding="utf-8"))
    return block
