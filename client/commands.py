"""What each command of `python -m client` does. Every function returns an exit code."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seresnext101_triton.client import timings
from seresnext101_triton.client.errors import AccessDenied, ClientError, UsageError
from seresnext101_triton.client.options import (
    FLAGS,
    connection_of,
    image_options_of,
    transport_options_of,
)
from seresnext101_triton.client.output import say, say_traceback, with_flags
from seresnext101_triton.client.process import INTERRUPTED
from seresnext101_triton.client.progress import progress

if TYPE_CHECKING:
    from seresnext101_triton.client.bulk import Engine, Tally
    from seresnext101_triton.client.classifier import Classifier
    from seresnext101_triton.client.documents import Answers
    from seresnext101_triton.client.images import ImageOptions
    from seresnext101_triton.client.pipeline import Answer
    from seresnext101_triton.client.sources import LeftOut

_WORST = 10  # disagreements that are printed


def classify(options: argparse.Namespace) -> int:
    """Print the most likely classes of each image."""
    from seresnext101_triton.client.sources import LeftOut, expand

    if options.gallery:
        from seresnext101_triton.client.gallery import check_writable

        check_writable(options.gallery)
    left_out = LeftOut()
    with timings.part("finding the images"):
        images = list(dict.fromkeys(expand(options.images, left_out)))
    answers = []
    for model in options.model or [None]:
        with _classifier(options, model) as classifier, timings.part("classifying"):
            answers.append(_classify_all(classifier, images, options))
    with timings.part("printing"):
        _print(answers, left_out, options)
    code = _say_errors(error for answer in answers for error in answer.errors.values())
    if options.gallery:
        with timings.part("drawing"):
            _draw(options.gallery, answers[0], image_options_of(options))
    return code


def _print(answers: Sequence[Answers], left_out: LeftOut, options: argparse.Namespace) -> None:
    from seresnext101_triton.client import documents

    if options.json:
        facts = _counts(left_out) | timings.to_json()
        documents.print_json([answer.to_json() | facts for answer in answers])
    elif options.jsonl:
        documents.print_json_lines(answers)
    elif options.csv:
        documents.print_csv(answers)
    else:
        from seresnext101_triton.client import tables

        tables.print_answers(answers)
    _say_left_out(left_out)


def _classifier(options: argparse.Namespace, model: str | None) -> Classifier:
    with timings.part("importing"):
        from seresnext101_triton.client.classifier import Classifier
        from seresnext101_triton.client.memory import keep_freed_memory

    keep_freed_memory()
    with timings.part("connecting"):
        return Classifier(model=model, **_arguments(options))


def _arguments(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `Classifier`, but for the model."""
    return {
        "url": options.url,
        "version": options.version,
        "transport_options": transport_options_of(options),
        "image_options": image_options_of(options),
        "server_side": options.server_side,
        "follow": False,  # all answers of a command are of one version
    }


def _classify_all(
    classifier: Classifier, images: Sequence[str], options: argparse.Namespace
) -> Answers:
    from seresnext101_triton.client.documents import Answers

    model = classifier.model
    found = Answers(model.name, model.version, model.untrained, inexact=classifier.inexact)
    stream = classifier.stream(
        images, top=options.top, batch=options.batch, in_flight=options.in_flight
    )
    if not (options.json or options.jsonl or options.csv):  # meanwhile, for `_print`
        threading.Thread(target=import_module, args=[f"{__package__}.tables"], daemon=True).start()
    with progress(images.__len__) as advance:
        for answer in stream:
            if answer.error:
                found.errors[str(answer.image)] = with_flags(answer.error, FLAGS)
                _on_error(options)(answer.error)
            else:
                found.predictions[str(answer.image)] = answer.predictions
            advance(1)
    return found


def _draw(path: Path, answers: Answers, image_options: ImageOptions) -> None:
    from seresnext101_triton.client import gallery, tables
    from seresnext101_triton.client.sources import STANDARD_INPUT

    # Standard input cannot be read again.
    entries = [entry for entry in answers.predictions.items() if entry[0] != STANDARD_INPUT]
    if not entries:
        raise ClientError(f"{path} is not drawn: there is no file with an answer")
    title = f"{answers.model} · version {answers.version}"
    warning = tables.UNTRAINED if answers.untrained else ""
    gallery.draw(path, entries, title, warning, image_options)
    say(f"drawn: {path}")


