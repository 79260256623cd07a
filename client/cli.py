"""The command line: `python -m client classify IMAGE...`, and what else a server can be asked."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from client.errors import ClientError
from client.options import add_opening, add_server, add_throughput, connection_of, link_of, opening_of, positive

if TYPE_CHECKING:
    from client.classifier import Classifier
    from client.tables import Answers

_EPILOG = """\
examples:
  python -m client classify cat.jpg
  python -m client classify photos/ --model seresnext101_onnx --top 3
  python -m client classify cat.jpg --json | jq '.[0].images[0].predictions[0].label'
  python -m client classify photos/*.jpg --gallery photos.png
  python -m client bulk /data/photos --output answers.jsonl       interrupt it, run it again: it goes on
  python -m client evaluate /data/val --model seresnext101_onnx --model seresnext101_tensorrt_fp16
  python -m client models; python -m client describe seresnext101_onnx; python -m client health

exit codes:
  0   every image was answered by every model
  1   an image could not be read, or the server refused; what could be answered was
  2   wrong usage
  69  no server answers
  73  a file of results cannot be written
  130 interrupted; what was answered is in the file
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return int(options.run(options))
    except ClientError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m client",
        description="Ask a Triton server what is in a picture.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    classify = commands.add_parser("classify", help="print the most likely classes of each image")
    classify.add_argument("images", nargs="+", metavar="IMAGE", help="a file, folder, pattern or URL; - is standard input")
    _add_models(classify)
    classify.add_argument("--top", type=positive, default=5, metavar="K", help="classes for each image (default: 5)")
    form = classify.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    form.add_argument("--jsonl", action="store_true", help="print one JSON object for each image and model")
    form.add_argument("--csv", action="store_true", help="print one row for each prediction")
    classify.add_argument("--gallery", type=Path, metavar="PNG", help="draw the pictures with the first model's answers")
    classify.set_defaults(run=_classify)

    bulk = commands.add_parser("bulk", help="classify a folder of any size into a file, and go on after an interruption")
    bulk.add_argument("images", nargs="+", metavar="IMAGE", help="a folder, file, pattern or URL")
    bulk.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="FILE.jsonl, one JSON line for each image; or FILE.parquet, a folder of Parquet; what it holds is kept",
    )
    bulk.add_argument("--model", metavar="NAME", help="may be left out where the server serves one model")
    bulk.add_argument("--version", default="", metavar="N", help="of the model (default: the server's choice)")
    bulk.add_argument("--top", type=positive, default=5, metavar="K", help="classes for each image (default: 5)")
    bulk.add_argument("--patience", type=float, default=60.0, metavar="S", help="how long to wait for a server that went (default: 60)")
    bulk.set_defaults(run=_bulk)

    evaluate = commands.add_parser("evaluate", help="accuracy through the server, and where two models differ")
    evaluate.add_argument("source", type=Path, metavar="SOURCE", help="a folder of class folders, or a CSV of image and class index")
    _add_models(evaluate)
    evaluate.add_argument("--worst", type=int, default=10, metavar="N", help="disagreements to show (default: 10)")
    evaluate.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    evaluate.set_defaults(run=_evaluate)

    models = commands.add_parser("models", help="what the server has, and in which state")
    models.set_defaults(run=_models)
    describe = commands.add_parser("describe", help="how a model is to be used")
    describe.add_argument("model", metavar="MODEL")
    describe.add_argument("--version", default="", metavar="N", help="default: the server's choice")
    describe.set_defaults(run=_describe)
    health = commands.add_parser("health", help="whether the server is live and ready; exit code 0 only then")
    health.add_argument("--wait", type=float, default=0.0, metavar="S", help="how long to wait until it is (default: 0)")
    health.set_defaults(run=_health)

    for command in (models, describe, health):
        command.add_argument("--json", action="store_true", help="print one JSON document")
    for command in (classify, bulk, evaluate):
        add_throughput(command)
        add_opening(command)
    for command in commands.choices.values():
        add_server(command)
    return parser


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="the served model; may be given several times, and left out where the server serves one model",
    )
    parser.add_argument("--version", default="", metavar="N", help="a version of the model (default: the server's choice)")


def _classifier(options: argparse.Namespace, model: str | None) -> Classifier:
    from client.classifier import Classifier

    return Classifier(options.url, model, version=options.version, link=link_of(options), opening=opening_of(options), draft=options.draft)


def _classify(options: argparse.Namespace) -> int:
    from client import tables
    from client.sources import expand

    images = list(dict.fromkeys(expand(options.images)))
    answers = []
    for model in options.model or [None]:
        with _classifier(options, model) as classifier:
            answers.append(_ask(classifier, images, options))
    if options.json:
        tables.print_json([answer.to_json() for answer in answers])
    elif options.jsonl:
        tables.print_json_lines(answers)
    elif options.csv:
        tables.print_csv(answers)
    else:
        tables.print_answers(answers)
    if options.gallery and answers[0].predictions:
        from client import gallery

        first = answers[0]
        gallery.draw(
            options.gallery,
            [entry for entry in first.predictions.items() if entry[0] != "-"],
            f"{first.model} · version {first.version}",
            tables.UNTRAINED * first.untrained,
        )
        print(f"drawn: {options.gallery}", file=sys.stderr)
    errors = {image: error for answer in answers for image, error in answer.errors.items()}
    for error in errors.values():
        print(f"error: {error}", file=sys.stderr)
    return 1 if errors else 0


def _ask(classifier: Classifier, images: Sequence[str], options: argparse.Namespace) -> Answers:
    from client.tables import Answers

    served = classifier.model
    answers = Answers(served.name, served.version, served.untrained)
    with _progress(images.__len__) as advance:
        for answer in classifier.stream(images, top=options.top, batch=options.batch, in_flight=options.in_flight):
            if answer.error:
                answers.errors[str(answer.image)] = str(answer.error)
            else:
                answers.predictions[str(answer.image)] = answer.predictions
            advance(1)
    return answers


def _bulk(options: argparse.Namespace) -> int:
    from client.bulk import Tally, classify_into
    from client.sources import expand

    if "-" in options.images:
        raise ClientError("standard input can be read once, and a bulk run must be able to begin again: name files")
    seen = Tally()
    with _classifier(options, options.model) as classifier, _progress(lambda: sum(1 for _ in expand(options.images))) as advance:

        def show(tally: Tally) -> None:
            advance(tally.before + tally.answered + tally.refused - seen.before - seen.answered - seen.refused)
            vars(seen).update(vars(tally))

        try:
            tally = classify_into(
                options.output,
                lambda: expand(options.images),
                classifier,
                top=options.top,
                patience_s=options.patience,
                batch=options.batch,
                in_flight=options.in_flight,
                progress=show,
                note=lambda line: print(line, file=sys.stderr),
            )
        except KeyboardInterrupt:
            print(f"interrupted: {options.output} has {seen.before + seen.answered} answers; run again to go on", file=sys.stderr)
            return 130
    print(_summary(tally.before, tally.answered, tally.unreadable, tally.refused, options.output), file=sys.stderr)
    return 1 if tally.unreadable or tally.refused else 0


def _summary(before: int, answered: int, unreadable: int, refused: int, output: Path) -> str:
    parts = [f"{output}: {before + answered} images"]
    parts += [f"{before} of them from earlier runs"] * bool(before)
    parts += [f"{unreadable} unreadable, as their records say"] * bool(unreadable)
    parts += [f"{refused} refused by the server and left for the next run"] * bool(refused)
    return ", ".join(parts)


def _evaluate(options: argparse.Namespace) -> int:
    from client import tables
    from client.evaluation import agreement, disagreements, evaluate, read_truth

    evaluations = []
    for model in options.model or [None]:
        with _classifier(options, model) as classifier:
            truth = read_truth(options.source, classifier.model.classes)
            with _progress(truth.__len__) as advance:
                evaluations.append(evaluate(classifier, truth, lambda: advance(1)))
    compared = len(evaluations) == 2
    agreed = agreement(evaluations[0], evaluations[1]) if compared else None
    worst = disagreements(evaluations[0], evaluations[1], options.worst) if compared else []
    if options.json:
        shares = {"top1": 1, "top5": 5}
        document: dict[str, object] = {
            "models": [
                {"model": one.model, "version": one.version, "images": len(one.predictions), "failed": one.failed}
                | {name: {"value": one.accuracy(top).value, "interval": one.accuracy(top).interval} for name, top in shares.items()}
                for one in evaluations
            ]
        }
        if agreed:
            document["agreement"] = {"value": agreed.value, "interval": agreed.interval}
            document["worst"] = [{"image": pair.image, "labels": [pair.first.label, pair.second.label]} for pair in worst]
        tables.print_json(document)
    else:
        tables.print_evaluations(evaluations, agreed, worst)
    failed = {image: error for one in evaluations for image, error in one.failed.items()}
    for error in failed.values():
        print(f"error: {error}", file=sys.stderr)
    return 1 if failed else 0


def _models(options: argparse.Namespace) -> int:
    from client import tables

    with connection_of(options) as connection:
        states = connection.models()
    if options.json:
        tables.print_json([vars(state) for state in states])
    else:
        rows = [(state.name, state.version, state.state or "not loaded", state.reason) for state in states]
        tables.print_rows(("model", "version", "state", "reason"), rows)
    return 0 if all(state.state == "READY" for state in states) else 1


def _describe(options: argparse.Namespace) -> int:
    from client import tables

    with connection_of(options) as connection:
        model = connection.describe(options.model, options.version)
        platform = connection.config(options.model, options.version).platform
    prepared = model.preprocessing
    facts = {
        "model": f"{model.name} · version {model.version}",
        "platform": platform,
        "input": f"{model.input}: {model.dtype} [3, {prepared.crop}, {prepared.crop}]",
        "output": f"{model.output}: {model.classes} {model.output_kind}",
        "largest batch": str(model.max_batch),
        "instances": str(model.instances),
        "preprocessing": f"shorter side to {prepared.resize} px, {prepared.interpolation}; centre {prepared.crop} px",
        "mean, std": f"{prepared.mean}, {prepared.std}",
        "weights": "untrained: the labels mean nothing" if model.untrained else "trained",
    }
    (tables.print_json if options.json else tables.print_facts)(facts)
    return 0


def _health(options: argparse.Namespace) -> int:
    from client import tables

    with connection_of(options) as connection:
        connection.wait_until_ready(timeout_s=options.wait)
        version, extensions = connection.server()
        ready = connection.ready_models()
        facts = {"server": connection.url, "triton": version, "ready": ", ".join(ready), "extensions": ", ".join(extensions)}
    (tables.print_json if options.json else tables.print_facts)(facts)
    return 0


def _progress(count: Callable[[], int]):  # type: ignore[no-untyped-def]
    """A bar on standard error with images a second, where a person looks on and the work is long. Only then is the work counted."""
    from contextlib import contextmanager

    @contextmanager
    def bar():  # type: ignore[no-untyped-def]
        if not sys.stderr.isatty() or (total := count()) < 32:
            yield lambda count: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("", total=total, rate="")

            def advance(images: int) -> None:
                progress.advance(task, images)
                speed = progress.tasks[0].speed
                progress.update(task, rate=f"{speed:.0f} images/s" if speed else "")

            yield advance

    return bar()
