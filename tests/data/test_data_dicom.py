"""What the pixels of DICOM files become: against pydicom's own files, and against sums done by hand."""

import contextlib
import logging
import os
import random
import signal
import warnings

import numpy as np
import pytest
from dicom_files import SHIPPED, write_dicom
from pydicom import dcmread
from pydicom.dataset import Dataset

from fedmodels.data import dicom
from fedmodels.data.apart import Apart
from fedmodels.data.binding_kinds import DicomRules
from fedmodels.data.dicom import may_crash, read_frames, read_tags, text_of
from fedmodels.data.unusable import Reason, Unusable
from fedmodels.study_input import ImageInput

RESCALED, WINDOW = DicomRules(values="rescaled"), DicomRules(values="window")
PIXELS = np.arange(80, dtype=np.uint16).reshape(8, 10) * 50
WIDE = ImageInput(height=8, width=10, low=-1024, high=4095)
FILES = sorted(path for path in SHIPPED.rglob("*") if path.is_file())
STANDARD = ImageInput(height=16, width=24, low=-1024, high=4000)
# Every shipped file that is no DICOM file with pixels that can be read, and why.
REFUSED = {
    Reason.UNKNOWN: {
        "ExplVR_BigEndNoMeta.dcm", "ExplVR_LitEndNoMeta.dcm", "README", "README.txt", "crayons.icc", "no_meta.dcm",
        "rtplan.dump", "rtstruct.dcm", "rtstruct.dump", "test1.json", "test_PN.json", "zipMR.gz",
    },
    Reason.NO_PIXELS: {
        "UN_sequence.dcm", "DICOMDIR", "DICOMDIR-bigEnd", "DICOMDIR-empty.dcm", "DICOMDIR-implicit",
        "DICOMDIR-nooffset", "DICOMDIR-nopatient", "DICOMDIR-reordered", "empty_charset_LEI.dcm",
        "meta_missing_tsyntax.dcm", "nested_priv_SQ.dcm", "no_meta_group_length.dcm", "priv_SQ.dcm", "reportsi.dcm",
        "reportsi_with_empty_number_tags.dcm", "rtplan.dcm", "rtplan_truncated.dcm", "test-SR.dcm", "waveform_ecg.dcm",
    },
    Reason.DAMAGED: {
        "GDCMJ2K_TextGBR.dcm", "JPEG2000-embedded-sequence-delimiter.dcm", "MR_truncated.dcm", "badVR.dcm",
    },
    Reason.NO_DECODER: {"JPEG-lossy.dcm", "JPGExtended.dcm"},
}  # fmt: skip
NO_WINDOW = {
    "CT_small.dcm", "JPEG2000.dcm", "JPEGLSNearLossless_08.dcm", "JPEGLSNearLossless_16.dcm", "image_dfl.dcm",
    "liver_1frame.dcm", "liver_expb_1frame.dcm",
}  # fmt: skip


def outcome(path, rules, input_=STANDARD):
    try:
        return read_frames(path, rules, input_)
    except Unusable as unusable:
        return unusable.reason


def expected_refusal(path):
    if "TINY_ALPHA" in path.parts and path.name.startswith("IM"):
        return Reason.NO_PIXELS
    return next((reason for reason, names in REFUSED.items() if path.name in names), None)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SHIPPED)))
def test_every_file_that_comes_with_pydicom_is_read_or_refused_with_its_reason(path):
    every = DicomRules(values="rescaled", frame="all")
    found, refusal = outcome(path, every), expected_refusal(path)
    if refusal:
        assert found is refusal
        return
    header = dcmread(path, stop_before_pixels=True)
    assert len(found) == int(header.get("NumberOfFrames", 1))
    assert all(frame.shape == (1, 16, 24) and frame.dtype == np.int16 for frame in found)
    window = outcome(path, DicomRules(values="window", frame="all"))
    if path.name in NO_WINDOW or path.name.startswith("rtdose"):
        assert window is Reason.NO_WINDOW
    else:
        assert len(window) == len(found)


def native(name, low=-32768.0, high=32767.0):
    """A shipped file at its own size, and its tags."""
    header = dcmread(SHIPPED / name)
    input_ = ImageInput(height=header.Rows, width=header.Columns, low=low, high=high)
    return outcome(SHIPPED / name, DicomRules(values="rescaled", frame="first"), input_)[0][0], header


@pytest.mark.parametrize("twin", ["RLE", "bigendian", "expb", "implicit", "jp2klossless", "jpeg_ls_lossless", "padded"])
def test_lossless_twins_are_equal_to_the_uncompressed_file(twin):
    plain, header = native("MR_small.dcm")
    assert np.array_equal(plain.ravel(), np.frombuffer(header.PixelData, "<i2"))
    assert np.array_equal(native(f"MR_small_{twin}.dcm")[0], plain)


