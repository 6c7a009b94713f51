import io
import struct
import zlib

import numpy as np
import pytest
from data_files import read, read_unlabelled
from PIL import Image

from fedmodels.data.dataset import TEST, TRAIN
from fedmodels.data.fitting import fit
from fedmodels.errors import DataError, FedmodelsError
from fedmodels.study_input import ImageInput

GREY = ImageInput(height=8, width=10)
COLOUR = ImageInput(height=8, width=10, channels=3)
PIXELS = np.arange(240, dtype=np.uint8).reshape(3, 8, 10)
NPZ = """
kind = "image-npz"
path = "a.npz"
train = ["train_images", "train_labels"]
test = ["test_images", "test_labels"]
patient = "row"
[labels]
0 = "absent"
1 = "disease"
"""
FOLDER = """
kind = "image-folder"
path = "images"
index = "index.csv"
[columns]
patient = "patient"
label = "label"
file = "file"
[split]
column = "split"
"""
INDEX = "file,patient,label,split\na.png,p,absent,train\nsub/b.png,q,disease,test\n"
SECRET = "Xsecret9"


def npz(**arrays):
    buffer = io.BytesIO()
    parts = {"train_images": PIXELS[:2], "train_labels": np.array([[0], [1]]), "test_images": PIXELS[2:]}
    np.savez(buffer, **(parts | {"test_labels": np.array([1])} | arrays))
    return buffer.getvalue()


def test_arrays_of_the_studys_size_are_kept_bit_for_bit(tmp_path):
    data = read(tmp_path, GREY, NPZ, a__npz=npz())
    assert data.x.dtype == np.uint8
    assert np.array_equal(data.x, PIXELS[:, None])
    assert data.y.tolist() == [0, 1, 1]
    assert data.split.tolist() == [TRAIN, TRAIN, TEST]
    assert data.patients.tolist() == ["0", "1", "2"]
    assert data.lengths is None


def test_arrays_are_resized_and_converted_to_what_the_study_asks_for(tmp_path):
    assert read(tmp_path, COLOUR, NPZ, a__npz=npz()).x.shape == (3, 3, 8, 10)
    data = read(tmp_path, ImageInput(height=16, width=12), NPZ, a__npz=npz())
    expected = Image.fromarray(PIXELS[0]).resize((12, 16), Image.Resampling.BILINEAR)
    assert np.array_equal(data.x[0, 0], np.asarray(expected))
    (tmp_path / "colour").mkdir()
    colours = np.stack([PIXELS] * 3, axis=-1)
    same = read(tmp_path / "colour", GREY, NPZ, a__npz=npz(train_images=colours[:2], test_images=colours[2:]))
    assert np.array_equal(same.x, PIXELS[:, None])


def test_patients_may_have_an_array_of_their_own_and_must_not_be_in_both_splits(tmp_path):
    binding = NPZ.replace('patient = "row"\n', "").replace('_labels"]', '_labels", "PART_who"]')
    binding = binding.replace("PART", "train", 1).replace("PART", "test", 1)
    who = {"train_who": np.array(["a", "a"]), "test_who": np.array(["b"])}
    assert read(tmp_path, GREY, binding, a__npz=npz(**who)).patients.tolist() == ["a", "a", "b"]
    with pytest.raises(DataError, match="both the training and the test split"):
        read(tmp_path, GREY, binding, a__npz=npz(train_who=who["train_who"], test_who=np.array(["a"]), more=PIXELS))


ALONE = 'kind = "image-npz"\npath = "a.npz"\n'


def test_arrays_need_no_labels(tmp_path):
    binding = ALONE + 'train = ["train_images"]\ntest = ["test_images"]\npatient = "row"\n'
    data = read_unlabelled(tmp_path, GREY, binding, a__npz=npz())
    assert np.array_equal(data.x, PIXELS[:, None])
    assert data.split.tolist() == [TRAIN, TRAIN, TEST]
    assert data.patients.tolist() == ["0", "1", "2"]


