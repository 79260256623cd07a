"""Does what Triton's example `ensemble_image_client.py` does, and nothing of this project's.

It sends whole files in one BYTES tensor of numpy's dtype S, all of one length, and prints the
classes that Triton ranks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import tritonclient.grpc
import tritonclient.http


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-m", dest="model")
    parser.add_argument("-c", dest="classes", type=int, default=1)
    parser.add_argument("-u", dest="url", default="localhost:8000")
    parser.add_argument("-i", dest="protocol", default="HTTP")
    parser.add_argument("images", type=Path)
    options = parser.parse_args()
    is_grpc = options.protocol.lower() == "grpc"
    triton = tritonclient.grpc if is_grpc else tritonclient.http
    client = triton.InferenceServerClient(options.url)
    metadata = client.get_model_metadata(options.model)
    config = client.get_model_config(options.model)
    if is_grpc:
        (source,), outputs = metadata.inputs, [each.name for each in metadata.outputs]
        name, largest = source.name, config.config.max_batch_size
    else:
        (source,), outputs = metadata["inputs"], [each["name"] for each in metadata["outputs"]]
        name, largest = source["name"], config["max_batch_size"]
    folder = options.images
    paths = sorted(folder.iterdir()) if folder.is_dir() else [folder]
    paths = paths[: min(largest, len(paths))]
    batch = np.stack([np.array([path.read_bytes()], dtype=bytes) for path in paths])
    tensor = triton.InferInput(name, list(batch.shape), "BYTES")
    tensor.set_data_from_numpy(batch)
    wanted = [triton.InferRequestedOutput(each, class_count=options.classes) for each in outputs]
    result = client.infer(options.model, [tensor], outputs=wanted)
    for output in outputs:
        rows = result.as_numpy(output)
        assert len(rows) == len(paths), f"{len(rows)} results for {len(paths)} images"
        for path, row in zip(paths, rows, strict=True):
            for entry in row:
                value, index, label = entry.decode().split(":", 2)
                print(f"{path.name}: {value} ({index}) = {label}")


if __name__ == "__main__":
    main()
