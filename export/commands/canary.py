"""Let callers try a version before it is promoted.

One server of a fleet (`python -m server --replicas N`) loads the version beside the one that is
served, and classifies a photograph with it. Then it answers a share of the requests of callers for
some time. If more of their requests fail than before, the trial ends at once. At the end, the fleet
is as before: all its servers answer with the version that is served. The repository does not
change, and nobody can change versions meanwhile.

The version must be newer than the served one, and take and answer the same. A request that names a
version gets that version. Commands of the client keep to the served one.

Ctrl-C ends the trial early.

Examples:
  python -m export canary seresnext101_onnx --to 2
  python -m export canary seresnext101_onnx --to 2 --percent 5 --soak 3600

exit codes:
  0   the version answered as it should for the whole time
  1   there is no such version or no fleet, the server cannot load the version, or it failed
  2   wrong usage
  65  the files of the version are not those that were published
  130 interrupted
"""

from __future__ import annotations

import argparse

from seresnext101_triton.client.options import positive, waiting

HELP = "let callers try a version with a share of their requests"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, the version, the share and the time."""
    parser.add_argument("model", metavar="MODEL", help="the name of the model")
    parser.add_argument("--to", type=positive, required=True, metavar="N", help="the version")
    parser.add_argument(
        "--percent",
        type=_percent,
        default=10,
        metavar="N",
        help="the share of all requests to the fleet that its server gets (default: 10)",
    )
    parser.add_argument(
        "--soak",
        type=waiting,
        default=60.0,
        metavar="SECONDS",
        help="how long callers use it (default: 60)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Try the version."""
    from seresnext101_triton.client.output import printing, say
    from seresnext101_triton.export.canary import try_version
    from seresnext101_triton.export.tables import print_trial

    trial = try_version(
        arguments.repository,
        arguments.model,
        arguments.to,
        arguments.percent,
        arguments.soak,
        say,
    )
    with printing(f"version {trial.version} has passed, and all callers get {trial.before} again"):
        print_trial(trial, as_json=arguments.json)
    return 0


def _percent(text: str) -> int:
    value = positive(text)
    if value > 99:
        raise argparse.ArgumentTypeError(f"must be at most 99, not {value}")
    return value