def test_unlabelled_images_may_have_an_array_of_patients_and_be_all_of_the_test_split(tmp_path):
    binding = ALONE + 'test = ["train_images", "", "who"]\n'
    data = read_unlabelled(tmp_path, GREY, binding, a__npz=npz(who=np.array(["a", "b"])))
    assert data.patients.tolist() == ["a", "b"]
    assert data.split.tolist() == [TEST, TEST]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"not a zip", "is not an NPZ"),
        (npz()[:-40], "is not an NPZ"),
        (npz(train_labels=np.array([{}, {}], dtype=object)), "is not an NPZ of plain arrays"),
        (npz(train_images=PIXELS[:2] > 3), "array `train_images` is bool[2, 8, 10], not numbers"),
        (npz(train_images=PIXELS[:2].astype(complex)), "array `train_images` is complex128[2, 8, 10]"),
        (npz(train_images=np.full((2, 8, 10), np.nan)), "2 of 3 images cannot be used: 2 with pixels that are not"),
        (npz(train_images=np.full((2, 8, 10), np.inf)), "are not numbers (NaN or infinite) (image 1, 2)"),
        (npz(train_images=np.full((2, 8, 10), 300.5)), "2 wholly outside the study's pixel range (image 1, 2)"),
        (npz(train_images=PIXELS[:2, :, :0]), "2 empty"),
        (npz(train_images=PIXELS[0]), "array `train_images` is uint8[8, 10]"),
        (npz(train_labels=np.array([0, 1, 1])), "array `train_labels` is int64[3]"),
        (npz(train_labels=np.array([0.0, 1.0])), "array `train_labels` is float64[2]"),
        (npz(train_labels=np.array([0, 987654])), "1 of 3 records have a label that is not in the binding's"),
    ],
)
def test_bad_arrays_are_refused(tmp_path, content, named):
    with pytest.raises(DataError) as caught:
        read(tmp_path, GREY, NPZ, a__npz=content)
    assert named in str(caught.value)
    assert "987654" not in repr(caught.value)


def test_an_absent_array_is_named(tmp_path):
    with pytest.raises(DataError, match="no array val_images"):
        read(tmp_path, GREY, NPZ.replace("test_images", "val_images"), a__npz=npz())


def _folder(tmp_path, second):
    (tmp_path / "images" / "sub").mkdir(parents=True)
    Image.fromarray(PIXELS[0]).save(tmp_path / "images" / "a.png")
    second.save(tmp_path / "images" / "sub" / "b.png")


def test_image_files_are_read_in_the_order_of_the_index(tmp_path):
    _folder(tmp_path, Image.fromarray(np.stack([PIXELS[1]] * 3, axis=-1)))
    data = read(tmp_path, GREY, FOLDER, index__csv=INDEX)
    assert np.array_equal(data.x, PIXELS[:2, None])
    assert data.patients.tolist() == ["p", "q"]
    assert data.split.tolist() == [TRAIN, TEST]
    assert read(tmp_path, COLOUR, FOLDER, index__csv=INDEX).x.shape == (2, 3, 8, 10)


def test_image_files_need_no_label(tmp_path):
    _folder(tmp_path, Image.fromarray(PIXELS[1]))
    binding = FOLDER.replace('label = "label"\n', "").partition("[split]")[0]
    data = read_unlabelled(tmp_path, GREY, binding, index__csv="file,patient\na.png,p\nsub/b.png,q\n")
    assert np.array_equal(data.x, PIXELS[:2, None])
    assert data.split.tolist() == [TEST, TEST]


DEEP = ImageInput(height=8, width=10, high=65535)


def test_16_bit_pictures_keep_their_bits_where_the_studys_range_has_room(tmp_path):
    deep = PIXELS[1].astype(np.uint16) * 256 + 7
    _folder(tmp_path, Image.fromarray(deep))
    data = read(tmp_path, DEEP, FOLDER, index__csv=INDEX)
    assert data.x.dtype == np.uint16
    assert np.array_equal(data.x[1, 0], deep)
    assert np.array_equal(data.x[0, 0], PIXELS[0])


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_16_bit_colours_are_refused_rather_than_cut_off(tmp_path, kind):
    _folder(tmp_path, Image.fromarray(PIXELS[1]))
    content = deep_colour_png() if kind == "png" else deep_colour_tiff()
    (tmp_path / "images" / "sub" / "b.png").write_bytes(content)
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == "RGB", "the control: Pillow reads it, with 8 bits"
    with pytest.raises(DataError, match="1 in colour with more than 8 bits"):
        read(tmp_path, COLOUR, FOLDER, index__csv=INDEX)


