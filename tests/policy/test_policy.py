"""A policy brought into force, changed, taken back; its ledger; what must not go unnoticed."""

from __future__ import annotations

import hashlib
import json
import re

import pytest
import torch
from conftest import tiny_pipe

from excise import Concept, Edit, erase, evaluate, stack
from excise.errors import ConceptError, ExciseError, ExciseWarning, SettingError, UnknownNameError
from excise.families import family_of
from excise.families.usual import usual_of
from excise.policy import ledger
from excise.policy.apply import apply_policy
from excise.policy.groups import Group, check_groups, grouped
from excise.policy.ledger import LedgerError
from excise.policy.policy import MethodChoice, PolicyError, read
from excise.support.settings import Usual

pytestmark = pytest.mark.usefixtures("few_steps")
POLICY = """
schema: 1
model: {model}
methods:
  default: uce
  style: {{name: uce, settings: {{ridge: 1.0}}}}
preserve: [tree]
vocabulary: none
concepts:
  - {{name: cat, requested_by: "Cat Ltd", date: 2026-03-01, reference: T-1, synonyms: [kitty]}}
  - dog
  - {{name: neon, kind: style}}
"""


@pytest.fixture
def written(tmp_path, model):
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY.format(model=model))
    return path


def change(path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


class Blind:
    """Sees a concept in every picture that is like the untouched one, so a change of it counts as erased."""

    name = "blind"

    def __init__(self) -> None:
        self.known: dict[tuple[str, int], bytes] = {}

    def sees(self, images, names):
        found = []
        for i, (image, name) in enumerate(zip(images, names, strict=True)):
            found.append(self.known.setdefault((name, i), image.tobytes()) == image.tobytes())
        return found


def run(pipe, path, out, monkeypatch=None, scorer=None):
    if monkeypatch is not None:
        monkeypatch.setattr("excise.policy.apply.as_scorer", lambda *a, **k: scorer)
    policy, digest = read(path)
    return apply_policy(family_of(pipe), policy, digest, out, reread=lambda: read(path)[1])


def test_a_policy_is_read_strictly(written, tmp_path):
    policy, digest = read(written)
    assert [c.name for c in policy.concepts] == ["cat", "dog", "neon"]
    assert policy.concepts[0].date.isoformat() == "2026-03-01"
    assert len(digest) == 64
    assert [(g.method.name, [c.name for c in g.concepts]) for g in grouped(policy)] == [
        ("uce", ["cat", "dog"]),
        ("uce", ["neon"]),
    ]
    (tmp_path / "keep.txt").write_text("car\nfish\n")
    change(written, "preserve: [tree]", "preserve: [tree]\npreserve_file: keep.txt")
    policy, before = read(written)
    assert policy.preserve == ("tree", "car", "fish")
    assert before != digest
    (tmp_path / "keep.txt").write_text("car\n")
    assert read(written)[1] != before  # what it asks for changed, if not the file itself


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("preserve:", "perserve:", PolicyError, "unknown key 'perserve'. Did you mean 'preserve'"),
        ("requested_by", "requested", PolicyError, "unknown key 'concepts.0.requested'"),
        ("2026-03-01", "soon", PolicyError, "'concepts.0.date'"),
        ("schema: 1", "schema: 2", PolicyError, "'schema': input should be 1"),
        ("default: uce", "default: uec", UnknownNameError, "Did you mean 'uce'"),
        (
            "methods:\n  default: uce\n  style: {name: uce, settings: {ridge: 1.0}}",
            "methods: uce",
            PolicyError,
            "write `methods: {default: uce}`",
        ),
        (
            "methods:\n  default: uce\n  style: {name: uce, settings: {ridge: 1.0}}",
            "methods: [uce]",
            PolicyError,
            "write `methods: {default: speed}`",
        ),
        ("- dog", "- Cat", ConceptError, "given twice"),
        ("- dog", "- kitty", ConceptError, "belongs to 'cat' and to 'kitty'"),
        ("- dog", "- '{dog'", ConceptError, "concept 2: the concept '{dog'"),
        ("[tree]", "[tree, dog]", ConceptError, "erased and to be preserved"),
        ("concepts:", "concepts: [", PolicyError, "is no YAML"),
        ("kind: style", "kind: stile", ExciseError, "Did you mean 'style'"),
        ("  style: {", "  styel: {", UnknownNameError, "no concept kind 'styel'. Did you mean 'style'"),
    ],
)
def test_bad_policies_are_refused_in_one_sentence(written, old, new, error, message):
    change(written, old, new)
    with pytest.raises(error, match=message):
        read(written)


