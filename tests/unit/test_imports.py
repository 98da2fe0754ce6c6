"""What is imported when: nothing heavy to ask for help. Never how long it takes (see
benchmarks/import_time.py): that depends on the machine and what else it does."""

import subprocess
import sys

HEAVY = {
    "torch", "numpy", "scipy", "sklearn", "matplotlib", "transformers", "diffusers", "accelerate",
    "datasets", "peft", "hydra", "omegaconf", "pydantic", "yaml", "jinja2", "rich", "safetensors",
}  # fmt: skip


def imported(script: str) -> set[str]:
    """Which heavy modules a fresh process has imported after ``script``."""
    code = f"{script}\nimport sys\nprint('\\nIMPORTED', *({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_the_test_sees():
    assert "numpy" in imported("import numpy")


def test_the_package_imports_nothing_heavy():
    assert imported("import latentsmith") == set()
    assert imported("import latentsmith; assert 'measure' in dir(latentsmith)") == set()


def test_no_help_of_any_verb_imports_anything_heavy():
    script = (
        "from latentsmith.cli import main, verbs\n"
        "for words in ([], *([verb] for verb in verbs())):\n"
        "    try:\n"
        "        main([*words, '--help'])\n"
        "    except SystemExit as stop:\n"
        "        assert stop.code == 0, words\n"
    )
    assert imported(script) == set()


def test_mistakes_in_words_are_answered_without_anything_heavy():
    script = (
        "from latentsmith.cli import main\n"
        "assert main(['rum']) == main(['run', 'mmreg', '--frsh']) == main(['list', 'lozzes']) == 2"
    )
    assert imported(script) == set()
