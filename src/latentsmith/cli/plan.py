"""``latentsmith plan RECIPE``: what a run would take, without running it."""

import argparse
from typing import Any

HELP = "parameters, FLOPs, memory, disk, time and cost of a run, without running it"
EXAMPLES = """examples:
  latentsmith plan urepa scale=paper
  latentsmith plan urepa scale=paper --gpu H200 --gpus 4 --price 3.5
  latentsmith plan mmreg scale=laptop loss=eqvae --json
  latentsmith plan psvae scale=paper data=hf_dataset data.path=me/pairs --rows 3000000
  latentsmith plan field scale=paper --gpu bf16=400,fp32=50,memory=96,bandwidth=4000
"""


def add(subparsers: Any) -> None:
    """Add the verb's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "plan", help=HELP, description=HELP, epilog=EXAMPLES
    )
    parser.add_argument("recipe", metavar="RECIPE", help="see 'latentsmith list recipes'")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="settings, e.g. scale=paper"
    )
    parser.add_argument(
        "--gpu",
        default="H100",
        metavar="GPU",
        help="A100-40, A100-80, H100 (default), H200, B200, L40S, RTX4090; a change to one "
        "(H100,memory=94); or your own: bf16=400,fp32=50,memory=96,bandwidth=4000 in TFLOP/s, GB, "
        "GB/s",
    )
    parser.add_argument(
        "--gpus", type=int, default=1, metavar="N", help="how many share each batch (default 1)"
    )
    parser.add_argument(
        "--utilization",
        type=float,
        default=0.4,
        metavar="SHARE",
        help="share of the GPU's peak that is reached (default 0.4)",
    )
    parser.add_argument("--price", type=float, metavar="X", help="of a GPU hour, for the cost")
    parser.add_argument(
        "--rows", type=int, metavar="N", help="training samples, where the settings do not say"
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(run=plan)


def plan(args: argparse.Namespace) -> None:
    """Raises UserError for settings or a setup that do not work, recipes without a plan, and
    shapes that are neither published nor at hand."""
    import json
    import logging

    from latentsmith.config.compose import compose
    from latentsmith.planning.devices import device_named
    from latentsmith.planning.estimate import Setup, estimate
    from latentsmith.planning.table import as_json, lines

    setup = Setup(device_named(args.gpu), args.gpus, args.utilization, args.price, args.rows)
    config = compose(args.recipe, args.overrides)
    found = estimate(config.plan(), setup, say=logging.getLogger(__name__).info)
    if args.json:
        print(json.dumps(as_json(found), indent=1))
    else:
        print(" ".join([args.recipe, *args.overrides]))
        print("\n".join(lines(found)))