def bulk(options: argparse.Namespace) -> int:
    """Classify a folder of any size into a file."""
    from seresnext101_triton.client.bulk import BulkEvents, BulkOptions, Tally, classify_into
    from seresnext101_triton.client.sources import STANDARD_INPUT, LeftOut, expand

    if STANDARD_INPUT in options.images:
        raise UsageError(
            "standard input can be read once, and a bulk run must be able to begin again: name "
            "files"
        )
    tally, shown, left_out = Tally(), 0, LeftOut()

    def images() -> Iterator[str]:
        nonlocal left_out
        left_out = LeftOut()  # the names are expanded again after an interruption
        return expand(options.images, left_out)

    with (
        _engine(options) as (engine, patience),
        progress(lambda: sum(1 for _ in expand(options.images))) as advance,
    ):

        def show(latest: Tally) -> None:
            nonlocal tally, shown
            tally = latest
            done = tally.before + tally.answered + tally.refused
            advance(done - shown)
            shown = done

        run = BulkOptions(patience, options.top, options.batch, options.in_flight)
        events = BulkEvents(show, say, _on_error(options))
        try:
            classify_into(options.output, images, engine, run, events)
        except KeyboardInterrupt:
            answered = tally.before + tally.answered
            say(f"interrupted: {options.output} has {answered} answers; run again to go on")
            return INTERRUPTED
    say(_summary(tally, left_out, options.output))
    return 1 if tally.unreadable or tally.unreadable_before or tally.refused else 0


@contextmanager
def _engine(options: argparse.Namespace) -> Iterator[tuple[Engine, float]]:
    """What answers the images of a bulk run, and how long the run waits for a server, in seconds.

    The actors of Ray wait themselves.
    """
    if options.engine == "local" and (options.ray_address or options.workers):
        raise UsageError("`ray_address` and `workers` are of Ray: ask for it with `engine` ray")
    with _classifier(options, options.model) as classifier:
        if options.engine == "local":
            yield classifier, options.patience
            return
        from seresnext101_triton.client.classifier import default_url
        from seresnext101_triton.client.ray_engine import RayEngine, cluster

        arguments = _arguments(options) | {"url": options.url or default_url(options.protocol)}
        with cluster(options.ray_address):
            yield RayEngine(classifier, options.patience, options.workers, **arguments), 0.0


def _summary(tally: Tally, left_out: LeftOut, output: Path) -> str:
    count = tally.before + tally.answered
    parts = [f"{output}: {count} image{'s' * (count != 1)}"]
    if tally.before:
        parts.append(f"{tally.before} of them from earlier runs")
    if tally.unreadable_before:
        parts.append(
            f"{tally.unreadable_before} of these unreadable, which are tried again if you remove "
            "their records"
        )
    if tally.unreadable:
        parts.append(f"{tally.unreadable} unreadable, as their records say")
    if tally.refused:
        parts.append(f"{tally.refused} refused by the server and left for the next run")
    return ", ".join(parts) + (f"; left out: {left_out}" if str(left_out) else "")


def evaluate(options: argparse.Namespace) -> int:
    """Measure the accuracy of served models."""
    from seresnext101_triton.client import documents, tables
    from seresnext101_triton.client.evaluation import agreement, disagreements
    from seresnext101_triton.client.evaluation import evaluate as evaluate_model
    from seresnext101_triton.client.pipeline import StreamOptions
    from seresnext101_triton.client.truth import Notes, read_truth

    if options.worst is not None and len(options.model or []) != 2:
        raise UsageError("`worst` is of the disagreements of two models: name both with `model`")
    evaluations = []
    # By the number of classes. The source is read once for each, because it may be a pipe.
    truths: dict[int, dict[str, int]] = {}
    notes = Notes()
    stream = StreamOptions(batch=options.batch, in_flight=options.in_flight)
    for model in options.model or [None]:
        with _classifier(options, model) as classifier:
            classes = classifier.model.classes
            if classes not in truths:
                notes = Notes()
                truths[classes] = read_truth(options.source, classes, notes)
            with progress(truths[classes].__len__) as advance:

                def on_answer(answer: Answer, advance: Callable[[int], None] = advance) -> None:
                    if answer.error:
                        _on_error(options)(answer.error)
                    advance(1)

                found = evaluate_model(classifier, truths[classes], stream, on_answer)
            evaluations.append(found)
    are_two = len(evaluations) == 2
    agreed = agreement(evaluations[0], evaluations[1]) if are_two else None
    limit = _WORST if options.worst is None else options.worst
    worst = disagreements(evaluations[0], evaluations[1], limit) if are_two else []
    if options.json:
        document = documents.evaluations_to_json(evaluations, agreed, worst)
        documents.print_json(document | _counts(notes.left_out))
    else:
        tables.print_evaluations(evaluations, agreed, worst)
    _say_left_out(notes)
    return _say_errors(error for one in evaluations for error in one.failed.values())