def test_lossy_twins_are_close_to_the_uncompressed_file():
    plain = native("SC_rgb_dcmtk_+eb+cr.dcm", 0, 255)[0].astype(int)
    for twin in ("jpeg_dcmtk", "jpeg_gdcm", "jpeg_lossy_gdcm", "rle", "rle_16bit", "rle_32bit", "jls_lossy_line"):
        assert np.abs(native(f"SC_rgb_{twin}.dcm", 0, 255)[0].astype(int) - plain).mean() < 5, twin


def test_slope_and_intercept_give_hounsfield_units():
    found, header = native("CT_small.dcm")
    stored = np.frombuffer(header.PixelData, "<i2").reshape(found.shape)
    assert (header.RescaleSlope, header.RescaleIntercept) == (1, -1024)
    assert np.array_equal(found, stored - 1024)


def read_one(tmp_path, pixels, rules=RESCALED, input_=WIDE, **tags):
    found = outcome(write_dicom(tmp_path / "a.dcm", pixels, **tags), rules, input_)
    return found if isinstance(found, Reason) else found[0][0]


def test_rescaling_is_clipped_to_the_public_range_and_rounded(tmp_path):
    found = read_one(tmp_path, PIXELS, RescaleSlope="2.5", RescaleIntercept="-1000")
    assert np.array_equal(found, np.rint((PIXELS * 2.5 - 1000).clip(-1024, 4095)))
    found = read_one(tmp_path, PIXELS, RescaleSlope="0.01", RescaleIntercept="0", input_=SMALL)
    assert found.dtype == np.float32
    assert np.allclose(found, PIXELS * 0.01)


SMALL = ImageInput(height=8, width=10, low=0, high=50)


def test_signed_and_odd_bits(tmp_path):
    signed = PIXELS.astype(np.int16) - 1000
    assert np.array_equal(read_one(tmp_path, signed), signed)
    high_bits = PIXELS | np.uint16(0xF000)  # what old devices hide above 12 stored bits
    assert np.array_equal(read_one(tmp_path, high_bits, BitsStored=12), PIXELS)


def test_the_first_window_of_the_file_goes_from_low_to_high(tmp_path):
    found = read_one(tmp_path, PIXELS, WINDOW, FULL, WindowCenter=[1000, 40], WindowWidth=[2001, 80])
    assert np.array_equal(found, np.rint(((PIXELS - 999.5) / 2000 + 0.5).clip(0, 1) * 255))
    exact = {"WindowCenter": 1000, "WindowWidth": 2000, "VOILUTFunction": "LINEAR_EXACT"}
    found = read_one(tmp_path, PIXELS, WINDOW, FULL, **exact)
    assert np.array_equal(found, np.rint((PIXELS / 2000).clip(0, 1) * 255))
    found = read_one(tmp_path, PIXELS, WINDOW, FULL, **exact | {"VOILUTFunction": "SIGMOID"})
    assert np.array_equal(found, np.rint(255 / (1 + np.exp(-4 * (PIXELS - 1000.0) / 2000))))
    fixed = DicomRules(values="window", window=(2000.0, 4000.0))
    found = read_one(tmp_path, PIXELS, fixed, FULL, **exact)
    assert np.array_equal(found, np.rint((PIXELS / 4000).clip(0, 1) * 255))


FULL = ImageInput(height=8, width=10)


@pytest.mark.parametrize("tags", [{}, {"WindowCenter": 1}, {"WindowCenter": 1, "WindowWidth": 0},
                                  {"WindowCenter": 1, "WindowWidth": 9, "VOILUTFunction": "ODD"}])  # fmt: skip
def test_without_a_valid_window_a_file_is_refused(tmp_path, tags):
    assert read_one(tmp_path, PIXELS, WINDOW, FULL, **tags) is Reason.NO_WINDOW


def table(values, first, bits):
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [len(values), first, bits], values
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    return [item]


def test_tables_instead_of_slopes_and_windows(tmp_path):
    stored = np.arange(80, dtype=np.uint8).reshape(8, 10)
    squares = [n * n for n in range(50)]
    expected = np.array(squares)[(stored.astype(int) - 10).clip(0, 49)]
    assert np.array_equal(read_one(tmp_path, stored, ModalityLUTSequence=table(squares, 10, 12)), expected)
    found = read_one(tmp_path, stored, WINDOW, FULL, VOILUTSequence=table(squares, 10, 12))
    assert np.array_equal(found, np.rint(expected / 4095 * 255))


