"""Versions of a model that a server serves meanwhile, under load."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import threading
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from seresnext101_triton.client import AsyncClassifier, Classifier, Connection
from seresnext101_triton.client.errors import ClientError, ModelUnavailable, RequestRejected
from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.export import promotion
from seresnext101_triton.export.history import history
from seresnext101_triton.export.live import versions_in_use
from seresnext101_triton.export.operations import promote, prune, roll_back
from seresnext101_triton.server.errors import IntegrityError, LoadError
from seresnext101_triton.server.launcher import Server
from seresnext101_triton.server.versions import newest_policy
from tests.conftest import FREE_PORTS
from tests.versions import (
    ARTIFACT,
    IMAGE,
    MODEL,
    Caller,
    answer_of,
    failing,
    overflowing,
    rewrite_manifest,
    versions_of_one_model,
)
from tests.waiting import until

DEADLINE_S = 60
PHOTOGRAPH = sample_photographs()[1]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions of one model, all with the same classes."""
    return versions_of_one_model(tmp_path_factory.mktemp("live") / "models", 3)


@pytest.fixture
def root(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "models"))


def test_forward_and_back_under_load(root):
    """No request fails, and the first answer after a command is the new version's."""
    answers = {version: answer_of(root, version) for version in (1, 2, 3)}
    with (
        Server(root, ports=FREE_PORTS, only=[MODEL]) as server,
        Connection(server.url) as connection,
    ):
        model = replace(connection.describe(MODEL), version="")
        caller = Caller(server.url, answers)
        with caller.calling():
            for change, version in (
                (lambda: roll_back(root, MODEL), 2),
                (lambda: promote(root, MODEL, to=1), 1),
                (lambda: promote(root, MODEL), 3),
            ):
                switch = change()
                assert caller.ask(connection, model) == version == switch.version
                assert switch.servers == (server.url,)
                (listed,) = history(root)
                assert [each.number for each in listed.versions if each.now] == [version]
        assert caller.errors == []
        assert set(caller.seen) <= {1, 2, 3}

        # A server that was not told is asked what it serves. Until it has unloaded a version, it
        # uses it.
        roll_back(root, MODEL, to=2)
        assert until(lambda: versions_in_use(root, MODEL).keys() == {2})
        config = root / MODEL / "config.pbtxt"
        config.write_text(promotion.with_policy(config.read_text(), newest_policy()))
        (pruned,) = prune(root, 1)
        assert (pruned.removed, pruned.kept, pruned.served) == ((1,), (2, 3), (2, 3))
        assert caller.ask(connection, model) == 2


def test_an_open_client_goes_on_with_the_new_version(root):
    """If it prepares images in the same way, and if its caller named no version."""
    config = root / MODEL / "1" / "config.pbtxt"
    config.write_text(config.read_text().replace("0.485", "0.4850001"))

    async def ask(classifier: AsyncClassifier) -> str:
        await classifier.classify(PHOTOGRAPH)
        return classifier.model.version

    async def across_a_promotion(url: str) -> list[str]:
        async with AsyncClassifier(url, MODEL) as classifier:
            before = await ask(classifier)
            await asyncio.to_thread(promote, root, MODEL, to=3)
            return [before, await ask(classifier)]

    with Server(root, ports=FREE_PORTS, only=[MODEL]) as server:
        http = f"http://{server.url.rpartition(':')[0]}:{server.ports.http}"
        urls = (server.url, http)
        with ExitStack() as stack:
            follow = [stack.enter_context(Classifier(url, MODEL)) for url in urls]
            stay = [
                stack.enter_context(Classifier(server.url, MODEL, version="3")),
                stack.enter_context(Classifier(server.url, MODEL, follow=False)),
            ]
            expected = [classifier.classify(PHOTOGRAPH) for classifier in (*follow, *stay)]
            roll_back(root, MODEL)
            for classifier in follow:
                assert classifier.classify(PHOTOGRAPH) != expected[0]
                assert classifier.model.version == "2"
                image = classifier.prepare(PHOTOGRAPH)[None]
                promote(root, MODEL, to=3)
                assert classifier.infer(image).shape == (1, 1000)
                assert classifier.model.version == "3"
                promote(root, MODEL, to=2)
            for classifier in stay:
                with pytest.raises(ModelUnavailable, match="does not serve"):
                    classifier.classify(PHOTOGRAPH)
            assert asyncio.run(across_a_promotion(server.url)) == ["2", "3"]
            promote(root, MODEL, to=1)
            with pytest.raises(ModelUnavailable, match="was replaced by version 1, which takes or"):
                follow[0].classify(PHOTOGRAPH)


