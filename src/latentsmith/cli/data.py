"""``latentsmith data fetch | inspect | prepare``: get, look at and resize datasets."""

import argparse
from pathlib import Path
from typing import Any

from latentsmith.cli._pipeline import seed

HELP = "fetch, inspect or resize a dataset"
MOST_SIDE = 16_384
"""Pixels along the side of a copy; more is a slip of the finger."""


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
    text = (
        "write a resized copy of a dataset: an image folder (train/ and val/), or for each split a "
        "ZIP and a CSV of its samples; resumable"
    )
    parser = verbs.add_parser("prepare", help=text, description=text)
    _dataset_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--resolution", type=int, required=True, help="side in pixels")
    parser.add_argument(
        "--crop",
        choices=("center", "none"),
        default="center",
        help="the largest centred square, or the whole image squeezed into one",
    )
    parser.add_argument(
        "--format",
        choices=("png", "webp", "jpg", "zip"),
        default="png",
        help="of the files in an image folder; or zip",
    )
    parser.add_argument(
        "--images", choices=("jpg", "png"), help="with --format zip: what is in it (default jpg)"
    )
    parser.add_argument(
        "--count", type=int, metavar="N", help="use N training images, equally many of each class"
    )
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="S", help="which ones --count takes (default 0)"
    )
    parser.add_argument(
        "--max-bad",
        type=float,
        metavar="SHARE",
        help="with --format zip: fail when more of a split's images are unreadable (default 0.01)",
    )
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
    _check_prepare(args)
    config = _config(args)
    _refuse_source(config, args.out)
    if args.format == "zip":
        _prepare_zip(args, config)
        print(f"use it with: data=zip_csv data.archive={args.out}")
    else:
        _prepare_folder(args, config)
        print(f"use it with: data=image_folder data.folder={args.out}")
    return 0


def _check_prepare(args: argparse.Namespace) -> None:
    from latentsmith.errors import UserError

    if not 1 <= args.resolution <= MOST_SIDE:
        raise UserError(
            f"--resolution {args.resolution}: a side in pixels is between 1 and {MOST_SIDE:,}"
        )
    if args.count is not None and args.count < 1:
        raise UserError(f"--count {args.count}: at least 1 image is needed (leave it out for all)")
    if args.max_bad is not None and not 0 <= args.max_bad <= 1:
        raise UserError(f"--max-bad {args.max_bad:g}: a share is between 0 and 1 (0.01 is 1 %)")
    if args.format != "zip":
        for option, value in (("--images", args.images), ("--max-bad", args.max_bad)):
            if value is not None:
                raise UserError(f"{option} belongs to --format zip; this is {args.format}")


def _refuse_source(config: Any, out: Path) -> None:
    """A copy among the images it is made of would be read as part of them."""
    from latentsmith.errors import UserError

    target = out.expanduser().resolve()
    for name, value in vars(config).items():
        if not isinstance(value, str | Path) or not Path(value).expanduser().is_dir():
            continue
        folder = Path(value).expanduser().resolve()
        if target == folder or folder in target.parents:
            raise UserError(
                f"--out {out} is in the dataset's own folder ({name}={value}): give one outside it"
            )


def _prepare_folder(args: argparse.Namespace, config: Any) -> None:
    from latentsmith.data.balance import balanced_part
    from latentsmith.data.base import Split
    from latentsmith.data.prepare import prepare
    from latentsmith.data.subset import subset
    from latentsmith.data.transforms import TransformConfig

    transform = TransformConfig(resolution=args.resolution, crop=args.crop)
    splits: tuple[Split, ...] = ("train", "val")
    # both are opened before anything is written: a mistake in one shows at once
    for split, dataset in [(split, config.build(split, _cache(args))) for split in splits]:
        if split == "train" and args.count is not None:
            dataset = subset(dataset, balanced_part(dataset, args.count, args.seed))
        done = prepare(dataset, transform, args.out / split, args.format)
        _say(dataset.name, done, done.bad)


def _prepare_zip(args: argparse.Namespace, config: Any) -> None:
    from latentsmith.data.base import Split
    from latentsmith.data.prepare_zip import ZipSettings, prepare_zip
    from latentsmith.data.transforms import TransformConfig

    settings = ZipSettings(
        TransformConfig(resolution=args.resolution, crop=args.crop),
        image=args.images or "jpg",
        count=args.count,
        seed=args.seed,
        max_bad=0.01 if args.max_bad is None else args.max_bad,
    )
    splits: tuple[Split, ...] = ("train", "val")
    datasets: dict[Split, Any] = {split: config.build(split, _cache(args)) for split in splits}
    for split, done in prepare_zip(datasets, settings, args.out).items():
        bad = done.bad[:20]
        if len(done.bad) > 20:
            bad.append(f"… and {len(done.bad) - 20} more, see {args.out / split}.unreadable.csv")
        _say(datasets[split].name, done, bad)


def _say(name: str, done: Any, bad: list[str]) -> None:
    """What was done with a split, and which images could not be read."""
    counts = f"wrote {done.written}, already there {done.kept}, unreadable {len(done.bad)}"
    print(f"{name}: {counts}", *bad, sep="\n  ")


def _config(args: argparse.Namespace) -> Any:
    from latentsmith.data.settings import dataset_config

    return dataset_config(args.name, args.overrides)


def _cache(args: argparse.Namespace) -> Path:
    from latentsmith.utils.cache import cache_root

    return args.cache if args.cache is not None else cache_root() / "data"
