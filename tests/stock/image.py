"""Does what Triton's example `image_client.py` does, and nothing of this project's.

It resizes an image to the model's height and width without cropping, scales the values by one of
three rules, and prints the classes that Triton ranks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import tritonclient.grpc
import tritonclient.http
from PIL import Image
from tritonclient.utils import triton_to_np_dtype


def prepared(path: Path, dtype: str, shape: list[int], layout: str, scaling: str) -> np.ndarray:
    height, width = shape[:2] if layout == "FORMAT_NHWC" else shape[1:]
    image = Image.open(path).convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    values = np.array(image).astype(triton_to_np_dtype(dtype))
    if scaling == "INCEPTION":
        values = (values / 127.5) - 1
    elif scaling == "VGG":
        values = values - np.asarray((123, 117, 104), dtype=values.dtype)
    return values if layout == "FORMAT_NHWC" else np.transpose(values, (2, 0, 1))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-m", dest="model")
    parser.add_argument("-c", dest="classes", type=int, default=1)
    parser.add_argument("-s", dest="scaling", default="NONE")
    parser.add_argument("-b", dest="batch", type=int, default=1)
    parser.add_argument("-u", dest="url", default="localhost:8000")
    parser.add_argument("-i", dest="protocol", default="HTTP")
    parser.add_argument("images", type=Path, nargs="+")
    options = parser.parse_args()
    is_grpc = options.protocol.lower() == "grpc"
    triton = tritonclient.grpc if is_grpc else tritonclient.http
    client = triton.InferenceServerClient(options.url)
    if is_grpc:
        config = client.get_model_config(options.model, as_json=True)["config"]
    else:
        config = client.get_model_config(options.model)
    (source,), (output,) = config["input"], config["output"]
    dims = [int(axis) for axis in source["dims"]]
    assert len(dims) == 3 and int(config["max_batch_size"]) >= options.batch
    dtype = source["data_type"].removeprefix("TYPE_")
    images = [
        prepared(path, dtype, dims, source["format"], options.scaling) for path in options.images
    ]
    for start in range(0, len(images), options.batch):
        paths = options.images[start : start + options.batch]
        batch = np.stack(images[start : start + options.batch])
        tensor = triton.InferInput(source["name"], list(batch.shape), dtype)
        tensor.set_data_from_numpy(batch)
        wanted = triton.InferRequestedOutput(output["name"], class_count=options.classes)
        rows = client.infer(options.model, [tensor], outputs=[wanted]).as_numpy(output["name"])
        assert len(rows) == len(paths), f"{len(rows)} results for {len(paths)} images"
        for path, row in zip(paths, rows, strict=True):
            for entry in row:
                value, index, label = entry.decode().split(":", 2)
                print(f"{path.name}: {value} ({index}) = {label}")


if __name__ == "__main__":
    main()
