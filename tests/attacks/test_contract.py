"""The contract of an attack class: what breaks it is refused by name, and a class of another package runs."""

from __future__ import annotations

import sys

import pytest
from conftest import tiny_pipe

from excise.attacks.base import Arena, Attack, AttackSettings, Control, Round
from excise.attacks.contract import check_attack
from excise.attacks.plan import planned
from excise.attacks.suite import SuiteOptions, attack
from excise.errors import PluginError, UnknownNameError

PLUGIN = """
from pydantic import Field

from excise.attacks.base import Attack, AttackSettings
from excise.registry import Record


class ShoutConfig(AttackSettings):
    mark: str = Field("!", description="Put after each prompt.")


class Shout(Attack[ShoutConfig]):
    access = "black box"
    Config = ShoutConfig

    def run(self, arena):
        return arena.draw_prompts([[test + self.config.mark] * arena.images for test in arena.tests])


RECORD = Record("shouting:Shout", "test prompts, louder")
"""


class Sound(Attack[AttackSettings]):
    """An attack that keeps the contract."""

    access = "black box"

    def run(self, arena: Arena) -> list[Round]:
        return arena.draw_tests()


def test_an_attack_without_settings_needs_access_and_run_alone():
    assert check_attack("sound", Sound) is Sound
    sound = Sound(AttackSettings())
    assert (sound.control(), sound.passes(3), sound.teaches) == (Control("seeds", {}), 0, False)


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({"access": "magic"}, "`access` is 'magic'; expected one of 'black box', 'text encoder', "),
        ({"access": None}, "`access` is missing; expected one of 'black box'"),
        ({"teaches": "yes"}, "`teaches` is 'yes'; expected True or False."),
        ({"Config": dict}, "`Config` is <class 'dict'>; expected a subclass of excise.attacks.base.AttackSettings."),
        ({"run": Attack.run}, "`run` is missing; expected a method run(self, arena) that returns a list of Round."),
        ({"run": lambda self: []}, "expected a method run(self, arena) that returns a list of Round."),
        ({"passes": 3}, "`passes` is 3; expected a method passes(self, tests)"),
        ({"passes": lambda self: 3}, "expected a method passes(self, tests) that returns a number of denoiser passes."),
        ({"control": None}, "`control` is missing; expected a method control(self) that returns a Control."),
    ],
)
def test_a_broken_member_is_named_with_what_is_expected(members, sentence):
    broken = type("Broken", (Sound,), members)
    with pytest.raises(PluginError) as raised:
        check_attack("broken", broken)
    assert str(raised.value).startswith("the attack 'broken': `")
    assert sentence in str(raised.value)


@pytest.mark.parametrize("loaded", [object, "text", 3, Sound(AttackSettings())])
def test_only_a_subclass_of_attack_is_one(loaded):
    with pytest.raises(PluginError, match="the attack 'odd' is .*; expected a subclass of excise.attacks.base"):
        check_attack("odd", loaded)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package with one attack, "shout", from its source."""

    def put(source: str) -> None:
        (tmp_path / "shouting.py").write_text(source)
        info = tmp_path / "shouting-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shouting\nVersion: 1\n")
        (info / "entry_points.txt").write_text("[excise.attacks]\nshout = shouting:RECORD\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "shouting", raising=False)

    return put


def options(**more):
    return SuiteOptions(tests=1, images=1, judge=lambda images, names: [True] * len(images), **more)


def test_an_attack_of_another_package_runs_by_its_name_alone(tokenizer, install):
    pipe = tiny_pipe(tokenizer)
    with pytest.raises(UnknownNameError, match="no attack of the suite 'standard' 'shout'"):
        attack(pipe, "cat", (), options(names=["shout"]))
    install(PLUGIN)
    assert "shout" not in [p.name for p in planned("full")]
    (result,) = attack(pipe, "cat", (), options(names=["shout"], settings={"mark": "?"})).results
    assert result.model.words[0][0].endswith("?")
    assert result.control is not None


def test_an_attack_of_another_package_that_breaks_the_contract_is_refused(tokenizer, install):
    install(PLUGIN.replace("def run(self, arena)", "def attack(self, arena)"))
    with pytest.raises(PluginError, match=r"the attack 'shout': `run` is missing; expected a method run\(self"):
        attack(tiny_pipe(tokenizer), "cat", (), options(names=["shout"]))
    (result,) = attack(tiny_pipe(tokenizer), "cat", (), options(names=["seeds"])).results  # the others go on working
    assert result.model is not None
