"""Sends image files with kserve's SDK, over gRPC and HTTP, and prints the ranked classes.

kserve needs other versions of some packages than this project. So this program runs in an
environment of its own, and not in the tests: docs/clients.md has the commands. kserve reads the
command line too, when it is imported, so that options here have one letter.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput


def request(model: str, path: Path, classes: int) -> InferRequest:
    """A request with one file."""
    image = InferInput("IMAGE", [1, 1], "BYTES")
    image.set_data_from_numpy(np.array([[path.read_bytes()]], dtype=np.object_))
    wanted = RequestedOutput("OUTPUT__0", {"classification": classes})
    return InferRequest(model, [image], request_outputs=[wanted])


async def classify(options: argparse.Namespace) -> None:
    """Print the classes of each file."""
    grpc = InferenceGRPCClient(options.grpc)
    rest = InferenceRESTClient(RESTConfig(protocol="v2"))
    for path in options.images:
        wanted = (options.model, path, options.classes)
        responses = {
            "gRPC": await grpc.infer(request(*wanted)),
            "HTTP": await rest.infer(
                f"http://{options.http}", request(*wanted), model_name=options.model
            ),
        }
        for protocol, response in responses.items():
            for entry in response.outputs[0].as_numpy().ravel():
                text = entry.decode() if isinstance(entry, bytes) else entry
                value, index, label = text.split(":", 2)
                print(f"{protocol}: {path.name}: {value} ({index}) = {label}")
    await grpc.close()
    await rest.close()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-m", dest="model")
    parser.add_argument("-c", dest="classes", type=int, default=1)
    parser.add_argument("-g", dest="grpc", default="localhost:8001")
    parser.add_argument("-u", dest="http", default="localhost:8000")
    parser.add_argument("images", type=Path, nargs="+")
    asyncio.run(classify(parser.parse_args()))


if __name__ == "__main__":
    main()
