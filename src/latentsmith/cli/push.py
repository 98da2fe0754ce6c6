"""``latentsmith push FOLDER OWNER/NAME``: an export to a model hub."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentsmith.export.push import Upload

HELP = "send an export to a model hub, after a look at what is in it"
EXAMPLES = """examples:
  latentsmith push exported you/my-autoencoder --dry-run
  latentsmith push exported you/my-autoencoder --private
  latentsmith push exported you/my-autoencoder --revision v2
"""


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "push", help=HELP, description=HELP, epilog=EXAMPLES
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what latentsmith export wrote")
    parser.add_argument(
        "repository", metavar="OWNER/NAME", help="where to; made if it is not there"
    )
    parser.add_argument(
        "--private", action="store_true", help="of a new repository: seen by its owner alone"
    )
    parser.add_argument(
        "--revision", metavar="BRANCH", help="branch to commit to, made if it is not there (main)"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would go up, send nothing")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Raises UserError for a folder that is no export, and for whatever keeps it from the hub."""
    from latentsmith.export.push import look_through, push

    upload = look_through(args.folder)
    _show(upload)
    if args.dry_run:
        print(f"nothing was sent to {args.repository}: this was a dry run")
        return 0
    print(push(upload, args.repository, private=args.private, revision=args.revision))
    return 0


def _show(upload: "Upload") -> None:
    sizes = {name: f"{size:,}" for name, size in upload.files.items()}
    widest = max(len(f"{upload.total:,}"), *(len(size) for size in sizes.values()))
    for name, size in sizes.items():
        print(f"{size:>{widest}}  {name}")
    print(f"{upload.total:>{widest},}  bytes in {len(sizes)} files")
    if not upload.licensed:
        print(
            f"no licence is stated: fill in `license` at the top of {upload.folder / 'README.md'}"
        )
