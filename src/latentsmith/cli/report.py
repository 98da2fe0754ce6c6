"""``latentsmith report RUN…``: one run's report written again, or several runs compared."""

import argparse
import webbrowser
from pathlib import Path
from typing import Any

HELP = "write a run's report again, or compare several runs on one page"


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser("report", help=HELP, description=HELP)
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run folder; several: a comparison"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where the page goes (default: the run's folder; for several, 'comparison' beside "
        "the first)",
    )
    parser.add_argument("--open", action="store_true", help="show the page in the browser")
    parser.set_defaults(run=report)


def report(args: argparse.Namespace) -> int:
    """Write and print. Raises UserError for folders that are no runs."""
    page = _one(args.runs[0], args.out) if len(args.runs) == 1 else _several(args.runs, args.out)
    if args.open:
        webbrowser.open(page.resolve().as_uri())
    return 0


def _one(folder: Path, out: Path | None) -> Path:
    from latentsmith.errors import UserError
    from latentsmith.reports.console import print_verdict
    from latentsmith.reports.page import write_report
    from latentsmith.reports.runs import read_run

    record = read_run(folder)
    if record.report is None:
        raise UserError(
            f"{folder} has no report.json: the run has not reached its report stage. "
            "Start it again with the same command; it goes on where it stopped."
        )
    page = write_report(out or folder, record.report)
    print_verdict(record.report, page)
    return page


def _several(folders: list[Path], out: Path | None) -> Path:
    from latentsmith.reports.compare import compare
    from latentsmith.reports.console import print_verdict

    out = out or folders[0].resolve().parent / "comparison"
    print_verdict(compare(folders, out), out / "report.html")
    return out / "report.html"