def test_a_kind_without_a_method_is_refused(written):
    change(written, "  default: uce\n", "  instance: uce\n")
    with pytest.raises(PolicyError, match="no method for concepts of kind 'object'"):
        grouped(read(written)[0])


def test_apply_extend_reduce_and_revert(pipe, written, tmp_path, monkeypatch):
    """The edit is the stack of edits made alone; only what changed is made; going back gives the same bytes."""
    out, scorer = tmp_path / "out", Blind()
    pipe.set_progress_bar_config(disable=True)
    first = run(pipe, written, out, monkeypatch, scorer)
    assert (first.changed, first.made, first.groups) == (True, 2, 2)
    wanted = stack(
        [
            erase(
                pipe, [c.concept() for c in read(written)[0].concepts[:2]], "uce", preserve=["tree"], vocabulary=None
            ),
            erase(pipe, ["neon"], "uce", kind="style", preserve=["tree"], vocabulary=None, ridge=1.0),
        ]
    )
    loaded = Edit.load(out / "edit.safetensors")
    assert [c.name for c in loaded.record.concepts] == ["cat", "dog", "neon"]
    for path in wanted.paths:
        weight = family_of(pipe).denoiser.get_submodule(path).weight
        torch.testing.assert_close(loaded.delta(path, weight), wanted.delta(path, weight), rtol=1e-4, atol=1e-6)
    original = (out / "edit.safetensors").read_bytes()

    again = run(pipe, written, out, monkeypatch, scorer)
    assert (again.changed, again.entry["n"]) == (False, 1)
    before = written.read_text()
    change(written, "  - dog", "  - dog\n  - fish\n  - car")
    extended = run(pipe, written, out, monkeypatch, scorer)
    assert (extended.made, extended.entry["added"], extended.entry["removed"]) == (1, ["fish", "car"], [])
    change(written, "  - dog\n", "")
    reduced = run(pipe, written, out, monkeypatch, scorer)
    assert (reduced.entry["added"], reduced.entry["removed"]) == ([], ["dog"])
    written.write_text(before)
    reverted = run(pipe, written, out, monkeypatch, scorer)
    assert (reverted.made, reverted.entry["added"], reverted.entry["removed"]) == (0, ["dog"], ["fish", "car"])
    assert (out / "edit.safetensors").read_bytes() == original
    written.write_text(before.split("concepts:")[0] + "concepts: []\n")
    nothing = run(pipe, written, out, monkeypatch, scorer)
    assert nothing.entry["edit"] is None
    assert not (out / "edit.safetensors").exists()
    story = ledger.read(out)
    assert [e["n"] for e in story] == [1, 2, 3, 4, 5]
    assert story[0]["in_force"][0] == {
        "name": "cat", "kind": "object", "synonyms": ["kitty"], "anchor": None,
        "requested_by": "Cat Ltd", "date": "2026-03-01", "reference": "T-1",
    }  # fmt: skip
    assert story[3]["edit"] == story[0]["edit"]
    verified = story[0]["verified"]
    assert [c["erased"]["value"] for c in verified["concepts"]] == [1.0, 1.0, 1.0]
    assert verified["retained"]["n"] >= 16  # the one name to retain and the nearest others, enough for the gate


def test_a_gate_that_fails_is_told(pipe, written, tmp_path, monkeypatch):
    class All:
        name = "all"

        def sees(self, images, names):
            return [True] * len(images)

    class Nothing(All):
        def sees(self, images, names):
            return [False] * len(images)

    seen = run(pipe, written, tmp_path / "one", monkeypatch, All()).entry["verified"]
    assert not seen["passed"]
    assert [c["passed"] for c in seen["concepts"]] == [False] * 3
    assert seen["retained"]["value"] == 1.0
    seen = run(pipe, written, tmp_path / "two", monkeypatch, Nothing()).entry["verified"]
    assert [c["erased"] for c in seen["concepts"]] == [None] * 3
    assert not seen["passed"]


