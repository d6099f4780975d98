"""The documentation names files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
PLACES = (ROOT, ROOT / "src" / "excise", ROOT / "src" / "excise" / "report")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page):
    named = re.findall(r"`((?:[\w.-]+/)*[\w.-]+(?:\.py|/))`", page.read_text(encoding="utf-8"))
    named = [
        name for name in named if name.endswith(".py") or name.split("/")[0] in ("tests", "src", "docs", "scripts")
    ]
    missing = [n for n in named if not any((place / n).exists() for place in PLACES)]
    assert not missing, f"{page.name} names {', '.join(missing)}"


def test_the_readme_names_the_command_that_ci_runs():
    steps = re.findall(r"^make .*$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert steps[-1] == "make test"
    assert f"`{steps[-1]}` runs the tests" in readme


def test_the_readme_is_read_in_two_minutes():
    """At 220 words a minute, commands and addresses aside; what is longer has a page, which docs/index.md names."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```|\]\([^)]*\)", "", readme, flags=re.DOTALL)
    assert len(re.findall(r"[\w'-]+", prose)) <= 440
    assert "docs/index.md" in readme
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert all(page in index for page in ("what-works.md", "reproduction.md", "walkthroughs/a-celebrity.md"))