@pytest.mark.parametrize("kind", ["no ONNX", "overflowing", "other weights"])
def test_a_version_that_does_not_answer_changes_nothing(root, tree, kind):
    """Its file is the one of its manifest, but no runtime loads it, or its answers are NaN or of
    other weights.
    """
    artifact = root / MODEL / "2" / ARTIFACT
    bad, message = b"no ONNX", r"(?s)cannot be loaded.*servers answer"
    if kind == "overflowing":
        bad = overflowing(artifact)
        message = r"version 2 of model 'tiny_onnx' .* does not answer .*nan.* servers answer as"
    if kind == "other weights":
        bad = (root / MODEL / "1" / ARTIFACT).read_bytes()
        message = r"version 2 of model 'tiny_onnx' .* answers otherwise .* servers answer as before"
    artifact.write_bytes(bad)
    rewrite_manifest(artifact.parent)
    with Server(root, ports=FREE_PORTS, only=[MODEL]) as server:
        before = tree(root)
        with pytest.raises(LoadError, match=message):
            promote(root, MODEL, to=2)
        assert tree(root) == before
        with Connection(server.url) as connection:
            assert connection.describe(MODEL).version == "3"
            assert connection.is_ready()


@pytest.mark.parametrize(
    ("parity", "message"),
    [({}, ""), ({"reference": {"photograph": "astronaut.jpg"}}, "does not say what")],
)
def test_a_manifest_without_a_reference_is_taken_and_a_damaged_one_is_not(root, parity, message):
    """An older export has written none."""
    path = root / MODEL / "2" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"parity": parity}))
    shutil.copy(root / MODEL / "1" / ARTIFACT, path.parent)
    rewrite_manifest(path.parent)
    with Server(root, ports=FREE_PORTS, only=[MODEL]):
        if message:
            with pytest.raises(LoadError, match=message):
                promote(root, MODEL, to=2)
        else:
            assert promote(root, MODEL, to=2).version == 2


def test_an_overloaded_server_goes_back_all_the_same(root):
    """Its queue holds one request, and each answer takes two seconds."""
    config = root / MODEL / "config.pbtxt"
    full = "max_queue_delay_microseconds: 2000000 default_queue_policy { max_queue_size: 1 }"
    for path in (config, *root.glob(f"{MODEL}/*/config.pbtxt")):
        path.write_text(
            re.sub(
                r"dynamic_batching \{[^}]*\}", f"dynamic_batching {{ {full} }}", path.read_text()
            )
        )
    end = threading.Event()

    def call(url: str) -> None:
        with Connection(url) as connection:
            model = replace(connection.describe(MODEL), version="")
            while not end.is_set():
                with suppress(RequestRejected):
                    connection.infer(model, IMAGE)

    with Server(root, ports=FREE_PORTS, only=[MODEL]) as server:
        callers = [threading.Thread(target=call, args=(server.url,)) for _ in range(4)]
        try:
            for caller in callers:
                caller.start()
            assert roll_back(root, MODEL).version == 2
        finally:
            end.set()
            for caller in callers:
                caller.join()


def test_a_version_that_fails_for_callers_goes_back(root):
    """It is right for the photograph, and fails for the image of a caller."""
    artifact = root / MODEL / "2" / ARTIFACT
    artifact.write_bytes(failing(artifact))
    rewrite_manifest(artifact.parent)
    end, failed = threading.Event(), []

    def call(url: str) -> None:
        with Connection(url) as connection:
            model = replace(connection.describe(MODEL), version="")
            while not end.wait(0.02):
                try:
                    connection.infer(model, np.full_like(IMAGE, 2000))
                    failed.append(False)
                except ClientError:
                    failed.append(True)

    with Server(root, ports=FREE_PORTS, only=[MODEL]) as server:
        caller = threading.Thread(target=call, args=(server.url,))
        caller.start()
        try:
            assert promote(root, MODEL, to=1, soak_s=0.5).version == 1
            assert not any(failed)
            message = r"version 2 of .* fails: 1\d of \d+ requests \(0\.0% before\).*as before"
            with pytest.raises(LoadError, match=message):
                promote(root, MODEL, to=2, soak_s=DEADLINE_S)
            answered = len(failed)
            assert until(lambda: len(failed) > answered + 2)
        finally:
            end.set()
            caller.join()
        assert any(failed) and not any(failed[answered + 1 :])
        assert [state.version for state in server.control.index() if state.state == "READY"] == [
            "1"
        ]


def test_a_server_does_not_start_with_a_flipped_byte(root):
    artifact = root / MODEL / "3" / "model.onnx"
    content = bytearray(artifact.read_bytes())
    content[len(content) // 2] ^= 1
    artifact.write_bytes(content)
    with (
        pytest.raises(IntegrityError, match=r"version 3: model\.onnx was changed.*(\n.*)*rollback"),
        Server(root, ports=FREE_PORTS, only=[MODEL]),
    ):
        pass
    roll_back(root, MODEL)
    notes: list[str] = []
    (root / MODEL / "2" / "manifest.json").unlink()
    with Server(root, ports=FREE_PORTS, only=[MODEL], note=notes.append) as server:
        assert [model.version for model in server.models if model.state == "READY"] == ["2"]
    assert f"not checked, because there is no manifest: {MODEL} version 2" in notes
