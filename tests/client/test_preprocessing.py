"""Preprocessing is, bit for bit, what torchvision does on Pillow images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from seresnext101_triton.client.contract import Preprocessing
from seresnext101_triton.client.errors import ContractError
from seresnext101_triton.client.images import load_image, sample_photographs
from seresnext101_triton.perf.preprocessing import import_torchvision

pytestmark = pytest.mark.numeric

SIZES = [
    (500, 375),
    (375, 500),
    (256, 256),
    (224, 224),
    (257, 1000),
    (31, 47),
    (1, 1),
    (1, 300),
    (300, 1),
    (225, 900),
    (2000, 1333),
]


@pytest.fixture(scope="module")
def reference() -> Callable[[Preprocessing], Callable[[Image.Image], np.ndarray]]:
    """torchvision's pipeline for a contract."""
    transforms, interpolation = import_torchvision()

    def build(contract: Preprocessing) -> Callable[[Image.Image], np.ndarray]:
        pipeline = transforms.Compose(
            [
                transforms.Resize(contract.resize, interpolation(contract.interpolation)),
                transforms.CenterCrop(contract.crop),
                transforms.ToTensor(),
                transforms.Normalize(contract.mean, contract.std),
            ]
        )
        return lambda image: pipeline(image.convert("RGB")).numpy()

    return build


def picture(size: tuple[int, int], mode: str, seed: int = 0) -> Image.Image:
    """Noise over a gradient: every value, sharp edges and smooth areas."""
    width, height = size
    generator = np.random.default_rng(seed)
    ramp = np.linspace(0, 255, width)[None, :, None] * np.linspace(0, 1, height)[:, None, None]
    pixels = (ramp + generator.integers(0, 80, (height, width, 3))).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_every_size_is_torchvisions(size, reference):
    image = picture(size, "RGB")
    np.testing.assert_array_equal(Preprocessing()(image), reference(Preprocessing())(image))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "YCbCr", "1", "I", "F", "HSV"])
def test_every_mode_is_torchvisions(mode, reference):
    source = (
        picture((301, 207), "RGB")
        if mode == "LA"
        else picture((301, 207), "L" if mode in "IF1" else "RGB")
    )
    image = source.convert("L").convert("LA") if mode == "LA" else source.convert(mode)
    np.testing.assert_array_equal(Preprocessing()(image), reference(Preprocessing())(image))


@pytest.mark.parametrize("photograph", sample_photographs(), ids=lambda path: path.name)
@pytest.mark.parametrize(
    "contract",
    [
        Preprocessing(),
        Preprocessing(resize=320, crop=288, interpolation="bicubic"),
        Preprocessing(resize=64, crop=63, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 1.0)),
    ],
    ids=["nvidia", "288 bicubic", "odd"],
)
def test_photographs_are_torchvisions(photograph, contract, reference):
    image = load_image(photograph)
    np.testing.assert_array_equal(contract(image), reference(contract)(image))


def test_every_value_of_every_channel_is_torchvisions(reference):
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for red, green, blue in ((values, values, values), (values, 255 - values, values.T)):
        image = Image.fromarray(np.stack([red, green, blue], axis=2))
        contract = Preprocessing(resize=16, crop=16)
        np.testing.assert_array_equal(contract(image), reference(contract)(image))


def test_five_hundred_pictures_of_odd_sizes_and_modes(reference):
    """Seeded; from a pixel to a panorama, and real photographs cut at random."""
    generator = np.random.default_rng(2026)
    photographs = [load_image(path) for path in sample_photographs()]
    contract, expected = Preprocessing(), reference(Preprocessing())
    for number in range(500):
        if number % 3 == 0:
            source = photographs[number % len(photographs)]
            left, top = (
                generator.integers(0, source.width - 2),
                generator.integers(0, source.height - 2),
            )
            image = source.crop(
                (
                    left,
                    top,
                    generator.integers(left + 1, source.width),
                    generator.integers(top + 1, source.height),
                )
            )
        else:
            width = int(2 ** generator.uniform(0, 9))
            image = picture(
                (width, max(1, int(width * 2 ** generator.uniform(-3, 3)))), "RGB", number
            )
        image = image.convert(("RGB", "L", "CMYK", "P")[number % 4])
        np.testing.assert_array_equal(
            contract(image),
            expected(image),
            err_msg=f"picture {number}, {image.size}, {image.mode}",
        )


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (4000, 3000), (3000, 400)])
def test_extremes_of_size(size, reference):
    image = picture(size, "RGB")
    np.testing.assert_array_equal(Preprocessing()(image), reference(Preprocessing())(image))


def test_a_tensor_may_be_written_into_a_batch():
    image, batch = picture((300, 200), "RGB"), np.empty((2, 3, 224, 224), np.float32)
    assert Preprocessing()(image, batch[1]) is not None
    np.testing.assert_array_equal(batch[1], Preprocessing()(image))


def test_pixels_are_normalised_as_a_picture_is():
    contract = Preprocessing(resize=40, crop=32)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8))
    normalised = contract.normalised(contract.pixels(picture))
    np.testing.assert_array_equal(normalised, contract(picture))


def test_the_tensor_is_contiguous_float32():
    tensor = Preprocessing()(picture((300, 200), "RGB"))
    assert tensor.shape == (3, 224, 224)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous


def test_the_contract_survives_the_way_through_parameters():
    contract = Preprocessing(
        resize=320,
        crop=288,
        interpolation="bicubic",
        mean=(0.1, 0.25, 1 / 3),
        std=(0.5, 0.25, 0.125),
    )
    assert Preprocessing.from_parameters(contract.to_parameters()) == contract


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preprocessing.crop": None}, "lack 'preprocessing.crop'"),
        ({"preprocessing.crop": "300"}, "crop 300 must be between 1 and resize 256"),
        ({"preprocessing.crop": "many"}, "cannot be read"),
        ({"preprocessing.mean": "0.5"}, "three values"),
        ({"preprocessing.std": "0.2, 0, 0.2"}, "std above 0"),
        ({"preprocessing.std": "0.2, nan, 0.2"}, "finite"),
        ({"preprocessing.std": "0.2, 1e-6, 0.2"}, "over the largest number of FP16"),
        ({"preprocessing.mean": "70000, 0, 0"}, "over the largest number of FP16"),
        ({"preprocessing.interpolation": "nearest"}, "'nearest' is not one of bilinear, bicubic"),
        ({"preprocessing.layout": "HWC"}, "'HWC' is not NCHW or NHWC"),
    ],
)
def test_a_broken_contract_is_refused(change, message):
    parameters = Preprocessing().to_parameters() | change
    with pytest.raises(ContractError, match=message):
        Preprocessing.from_parameters(
            {key: value for key, value in parameters.items() if value is not None}
        )
