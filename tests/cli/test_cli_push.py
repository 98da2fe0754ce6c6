"""``latentsmith push``: what goes up, what is refused, and what a hub's refusal answers.

Against a stand-in on loopback (`helpers.hub`) that answers the requests ``huggingface_hub`` makes:
the hub itself has not been called."""

import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from helpers.hub import Hub, standing_in
from latentsmith.cli import main

CARD = """---
library_name: diffusers
license: apache-2.0
---

# x

## What belongs together

| | digest (xxh3-128) |
| --- | --- |
| all weights | `abc` |
"""


@pytest.fixture
def exported(tmp_path, monkeypatch) -> Path:
    """``exported/`` with a card, a config, code and weights."""
    monkeypatch.chdir(tmp_path)
    folder = Path("exported")
    (folder / "vae").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "vae" / "config.json").write_text("{}")
    save_file({"weight": torch.arange(6.0)}, folder / "vae" / "model.safetensors")
    return folder


@pytest.fixture
def hub(monkeypatch):
    """The stand-in, and a token for it."""
    with standing_in() as found:
        _ask(monkeypatch, found.url)
        monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
        yield found


def _ask(monkeypatch, url: str) -> None:
    """Set the client to another hub, with no wish to be offline and no second tries."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", url, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


def test_all_of_it_arrives_in_one_commit(exported, hub: Hub, capsys):
    assert main(["push", "exported", "me/it", "--private"]) == 0
    out = capsys.readouterr().out
    assert out.endswith(f"{hub.url}/me/it/commit/abc\n")
    assert "  vae/model.safetensors\n" in out and "bytes in 3 files\n" in out
    sent = {f.relative_to(exported).as_posix(): f for f in exported.rglob("*") if f.is_file()}
    assert {name: file.read_bytes() for name, file in sent.items()} == hub.files
    assert [(c["name"], c["organization"]) for c in hub.created] == [("it", "me")]
    assert hub.created[0].get("private") is True or hub.created[0].get("visibility") == "private"
    assert sum("/commit/main" in line for line in hub.asked) == 1
    assert "Bearer hf_of_the_test" in hub.tokens


def test_a_branch_is_made_and_committed_to(exported, hub: Hub):
    assert main(["push", "exported", "me/it", "--revision", "v2"]) == 0
    made = [line for line in hub.asked if "/branch/v2" in line]
    assert len(made) == 1 and any("/commit/v2" in line for line in hub.asked)
    assert not hub.created[0].get("private")


def test_a_dry_run_asks_nobody(exported, hub: Hub, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    (exported / "README.md").write_text(CARD.replace("license: apache-2.0\n", ""))
    assert main(["push", "exported", "me/it", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "nothing was sent to me/it: this was a dry run\n" in out and not hub.asked
    assert "no licence is stated: fill in `license` at the top of exported/README.md\n" in out


def spoil(folder: Path, how: str) -> None:
    """One mistake."""
    card = folder / "README.md"
    if how == "nothing":
        shutil.rmtree(folder)
    elif how == "no card":
        card.unlink()
    elif how == "no front matter":
        card.write_text("# x\n")
    elif how == "bad front matter":
        card.write_text(CARD.replace("library_name: diffusers", "library_name: [diffusers"))
    elif how == "no digests":
        card.write_text(CARD.partition("## What")[0])
    elif how == "no weights":
        (folder / "vae" / "model.safetensors").unlink()
    elif how == "damaged":
        (folder / "vae" / "model.safetensors").write_bytes(b"x" * 40)
    elif how == "optimizer":
        save_file({"adam.exp_avg": torch.zeros(1)}, folder / "state.safetensors")
    elif how == "link":
        (folder / "more.json").symlink_to("vae/config.json")
    else:
        place = folder / how
        place.parent.mkdir(exist_ok=True)
        place.write_text("x")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("nothing", "there is no folder exported: push what latentsmith export wrote"),
        ("no card", "exported has no model card (README.md)"),
        ("no front matter", "exported/README.md has no front matter"),
        ("bad front matter", "exported/README.md has front matter that is no YAML (line "),
        ("no digests", "lists no digests ('What belongs together')"),
        ("no weights", "exported holds no weights (.safetensors)"),
        ("damaged", "vae/model.safetensors is damaged"),
        ("optimizer", "state.safetensors holds the state of an optimizer (adam.exp_avg)"),
        ("link", "more.json is a link"),
        ("vae/model.bin", "vae/model.bin may hold a pickle"),
        ("weights.pt", "weights.pt may hold a pickle"),
        ("checkpoints/a.json", "checkpoints/a.json is the state of a training"),
        ("optimizer.json", "optimizer.json is the state of a training"),
        (".env", ".env is nothing that an export holds"),
        ("photo.png", "photo.png is nothing that an export holds"),
    ],
)
def test_what_does_not_belong_on_a_hub_is_refused_before_it_is_asked(
    exported, hub: Hub, capsys, how, says
):
    spoil(exported, how)
    assert main(["push", "exported", "me/it"]) == 2
    assert capsys.readouterr().err.startswith("latentsmith: ") and not hub.asked
    spoiled = main(["push", "exported", "me/it", "--dry-run"])
    assert spoiled == 2 and says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, "the hub does not take this token"),
        (403, "this token may not write to me/it (said by the stand-in): it must be allowed"),
        (404, "knows no me/it that this token may see"),
        (500, "is in trouble (status 500)"),
        (413, "refused me/it with status 413"),
    ],
)
def test_a_refusal_says_what_would_help(exported, hub: Hub, capsys, status, says):
    hub.fails = {"/api/repos/create": status}
    assert main(["push", "exported", "me/it"]) == 2
    assert says in capsys.readouterr().err and not hub.files


def test_a_commit_that_fails_is_told_too(exported, hub: Hub, capsys):
    hub.fails = {"/api/models/me/it/commit": 403}
    assert main(["push", "exported", "me/it"]) == 2
    assert "this token may not write to me/it" in capsys.readouterr().err


def test_no_token_no_network_and_no_name(exported, hub: Hub, capsys, monkeypatch):
    for name, says in [
        ("it", "'it' is no repository: give OWNER/NAME"),
        ("me/it/now", "'me/it/now' is no repository: give OWNER/NAME"),
        ("me/ü", "'me/ü' is no repository ("),
    ]:
        assert main(["push", "exported", name]) == 2
        assert says in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.get_token", lambda: None)
        assert main(["push", "exported", "me/it"]) == 2
        assert "there is no token to push with: 'hf auth login'" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert main(["push", "exported", "me/it"]) == 2
        assert "HF_HUB_OFFLINE is set, so nothing is sent" in capsys.readouterr().err
    assert not hub.asked
    _ask(monkeypatch, "http://127.0.0.1:9")
    assert main(["push", "exported", "me/it"]) == 2
    assert "http://127.0.0.1:9 cannot be reached" in capsys.readouterr().err


def test_weights_arrive_as_they_were(exported, hub: Hub, tmp_path):
    assert main(["push", "exported", "me/it"]) == 0
    (tmp_path / "got.safetensors").write_bytes(hub.files["vae/model.safetensors"])
    assert torch.equal(load_file(tmp_path / "got.safetensors")["weight"], torch.arange(6.0))
