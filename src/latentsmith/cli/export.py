"""``latentsmith export SOURCE --out FOLDER``: a generator for other libraries."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentsmith.cli._models import generator_folder, is_run

if TYPE_CHECKING:
    from latentsmith.export.pipeline import Sampling
    from latentsmith.reports.content import Report

HELP = "write a trained generator as diffusers and peft load it, with a model card"
EXAMPLES = """examples:
  latentsmith export runs/mmreg/laptop --out exported
  latentsmith export runs/mmreg/laptop --model generator-baseline --out exported
  latentsmith export runs/psvae/laptop --out exported
  latentsmith export my_generator --autoencoder my_vae --out exported
"""


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "export", help=HELP, description=HELP, epilog=EXAMPLES
    )
    parser.add_argument("source", metavar="SOURCE", help="run, or folder of a saved generator")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder to write")
    parser.add_argument(
        "--model", metavar="STAGE", help="of a run: which stage's generator (the last)"
    )
    parser.add_argument(
        "--autoencoder",
        type=Path,
        metavar="DIR",
        help="where its autoencoder is now (default: where the generator says)",
    )
    parser.add_argument(
        "--with-vae",
        action="store_true",
        help="of a LoRA: write the autoencoder even where it is the pipeline's own",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="move what FOLDER holds aside, and write it anew"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Raises UserError when there is no generator, or FOLDER is taken."""
    from latentsmith.export.folder import check_free, export
    from latentsmith.sampling.generator import LatentGenerator

    source, name, report, sampling = Path(args.source), Path(args.source).resolve().name, None, None
    check_free(args.out, fresh=args.fresh, source=source)
    if is_run(args.source, args.model):
        report, sampling = _report(source), _sampling(source)
        folder, stage = generator_folder(source, args.model)
        source, name = Path(folder), f"{name}-{stage}"
    check_free(args.out, fresh=args.fresh, source=source)
    generator = LatentGenerator.load(source, autoencoder=args.autoencoder)
    options = {"with_vae": args.with_vae, "report": report, "sampling": sampling}
    print(export(generator, args.out, name=name, fresh=args.fresh, **options))
    return 0


def _report(run: Path) -> "Report | None":
    """The run's report; None before it has one."""
    from latentsmith.reports.page import load_report

    return load_report(run) if (run / "report.json").is_file() else None


def _sampling(run: Path) -> "Sampling | None":
    """How the run made its images from texts; None where its recipe makes none."""
    from latentsmith.config.run import Run
    from latentsmith.export.pipeline import Sampling

    how: Any = getattr(Run.load(run).config, "evaluate", None)
    if not hasattr(how, "edit_guidance"):
        return None
    return Sampling.of(how.sampler, how.guidance, how.edit_guidance)