def test_monochrome1_is_turned_around_in_the_range_of_stored_values(tmp_path):
    tags = {"BitsStored": 12, "PhotometricInterpretation": "MONOCHROME1"}
    assert np.array_equal(read_one(tmp_path, PIXELS, **tags), 4095 - PIXELS)
    signed = {"input_": ImageInput(height=8, width=10, low=-3000, high=3000)}
    found = read_one(tmp_path, PIXELS.astype(np.int16) - 2000, **signed, **tags)
    assert np.array_equal(found, -1 - (PIXELS.astype(int) - 2000))
    window = {"WindowCenter": 2000, "WindowWidth": 4000, "VOILUTFunction": "LINEAR_EXACT"}
    found = read_one(tmp_path, PIXELS, WINDOW, FULL, **tags, **window)
    assert np.array_equal(found, np.rint(255 - PIXELS / 4000 * 255))
    assert np.array_equal(read_one(tmp_path, PIXELS, Modality="CT", **tags), PIXELS), "Hounsfield units are no shades"


def test_frames(tmp_path):
    frames = np.stack([np.full((8, 10), n, np.uint16) for n in (3, 5, 7, 9)])
    path = write_dicom(tmp_path / "a.dcm", frames, NumberOfFrames=4)
    assert outcome(path, RESCALED) is Reason.FRAMES
    for frame, expected in {"first": [3], "middle": [7], "all": [3, 5, 7, 9]}.items():
        assert [f.max() for f in outcome(path, DicomRules(values="rescaled", frame=frame))] == expected


def test_frames_may_have_slopes_and_windows_of_their_own(tmp_path):
    def group(name, **tags):
        outer, inner = Dataset(), Dataset()
        for keyword, value in tags.items():
            setattr(inner, keyword, value)
        setattr(outer, name, [inner])
        return outer

    frames = np.full((2, 8, 10), 100, np.uint16)
    slopes = [group("PixelValueTransformationSequence", RescaleSlope=s, RescaleIntercept=0) for s in (1, 3)]
    shared = group("FrameVOILUTSequence", WindowCenter=200, WindowWidth=401)
    path = write_dicom(tmp_path / "a.dcm", frames, NumberOfFrames=2, PerFrameFunctionalGroupsSequence=slopes,
                       SharedFunctionalGroupsSequence=[shared])  # fmt: skip
    assert [f.max() for f in outcome(path, DicomRules(values="rescaled", frame="all"))] == [100, 300]
    found = [int(f.max()) for f in outcome(path, DicomRules(values="window", frame="all"), FULL)]
    assert found == [round(((v - 199.5) / 400 + 0.5) * 255) for v in (100, 300)]


def test_colours_and_palettes_fill_the_public_range():
    for name in ("examples_rgb_color.dcm", "examples_palette.dcm", "SC_rgb_rle_16bit.dcm"):
        colour = ImageInput(height=32, width=32, channels=3)
        wide = ImageInput(height=32, width=32, channels=3, low=-1000, high=4100)
        shown = outcome(SHIPPED / name, RESCALED, colour)[0].astype(float)
        assert shown.std(axis=0).max() > 5, "channels differ"
        assert np.abs(outcome(SHIPPED / name, RESCALED, wide)[0] - (shown * 20 - 1000)).max() <= 21


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"BurnedInAnnotation": "YES"}, Reason.BURNED_IN),
        ({"PhotometricInterpretation": "HSV"}, Reason.PHOTOMETRIC),
        ({"PhotometricInterpretation": "RGB"}, Reason.PHOTOMETRIC),
        ({"PhotometricInterpretation": None}, Reason.PHOTOMETRIC),
        ({"SamplesPerPixel": 3}, Reason.PHOTOMETRIC),
        ({"Rows": 60000, "Columns": 60000}, Reason.TOO_LARGE),
        ({"NumberOfFrames": 2_000_000_000}, Reason.TOO_LARGE),
        ({"Rows": 9}, Reason.DAMAGED),
        ({"Rows": None}, Reason.NO_PIXELS),
        ({"BitsStored": 30}, Reason.DAMAGED),
        ({"RescaleSlope": "1", "RescaleIntercept": "9000"}, Reason.OUTSIDE),
    ],
)
def test_files_that_cannot_be_used_say_why(tmp_path, tags, reason):
    assert read_one(tmp_path, PIXELS, **tags) is reason


