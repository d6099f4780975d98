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