def models(options: argparse.Namespace) -> int:
    """List the server's models and their states."""
    from seresnext101_triton.client import documents, tables

    with connection_of(options) as connection:
        states = connection.models()
    ready = {state.name for state in states if state.state == "READY"}
    # A version that was unloaded for another one is as if it had never been loaded.
    states = [state for state in states if not (state.was_unloaded and state.name in ready)]
    if options.json:
        documents.print_json([vars(state) for state in states])
    else:
        rows = [
            (state.name, state.version, state.state or "not loaded", state.reason)
            for state in states
        ]
        tables.print_rows(("model", "version", "state", "reason"), rows)
    return 0 if all(state.state == "READY" for state in states) else 1


def describe(options: argparse.Namespace) -> int:
    """Print how a model is used."""
    with connection_of(options) as connection:
        model = connection.describe(options.model, options.version)
    prepared = model.preprocessing
    kind, axes = model.image_input or model.dtype, ", ".join(model.axes)
    files = ", the content of an image file" if model.image_input else ""
    facts = {
        "model": f"{model.name} · version {model.version}",
        "platform": model.platform,
        "input": f"{model.input}: {kind} [{axes}]{files}",
        "output": f"{model.output}: {model.classes} {model.output_kind}",
        "largest batch": str(model.max_batch),
        "instances": str(model.instances),
        "preprocessing": f"shorter side to {prepared.resize} px, {prepared.interpolation}; "
        f"centre {prepared.crop} px",
        "mean, std": f"{prepared.mean}, {prepared.std}",
        "weights": "untrained: the labels mean nothing" if model.untrained else "trained",
    }
    if model.allowed_error:
        facts["parity"] = (
            f"published with --allow-error {model.allowed_error}: its answers may be that far from "
            "the network's, as a relative error"
        )
    if model.unproven:
        facts["parity"] = "published with --unproven: nobody has compared its answers"
    _print_facts(facts, options)
    return 0


def health(options: argparse.Namespace) -> int:
    """Find out whether the server is live and ready."""
    with connection_of(options) as connection:
        connection.wait_until_ready(timeout_s=options.wait)
        version, extensions = connection.server()
        try:
            ready = ", ".join(connection.ready_models())
        except AccessDenied:
            ready = "the server is; which models, it tells those with a key"
        facts = {
            "server": connection.url,
            "triton": version,
            "ready": ready,
            "extensions": ", ".join(extensions),
        }
        launches = connection.launches()
    if launches:
        facts["restarts"] = "; ".join(launch.restarts for launch in launches)
    _print_facts(facts, options)
    return 0


def web(options: argparse.Namespace) -> int:
    """Serve a page to try the models in a browser."""
    from seresnext101_triton.client.classifier import default_url
    from seresnext101_triton.client.images import ImageOptions
    from seresnext101_triton.client.page.asking import Target
    from seresnext101_triton.client.page.service import Place, serve

    most_bytes = options.max_upload << 20
    pixels = {"max_pixels": options.max_pixels} if options.max_pixels else {}
    target = Target(
        options.url or default_url(options.protocol),
        transport_options_of(options),
        ImageOptions(max_bytes=most_bytes, **pixels),
        tuple(dict.fromkeys(options.model)),
    )
    place = Place(options.address, options.port, most_bytes)
    with suppress(KeyboardInterrupt):  # before it answers
        serve(target, place, lambda url: say(f"the page is at {url}; Ctrl-C ends it"))
    return 0


def top(options: argparse.Namespace) -> int:
    """Show live what a server does."""
    from seresnext101_triton.client import top

    return top.run(options)


def _print_facts(facts: dict[str, str], options: argparse.Namespace) -> None:
    from seresnext101_triton.client import documents, tables

    (documents.print_json if options.json else tables.print_facts)(facts)


def _on_error(options: argparse.Namespace) -> Callable[[ClientError], None]:
    """What is done at once with an image's error: `--debug` prints its traceback."""
    return say_traceback if options.debug else lambda _error: None


def _say_errors(errors: Iterable[str]) -> int:
    """Print each error once, and return the exit code."""
    different = dict.fromkeys(errors)
    for error in different:
        say(f"error: {with_flags(error, FLAGS)}")
    return 1 if different else 0


def _say_left_out(what: object) -> None:
    if text := str(what):
        say(f"left out: {text}")


def _counts(left_out: LeftOut) -> dict[str, int]:
    return {"files_left_out": left_out.files.total() + left_out.hidden}
