"""completion: what the shells offer, asked of the shells themselves where they are installed."""

import shutil
import subprocess

import pytest

from latentsmith.cli import _completion, main, verbs
from latentsmith.recipes.base import RECIPES

BASH = """
source "$1"
COMP_LINE="$2"; COMP_POINT=${#COMP_LINE}
_latentsmith
printf '%s\\n' "${COMPREPLY[@]}"
"""
ZSH = """
compdef() { : }
source "$1"
words=("${(@s: :)2}") CURRENT=$#words PREFIX="${words[-1]}"
compadd() { local a=(${@:#(-S|--)}); a=(${(M)a:#$PREFIX*}); print -rl -- $a; (( $#a )) }
_files() { print FILES }
_latentsmith
"""
FISH = "source $argv[1]; complete -C $argv[2]"


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """Shell → file of its script; the table is made once."""
    folder, table = tmp_path_factory.mktemp("shells"), _completion.table()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_completion, "table", lambda: table)
        for shell in _completion.SHELLS:
            (folder / shell).write_text(_completion.script(shell))
    return {shell: folder / shell for shell in _completion.SHELLS}


def ask(shell: str, script: object, line: str) -> list[str]:
    """What the shell offers after ``line``, sorted."""
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    start = {"bash": ["bash", "--norc", "-c", BASH, "bash"], "zsh": ["zsh", "-f", "-c", ZSH, "zsh"]}
    command = start.get(shell, ["fish", "--no-config", "-c", FISH])
    done = subprocess.run([*command, str(script), line], capture_output=True, text=True)
    assert not done.stderr, done.stderr
    return sorted(word for word in done.stdout.splitlines() if word)


ASKED = [
    ("latentsmith ru", ["run", "runs"]),
    ("latentsmith run mm", ["mmreg"]),
    ("latentsmith run mmreg --out x scale=", ["scale=laptop", "scale=paper", "scale=smoke"]),
    ("latentsmith run mmreg loss=s", ["loss=si_huber", "loss=spearman"]),
    ("latentsmith sweep mmreg loss.wei", ["loss.weight="]),
    ("latentsmith run mmreg encoder=pixel_pca encoder.comp", ["encoder.components="]),
    ("latentsmith train mmreg.base", ["mmreg.baseline"]),
    ("latentsmith run mmreg --fr", ["--fresh"]),
    ("latentsmith cache lat", ["latents"]),
    ("latentsmith cache latents m latents.flip=", ["latents.flip=false", "latents.flip=true"]),
    ("latentsmith runs --state ", ["done", "failed", "running", "stopped"]),
    ("latentsmith list settings ps", ["psvae"]),
    ("latentsmith list settings psvae scale=sm", ["scale=smoke"]),
    ("latentsmith sample runs/x sampler=dd", ["sampler=ddim", "sampler=ddpm"]),
]


@pytest.mark.parametrize("shell", _completion.SHELLS)
@pytest.mark.parametrize(("line", "offered"), ASKED, ids=[line for line, _ in ASKED])
def test_a_line_is_completed(scripts, shell, line, offered):
    found = ask(shell, scripts[shell], line)
    if shell == "bash" and "=" in line.split()[-1]:  # bash completes what follows the =
        offered = [word.partition("=")[2] for word in offered]
    assert found == offered


@pytest.mark.parametrize("shell", _completion.SHELLS)
def test_every_verb_and_recipe_is_offered(scripts, shell):
    assert set(verbs()) <= set(ask(shell, scripts[shell], "latentsmith "))
    assert set(RECIPES.names()) <= set(ask(shell, scripts[shell], "latentsmith run "))


def test_an_unknown_shell_is_answered(capsys):
    assert main(["completion", "tcsh"]) == 2
    assert "invalid choice: 'tcsh'" in capsys.readouterr().err
