"""``latentsmith export SOURCE --out FOLDER``: what was trained, for other libraries."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentsmith.cli._models import is_run, saved_of_run

if TYPE_CHECKING:
    from latentsmith.export.pipeline import Sampling
    from latentsmith.reports.content import Report
    from latentsmith.sampling.text_latent.translator import Translator

HELP = "write what was trained as diffusers and peft load it, with a model card"
EXAMPLES = """examples:
  latentsmith export runs/mmreg/laptop --out exported
  latentsmith export runs/mmreg/laptop --model generator-baseline --out exported
  latentsmith export runs/mmreg/laptop --model regularized --onnx --out exported
  latentsmith export runs/psvae/laptop --out exported
  latentsmith export my_generator --autoencoder my_vae --out exported
"""


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "export", help=HELP, description=HELP, epilog=EXAMPLES
    )
    parser.add_argument("source", metavar="SOURCE", help="run, or folder of a saved model")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder to write")
    parser.add_argument(
        "--model", metavar="STAGE", help="of a run: which stage's model (the last generator)"
    )
    parser.add_argument(
        "--autoencoder",
        type=Path,
        metavar="DIR",
        help="of a generator: where its autoencoder is now (default: where the generator says)",
    )
    parser.add_argument(
        "--with-vae",
        action="store_true",
        help="of a LoRA: write the autoencoder even where it is the pipeline's own",
    )
    parser.add_argument(
        "--onnx",
        action="store_true",
        help="write the autoencoder as ONNX graphs too, compared with it (extra: onnx)",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="move what FOLDER holds aside, and write it anew"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Raises UserError when there is no model, or FOLDER is taken."""
    from latentsmith.export.folder import check_free, export
    from latentsmith.export.saved import open_saved

    source, name = Path(args.source), Path(args.source).resolve().name
    check_free(args.out, fresh=args.fresh, source=source)
    about: dict[str, Any] = {}
    if is_run(args.source, args.model):
        run, (folder, stage) = source, saved_of_run(source, args.model)
        source, name = Path(folder), f"{name}-{stage}"
        about = {"report": _report(run), "sampling": _sampling(run), "like": _translator(run)}
        about["facts"] = _facts(run, stage)
    check_free(args.out, fresh=args.fresh, source=source)
    model = open_saved(source, autoencoder=args.autoencoder)
    options = {"with_vae": args.with_vae, "onnx": args.onnx, "fresh": args.fresh}
    print(export(model, args.out, name=name, **options, **about))
    return 0


def _facts(run: Path, stage: str) -> dict[str, Any]:
    """How a stage trained, for the card."""
    from latentsmith.config.run import Run

    opened = Run.load(run)
    left, noted = opened.summary(stage), opened.manifest
    facts: dict[str, Any] = {"recipe": opened.config.kind, "stage": stage}
    facts |= {key: left[key] for key in ("samples", "seconds", "ema") if key in left}
    facts["data"] = ", ".join(noted["data"]) if "data" in noted else opened.config.data.kind
    if opened.overrides:
        facts["settings"] = " ".join(opened.overrides)
    return facts


def _translator(run: Path) -> "Translator | None":
    """The last model of texts and latents in the run: decoders of texts have its tokens."""
    from latentsmith.config.run import Run
    from latentsmith.diffusion.text_latent.saved import SETTINGS
    from latentsmith.sampling.text_latent.translator import Translator

    opened = Run.load(run)
    done = [s.name for s in opened.config.stages() if opened.stage_done(s.name)]
    models = [Path(opened.summary(s).get("model", run)) for s in done]
    found = [folder for folder in models if (folder / SETTINGS).is_file()]
    return Translator.load(found[-1]) if found else None


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
