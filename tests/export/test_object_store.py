"""Repositories in an object store, with a real S3 server."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from seresnext101_triton.client.errors import UsageError
from seresnext101_triton.export import commands, lease
from seresnext101_triton.export.cli import main
from seresnext101_triton.export.errors import RepositoryError
from seresnext101_triton.export.lease import LEASE, Lease
from seresnext101_triton.export.pipeline import export
from seresnext101_triton.export.repository import Repository
from seresnext101_triton.export.sharing import opened
from seresnext101_triton.perf import cli as perf_cli
from seresnext101_triton.server.errors import IntegrityError, StoreError
from seresnext101_triton.server.mirror import INDEX, Index, Mirror
from seresnext101_triton.server.store import Store
from tests.conftest import QUIET, tiny_request
from tests.stores import (
    MODEL,
    Publisher,
    ask,
    index_of,
    objects,
    publish,
    s3_server,
    served,
)

_MOTO = Path(sys.prefix, "moto")
_NUMBERS = count(1)


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    with s3_server(_MOTO) as environment:
        yield dict(environment)


@pytest.fixture
def url(s3, tmp_path, monkeypatch) -> str:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(lease, "_POLL_S", 0.02)
    return f"s3://bucket/{next(_NUMBERS)}/models"


@pytest.fixture(scope="module")
def publishers() -> Iterator[list[Publisher]]:
    with Publisher() as one, Publisher() as other:
        yield [one, other]


def elsewhere(monkeypatch, tmp_path, name: str) -> None:
    """Go on as on another machine, which has fetched nothing yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))


def run(command: str, *arguments: str) -> int:
    return commands.run(command, arguments)


def test_every_command_works_there_as_in_a_folder(url, tmp_path, monkeypatch, capsys):
    with opened(url) as place:
        (made,) = export(tiny_request(place.folder), QUIET)
    assert (made.model, made.version) == ("tiny_torchscript", 1)
    model, where = made.model, ("--repository", url)
    elsewhere(monkeypatch, tmp_path, "other")
    with opened(url) as place:
        (same,) = export(tiny_request(place.folder), QUIET)
        (new,) = export(tiny_request(place.folder, weights="seeded:2"), QUIET)
    assert (same.version, same.made, new.version) == (1, False, 2)
    assert run("rollback", model, *where) == 0
    assert run("promote", model, "--to", "3", *where) == 1
    assert f"error: {model} has no version 3" in capsys.readouterr().err
    assert run("versions", *where) == 0
    assert "waits for its promotion" in capsys.readouterr().out
    assert run("promote", model, *where) == 0
    assert run("verify", *where) == 0
    assert capsys.readouterr().out.count("intact") == 2
    assert run("prune", "--keep", "1", *where) == 0
    found = objects(url)
    assert {path.split("/")[1] for path in found if path.count("/") == 2} == {"2"}
    assert set(found) == {INDEX, *index_of(found).files, *index_of(found).texts}
    assert b"versions: 2" in found[f"{model}/config.pbtxt"]


def test_triton_is_told_of_a_version_whose_config_is_the_same(url):
    for number, content in enumerate(("one", "two"), start=1):
        assert publish(url, content) == number
        assert served(objects(url)) == [number]


@pytest.mark.parametrize("old", [0, 1])
def test_a_kill_at_every_request_leaves_the_old_version_and_the_next_export_cleans_up(
    url, publishers, old
):
    """The publication of a model that is new, and of a model that is there."""
    before = {}
    if old:
        publish(url, "old")
        before = objects(url)
    for at in count(1):
        place = f"{url}-{at}"
        for path, content in before.items():
            Store(place).write(path, content)
        publishers[0].begin(place, "new", at)
        code = publishers[0].code()
        found = objects(place)
        committed = f"{MODEL}/{old + 1}/model.onnx" in index_of(found).files
        # What a Triton loads is complete, and is the new version only if the index has it.
        assert served(found) in ([old][: old > 0], [old + 1][:committed])
        if code == 0:
            break
        assert code == -signal.SIGKILL
        following = publish(place, "newer")
        assert following == (old + 2 if committed else old + 1)
        found = objects(place)
        assert served(found) == [following]
        assert set(found) == {INDEX, *index_of(found).files, *index_of(found).texts}
    assert 10 < at < 20


def test_two_exporters_at_once_do_not_mix(url, publishers, tmp_path, monkeypatch):
    for name, publisher in zip(("one", "two"), publishers, strict=True):
        elsewhere(monkeypatch, tmp_path, name)
        publisher.begin(url, name)
    assert [publisher.code() for publisher in publishers] == [0, 0]
    found = objects(url)
    contents = {found[f"{MODEL}/{number}/model.onnx"] for number in (1, 2)}
    assert contents == {b"one\xff", b"two\xff"}
    assert served(found) == [2]


def test_who_was_thought_dead_does_not_undo_what_came_after(url, tmp_path, monkeypatch):
    publish(url, "old")
    with opened(url) as place:
        with pytest.raises(RepositoryError, match="another one has taken over: run again"):
            with Repository(place.folder).changing() as publication:
                publication.stage(MODEL).write("labels.txt", "late\n")
                publication.publish()
                with monkeypatch.context() as patch:
                    patch.setattr(lease, "_is_dead", lambda holder: True)
                    elsewhere(patch, tmp_path, "other")
                    assert publish(url, "new") == 2
    found = objects(url)
    assert found[f"{MODEL}/labels.txt"] == b"new\n"
    assert served(found) == [2]