def test_kept_names_that_are_never_seen_fail_their_gate(pipe, written, tmp_path, monkeypatch):
    class Trees:
        name = "no trees"

        def sees(self, images, names):
            return [name in ("cat", "dog", "neon") for name in names]

    verified = run(pipe, written, tmp_path / "one", monkeypatch, Trees()).entry["verified"]
    assert (verified["retained"], verified["retained_passed"]) == (None, False)


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        (
            "pictures: 3",
            "3 pictures of a concept, all clean, prove 44 % or more; the gate `erased` is 50 %. Set `pictures: 4`",
        ),
        ("gates: {erased: 1.0}", "no number of pictures proves a share of 100 %"),
        ("gates: {retained: 1.0}", "the gate `retained` is 100 %. Lower the gate"),
    ],
)
def test_a_gate_that_no_pictures_can_pass_is_refused_before_anything_is_made(pipe, written, tmp_path, gates, message):
    written.write_text(f"{written.read_text()}{gates}\n")
    with pytest.raises(PolicyError, match=re.escape(message)):
        run(pipe, written, tmp_path / "out")
    assert not (tmp_path / "out" / "edits").exists()


def test_apply_and_evaluate_say_the_same_of_one_edit(pipe, written, tmp_path, monkeypatch):
    class Moody:
        """Sees what the bytes of an image decide."""

        name = "moody"

        def sees(self, images, names):
            rows = zip(images, names, strict=True)
            return [hashlib.sha256(i.tobytes() + n.encode()).digest()[0] % 3 > 0 for i, n in rows]

    verified = run(pipe, written, tmp_path / "out", monkeypatch, Moody()).entry["verified"]
    edit = Edit.load(tmp_path / "out" / "edit.safetensors")
    done = evaluate(pipe, edits=[edit], protocol="concept", untouched=True, judge=Moody()).result
    assert [v.clean for v in done.verdicts] == [c["erased"] for c in verified["concepts"]]
    assert done.metrics["ira_relative"] == verified["retained"]


def test_another_model_under_the_same_name_is_a_change(pipe, tokenizer, written, tmp_path):
    out = tmp_path / "out"
    first = run(pipe, written, out)
    second = run(tiny_pipe(tokenizer, seed=1), written, out)
    assert second.changed
    assert second.made == 2
    assert second.entry["model"]["weights"] != first.entry["model"]["weights"]


def test_a_wrong_setting_is_found_before_anything_is_made(pipe, written, tmp_path):
    change(written, "{ridge: 1.0}", "{rigde: 1.0}")
    with pytest.raises(SettingError, match="no setting 'rigde'. Did you mean 'ridge'"):
        run(pipe, written, tmp_path / "out")
    assert not (tmp_path / "out" / "edits").exists()


def test_what_another_group_removes_is_no_anchor(pipe, written, tmp_path):
    change(written, "default: uce", "default: {name: uce, settings: {anchor: neon}}")
    with pytest.raises(PolicyError, match="maps 'cat' to the anchor 'neon', which it removes as well"):
        run(pipe, written, tmp_path / "out")
    assert not (tmp_path / "out" / "edits").exists()


def test_another_text_encoder_is_a_change(pipe, written, tmp_path):
    out = tmp_path / "out"
    run(pipe, written, out)
    assert not run(pipe, written, out).changed
    with torch.no_grad():
        next(pipe.text_encoder.parameters()).add_(1.0)
    assert run(pipe, written, out).changed


def test_a_damaged_edit_is_made_again_and_what_changed_is_told(pipe, written, tmp_path):
    out = tmp_path / "out"
    run(pipe, written, out)
    for path in (out / "edits").glob("[0-9a-f]*.safetensors"):
        path.write_bytes(b"cut short")
    change(written, "[kitty]", "[mog]")
    again = run(pipe, written, out)
    assert again.made == 2
    assert (again.entry["added"], again.entry["removed"], again.entry["changed"]) == ([], [], ["cat"])


def test_a_policy_that_changes_meanwhile_puts_nothing_in_place(pipe, written, tmp_path):
    policy, digest = read(written)
    out = tmp_path / "out"
    with pytest.raises(PolicyError, match="changed while it was being applied"):
        apply_policy(family_of(pipe), policy, digest, out, reread=lambda: "other")
    assert not (out / "edit.safetensors").exists()
    assert ledger.read(out) == []


def test_an_edit_that_is_not_the_ledgers_is_put_right_or_refused(pipe, written, tmp_path):
    out = tmp_path / "out"
    run(pipe, written, out)
    edit = out / "edit.safetensors"
    good = edit.read_bytes()
    for spoil in (lambda: edit.write_bytes(b"other"), edit.unlink):
        spoil()
        with pytest.warns(ExciseWarning, match="that one was restored"):
            assert not run(pipe, written, out).changed
        assert edit.read_bytes() == good
    (found,) = out.glob("found-*.safetensors")  # somebody may miss it
    assert found.read_bytes() == b"other"
    edit.write_bytes(b"other")
    for copy in (out / "edits").glob("in-force-*"):
        copy.unlink()
    with pytest.raises(LedgerError, match="is not the edit in the ledger, and there is no copy"):
        run(pipe, written, out)


