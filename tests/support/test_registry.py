"""Registries: an unknown name is answered with what exists."""

from __future__ import annotations

import pytest

from excise.attacks import ATTACKS
from excise.cli.main import app
from excise.edits.hooks import HOOKS
from excise.errors import UnknownNameError
from excise.families import FAMILIES
from excise.judges import FEATURES, JUDGES
from excise.methods import METHODS
from excise.protocols import PROTOCOLS


@pytest.mark.parametrize(
    "registry", [ATTACKS, FAMILIES, FEATURES, HOOKS, JUDGES, METHODS, PROTOCOLS], ids=lambda r: r.kind
)
def test_an_unknown_name_advises_no_command_that_does_not_exist(registry):
    with pytest.raises(UnknownNameError) as error:
        registry.record("nowhere")
    commands = {c.name or c.callback.__name__ for c in app.registered_commands}
    advised = str(error.value).partition("See: excise ")[2].split()
    assert not advised or advised[0] in commands
    assert "Known: " in str(error.value)
