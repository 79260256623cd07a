"""Checks the commands of pages that need a cluster: their files, folders and values exist."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import helm_python

from tests.deploy.objects import PROJECT, Object, kustomize, merged

PROGRAMS = ("docker", "helm", "kubectl", "prometheus", "promtool")


def check(words: Sequence[str]) -> None:
    """See that a command names what exists.

    Raises:
        AssertionError: A file or a folder is missing.
        helm_python.HelmError: The chart refuses a value.
        subprocess.CalledProcessError: kustomize refuses a folder.
    """
    for word in words:
        path = PROJECT / word.rpartition("=")[2]
        if word.rpartition("=")[2].startswith("deploy/"):
            assert path.exists(), word
            if "--kustomize" in words:
                assert kustomize(path)
    if words[0] == "helm":
        chart = next(PROJECT / word for word in words if word.startswith("deploy/"))
        _check_values(chart, words)


def _check_values(chart: Path, words: Sequence[str]) -> None:
    values: Object = {}
    for option, value in pairwise(words):
        if option == "--set":
            values = merged(values, helm_python.parse_set_string(value))
        elif option == "--set-string":
            values = merged(values, helm_python.parse_set_string_values(value))
    with helm_python.Chart.load(chart) as loaded:
        if "--reuse-values" in words:  # those of a release that is installed
            known = {"pvc": {"claimName": "models"}}
            values = merged(values, {"repository": known, "verify": {"image": "i"}})
        assert loaded.render(values, name=words[2], namespace="default")