def test_an_index_that_has_changed_is_not_replaced(url, monkeypatch):
    publish(url, "old")
    with opened(url) as place:
        with pytest.raises(RepositoryError, match="so that this change is not in it: run again"):
            with Repository(place.folder).changing() as publication:
                publication.stage(MODEL).write("labels.txt", "late\n")
                publication.publish()
                other = index_of(objects(url))
                Store(url).write(INDEX, Index(99, other.files, other.texts).to_bytes())
    found = objects(url)
    assert found[f"{MODEL}/labels.txt"] == b"old\n"
    assert LEASE not in found
    assert publish(url, "new") == 2


def test_a_holder_of_another_machine_is_waited_for_as_long_as_it_renews_its_lease(url, monkeypatch):
    store = Store(url)
    monkeypatch.setattr(lease, "_machine", lambda: "")  # nobody sees whether the other is alive
    holder = Lease(store, lease_s=0.3)
    assert holder.take(0) is None
    holder.note(["m/1/model.onnx"])
    with pytest.raises(RepositoryError, match=r"changing it for 1 s \(on .*, process \d+\)"):
        Lease(store, lease_s=0.3).take(1)
    holder._end.set()  # it has died
    monkeypatch.setattr(lease, "_this_process", lambda: {"pid": 2})
    other = Lease(store, lease_s=0.3)
    assert other.take(5) == ["m/1/model.onnx"]
    with pytest.raises(RepositoryError, match="silent for too long"):
        holder.note([])
    other.release(finished=True)
    assert objects(url) == {}


def test_what_is_not_the_artifact_is_found(url, tmp_path, monkeypatch, capsys):
    publish(url, "one")
    publish(url, "two")
    where = ("--repository", url)
    Store(url).write(f"{MODEL}/1/model.onnx", b"half")
    assert run("verify", *where) == 65
    assert "changed" in capsys.readouterr().out
    elsewhere(monkeypatch, tmp_path, "other")
    assert run("rollback", MODEL, *where) == 65
    assert (
        f"error: {url}/m/1/model.onnx is not the file that was published: choose another version"
        in capsys.readouterr().err
    )
    Store(url).remove(f"{MODEL}/1/model.onnx")
    assert run("rollback", MODEL, *where) == 65
    assert "m/1/model.onnx is missing: choose" in capsys.readouterr().err
    with pytest.raises(IntegrityError):
        Mirror(url, "served").pull(lambda folder: [1])
    Mirror(url, "served").pull(lambda folder: [2])


def test_a_write_that_is_not_read_back_is_not_published(url, monkeypatch):
    publish(url, "old")
    before = objects(url)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "digest", lambda *_: "0")
        with pytest.raises(RepositoryError, match="what was written is not what is read back"):
            publish(url, "new")
    after = objects(url)
    assert {**before, INDEX: b""} == {**after, INDEX: b""}
    assert publish(url, "new") == 2


def test_what_others_have_put_there_is_not_overwritten(url):
    publish(url, "old")
    Store(url).write(f"{MODEL}/2/model.onnx", b"of another program")
    with pytest.raises(RepositoryError, match="something else has this path"):
        publish(url, "new")


def test_errors_are_one_line_and_hold_no_secret(url, s3, monkeypatch, capsys):
    def error_of(where: str, code: int = 73) -> str:
        assert run("promote", MODEL, "--repository", where) == code
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {where}: ")
        assert "A-SECRET" not in line
        return line

    assert "there is no such bucket" in error_of("s3://nobody/models")
    ask(s3["AWS_ENDPOINT_URL"], "POST", "/moto-api/reset-auth", b"0")
    try:
        assert "access is denied" in error_of(url)
    finally:
        ask(s3["AWS_ENDPOINT_URL"], "POST", "/moto-api/reset-auth", b"inf")
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        assert "the store does not answer" in error_of(url)
    with monkeypatch.context() as patch:
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.delenv("AWS_SECRET_ACCESS_KEY")
        assert "no credentials: set AWS_ACCESS_KEY_ID" in error_of(url)
    assert run("versions", "--repository", url) == 73
    assert f"error: {url} is not a folder: name a --repository" in capsys.readouterr().err
    Store(url).write(INDEX, b'{"schema": 1, "generation": 1, "files": {"../x": ""}, "texts": {}}')
    assert run("versions", "--repository", url) == 73
    assert "is damaged, or of another version" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "obstore", None)
        assert run("versions", "--repository", url) == 69
        assert "pip install '.[s3]'" in capsys.readouterr().err
    for wrong in ("ftp://bucket/models", "s3://", "s3://key:secret@bucket/models"):
        with pytest.raises(UsageError, match="name s3://BUCKET/PATH"):
            Store(wrong)


def test_wrong_options_are_refused_before_the_store_is_asked(capsys):
    assert main(["--weights", "seeded", "--classes", "0", "--repository", "s3://b/m"]) == 2
    assert StoreError.exit_code == RepositoryError.exit_code
    with pytest.raises(SystemExit):
        perf_cli.main(["inputs", "tiny", "--repository", "s3://b/m"])
    assert "is a folder of this machine, not 's3://b/m'" in capsys.readouterr().err
