"""The built-in vocabulary of Canvas: probes for every kind of target."""

import pytest

from excise.canvas import vocabulary, world


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("target", ["cat", "neon", "ox", "cat in neon style"])
def test_every_target_has_probes_of_each_role(target, strict):
    others = [n for n in vocabulary.siblings(target) if n != target]
    rows = vocabulary.probes(target, others, strict)
    assert {role for _, _, role, _ in rows} == {"target", "related", "unrelated"}
    assert all(name == target for _, name, role, _ in rows if role == "target")


def test_strict_probes_name_core_objects_by_alias_and_further_names_as_they_are():
    prompts = [prompt for prompt, *_ in vocabulary.probes("ox", ["tiger", "cat"], strict=True)]
    assert any("tiger" in p for p in prompts)
    assert any(world.aliases("cat")[0] in p for p in prompts)
    assert not any("cat" in p.replace(",", "").split() for p in prompts)
