"""excise push: what goes up and what stays, who may write, and that nothing is sent unasked; the hub is a fake."""

from __future__ import annotations

import json
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from checks import check
from huggingface_hub import ModelCard, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors.torch import save_file
from situations import uce

from excise import erase, export, load
from excise.edits import verified
from excise.edits.uploads import folder_upload
from excise.errors import EditFileError
from excise.exporting.card import OURS
from excise.support.digests import file_digest
from excise.support.hub import Place


class Hub:
    """A hub that writes down what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple] = []
        self.files: dict[str, bytes] = {}
        self.refuses: Exception | None = None
        self.public: set[str] = set()

    def whoami(self):
        return {"name": "me", "orgs": [{"name": "The-Lab"}]}

    def create_repo(self, repo, **more):
        self.asked.append(("create", repo, more["private"]))
        assert more["exist_ok"]
        if self.refuses:
            raise self.refuses

    def repo_info(self, repo, **more):
        return SimpleNamespace(private=repo not in self.public)

    def create_branch(self, repo, branch, **more):
        self.asked.append(("branch", repo, branch))
        assert more["exist_ok"]

    def create_commit(self, repo, operations, *, commit_message, revision, repo_type):
        self.asked.append(("commit", repo, revision, commit_message, repo_type))
        for operation in operations:
            with operation.as_file() as file:
                self.files[operation.path_in_repo] = file.read()
        return SimpleNamespace(commit_url=f"https://hub/{repo}/commit/1")


@pytest.fixture
def hub(monkeypatch):
    fake = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda *_, **__: fake)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_secret")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return fake


@pytest.fixture
def shipped(pipe, tmp_path):
    """An exported LoRA with its card, beside what must not go up."""
    folder = tmp_path / "shipped"
    export(uce(pipe), pipe, folder, "kohya-lora")
    for name in ("weights.bin", "old.ckpt", "person.png", "report.html", "run.json", ".hidden.json", "notes.csv"):
        (folder / name).write_text("x")
    (folder / "states").mkdir()
    (folder / "states" / "prompts.safetensors").write_text("x")
    return folder


LORA = "excise_cat_kohya_lora.safetensors"


def test_only_weights_card_and_records_go_up_in_one_commit(excise, shipped, hub):
    words = ("--repo", "The-Lab/no-cat", "--private", "--revision", "v1", "--message", "first", "--yes")
    status, out, err = excise("push", shipped, *words)
    assert status == 0, err
    assert hub.asked == [
        ("create", "The-Lab/no-cat", True),
        ("branch", "The-Lab/no-cat", "v1"),
        ("commit", "The-Lab/no-cat", "v1", "first", "model"),
    ]
    assert sorted(hub.files) == ["README.md", LORA]
    assert hub.files[LORA] == (shipped / LORA).read_bytes()
    assert "https://hub/The-Lab/no-cat/commit/1" in err
    assert LORA in out
    for name in ("weights.bin", "person.png", "run.json", "states/prompts.safetensors", "notes.csv"):
        assert f"stays here: {name} (" in err


def test_what_is_asked_for_goes_up_but_a_pickle_never_does(excise, shipped, hub):
    more = ("--include", "*.png", "--include", "states/*", "--include", "*.bin", "--include", "*.ckpt")
    status, out, _ = excise("push", shipped, "--repo", "me/x", "--yes", "--json", *more)
    assert status == 0
    told = json.loads(out)
    assert sorted(told["files"]) == sorted(hub.files)
    assert {"person.png", "states/prompts.safetensors"} <= set(hub.files)
    assert {"weights.bin", "old.ckpt"} <= set(told["left"])
    assert told["uploaded"].endswith("/commit/1")
    assert hub.asked[0] == ("create", "me/x", False)


def test_a_dry_run_asks_nobody(excise, shipped, hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    status, out, err = excise("push", shipped, "--repo", "me/x", "--dry-run")
    assert (status, hub.asked) == (0, [])
    assert "nothing was uploaded" in err
    assert LORA in out
    status, out, _ = excise("push", shipped, "--repo", "me/x", "--dry-run", "--json")
    assert json.loads(out)["uploaded"] is None
    assert hub.asked == []


@pytest.mark.parametrize(("answer", "sent"), [("n\n", False), ("y\n", True)])
def test_nothing_is_sent_before_a_yes(shipped, hub, answer, sent):
    from typer.testing import CliRunner

    from excise.cli.main import app

    done = CliRunner().invoke(app, ["push", str(shipped), "--repo", "me/x"], input=answer)
    assert done.exit_code == 0, done.output
    assert bool(hub.asked) is sent


def test_an_edit_goes_up_with_a_card_of_its_own(excise, pipe, tmp_path, hub):
    edit = uce(pipe)
    base = edit.record.base.model_copy(update={"model": "org/name"})
    edit = edit.__class__(edit.record.model_copy(update={"base": base}), edit.text_maps, edit.modules)
    file = edit.save(tmp_path / "run" / "edit.safetensors")
    (file.parent / "run.json").write_text("{}")
    for path in (file.parent, file):
        hub.files.clear()
        assert excise("push", path, "--repo", "me/x", "--yes")[0] == 0
        assert sorted(hub.files) == ["README.md", "edit.safetensors"]
    card = ModelCard(hub.files["README.md"].decode(), ignore_metadata_errors=False)
    assert (card.data.base_model, card.data.to_dict()["base_model_relation"]) == ("org/name", "adapter")
    assert "excise generate --model org/name --edit edit.safetensors" in card.text
    assert "Not yet verified" in card.text
    assert not (file.parent / "README.md").exists()
    for other in ("# My program\n", "---\n- [\n---\nbroken\n", f"---\n{OURS}\ntags: []\n---\nof another file\n"):
        (file.parent / "README.md").write_text(other)
        excise("push", file, "--repo", "me/x", "--yes")
        assert "excise generate" in hub.files["README.md"].decode(), other
    (file.parent / "README.md").write_text("---\nlicense: mit\n---\nmine\n")
    excise("push", file, "--repo", "me/x", "--yes")
    assert hub.files["README.md"].decode().endswith("mine\n")


@pytest.mark.parametrize(
    ("model", "goes"),
    [
        ("org/name", True),
        ("canvas-sd", True),
        ("/home/someone/models/sd", False),
        ("models/of/mine", False),
        ("../sd", False),
        ("sd/model.safetensors", False),
        ("sd", False),
        (r"C:\models\sd", False),
    ],
)
def test_what_was_verified_goes_up_unless_it_tells_of_folders_here(excise, pipe, tmp_path, hub, model, goes):
    file = uce(pipe).save(tmp_path / "edit.safetensors")
    verified.keep(file, check().model_copy(update={"model": model}))
    _, _, err = excise("push", file, "--repo", "me/x", "--yes")
    assert ("verified.json" in hub.files) is goes
    assert ("stays here: verified.json" in err) is not goes
    assert b"10 of 10 clean" in hub.files["README.md"]


def test_a_record_that_names_a_folder_here_is_told_of(excise, pipe, model, tmp_path, hub):
    file = erase(pipe, ["cat"], "uce", vocabulary=None, model_name=str(model)).save(tmp_path / "e" / "edit.safetensors")
    _, _, err = excise("push", file, "--repo", "me/x", "--dry-run")
    assert f"mind: edit.safetensors names '{model}', " in err
    _, out, _ = excise("push", file, "--repo", "me/x", "--yes", "--json")
    assert json.loads(out)["local"] == {"edit.safetensors": [str(model)]}


def test_one_file_of_several_goes_up_with_its_own_card(excise, pipe, tmp_path, hub):
    export(erase(pipe, ["tree"], "uce", vocabulary=None), pipe, tmp_path, "diffusers-lora")
    export(uce(pipe), pipe, tmp_path, "kohya-lora")
    assert excise("push", tmp_path / LORA, "--repo", "me/x", "--yes")[0] == 0
    assert sorted(hub.files) == ["README.md", LORA]
    assert hub.files["README.md"] == (tmp_path / "excise_cat_kohya_lora.md").read_bytes()


def test_a_folder_without_a_card_or_a_model_is_refused(excise, shipped, hub, tmp_path):
    (shipped / "README.md").unlink()
    status, _, err = excise("push", shipped, "--repo", "me/x", "--yes")
    assert (status, "has no README.md" in err, hub.asked) == (2, True, [])
    status, _, err = excise("push", shipped / LORA, "--repo", "me/x", "--yes")
    assert (status, "no model card beside it" in err) == (2, True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README.md").write_text("x")
    with pytest.raises(EditFileError, match="no safetensors file"):
        folder_upload(tmp_path / "empty")
    assert excise("push", tmp_path / "nowhere", "--repo", "me/x", "--dry-run")[0] == 2


def test_a_link_out_of_the_folder_is_not_followed(shipped, tmp_path):
    (tmp_path / "secret.json").write_text("{}")
    (shipped / "config.json").symlink_to(tmp_path / "secret.json")
    assert folder_upload(shipped).left["config.json"] == "a link out of its folder"


@pytest.mark.parametrize(
    "repo", ["x", "me/", "/x", "me/x/y", "me/a b", "me/a..b", "me/a--b", "me/x.", "me/x.git", "me/" + "x" * 99]
)
def test_what_names_no_repository_is_refused_before_anything(excise, hub, repo):
    status, _, err = excise("push", "nowhere", "--repo", repo, "--yes")
    assert (status, "names no repository" in err, hub.asked) == (2, True, [])
    Place("me/sd-1.5_without-cat").check()


def refusal(status: int) -> HfHubHTTPError:
    error = HfHubHTTPError.__new__(HfHubHTTPError)
    Exception.__init__(error, f"{status}")
    error.response = SimpleNamespace(status_code=status)
    return error


class Unreachable(Exception):
    """As the client of the hub raises it."""

    __module__ = "httpx._exceptions"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (refusal(401), "does not accept the token"),
        (refusal(403), "someone else's"),
        (refusal(404), "check --repo"),
        (refusal(500), "the hub refused (500)"),
        (Unreachable("no route"), "cannot be reached (no route)"),
        (ConnectionError("down"), "cannot be reached (down)"),
        (HFValidationError("no such name"), "the hub's client refused (no such name)"),
        (ValueError("hf_secret is no token"), "the hub's client refused (... is no token)"),
        (Unreachable("Illegal header value b'Bearer hf_secret'"), "Bearer ...'"),
    ],
)
def test_every_refusal_is_a_sentence(excise, shipped, hub, error, said):
    hub.refuses = error
    status, _, err = excise("push", shipped, "--repo", "me/x", "--yes")
    assert (status, said in err) == (2, True), err
    assert hub.files == {}


def test_without_a_login_offline_or_for_another_owner_nothing_is_sent(excise, shipped, hub, monkeypatch):
    status, _, err = excise("push", shipped, "--repo", "someone/x", "--yes")
    assert (status, hub.asked) == (2, [])
    assert "the token is of me, who may not write for 'someone'" in err
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    status, _, err = excise("push", shipped, "--repo", "me/x", "--yes")
    assert (status, "nobody is logged in" in err, "HF_TOKEN" in err) == (2, True, True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    status, _, err = excise("push", shipped, "--repo", "me/x", "--yes")
    assert (status, "HF_HUB_OFFLINE is set" in err) == (2, True)
    assert hub.asked == []
    status, _, err = excise("push", shipped, "--repo", "me/x", "--json")
    assert (status, "--yes" in err) == (2, True)


def test_a_defect_is_no_refusal(excise, shipped, hub):
    hub.refuses = KeyError("x")
    assert excise("push", shipped, "--repo", "me/x", "--yes")[0] not in (0, 1, 2)


def test_only_the_checks_of_this_edit_go_up(excise, pipe, tmp_path, hub):
    other = erase(pipe, ["tree"], "uce", vocabulary=None).save(tmp_path / "edit.safetensors")
    verified.keep(other, check(model="/home/someone/else"))
    file = uce(pipe).save(other)
    excise("push", file, "--repo", "me/x", "--yes")
    assert "verified.json" not in hub.files
    verified.keep(file, check(model="org/name"))
    assert excise("push", file, "--repo", "me/x", "--yes", "--include", "*.json")[0] == 0
    content = json.loads(hub.files["verified.json"])
    assert list(content["edits"]) == [file_digest(file)]
    assert b"someone" not in b"".join(hub.files.values())


@pytest.mark.parametrize(
    "more",
    [
        {"judge": "clip of /home/someone/clip"},
        {"protocol": "~/prompts/mine.csv"},
        {"concepts": ("/home/someone/cat",)},
        {"verdicts": {"cat": r"seen in C:\Users\someone"}},
        {"gates": (verified.Gate(gate="ua>=0.7", metric="/home/someone/ua", passed=True),)},
    ],
)
def test_a_folder_in_any_field_of_a_check_keeps_the_checks_here(excise, pipe, tmp_path, hub, more):
    file = uce(pipe).save(tmp_path / "edit.safetensors")
    verified.keep(file, check(model="org/name", **more))
    _, _, err = excise("push", file, "--repo", "me/x", "--yes", "--include", "*.json")
    assert "verified.json" not in hub.files
    assert "stays here: verified.json (tells of folders" in err


@pytest.mark.parametrize("format", ["kohya-lora", "diffusers-lora", "single-file", "merged"])
def test_no_folder_of_this_machine_goes_up(excise, model, tmp_path, hub, format):
    family = load(model, device="cpu")
    edit = erase(family, ["cat"], "uce", vocabulary=None, model_name="org/name")
    file = edit.save(tmp_path / "run" / "edit.safetensors")
    for name in (str(model), str(tmp_path / "gone"), "/home/someone/sd"):
        verified.keep(file, check(model=name, other_base=True))
    export(edit, family, tmp_path / "out", format, source=file)
    status, out, err = excise("push", tmp_path / "out", "--repo", "me/x", "--yes", "--json")
    assert (status, json.loads(out)["local"]) == (0, {}), err
    assert [n for n, content in hub.files.items() if str(tmp_path).encode() in content or b"/home/" in content] == []
    assert b'"gone"' in b"".join(hub.files.values()).replace(b"\\", b"")
    load(tmp_path / "out", device="cpu") if format == "merged" else None


def test_folders_in_older_exports_are_told_of(excise, shipped, hub):
    older = {"_name_or_path": "/home/someone/sd", "vision": {"_name_or_path": "org/name"}}
    (shipped / "model_index.json").write_text(json.dumps(older))
    checks = [check(model="/srv/models/sd").model_dump(mode="json")]
    (shipped / "excise_export.json").write_text(json.dumps({"edit": "0", "verified": checks}))
    _, _, err = excise("push", shipped, "--repo", "me/x", "--dry-run")
    assert "mind: model_index.json names '/home/someone/sd'" in err
    assert "mind: excise_export.json names '/srv/models/sd'" in err
    _, out, _ = excise("push", shipped, "--repo", "me/x", "--yes", "--json")
    assert json.loads(out)["local"]["excise_export.json"] == ["/srv/models/sd"]


def test_weights_of_others_go_up_with_their_own_card_and_are_looked_through(excise, tmp_path, hub):
    save_file({"a": torch.zeros(1)}, tmp_path / "theirs.safetensors", {"ss_output_dir": "/home/someone/training"})
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\nTheirs.\n")
    for path in (tmp_path, tmp_path / "theirs.safetensors"):
        hub.files.clear()
        status, out, err = excise("push", path, "--repo", "me/x", "--dry-run")
        assert (status, "names '/home/someone/training'" in err) == (0, True), err
        status, out, err = excise("push", path, "--repo", "me/x", "--yes", "--json")
        assert status == 0, err
        assert json.loads(out)["local"] == {"theirs.safetensors": ["/home/someone/training"]}
        assert sorted(hub.files) == ["README.md", "theirs.safetensors"]


def test_the_card_of_an_export_goes_before_a_readme(excise, pipe, tmp_path, hub):
    (tmp_path / "README.md").write_text("# My program\n")
    own = export(uce(pipe), pipe, tmp_path, "kohya-lora").card
    assert own.name == "EXCISE.md"
    for path in (tmp_path / LORA, tmp_path):
        hub.files.clear()
        assert excise("push", path, "--repo", "me/x", "--yes")[0] == 0
        assert sorted(hub.files) == ["README.md", LORA]
        assert hub.files["README.md"] == own.read_bytes()
    own.unlink()
    status, _, err = excise("push", tmp_path / LORA, "--repo", "me/x", "--yes")
    assert (status, "no model card" in err) == (2, True)


def test_hidden_files_go_up_only_by_a_pattern_that_begins_with_a_dot(excise, shipped, hub):
    for name in (".env", ".git/config", "notes/.env", ".cache/x.json", "sub/.git/config"):
        (shipped / name).parent.mkdir(exist_ok=True, parents=True)
        (shipped / name).write_text("TOKEN=secret")
    for path in (shipped, shipped / LORA):
        hub.files.clear()
        status, _, err = excise("push", path, "--repo", "me/x", "--yes", "--include", "*", "--include", "*.json")
        assert status == 0, err
        assert "notes.csv" in hub.files
        assert [name for name in hub.files if "/." in f"/{name}"] == []
    words = ("--include", ".git/*", "--include", ".*", "--include", "sub/.git/config")
    status, _, err = excise("push", shipped, "--repo", "me/x", "--yes", *words)
    assert status == 0, err
    assert {".env", ".hidden.json"} <= set(hub.files)
    assert [name for name in hub.files if ".git" in name or ".cache" in name] == []


def test_a_private_upload_to_a_public_repository_is_refused(excise, shipped, hub):
    hub.public.add("me/x")
    status, _, err = excise("push", shipped, "--repo", "me/x", "--private", "--revision", "v1", "--yes")
    assert (status, "is public" in err, hub.files) == (2, True, {})
    assert [step[0] for step in hub.asked] == ["create"]
    assert excise("push", shipped, "--repo", "me/x", "--yes")[0] == 0


@pytest.mark.parametrize(
    "words",
    [
        ("--message", ""),
        ("--message", "  "),
        *[
            ("--revision", r)
            for r in ("", " ", "a b", "a..b", "a~1", "-a", "a/", "/a", "a.lock", "a\tb", "a@{1", "a:b")
        ],
    ],
)
def test_a_message_or_branch_that_no_hub_takes_is_refused_at_the_beginning(excise, hub, words):
    status, _, err = excise("push", "nowhere", "--repo", "me/x", "--yes", *words)
    assert (status, words[0] in err, hub.asked) == (2, True, [])


@pytest.mark.parametrize("token", ["hf_sécret", "hf_secret 2", "hf_sec\u200bret"])
def test_a_token_that_cannot_be_sent_is_refused_and_never_shown(excise, shipped, hub, monkeypatch, token):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: token)
    status, out, err = excise("push", shipped, "--repo", "me/x", "--yes")
    assert (status, "the token" in err, hub.asked, out) == (2, True, [], "")
    assert "hf_" not in err + out
