"""``latentsmith data fetch | inspect | prepare``: get, look at and resize datasets."""

import argparse
from pathlib import Path
from typing import Any

HELP = "fetch, inspect or resize a dataset"


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser("data", help=HELP, description=HELP)
    verbs = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_list(verbs)
    _add_fetch(verbs)
    _add_inspect(verbs)
    _add_prepare(verbs)


def _dataset_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="dataset (see 'latentsmith data list')")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="its settings")
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="where fetched data are kept (default: the cache)"
    )


def _add_list(verbs: Any) -> None:
    text = "list the datasets and their settings"
    parser = verbs.add_parser("list", help=text, description=text)
    parser.set_defaults(run=run_list)


def _add_fetch(verbs: Any) -> None:
    text = "get a dataset, check it and say where it came from"
    parser = verbs.add_parser("fetch", help=text, description=text)
    _dataset_arguments(parser)
    parser.set_defaults(run=run_fetch)


def _add_inspect(verbs: Any) -> None:
    text = "print a dataset's counts, classes, digest and origin"
    parser = verbs.add_parser("inspect", help=text, description=text)
    _dataset_arguments(parser)
    parser.add_argument("--split", choices=("train", "val"), default="train")
    parser.add_argument("--out", type=Path, metavar="PNG", help="write a grid of 64 samples here")
    parser.add_argument(
        "--check", action="store_true", help="decode every image, name the bad ones"
    )
    parser.set_defaults(run=run_inspect)


def _add_prepare(verbs: Any) -> None:
    text = "write a resized copy of a dataset as an image folder (train/ and val/); resumable"
    parser = verbs.add_parser("prepare", help=text, description=text)
    _dataset_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--resolution", type=int, required=True, help="side in pixels")
    parser.add_argument("--crop", choices=("center", "none"), default="center")
    parser.add_argument("--format", choices=("png", "webp", "jpg"), default="png")
    parser.set_defaults(run=run_prepare)


def run_list(args: argparse.Namespace) -> int:
    """Name, one-line help and settings of every dataset."""
    from latentsmith.config.fields import settings_of
    from latentsmith.data.base import DATASETS

    for entry in DATASETS:
        settings = [name for name in settings_of(entry.config) if name != "kind"]
        print(f"{entry.name:<14} {entry.help}\n{'':<14} settings: {', '.join(settings)}")
    return 0


def run_fetch(args: argparse.Namespace) -> int:
    """Open both splits, fetching what is missing."""
    from latentsmith.data.describe import headline

    for split in ("train", "val"):
        print(headline(_config(args).build(split, _cache(args))))
    return 0


def run_inspect(args: argparse.Namespace) -> int:
    """Describe one split; 1 when ``--check`` finds unreadable images."""
    from latentsmith.data.describe import check_all, describe, write_grid

    dataset = _config(args).build(args.split, _cache(args))
    print(describe(dataset))
    bad: list[str] = []
    if args.check:
        bad = check_all(dataset)
        print(f"unreadable     {len(bad)} of {len(dataset)}", *bad, sep="\n  ")
    if args.out is not None:
        write_grid(dataset, args.out)
        print(f"grid           {args.out}")
    return 1 if bad else 0


def run_prepare(args: argparse.Namespace) -> int:
    """Write the copy; going on where an earlier call stopped."""
    from latentsmith.data.prepare import prepare
    from latentsmith.data.transforms import TransformConfig
    from latentsmith.errors import UserError

    if args.resolution < 1:
        raise UserError(f"--resolution {args.resolution}: a side in pixels must be at least 1")
    config = _config(args)
    for split in ("train", "val"):
        dataset = config.build(split, _cache(args))
        transform = TransformConfig(resolution=args.resolution, crop=args.crop)
        done = prepare(dataset, transform, args.out / split, args.format)
        print(
            f"{dataset.name}: wrote {done.written}, already there {done.kept}, "
            f"unreadable {len(done.bad)}",
            *done.bad,
            sep="\n  ",
        )
    print(f"use it with: data=image_folder data.folder={args.out}")
    return 0


def _config(args: argparse.Namespace) -> Any:
    from latentsmith.data.settings import dataset_config

    return dataset_config(args.name, args.overrides)


def _cache(args: argparse.Namespace) -> Path:
    from latentsmith.utils.cache import cache_root

    return args.cache if args.cache is not None else cache_root() / "data"