def test_empty_absent_and_pixelless_files(tmp_path):
    (tmp_path / "empty").touch()
    assert outcome(tmp_path / "empty", RESCALED) is Reason.EMPTY
    assert outcome(tmp_path / "absent", RESCALED) is Reason.ABSENT
    assert outcome(tmp_path, RESCALED) is Reason.DAMAGED, "a folder"
    assert outcome(write_dicom(tmp_path / "plan", None), RESCALED) is Reason.NO_PIXELS
    path = write_dicom(tmp_path / "compressed", PIXELS)
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.99"))
    assert outcome(path, RESCALED) is Reason.NO_DECODER


@pytest.mark.parametrize("name", ["MR_small.dcm", "SC_rgb_jpeg_gdcm.dcm", "SC_rgb_rle.dcm"])
def test_a_file_cut_off_in_its_pixels_is_damaged(tmp_path, name):
    content = (SHIPPED / name).read_bytes()
    (tmp_path / "cut").write_bytes(content[: len(content) * 3 // 4])
    assert outcome(tmp_path / "cut", RESCALED) is Reason.DAMAGED


def test_large_files_are_read_frame_by_frame_with_the_same_result(tmp_path, monkeypatch):
    expected = [outcome(SHIPPED / name, RESCALED)[0] for name in ("MR_small.dcm", "MR_small_RLE.dcm")]
    monkeypatch.setattr(dicom, "_AT_ONCE", 0)
    found = [outcome(SHIPPED / name, RESCALED)[0] for name in ("MR_small.dcm", "MR_small_RLE.dcm")]
    assert np.array_equal(found, expected)


def outcome_apart(apart, path):
    try:
        return apart.read_frames(path, RESCALED, STANDARD)
    except Unusable as unusable:
        return unusable.reason


def test_decoders_that_end_their_process_end_only_a_helper(tmp_path):
    """GDCM ends its process on this file: without the helper it would be this one."""
    name = "SC_rgb_jpeg_gdcm.dcm"
    content = bytearray((SHIPPED / name).read_bytes())
    scan = content.index(b"\xff\xc3")  # JPEG lossless: start of frame
    content[scan + 4] = 17  # bits per sample
    damaged = tmp_path / "damaged.dcm"
    damaged.write_bytes(content)
    assert may_crash(damaged)
    assert not may_crash(SHIPPED / "MR_small.dcm")
    assert not may_crash(tmp_path / "absent")
    with Apart() as apart:
        before = outcome_apart(apart, SHIPPED / name)
        assert np.array_equal(before, outcome(SHIPPED / name, RESCALED))
        assert outcome_apart(apart, damaged) is Reason.DAMAGED
        assert np.array_equal(outcome_apart(apart, SHIPPED / name), before), "and started again"
        os.kill(apart._helper.pid, signal.SIGKILL)
        assert outcome_apart(apart, SHIPPED / name) is Reason.DAMAGED, "killed while it was waiting"
        assert outcome_apart(apart, tmp_path / "absent") is Reason.ABSENT


@pytest.mark.parametrize("name", ["MR_small_RLE.dcm", "SC_rgb_jpeg.dcm", "MR_small_jp2klossless.dcm", "CT_small.dcm"])
def test_damaged_files_are_refused_and_nothing_else_happens(tmp_path, name):
    """Cut off anywhere, or with bytes changed: pixels or a reason, never another error."""
    draw, content = random.Random(name), (SHIPPED / name).read_bytes()
    path, reasons = tmp_path / "damaged.dcm", set()
    for attempt in range(60):
        broken = bytearray(content)
        if attempt % 2:
            del broken[draw.randrange(len(broken)) :]
        for _ in range(draw.randrange(1, 9)):
            if broken:
                broken[draw.randrange(min(len(broken), draw.choice([400, 2000, 10**6])))] = draw.randrange(256)
        path.write_bytes(broken)
        found = outcome(path, WINDOW if attempt % 3 else RESCALED)
        reasons.add(found if isinstance(found, Reason) else None)
        with contextlib.suppress(Unusable):
            assert isinstance(text_of(read_tags(path, ["PatientID"]), "PatientID"), str)
    assert Reason.DAMAGED in reasons


def test_what_a_file_says_is_in_no_warning_and_no_log(tmp_path, caplog, capfd):
    secret = "Xsecret9^Who"
    path = write_dicom(tmp_path / "a.dcm", PIXELS, PatientName=secret, WindowWidth="7777", WindowCenter="2")
    content = path.read_bytes().replace(b"7777", b"Xsec", 1)
    path.write_bytes(content)
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        assert outcome(path, WINDOW) is Reason.DAMAGED
        outcome(SHIPPED / "badVR.dcm", RESCALED)
    assert not caught
    assert "Xs" not in caplog.text + "".join(capfd.readouterr())
    assert logging.getLogger("pydicom").level < logging.CRITICAL