def test_a_ledger_tells_when_it_was_touched(tmp_path):
    for i in range(4):
        ledger.append(tmp_path, {"what": i})
    path = tmp_path / ledger.NAME
    lines = path.read_text().splitlines()
    assert [e["what"] for e in ledger.read(tmp_path)] == [0, 1, 2, 3]
    for wrong, message in (
        (lines[:3], "has 3 entries, but its head counts 4"),
        (lines[1:], "line 1 was changed"),
        ([lines[0], lines[2], lines[3]], "line 2 was changed"),
        ([lines[0], lines[1].replace('"what": 1', '"what": 7'), *lines[2:]], "line 2 was changed"),
        ([*lines[:3], "{}"], "line 4 is no entry"),
        ([*lines[:3], "not json"], "line 4 is no entry"),
    ):
        path.write_text("\n".join(wrong) + "\n")
        with pytest.raises(LedgerError, match=message):
            ledger.read(tmp_path)
        with pytest.raises(LedgerError):
            ledger.append(tmp_path, {"what": 9})
    path.unlink()
    with pytest.raises(LedgerError, match="has 0 entries, but its head counts 4"):
        ledger.read(tmp_path)
    path.write_text("\n".join(lines) + "\n")
    # Stopped between the line and the head: the line stands.
    (tmp_path / ledger.HEAD).write_text(json.dumps({"entries": 3, "hash": json.loads(lines[2])["hash"]}))
    assert len(ledger.read(tmp_path)) == 4
    (tmp_path / ledger.HEAD).write_text("{")
    with pytest.raises(LedgerError, match="is no head"):
        ledger.read(tmp_path)


def test_a_ledger_holds_any_text_and_refuses_any_rubbish(tmp_path):
    for odd in ("\u2028", "\u2029", "\x85", "\n", '"', "\u732b"):
        ledger.append(tmp_path, {"what": f"a{odd}b"})
    assert [len(e["what"]) for e in ledger.read(tmp_path)] == [3] * 6
    for rubbish in (b'["a"]\n', b"\xff\xfe\n", b"1\n", b"null\n"):
        (tmp_path / ledger.NAME).write_bytes(rubbish)
        with pytest.raises(LedgerError, match="line 1 is no entry"):
            ledger.read(tmp_path)


def test_apply_and_ledger_from_the_command_line(excise, written, tmp_path):
    out = tmp_path / "out"
    status, text, error = excise("apply", written, "--out", out, "--json")
    assert status == 0, error
    assert json.loads(text)["entry"]["verified"] is None
    page = (out / "report.html").read_text()
    assert "Edit written for 3 concepts, not verified: there is no judge." in page
    assert "Cat Ltd" in page
    status, _, error = excise("apply", written, "--out", out)
    assert status == 0
    assert "nothing changed: 3 concepts are in force already, as the policy asks (ledger entry 1)." in error
    status, text, _ = excise("ledger", out, "--json")
    assert [e["added"] for e in json.loads(text)] == [["cat", "dog", "neon"]]
    status, text, _ = excise("ledger", out, "--concept", "CAT")
    assert status == 0
    assert "cat, dog, neon" in " ".join(text.split())
    for wrong, message in (
        (("ledger", tmp_path), "holds no ledger"),
        (("ledger", out, "--concept", "cow"), "has no entry on 'cow'"),
        (("apply", tmp_path / "none.yaml", "--out", out), "cannot read the policy"),
    ):
        status, _, error = excise(*wrong)
        assert status == 2
        assert message in error
    (out / "ledger.jsonl").write_text("")
    status, _, error = excise("apply", written, "--out", out)
    assert status == 2
    assert "truncated" in error


def test_settings_are_checked_beside_those_that_the_model_makes_usual():
    """Receler's preset for built-in models is the one that reads `keep`."""
    group = Group(MethodChoice(name="receler", settings={"keep": 0.9}), (Concept("cat"),))
    check_groups([group], usual_of("canvas-sd"))
    with pytest.raises(SettingError, match="receler: setting 'keep' is read with calibrate=kept, and calibrate is"):
        check_groups([group], Usual())
