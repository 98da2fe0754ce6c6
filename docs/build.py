"""Write docs/reference/ from the code, and check what the pages say.

Pages are Markdown, read where they lie (`make_site.py` makes a site of them). This keeps them
honest:

* ``docs/reference/`` (settings of every recipe, components, command line) is generated;
* relative links must lead somewhere, headings included;
* ``latentsmith …`` lines in shell blocks must parse, and their settings compose;
* Python blocks must parse, and what they import from latentsmith must exist.

``python docs/build.py`` writes and checks; ``--check`` only checks (also that what is written is
up to date). Exit code 1 with a list of problems.
"""

import argparse
import ast
import contextlib
import importlib
import io
import re
import shlex
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from latentsmith.cli import main as command_line
from latentsmith.cli import verbs
from latentsmith.cli._main import Parser, add_verb, parse
from latentsmith.config import help as settings
from latentsmith.config.compose import compose, nodes_of, outline
from latentsmith.errors import UserError
from latentsmith.recipes.base import RECIPES

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"
NOTE = "<!-- Written by `make docs` from the code; edit the code. -->\n\n"
COMPONENTS = ["recipes", "presets", "encoders", "text_encoders", "losses", "datasets", "metrics"]


def pages() -> list[Path]:
    """Every Markdown page of the repository."""
    folders = [ROOT / "docs", ROOT / "src", ROOT / "benchmarks"]
    below = [page for folder in folders for page in sorted(folder.rglob("*.md"))]
    return [*sorted(ROOT.glob("*.md")), *below]


def reference() -> dict[Path, str]:
    """The generated pages."""
    found = {
        REFERENCE / "components.md": _components(),
        REFERENCE / "command-line.md": _command_line(),
    }
    for entry in RECIPES:
        found[REFERENCE / f"settings-{entry.name}.md"] = _settings(entry.name, entry.help)
    return found


def _settings(recipe: str, text: str) -> str:
    nodes = nodes_of(recipe)
    lines = [f"# Settings of `{recipe}`", "", f"{text[0].upper()}{text[1:]}.", ""]
    for group in nodes.global_groups():
        names = ", ".join(f"`{group}={name}`" for name in nodes.presets_of(group))
        lines += [f"Presets: {names}.", ""] if names else []
    values = outline(recipe)
    lines += _table(settings.rows(nodes.config, values))
    for group, registry in nodes.registries.items():
        for entry in registry:
            node = {k: v for k, v in nodes.options[group][entry.name].items() if v != "???"}
            rows = list(settings.rows(entry.config, node, f"{group}."))
            lines += ["", f"## `{group}={entry.name}`", "", f"{entry.help}.", ""]
            lines += _table(rows) if rows else ["No settings."]
    return NOTE + "\n".join(lines) + "\n"


def _table(rows: Iterable[tuple[str, str, Any, str]]) -> list[str]:
    lines = ["| setting | default | may be | what it is |", "|---|---|---|---|"]
    for path, kind, default, about in rows:
        shown = "required" if default is MISSING else f"`{settings.show(default)}`"
        cells = [f"`{path}`", shown if default != "" else "", kind, about]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def _components() -> str:
    parts = ["# Components\n\nWhat `latentsmith list` prints.\n"]
    for what in COMPONENTS:
        parts.append(f"## {what.capitalize()}\n\n```text\n{_printed('list', what)}```\n")
    return NOTE + "\n".join(parts)


def _command_line() -> str:
    """From argparse's parsers, not from its help texts: their wrapping changes with Python."""
    parts = ["# Command line\n\n`latentsmith VERB …`; `--debug` shows tracebacks.\n"]
    parser = Parser(prog="latentsmith")
    subparsers = parser.add_subparsers()
    for verb in verbs():
        add_verb(verb, subparsers)
    for verb in verbs():
        parts += _verb(subparsers.choices[verb], "##")
    return NOTE + "\n".join(parts)


def _verb(parser: argparse.ArgumentParser, heading: str) -> list[str]:
    lines = [f"{heading} {parser.prog}\n", f"{(parser.description or '').capitalize()}.\n"]
    inner: list[str] = []
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                inner += _verb(below, heading + "#")
        elif "--help" not in action.option_strings:
            name = " ".join([*action.option_strings, *([action.metavar] if action.metavar else [])])
            rows.append(f"| `{name or action.dest}` | {action.help or ''} |")
    if rows:
        lines += ["\n".join(["| argument | what it is |", "|---|---|", *rows]) + "\n"]
    if parser.epilog:
        examples = textwrap.dedent(parser.epilog.partition("examples:\n")[2]).strip()
        lines += [f"```bash\n{examples}\n```\n"]
    return lines + inner


