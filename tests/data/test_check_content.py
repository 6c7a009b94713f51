"""Checks of what only texts or only images can have wrong."""

import numpy as np
from check_subjects import IMAGE, TEXT, bad, found, pictures, subject, texts

from fedmodels.data.checks.source import Source


def _images(x, **sizes):
    return subject(IMAGE, x, **sizes)


def test_ordinary_images_and_texts_raise_nothing():
    x, lengths = texts(1000, length=20)
    assert bad(subject(TEXT, x, lengths=lengths)) == {}
    assert bad(_images(pictures(1000))) == {}


def test_blank_and_saturated_images_are_found():
    x = pictures()
    x[3], x[8] = 17, 255
    x[9, :, :20] = 255
    said = found(_images(x))["blank images"]
    assert [group.tolist() for group in said.groups] == [[3, 8], [9]]
    assert said.verdict == "warn"


def test_negatives_among_positives_are_found_however_many():
    for every in (3, 10, 50):
        x = pictures()
        x[1::every] = 255 - x[1::every]
        assert found(_images(x))["polarity"].groups[0].tolist() == list(range(1, 150, every))
    assert "polarity" not in found(_images(pictures()))


def test_pictures_of_anything_have_no_polarity():
    noise = np.random.default_rng(8).integers(0, 256, (150, 1, 32, 32)).astype(np.uint8)
    assert "polarity" not in found(_images(noise))


def _sized(*size):
    return Source(np.arange(1, 151), sizes=np.tile(size, (150, 1)))


def test_images_that_are_enlarged_or_stretched_are_found():
    assert found(_images(pictures(), source=_sized(512, 512)))["size of images"].verdict == "ok"
    assert "100 % are smaller" in found(_images(pictures(), source=_sized(24, 24)))["size of images"].what
    assert "100 % are stretched" in found(_images(pictures(), source=_sized(200, 100)))["size of images"].what
    assert "size of images" not in found(_images(pictures(), source=_sized(0, 0)))


def test_texts_that_are_cut_or_nearly_empty_are_found():
    x, lengths = texts()
    lengths[:] = 64
    assert "100 % fill all 64" in found(subject(TEXT, x, lengths=lengths))["length of texts"].what
    lengths[:] = np.where(np.arange(200) % 5, 30, 2)
    said = found(subject(TEXT, x, lengths=lengths))["length of texts"]
    assert (said.verdict, "20 % have 3 or fewer" in said.what) == ("warn", True)


def test_a_few_texts_in_another_script_are_found_and_a_mixture_is_not():
    x, lengths = texts()
    han = np.ones(200)
    han[5] = 0.0
    said = found(subject(TEXT, x, lengths=lengths, source=Source(np.arange(1, 201), han=han)))["languages"]
    assert (said.verdict, said.groups[0].tolist()) == ("warn", [5])
    han[::3] = 0.0
    assert (
        found(subject(TEXT, x, lengths=lengths, source=Source(np.arange(1, 201), han=han)))["languages"].verdict == "ok"
    )
