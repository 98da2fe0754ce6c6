"""The command line: verbs, exit codes, and what a mistake answers."""

import subprocess
import sys

import pytest

from latentsmith.cli import main, verbs
from latentsmith.errors import UserError


def ask(capsys, *words: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of one command."""
    code = main(list(words))
    out, err = capsys.readouterr()
    return code, out, err


def test_help_lists_every_verb_without_importing_torch():
    script = (
        "import sys\nfrom latentsmith.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as e:\n    assert e.code == 0\n"
        "heavy = {'torch', 'hydra', 'pydantic', 'transformers', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for verb in verbs():
        assert f"\n    {verb} " in done.stdout or f"\n    {verb}\n" in done.stdout
    assert {"run", "train", "sweep", "report", "list", "data", "doctor"} <= set(verbs())


def test_version(capsys):
    import latentsmith

    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"latentsmith {latentsmith.__version__}\n"


MISTAKES = [
    ("rum", "no verb 'rum'. Did you mean 'run' or 'runs'?"),
    ("run tiy", "no recipe 'tiy'. Did you mean 'toy'?"),
    (
        "run toy scale=laptap",
        "problem in the settings of toy:\n"
        "  scale=laptap: no such scale. Did you mean 'laptop'? Choices: laptop, smoke.",
    ),
    (
        "run toy lr=3",
        "problem in the settings of toy:\n"
        "  lr: no such setting. Did you mean pretrain.lr or finetune.lr?",
    ),
    (
        "run toy pretrain.lr=fast engine.tubes=3",
        "2 problems in the settings of toy:\n"
        "  engine.tubes: should be a multiple of 2 (got 3)\n"
        "  pretrain.lr: should be a number (got 'fast')",
    ),
    (
        "run toy pretrain.lr 3",
        "problem in the settings of toy:\n"
        "  pretrain.lr 3: settings are written key=value: pretrain.lr=3",
    ),
    (
        "run toy --lr 3",
        "--lr: no such option. Settings are written key=value without dashes: lr=VALUE",
    ),
    ("run toy --dryrun", "--dryrun: no such option. Did you mean --dry-run?"),
    (
        "run toy engine=steem",
        "problem in the settings of toy:\n"
        "  engine=steem: no such engine. Did you mean 'steam'? Choices: big_steam, diesel, loaded, "
        "steam.",
    ),
    (
        "run toy data=folder",
        "problem in the settings of toy:\n"
        "  data.path: required and not given; add data.path=VALUE: Folder with images.",
    ),
    (
        "run toy seed=1,2",
        "problem in the settings of toy:\n"
        "  seed=1,2: several values. Use 'latentsmith sweep' to run each; if it is one list, write "
        "seed=[1,2]",
    ),
    ("train toy", "toy: which stage? Write toy.STAGE, one of: pretrain, finetune."),
    ("train toy.pretain", "toy has no stage 'pretain'. Did you mean 'pretrain'?"),
    (
        "sweep toy seed=1",
        "nothing to sweep over: give a setting several values, e.g. loss.weight=0,0.1,0.3",
    ),
    (
        "list encodrs",
        "nothing called 'encodrs' to list. "
        "Did you mean 'encoders' or 'decoders' or 'text_encoders'?",
    ),
    ("list settings", "settings of which recipe? latentsmith list settings RECIPE"),
    ("doctor tiy", "no recipe 'tiy'. Did you mean 'toy'?"),
]


@pytest.mark.parametrize(("line", "answer"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_gets_a_sentence_and_exit_code_2(toy, capsys, line, answer):
    code, _, err = ask(capsys, *line.split())
    assert err == f"latentsmith: {answer}\n"
    assert code == 2


def test_a_missing_argument_shows_the_usage(capsys):
    code, _, err = ask(capsys, "run")
    assert code == 2
    assert err.startswith("latentsmith: the following arguments are required: RECIPE")
    assert "usage: latentsmith run" in err


def test_debug_shows_the_traceback(toy):
    with pytest.raises(UserError):
        main(["run", "tiy", "--debug"])
    with pytest.raises(UserError):
        main(["--debug", "run", "tiy"])


def test_mistakes_of_a_stage_are_told_the_same_way(toy, capsys):
    code, _, err = ask(capsys, "run", "toy", "scale=smoke", "fail=user")
    assert code == 2
    assert err.endswith("latentsmith: the track ends here; lay more with finetune.samples=10\n")


def test_a_bug_is_not_dressed_up_as_a_mistake(toy):
    with pytest.raises(RuntimeError, match="boiler burst"):
        main(["run", "toy", "fail=crash"])


def test_an_interruption_says_how_to_go_on(toy, capsys):
    code, _, err = ask(capsys, "run", "toy", "scale=smoke", "fail=interrupt", "--fresh")
    assert code == 130
    assert err.endswith(
        "latentsmith: interrupted\nThe same command goes on where this stopped:\n"
        "  latentsmith run toy scale=smoke fail=interrupt\n"
    )


def test_the_real_recipes_answer_for_missing_data_and_weights(tmp_path, monkeypatch, capsys):
    """A folder that is not there and weights that cannot be had stop a run before it trains."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = ["run", "mmreg", "scale=smoke"]
    code, _, err = ask(capsys, *words, "data=image_folder", "data.folder=nowhere")
    assert code == 2 and "nowhere" in err
    code, _, err = ask(capsys, *words, "encoder=dinov2", "encoder.source=./no_such_model")
    assert code == 2 and "weights in ./no_such_model" in err
    assert "folder written by save_pretrained" in err
