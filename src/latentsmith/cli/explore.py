"""``latentsmith explore RUN…``: finished runs in the browser."""

import argparse
from pathlib import Path
from typing import Any

HELP = "look at finished runs in the browser: map, neighbours, paths, reconstructions, generation"
EXAMPLES = """examples:
  latentsmith explore runs/mmreg/laptop --open
  latentsmith explore runs/mmreg/laptop runs/mmreg/other
  latentsmith explore runs/psvae/laptop --port 0 --count 1000
"""


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "explore", help=HELP, description=HELP, epilog=EXAMPLES
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run folder; several: side by side"
    )
    parser.add_argument(
        "--port", type=int, default=7870, metavar="N", help="port (7870); 0: any that is free"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS",
        help="address to listen on (127.0.0.1: this machine alone)",
    )  # fmt: skip
    parser.add_argument("--open", action="store_true", help="show the page in the browser")
    parser.add_argument(
        "--count", type=count, default=500, metavar="N", help="held-out samples on the map (500)"
    )
    parser.set_defaults(run=explore)


def count(text: str) -> int:
    """The type of ``--count``: a map needs three points, and pairs of them fit in memory."""
    value = int(text)
    if not 3 <= value <= 10_000:
        raise argparse.ArgumentTypeError(f"{text}: give 3 to 10000")
    return value


def explore(args: argparse.Namespace) -> int:
    """Serve until interrupted. Raises UserError for runs that cannot be shown, a missing extra or
    a port that is taken."""
    from latentsmith.explore.serve import serve

    serve(args.runs, host=args.host, port=args.port, count=args.count, show=args.open)
    return 0
