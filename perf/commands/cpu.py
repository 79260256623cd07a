"""Measure every way to run the network on a CPU, and write cpu.md, cpu.svg and cpu.png.

The contestants are eager PyTorch, and TorchScript, ONNX Runtime and OpenVINO in FP32, bfloat16 and
INT8, each without a server and served at every concurrency, with one image in each request. All
take turns in one run. The files are written to the folder of the results.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from seresnext101_triton.perf import console, options

HELP = "measure every way to serve the network without a GPU, in turns"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the models, the loads, and the file of results."""
    options.add_name(parser)
    options.add_numbers(parser, "--concurrency", (1, 2, 4, 8, 16), "requests in flight")
    options.add_number(
        parser, "--rounds", 4, "turns of each contestant, three at least", options.rounds
    )
    options.add_number(parser, "--seconds", 5.0, "the duration of one turn", options.duration)
    options.add_architecture(parser)
    options.add_repository(parser)
    options.add_results(parser)
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure, store the record, and write a table and a plot."""
    from seresnext101_triton.perf import results
    from seresnext101_triton.perf.cpu import CpuOptions, measure_cpu, targets
    from seresnext101_triton.perf.machine import circumstances
    from seresnext101_triton.perf.raw import use_server_allocator
    from seresnext101_triton.perf.records import CpuRecord
    from seresnext101_triton.perf.reporting import write_cpu

    results.check_writable(arguments.results)
    use_server_allocator()
    settings = options.values(CpuOptions, arguments)
    contestants, rounds = settings.contestants, settings.rounds
    with console.progress(contestants * rounds) as progress:
        progress.note(
            f"{contestants} contestants take {rounds} turns of {settings.seconds:g} s each"
        )
        measured = measure_cpu(arguments.repository, settings, progress)
    record = CpuRecord(**vars(circumstances(console.command_line())), **vars(measured))
    results.append(arguments.results, record)
    sections, paths = write_cpu(record, arguments.results.parent)
    if arguments.json:
        found = [asdict(target) for target in targets(record)]
        console.print_json(record.document() | {"targets": found})
        return 0
    for section in sections:
        if section.table:
            console.print_table(section.table)
            console.show("")
    console.show(f"written to {', '.join(map(str, paths))}")
    return 0
