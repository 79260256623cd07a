"""What the server and the client agree on for models that take encoded images.

Beside a model `NAME`, the server may have `NAME_image`: an ensemble of a model that decodes and
prepares images, with this package, and of `NAME`. It takes the content of image files.
"""

from __future__ import annotations

IMAGE_SUFFIX = "_image"
PREPROCESS_PREFIX = "image_preprocess_"
# The parameter of such an ensemble in config.pbtxt. Its value is a key of IMAGE_TYPES.
IMAGE_PARAMETER = "image.input"
IMAGE_TENSOR = "IMAGE"
IMAGE_BYTES = "TYPE_STRING"
# BYTES holds one image in each row. UINT8 holds one image in a request.
IMAGE_TYPES = {"bytes": IMAGE_BYTES, "uint8": "TYPE_UINT8"}
# What an error of the server begins with if an image is at fault, and not the request.
ERROR_PREFIX = "ImageError: "


def option_parameters() -> dict[str, str]:
    """The limits of `ImageOptions` that a server applies, and their parameters in config.pbtxt."""
    return {"max_bytes": "image.max_bytes", "max_pixels": "image.max_pixels"}
