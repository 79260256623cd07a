"""The public names of the client: each can be imported, and says what it is."""

from __future__ import annotations

import inspect
import pkgutil

import pytest

from seresnext101_triton import client


@pytest.mark.parametrize("name", client.__all__)
def test_a_public_name_is_documented(name):
    public = getattr(client, name)
    assert inspect.getdoc(public) and public.__module__.startswith("seresnext101_triton.client.")
    for attribute, method in vars(public).items():
        if inspect.isfunction(method) and not attribute.startswith("_"):
            assert inspect.getdoc(method), f"{name}.{attribute}"


def test_the_blocking_calls_and_those_of_asyncio_are_the_same():
    for blocking, asynchronous in (
        (client.Classifier, client.AsyncClassifier),
        (client.Connection, client.AsyncConnection),
    ):
        for name, method in vars(blocking).items():
            if inspect.isfunction(method) and not name.startswith("_") and name != "close":
                parameters = inspect.signature(method).parameters
                assert parameters == inspect.signature(getattr(asynchronous, name)).parameters, name


def test_a_name_that_does_not_exist():
    with pytest.raises(AttributeError, match="has no attribute 'Link'"):
        _ = client.Link
    assert {module.name for module in pkgutil.iter_modules(client.__path__)} >= {
        "contract",
        "served",
        "protocols",
    }
