"""A class that breaks the contract of a method is refused at load, in a sentence that names the member."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
from entry_points import Entry
from pydantic import BaseModel, Field

from excise.errors import PluginError
from excise.methods import METHODS, load_method
from excise.methods.base import Made, Method
from excise.methods.closed_form.base import ClosedForm, TextEncoderForm
from excise.methods.closed_form.config import MethodConfig
from excise.methods.contract import checked
from excise.methods.trained.base import Trained
from excise.registry import Record
from excise.support.reading import read_with
from excise.support.settings import Settings
from excise.training.config import TrainedConfig


class Good(ClosedForm[MethodConfig]):
    Config = MethodConfig

    def solve(self, problem, weights, config, generator):
        raise NotImplementedError


class NoBase:
    Config = MethodConfig


class BareMethod(Method[Settings]):
    Config = Settings

    def make(self, request, config, context):
        return Made()


class NoSolve(ClosedForm[MethodConfig]):
    Config = MethodConfig


class NoSolveEncoder(TextEncoderForm[Settings]):
    Config = Settings


class NoTrain(Trained[TrainedConfig]):
    Config = TrainedConfig


class SolveIsNoFunction(ClosedForm[MethodConfig]):
    Config = MethodConfig
    solve: Any = 3


class TooFewArguments(Good):
    def solve(self, problem, weights):
        raise NotImplementedError


class TooManyArguments(Good):
    def solve(self, problem, weights, config, generator, extra):
        raise NotImplementedError


class KeywordsOnly(Good):
    def solve(self, problem, *, weights, config, generator):
        raise NotImplementedError


class OwnMake(Good):
    def make(self, request, config):
        raise NotImplementedError


class NoConfig(ClosedForm[MethodConfig]):
    def solve(self, problem, weights, config, generator):
        raise NotImplementedError


class ConfigNoSettings(Good):
    class Config(BaseModel):
        strength: float = 1.0


class ConfigWithoutParams(Good):
    Config = Settings


class TrainedWithClosedConfig(Trained[TrainedConfig]):
    Config: Any = MethodConfig

    def train(self, problem, config):
        raise NotImplementedError


class UnknownSweep(MethodConfig):
    sweep: ClassVar[tuple[str, tuple[float, ...]]] = ("scale", (1.0, 2.0))


class EmptySweep(MethodConfig):
    sweep: ClassVar[tuple[str, tuple[float, ...]]] = ("robust", ())


class UnknownPreset(MethodConfig):
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"style": {"anchr": "art"}}


class UnknownCondition(MethodConfig):
    strength: float = Field(1.0, description="How much.", json_schema_extra=read_with(mood="gentle"))


class SweepsUnknown(Good):
    Config = UnknownSweep


class SweepsNothing(Good):
    Config = EmptySweep


class PresetOfUnknown(Good):
    Config = UnknownPreset


class ReadsWithUnknown(Good):
    Config = UnknownCondition


class NeedsArguments(Good):
    def __init__(self, size):
        self.size = size


SOLVE = r"solve\(problem, weights, config, generator\)"
BROKEN = [
    (NoBase, "is no class derived from ClosedForm, TextEncoderForm, Trained or Inference"),
    (Good(), "is no class derived from ClosedForm"),
    (BareMethod, "is no class derived from ClosedForm"),
    (NoSolve, f"has no `solve`; expected a method `{SOLVE}`"),
    (NoSolveEncoder, r"has no `solve_encoder`; expected a method `solve_encoder\(problem, config\)`"),
    (NoTrain, r"has no `train`; expected a method `train\(problem, config\)`"),
    (SolveIsNoFunction, f"has a `solve` that is a int; expected a method `{SOLVE}`"),
    (TooFewArguments, rf"has `solve\(problem, weights\)`; it is called as `{SOLVE}`"),
    (TooManyArguments, f"config, generator, extra\\)`; it is called as `{SOLVE}`"),
    (KeywordsOnly, f"it is called as `{SOLVE}`"),
    (OwnMake, r"has `make\(request, config\)`; it is called as `make\(request, config, context\)`"),
    (
        NoConfig,
        r"has no `Config` derived from MethodConfig; expected a class derived from excise\.methods",
    ),
    (ConfigNoSettings, "has no `Config` derived from MethodConfig"),
    (ConfigWithoutParams, "has no `Config` derived from MethodConfig"),
    (TrainedWithClosedConfig, r"expected a class derived from excise\.training\.config\.TrainedConfig"),
    (SweepsUnknown, "sweeps the unknown setting 'scale'; it has: anchor, params"),
    (SweepsNothing, r"has the sweep \('robust', \(\)\); expected the name of a setting and its values"),
    (PresetOfUnknown, "has the preset 'style' with the unknown setting 'anchr'; it has: anchor, params"),
    (ReadsWithUnknown, "reads 'strength' with the unknown setting 'mood'; it has: anchor, params"),
    (NeedsArguments, r"cannot be created without arguments \(.*size.*\)"),
]


def record(shape: str = "closed-form", **more: Any) -> Record:
    return Record("my_package.mine:Mine", "mine", shape=shape, **more)


@pytest.mark.parametrize(("loaded", "message"), BROKEN, ids=lambda v: getattr(v, "__name__", "")[:20])
def test_a_broken_class_is_refused_by_the_member_that_breaks_it(loaded, message):
    shape = getattr(loaded, "shape", "closed-form")
    with pytest.raises(PluginError, match=message) as error:
        checked("mine", record(shape), loaded)
    assert str(error.value).startswith("the method 'mine' (my_package.mine:Mine) ")
    assert "\n" not in str(error.value)


def test_another_shape_than_the_base_class_has_is_refused():
    with pytest.raises(PluginError, match="is closed-form by its base class, but its record has shape='trained'"):
        checked("mine", record("trained"), Good)


def test_an_unknown_need_is_refused():
    with pytest.raises(PluginError, match="needs the unknown capability 'text_kw'; known: text_kv, "):
        checked("mine", record(needs=frozenset({"text_kw"})), Good)


def test_a_class_that_keeps_the_contract_is_made():
    assert isinstance(checked("mine", record(), Good), Good)


class Static(Good):
    @staticmethod
    def solve(problem, weights, config, generator):
        raise NotImplementedError


class Variadic(Good):
    def solve(self, *args):
        raise NotImplementedError


@pytest.mark.parametrize("loaded", [Static, Variadic])
def test_a_member_may_take_its_arguments_in_any_way_that_can_be_called(loaded):
    assert isinstance(checked("mine", record(), loaded), loaded)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_registered_method_keeps_the_contract(name):
    assert load_method(name).shape == METHODS.record(name).shape


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            Entry("mine", None, ImportError("no module named 'jax'\nmore")),
            r"cannot be imported \(ImportError: no module",
        ),
        (Entry("mine", None, ImportError()), r"cannot be imported \(ImportError\)"),
        (Entry("mine", {"target": "a:b"}), r"is a dict; expected a class or a function, or an object of type excise"),
        (
            Entry("mine", Record("my_package.mine", "mine")),
            "has the target 'my_package.mine'; expected module:",
        ),
    ],
)
def test_an_entry_point_without_a_readable_record_breaks_itself_alone(registered, entry, message):
    registered(entry)
    assert "mine" not in METHODS
    assert "uce" in METHODS
    assert load_method("uce").shape == "closed-form"
    with pytest.raises(PluginError, match=message) as error:
        METHODS.record("mine")
    assert "\n" not in str(error.value)
    assert set(METHODS.broken()) == {"mine"}


def test_a_built_in_name_cannot_be_taken_over(registered):
    registered(Entry("uce", record()))
    assert METHODS.record("uce").target == "excise.methods.closed_form.uce:UCE"
    assert "has the name of a built-in method" in str(METHODS.broken()["uce"])


def test_a_record_whose_class_cannot_be_imported_is_refused(registered):
    registered(Entry("mine", record()))
    with pytest.raises(PluginError, match=r"cannot be imported from my_package\.mine:Mine \(ModuleNotFoundError"):
        load_method("mine")
