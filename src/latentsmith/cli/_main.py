"""Parsing a line, running its verb, and answering mistakes."""

import argparse
import difflib
import importlib
import os
import pkgutil
import re
import shlex
import sys
from typing import Any, NoReturn

import latentsmith
from latentsmith.errors import UserError, nearest
from latentsmith.utils.told_once import tell

PACKAGE = "latentsmith.cli"
ORDER = [
    "run", "train", "sweep", "plan", "launch", "sample", "edit", "variation", "inpaint",
    "interpolate", "encode", "decode", "reconstruct", "invert", "roundtrip", "infill", "measure",
    "explore", "export", "push", "cache", "report", "runs", "clean", "list", "data", "new-recipe",
    "completion", "doctor",
]  # fmt: skip
"""How ``--help`` lists the verbs; others follow."""


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are `UserError`, so that all messages look alike."""

    def __init__(self, *args: Any, **kwargs: Any):
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:
        """As argparse's, which calls words that need not be there (``*``) required all the same,
        unless they have a default."""
        if kwargs.get("nargs") == "*":
            kwargs.setdefault("default", [])
        return super().add_argument(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raises UserError with the usage line."""
        raise UserError(f"{message}\n{self.format_usage().strip()}")


def verbs() -> list[str]:
    """Names of all verbs."""
    package = importlib.import_module(PACKAGE)
    modules = (m.name for m in pkgutil.iter_modules(package.__path__))
    names = [name.replace("_", "-") for name in modules if not name.startswith("_")]
    return sorted(names, key=lambda n: (ORDER.index(n) if n in ORDER else len(ORDER), n))


def add_verb(name: str, subparsers: Any) -> None:
    """Add a verb's parser; the module of ``new-recipe`` is ``new_recipe``."""
    importlib.import_module(f"{PACKAGE}.{name.replace('-', '_')}").add(subparsers)


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns its exit code: 0, 1 (the verb's own failure), 2 (a mistake in what
    was asked, printed without traceback) or 130 (interrupted)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]
    try:
        args = parse(argv)
        from latentsmith.cli import _logs

        _logs.setup(debug=debug)
        code = args.run(args) or 0
        _leave_group()
        return code
    except UserError as error:
        if debug:
            raise
        tell(str(error))
        return 2
    except KeyboardInterrupt as stop:
        return _interrupted(stop, argv)
    except BrokenPipeError:  # `latentsmith list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, MemoryError, RuntimeError) as error:
        message = None if debug else _mistake(error)
        if message is None:
            raise
        tell(f"{message} (--debug shows where this happened)")
        return 2


def _mistake(error: Exception) -> str | None:
    """A sentence on what nobody foresaw, where it comes from a path or a size the user gave; None
    for what is a fault of the program."""
    from latentsmith.utils.files import told

    if isinstance(error, OSError):
        return told(error)
    text = str(error)
    # torch on the CPU raises a plain RuntimeError
    if not isinstance(error, MemoryError) and "allocate memory" not in text:
        return None
    wanted = re.search(r"allocate (\d+) bytes", text)
    size = f" ({int(wanted[1]) / 1e9:,.0f} GB at once)" if wanted else ""
    return f"more memory is needed than this machine has{size}: give a smaller size or batch"


def parse(argv: list[str]) -> argparse.Namespace:
    """The parsed line. Raises UserError for an unknown verb, option or stray word."""
    known = verbs()
    verb = next((word for word in argv if not word.startswith("-")), None)
    if verb is not None and verb not in known:
        raise UserError(f"no verb {verb!r}. {nearest(verb, known)}")
    parser = Parser(
        prog="latentsmith",
        description="Build, align, measure and generate with the latent spaces of generative "
        "models.",
        epilog="latentsmith VERB --help explains a verb. --debug shows tracebacks.",
    )
    parser.add_argument(
        "--version", action="version", version=f"latentsmith {latentsmith.__version__}"
    )
    subparsers = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name in known if verb is None else [verb]:
        add_verb(name, subparsers)
    args, rest = parser.parse_known_args(argv)
    _take_rest(args, rest, subparsers.choices[verb] if verb else parser)
    return args


def _take_rest(args: argparse.Namespace, rest: list[str], parser: argparse.ArgumentParser) -> None:
    """argparse gives up on ``key=value`` words after an option: take those too (as ``overrides``,
    or ``settings`` where a verb calls them so), and refuse the rest."""
    words = next((name for name in ("overrides", "settings") if hasattr(args, name)), None)
    flags = [word for word in rest if word.startswith("-")]
    if flags:
        flag = flags[0].partition("=")[0]
        options = [o for o in parser._option_string_actions if o.startswith("--")]
        close = difflib.get_close_matches(flag, options, n=1, cutoff=0.7)
        if close:
            raise UserError(f"{flag}: no such option. Did you mean {close[0]}?")
        if words is not None:
            raise UserError(
                f"{flag}: no such option. Settings are written key=value without dashes: "
                f"{flag.lstrip('-')}=VALUE"
            )
        raise UserError(f"{flag}: no such option. Options: {', '.join(options)}.")
    if rest and words is None:
        raise UserError(f"do not know what to do with: {shlex.join(rest)}")
    if rest and words is not None:
        setattr(args, words, [*getattr(args, words), *rest])


def _leave_group() -> None:
    """Part from the other processes of this command in good order: a process that ends with its
    group's threads running may abort ("terminate called without an active exception")."""
    if "torch.distributed" not in sys.modules:  # nothing that was done needed torch
        return
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.barrier()  # nobody closes connections that others still read from
        dist.destroy_process_group()


def _interrupted(stop: KeyboardInterrupt, argv: list[str]) -> int:
    from latentsmith.cli._abreast import BESIDE

    code = int(getattr(stop, "exit_code", 130))
    if os.environ.get("RANK", "0") != "0" or BESIDE in os.environ:  # all stop: one says so
        return code
    message = str(stop) or "interrupted"
    print(f"\nlatentsmith: {message}", file=sys.stderr)
    if argv and argv[0] in ("run", "train", "sweep", "cache"):
        again = shlex.join(["latentsmith", *(word for word in argv if word != "--fresh")])
        print(f"The same command goes on where this stopped:\n  {again}", file=sys.stderr)
    return code