def _printed(*words: str) -> str:
    """What a command prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        command_line(list(words))
    return out.getvalue()


def problems(page: Path) -> Iterator[str]:
    """What is wrong with one page."""
    text = page.read_text()
    name = page.relative_to(ROOT)
    files = re.findall(r"^# src/(\S+)\.py$", text, re.MULTILINE)
    shown = {file.removesuffix("/__init__").replace("/", ".") for file in files}
    for number, language, block in _blocks(text):
        if language in ("bash", "sh", "shell", "console"):
            yield from (f"{name}:{number}: {p}" for p in _shell_problems(block))
        elif language in ("python", "py"):
            yield from (f"{name}:{number}: {p}" for p in _python_problems(block, shown))
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not re.match(r"[a-z]+:", target) and not _leads_somewhere(page, target):
            yield f"{name}: link to {target} leads nowhere"


def _blocks(text: str) -> Iterator[tuple[int, str, str]]:
    """(line number, language, content) of every fenced block."""
    for match in re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield text[: match.start()].count("\n") + 1, match[1], match[2]


def _leads_somewhere(page: Path, target: str) -> bool:
    path, _, anchor = target.partition("#")
    there = (page.parent / path).resolve() if path else page
    if not there.exists():
        return False
    if not anchor or there.suffix != ".md":
        return True
    headings = re.findall(r"^#+ (.+)$", there.read_text(), re.MULTILINE)
    return anchor in {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def _shell_problems(block: str) -> Iterator[str]:
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line.strip().removeprefix("$ "), comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # OMP_NUM_THREADS=1 latentsmith …
            words.pop(0)
        if ">" in words:  # the rest is the shell's
            words = words[: words.index(">")]
        if words[:1] == ["latentsmith"]:
            try:
                _try_command(words[1:])
            except UserError as error:
                yield f"'{line.strip()}': {error}"


def _try_command(words: list[str]) -> None:
    """Everything short of running it. Capital words are placeholders: those lines only parse."""
    if any(re.search(r"\b[A-Z]{3,}\b", word) for word in words):
        return
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        args = parse(words)
        if words[0] in ("run", "plan", "launch") and not getattr(args, "help_settings", False):
            compose(args.recipe, args.overrides)
        elif words[0] == "train":
            compose(args.stage.partition(".")[0], args.overrides)
        elif words[0] == "sweep":
            from latentsmith.cli.sweep import runs

            for overrides in runs(args.recipe, args.overrides)[0]:
                compose(args.recipe, overrides)
        elif words[0] == "cache" and hasattr(args, "overrides"):
            from latentsmith.cli.cache import settings as words_of

            if not getattr(args, "source", "").startswith("runs/"):  # its data are the run's
                compose("cache", words_of(args))


def _python_problems(block: str, shown: set[str]) -> Iterator[str]:
    """``shown``: modules the page itself tells the reader to write."""
    try:
        tree = ast.parse(block)
    except SyntaxError as error:
        yield f"does not parse: {error}"
        return
    for node in ast.walk(tree):
        name = (isinstance(node, ast.ImportFrom) and node.module) or ""
        if (
            isinstance(node, ast.ImportFrom)
            and name.startswith("latentsmith")
            and name not in shown
        ):
            try:
                module = importlib.import_module(name)
            except ImportError as error:
                yield str(error)
                continue
            for alias in node.names:
                if not hasattr(module, alias.name):
                    yield f"{name} has no {alias.name}"


def build(*, write: bool) -> list[str]:
    """Write (or compare) the generated pages and check all; the problems found."""
    found = []
    for path, text in reference().items():
        if write:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif not path.is_file() or path.read_text() != text:
            found.append(f"{path.relative_to(ROOT)} is not up to date: run make docs")
    for page in pages():
        found += problems(page)
    return found


if __name__ == "__main__":
    wrong = build(write="--check" not in sys.argv)
    print("\n".join(wrong) or f"{len(pages())} pages checked")
    sys.exit(1 if wrong else 0)
