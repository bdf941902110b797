"""shards.reading.decode: RGB into place; damaged, foreign or differently sized images are refused."""

import numpy as np
import pytest
import simplejpeg

from shards.reading.decode import DecodeError, decode_into, image_shape

RED = simplejpeg.encode_jpeg(np.full((12, 20, 3), (200, 10, 10), dtype=np.uint8), quality=95)
NOISE = simplejpeg.encode_jpeg(np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8))


def test_red_is_the_first_channel() -> None:
    batch = np.zeros((2, 12, 20, 3), dtype=np.uint8)
    decode_into(RED, batch[1])
    np.testing.assert_allclose(batch[1].reshape(-1, 3).mean(axis=0), [200, 10, 10], atol=4)
    assert not batch[0].any()
    assert image_shape(memoryview(RED)) == (12, 20)


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "no JPEG"), (b"text", "no JPEG"), (bytes(600), "no JPEG"), (RED[:40], "JPEG is damaged")],
)
def test_no_jpeg(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode_into(data, np.zeros((12, 20, 3), dtype=np.uint8))
    with pytest.raises(DecodeError, match=reason):
        image_shape(data)


def test_a_jpeg_cut_short() -> None:
    with pytest.raises(DecodeError, match="Premature end"):
        decode_into(NOISE[:-30], np.zeros((12, 20, 3), dtype=np.uint8))


@pytest.mark.parametrize("shape", [(12, 16, 3), (24, 40, 3), (20, 12, 3)])
def test_another_size(shape: tuple[int, int, int]) -> None:
    with pytest.raises(DecodeError):
        decode_into(RED, np.zeros(shape, dtype=np.uint8))