def deep_colour_png():
    """2 x 1 pixels of 16 bits per channel, which Pillow can read and not write."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + struct.pack(">6H", 1, 2, 3, 60000, 5, 6))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def deep_colour_tiff():
    tags = [(256, 4, 2), (257, 4, 1), (258, 3, 146), (259, 3, 1), (262, 3, 2), (273, 4, 134), (277, 3, 3), (278, 4, 1),
            (279, 4, 12), (284, 3, 1)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 3 if tag == 258 else 1, value) for tag, kind, value in tags)
    header = struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    assert len(header) == 134
    return header + struct.pack("<6H", 1, 2, 3, 60000, 5, 6) + struct.pack("<3H", 16, 16, 16)


def test_arrays_of_any_number_type_come_in_the_type_of_the_studys_range(tmp_path):
    wide = PIXELS.astype(np.int32) * 4 - 100
    arrays = {"train_images": wide[:2], "test_images": wide[2:]}
    hounsfield = read(tmp_path, ImageInput(height=8, width=10, low=-90, high=700), NPZ, a__npz=npz(**arrays))
    assert hounsfield.x.dtype == np.int16
    assert np.array_equal(hounsfield.x[:, 0], wide.clip(-90, 700))
    arrays = {name: (values / 1000).astype(np.float32) for name, values in arrays.items()}
    unit = read(tmp_path, ImageInput(height=8, width=10, low=0, high=1), NPZ, a__npz=npz(**arrays))
    assert unit.x.dtype == np.float32
    assert np.array_equal(unit.x[:, 0], np.concatenate(list(arrays.values())).clip(0, 1))
    column = npz(train_images=np.asfortranarray(PIXELS[:2]))
    assert np.array_equal(read(tmp_path, GREY, NPZ, a__npz=column).x, PIXELS[:, None])


def test_shrinking_averages_over_what_is_covered_in_8_bits_and_in_more():
    """A checkerboard of single pixels becomes grey; a resize that picks single pixels would not see half of them."""
    board = (np.indices((64, 64)).sum(0) % 2 * 200).astype(np.uint8)
    small = ImageInput(height=8, width=8, high=1000)
    for values in (board, board.astype(np.uint16), board.astype(np.float64)):
        fitted = fit(values, small)
        assert fitted.dtype == np.int16
        assert np.abs(fitted.astype(int) - 100).max() <= 1


def test_values_are_clipped_before_they_are_averaged():
    values = np.zeros((16, 16))
    values[0, 0] = 1e9
    assert fit(values, ImageInput(height=8, width=8)).max() <= 255 / 4


def test_a_picture_is_turned_as_its_camera_noted(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    _folder(tmp_path, Image.fromarray(PIXELS[1]))
    Image.fromarray(PIXELS[1]).save(tmp_path / "images" / "sub" / "b.png", exif=exif)
    assert np.array_equal(read(tmp_path, GREY, FOLDER, index__csv=INDEX).x[1, 0], PIXELS[1, ::-1, ::-1])


def test_an_image_of_two_patients_is_refused(tmp_path):
    _folder(tmp_path, Image.fromarray(PIXELS[1]))
    with pytest.raises(DataError, match="1 of 3 records show an image that is another patient's") as caught:
        read(tmp_path, GREY, FOLDER, index__csv=INDEX + f"a.png,{SECRET},absent,train\n")
    assert SECRET not in repr(caught.value)
    twice = read(tmp_path, GREY, FOLDER, index__csv=INDEX + "a.png,p,absent,train\n")
    assert twice.patients.tolist() == ["p", "q", "p"], "one image twice is allowed within a patient"


def test_one_patient_may_have_thousands_of_images_and_all_labels_may_be_the_same(tmp_path):
    _folder(tmp_path, Image.fromarray(PIXELS[1]))
    rows = "".join(f"{name},p,absent,train\n" for name in ["a.png", "sub/b.png"] * 1000)
    data = read(tmp_path, GREY, FOLDER, index__csv="file,patient,label,split\n" + rows)
    assert (len(data), data.patients_in(TRAIN)) == (2000, 1)
    assert not data.y.any()


def test_absent_and_broken_images_are_counted_and_found_by_row_not_by_name(tmp_path):
    _folder(tmp_path, Image.fromarray(PIXELS[1]))
    (tmp_path / "images" / f"{SECRET}.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    index = INDEX.replace("sub/b.png", f"{SECRET}.png") + f"{SECRET}2.png,r,absent,train\n"
    expected = r"2 of 3 images cannot be used: 1 cut off or damaged \(data row 2\); 1 absent \(data row 3\)"
    with pytest.raises(DataError, match=expected) as caught:
        read(tmp_path, GREY, FOLDER, index__csv=index)
    assert SECRET not in repr(caught.value)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "1 empty"),
        (b"GIF89a" + b"0" * 200, "1 neither DICOM nor PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "1 neither DICOM nor PNG"),
        (b"\0" * 128 + b"DICM", r"1 DICOM, and the binding has no `\[dicom\]`"),
    ],
)
def test_other_files_are_refused_by_their_kind(tmp_path, content, named):
    _folder(tmp_path, Image.fromarray(PIXELS[1]))
    (tmp_path / "images" / "sub" / "b.png").write_bytes(content)
    with pytest.raises(DataError, match=f"1 of 2 images cannot be used: {named}"):
        read(tmp_path, GREY, FOLDER, index__csv=INDEX)


def test_only_the_first_few_of_many_are_listed(tmp_path):
    _folder(tmp_path, Image.fromarray(PIXELS[1]))
    rows = "".join(f"{n}.png,p,absent,train\n" for n in range(30))
    with pytest.raises(DataError, match=r"30 absent \(data row 3, 4, 5, 6, 7, \.\.\.\)"):
        read(tmp_path, GREY, FOLDER, index__csv=INDEX + rows)


def test_an_absent_folder_or_column_is_named(tmp_path):
    with pytest.raises(FedmodelsError, match="images: no such file or folder"):
        read(tmp_path, GREY, FOLDER, index__csv=INDEX)
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="no column `file`"):
        read(tmp_path, GREY, FOLDER, index__csv=INDEX.replace("file", "path"))
