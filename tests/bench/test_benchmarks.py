"""The benchmarks at toy sizes: they agree with the literal forms, and say what they measured."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import attacks, closed_form, growth, names_order, pictures, summary


@pytest.mark.parametrize("method", closed_form.BENCHES)
def test_closed_forms_agree_with_their_literal_forms(method, monkeypatch):
    monkeypatch.setitem(closed_form.SHAPES, "toy", ((9, 20), 16))
    monkeypatch.setattr(closed_form, "RETAINED", 12)
    monkeypatch.setitem(closed_form.TOKENS, method, 3)
    row = closed_form.bench("toy", method, 4)
    literal = closed_form.BENCHES[method].literal
    assert (row.max_rel_diff is None) == (literal is None)
    assert row.max_rel_diff is None or row.max_rel_diff < 1e-6
    assert row.projections_mb == round(2 * (9 + 20) * 16 * 8 / 1e6 / (2 if method == "speed" else 1), 1)
    alone = closed_form.bench("toy", method, 4, literal_concepts=3)
    assert alone.naive_seconds is None
    table = closed_form.table([replace(line, projections_mb=0.1) for line in (row, alone)]).splitlines()
    assert len(table) == 4
    assert len({line.count("|") for line in table}) == 1
    assert table[3].startswith(f"| toy | {method} | 4 |")
    assert "| – | – | – |" in table[3]


def test_every_method_has_a_count_that_grows():
    assert growth.COUNTS.keys() == {m for m in closed_form.BENCHES if "-" not in m}
    for count in growth.COUNTS.values():
        small, large = count(100, 10, 64, 640, 8), count(200, 20, 128, 1280, 8)
        assert 0 < small < large


def test_names_are_told_by_their_number(capsys, tmp_path, monkeypatch):
    def line(method: str, count: int, e: float) -> dict:
        estimate = {"value": e, "low": e - 0.05, "high": e + 0.05, "n": 10}
        metrics = dict.fromkeys(("acc_e", "acc_r", "h_o"), estimate)
        return {
            "method": method,
            "concepts": [str(i) for i in range(count)],
            "metrics": metrics,
            "untouched": {"acc_r": {"value": 0.8}},
            "seconds": {"erase": 2.0, "draw": 9.0},
        }

    table = summary.names_table([line("uce", 100, 0.4), line("uce", 10, 0.2)]).splitlines()
    assert table[2].startswith("| 10 | uce | 20.0 (15.0 to 25.0) |")
    assert table[3].endswith("| 50.0 | nan | 2.0 |")
    summary.draw_names([line("uce", 100, 0.4), line("uce", 10, 0.2)], tmp_path / "names.png")
    assert (tmp_path / "names.png").stat().st_size > 1000


def test_gaps_are_pooled_over_concepts_and_to_the_oracle():
    def line(method: str, concept: str, back: dict[str, tuple[float, float | None]]) -> dict:
        spent = {"seconds": 2.0, "passes": 8, "drawn": 16, "peak_memory_mb": 900}

        def side(share: float) -> dict:
            return {**spent, "any_of_n": {"value": share}, "rate": {"value": share / 2}}

        made = [
            {
                "name": n,
                "any_of_n": here,
                "oracle": there,
                "outcomes": {"model": side(here), "oracle": None if there is None else side(there)},
            }
            for n, (here, there) in back.items()
        ]
        refused = {"name": "asked", "any_of_n": None, "oracle": None, "outcomes": {}}
        kept = {"ira": {"value": 0.9}, "cra": {"value": 0.6}}
        return {
            "method": method,
            "concepts": [concept],
            "metrics": {"ua": {"value": 1.0}, **kept},
            "untouched": {name: {"value": 0.9} for name in ("ira", "cra")},
            "attacks": [*made, refused],
        }

    lines = [
        line("identity", "cat", {"seeds": (1.0, 0.0), "noise": (1.0, 0.5)}),
        line("uce", "cat", {"seeds": (0.5, 0.0), "noise": (1.0, 0.5), "swap": (1.0, None)}),
        line("uce", "car", {"seeds": (0.5, 0.25), "noise": (0.75, 0.5), "swap": (1.0, None)}),
    ]
    row = attacks.headline(lines).splitlines()[3]
    assert [c.strip() for c in row.split("|")[1:-1]] == [
        *("uce", "2", "100.0", "100.0", "66.7", "+38 (seeds)", "+38 (noise)", "+50", "+19 (seeds)")
    ]
    rows = [[c.strip() for c in r.split("|")[1:-1]] for r in attacks.table(lines).splitlines()]
    assert rows[0] == ["attack", "oracle", "identity", "uce"]
    assert rows[2:] == [["seeds", "0", "100", "50"], ["noise", "50", "100", "88"], ["swap", "–", "–", "100"]]
    assert [line["concepts"] for line in attacks.of_concepts(lines, ["car"])] == [["car"]]
    assert attacks.of_concepts(lines, None) == lines
    assert "| 2 | 8 | 16 | 900 |" in attacks.spent(lines).replace("  ", " ")


def test_differences_of_changes_are_relative(pipe):
    from excise import erase
    from excise.families import family_of

    family = family_of(pipe)
    edit = erase(pipe, ["cat"], method="uce", preserve=["dog"])
    once, twice = names_order.changes(family, [edit]), names_order.changes(family, [edit, edit])
    assert names_order.difference(once, once) == 0
    assert names_order.difference(twice, once) == pytest.approx(1.0)
    with edit.apply(pipe):  # what is in force already is no part of what an edit changes
        assert names_order.difference(names_order.changes(family, [edit]), once) == 0


def test_methods_are_compared_picture_by_picture():
    def cell(title: str, *shown: tuple[str, str, str, str]) -> Any:
        pictures_of = [
            SimpleNamespace(
                group=group,
                prompt=f"a {name} in {style}",
                seed=7,
                asked={"object": name, "style": style} if group == "grid" else {"object": "cat"},
                target="cat" if group == "aliases" else None,
                saw={"object": saw, "style": saw_style},
            )
            for (group, name, style), (saw, saw_style) in zip(asked, shown, strict=True)
        ]
        for s in pictures_of:
            s.right = lambda attribute, s=s: s.saw[attribute] == s.asked[attribute]
        request = SimpleNamespace(method=SimpleNamespace(title=title), model="m", concepts=("cat",), seed=0)
        return SimpleNamespace(cell=request, result=SimpleNamespace(shown=pictures_of, concepts=["cat"]))

    asked = [("grid", "cat", "sepia"), ("aliases", "kitty", "plain"), ("grid", "dog", "neon"), ("grid", "car", "dots")]
    mine = cell("mine", ("none", "neon"), ("tree", "plain"), ("dog", "neon"), ("none", "dots"))
    other = cell("other", ("cat", "sepia"), ("cat", "plain"), ("none", "neon"), ("car", "neon"))
    [row] = pictures.compare([mine, other], "mine")
    assert [row[role] for role in pictures.ROLES] == [[1, 0], [1, 0], [1, 1], [1, 0]]
    assert (row["pictures"], row["only first"], row["only other"]) == (6, 4, 1)
    assert row["p"] == pytest.approx(2 * 6 / 32)  # of five fair coins four or more on one side
    assert "| other | 1 | 6 | 1 : 0 | 1 : 0 | 1 : 1 | 1 : 0 | 4 : 1 | 0.38 |" in pictures.table([row])


def test_targets_by_methods_have_a_row_for_each_of_the_more():
    def line(method: str, target: str, aliases: float | None) -> dict[str, Any]:
        rates = {"ua": 1.0, "ira": 0.9, "cra": 0.95} | ({} if aliases is None else {"alias_rate": aliases})
        return {"method": method, "concepts": [target], "metrics": {n: {"value": v} for n, v in rates.items()}}

    lines = [line("uce", "cat", 0.25), line("esd", "cat", None), line("esd", "sepia", 0.0)]
    shown = summary.by_target(lines, ["uce", "esd", "speed"]).splitlines()
    assert shown[0] == "| method | cat | sepia |"
    assert shown[2:4] == [
        "| uce | 100.0 / 90.0 / 95.0 (25) |  |",
        "| esd | 100.0 / 90.0 / 95.0 | 100.0 / 90.0 / 95.0 (0) |",
    ]
    assert summary.by_target(lines, ["uce", "esd"]).splitlines()[0] == "| target | uce | esd |"
