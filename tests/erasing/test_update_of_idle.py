"""An edit whose record holds a setting that nothing reads, as earlier versions took them, can be updated."""

from __future__ import annotations

from dataclasses import replace

from excise import erase, update


def test_it_is_made_again_without_that_setting(make):
    pipe = make("sd")
    edit = erase(pipe, ["cat"], "rece", rounds=0, preserve=["dog"], vocabulary=None)
    given = edit.record.given.model_copy(update={"settings": {"rounds": 0, "hold": 3.0}})
    old = edit.record.model_copy(update={"given": given, "settings": {**edit.record.settings, "hold": 3.0}})
    for record in (old, old.model_copy(update={"given": None})):
        made = update(pipe, replace(edit, record=record), add=["house"])
        assert made.record.given.settings == {"rounds": 0}
