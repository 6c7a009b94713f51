"""Many images: in one file, read when needed, made again when anything changes, never trusted half written."""

import gc
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from data_files import read, site, study_of
from PIL import Image

from fedmodels.data import images as images_module
from fedmodels.data import load as loading
from fedmodels.data import store
from fedmodels.data.dataset import TRAIN, Dataset
from fedmodels.data.load import load
from fedmodels.data.store import Place, StoredImages, gather
from fedmodels.errors import DataError
from fedmodels.models.batches import to_tensors
from fedmodels.study_input import ImageInput

INPUT = ImageInput(height=8, width=8)
BINDING = """
kind = "image-folder"
path = "images"
index = "index.csv"
[columns]
patient = "file"
label = "label"
file = "file"
[split]
column = "split"
"""
PIXELS = np.arange(10 * 64, dtype=np.uint16).reshape(10, 8, 8).astype(np.uint8)


@pytest.fixture(autouse=True)
def _on_disk(monkeypatch):
    monkeypatch.setattr(store, "_IN_MEMORY", 0)
    loading._pools.clear()
    yield
    loading._pools.clear()


def folder(tmp_path, count=10):
    (tmp_path / "images").mkdir()
    for n in range(count):
        Image.fromarray(PIXELS[n]).save(tmp_path / "images" / f"{n}.png")
    index = "file,label,split\n" + "".join(
        f"{n}.png,absent,{'test' if n % 3 == 0 else 'train'}\n" for n in range(count)
    )
    return site(tmp_path, BINDING, index__csv=index)


def kept(tmp_path):
    return sorted((tmp_path / "image-cache").glob("*.images"))


@pytest.fixture
def decoded(monkeypatch):
    calls = []
    original = images_module._read_file
    monkeypatch.setattr(images_module, "_read_file", lambda *a: calls.append(a) or original(*a))
    return calls


def test_a_data_set_on_disk_behaves_as_one_in_memory(tmp_path, monkeypatch):
    data = load(folder(tmp_path), study_of(INPUT))
    assert isinstance(data.x, StoredImages)
    assert (data.x.shape, data.x.dtype, len(data.x)) == ((10, 1, 8, 8), np.uint8, 10)
    assert np.array_equal(np.asarray(data.x)[:, 0], PIXELS)
    assert np.array_equal(np.asarray(data.x, dtype=np.float64)[:, 0], PIXELS)
    assert np.array_equal(data.x[3][0], PIXELS[3])
    assert np.array_equal(np.stack(list(data.x[7:]))[:, 0], PIXELS[7:])
    train = data.part(TRAIN)
    assert isinstance(train.x, StoredImages), "a part is not read"
    assert np.array_equal(np.asarray(train.take([2, 0]).x)[:, 0], PIXELS[[4, 1]])
    assert np.array_equal(np.concatenate([train.x, data.x[:1]])[:, 0], PIXELS[[1, 2, 4, 5, 7, 8, 0]])
    tensor, _ = to_tensors(train, INPUT)
    assert np.array_equal(tensor.numpy()[:, 0], np.float32(PIXELS[[1, 2, 4, 5, 7, 8]] * np.float32(2 / 255) - 1))
    assert to_tensors(data.take([]), INPUT)[0].shape == (0, 1, 8, 8)
    monkeypatch.setattr(store, "_IN_MEMORY", 1 << 20)
    loading._pools.clear()
    assert np.array_equal(load(tmp_path / "data.toml", study_of(INPUT)).x, np.asarray(data.x))
    with pytest.raises(ValueError, match="without copying"):
        np.asarray(data.x, copy=False)


def test_the_file_is_the_users_alone_and_used_again_by_the_next_process(tmp_path, decoded):
    path = folder(tmp_path)
    load(path, study_of(INPUT))
    (file,) = kept(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert file.stat().st_size == 640
    loading._pools.clear()
    assert np.array_equal(np.asarray(load(path, study_of(INPUT)).x)[:, 0], PIXELS)
    assert len(decoded) == 10


def test_another_size_or_range_or_a_changed_image_makes_another_file(tmp_path, decoded):
    path = folder(tmp_path)
    load(path, study_of(INPUT))
    load(path, study_of(ImageInput(height=9, width=8)))
    load(path, study_of(ImageInput(height=8, width=8, high=254)))
    assert len(kept(tmp_path)) == 3
    before = (tmp_path / "images" / "4.png").stat()
    Image.fromarray(PIXELS[5]).save(tmp_path / "images" / "4.png")
    os.utime(tmp_path / "images" / "4.png", ns=(before.st_atime_ns, before.st_mtime_ns - 1))
    data = load(path, study_of(INPUT))
    assert np.array_equal(data.x[4][0], PIXELS[5]), "noticed although the file became older"
    assert len(decoded) == 40


def test_only_the_newest_few_are_kept_and_those_in_use_can_still_be_read(tmp_path):
    path = folder(tmp_path)
    first = load(path, study_of(INPUT))
    for size in range(9, 9 + store._KEPT):
        load(path, study_of(ImageInput(height=size, width=8)))
    assert len(kept(tmp_path)) == store._KEPT
    assert not any(file.stat().st_size == 640 for file in kept(tmp_path))
    assert np.array_equal(np.asarray(first.x)[:, 0], PIXELS)


def test_a_damaged_image_is_refused_before_anything_is_kept(tmp_path):
    path = folder(tmp_path)
    (tmp_path / "images" / "8.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 10 images cannot be used: 1 empty \(0 bytes\) \(data row 9\)"):
        load(path, study_of(INPUT))
    assert [file.name for file in (tmp_path / "image-cache").iterdir()] == ["lock"]


def test_what_a_crash_left_is_removed_and_a_file_of_the_wrong_size_is_made_again(tmp_path):
    path = folder(tmp_path)
    load(path, study_of(INPUT))
    (file,) = kept(tmp_path)
    file.write_bytes(file.read_bytes()[:-1])
    left = file.with_suffix(".part")
    left.write_bytes(b"half")
    loading._pools.clear()
    data = load(path, study_of(INPUT))
    assert np.array_equal(np.asarray(data.x)[:, 0], PIXELS)
    assert not left.exists()


def test_a_file_that_shrinks_while_it_is_used_is_an_error_and_no_picture(tmp_path):
    data = load(folder(tmp_path), study_of(INPUT))
    (file,) = kept(tmp_path)
    os.truncate(file, 600)
    with pytest.raises(DataError, match="was cut off while in use"):
        np.asarray(data.x)


def test_a_full_disk_and_a_folder_that_cannot_be_written_are_told_before_decoding(tmp_path, monkeypatch, decoded):
    path = folder(tmp_path)
    monkeypatch.setattr(store, "_SPARE", 1 << 60)
    with pytest.raises(DataError, match=r"need 0\.0 GB of disk"):
        load(path, study_of(INPUT))
    blocked = tmp_path / "blocked"
    blocked.write_text("a file")
    path.write_text('cache = "blocked"\n' + path.read_text())
    with pytest.raises(DataError, match="cannot be kept") as caught:
        load(path, study_of(INPUT))
    assert "name another one as `cache`" in caught.value.fix
    assert not decoded


def test_a_cache_inside_the_folder_of_images_is_no_part_of_it(tmp_path, decoded):
    path = folder(tmp_path)
    path.write_text(
        path.read_text().replace('path = "images"', f'path = "{tmp_path}"').replace("[columns]", "[columns]\n")
    )
    index = tmp_path / "index.csv"
    index.write_text(
        "\n".join(line if n == 0 else f"images/{line}" for n, line in enumerate(index.read_text().splitlines()))
    )
    first = load(path, study_of(INPUT))
    assert load(path, study_of(INPUT)) is first


def test_simulated_hospitals_that_share_a_pool_share_its_cache(tmp_path, decoded):
    from fedmodels.data.binding import read_binding

    path = folder(tmp_path)
    assert read_binding(path).cache == str(tmp_path / "image-cache")
    load(path, study_of(INPUT))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "who.txt").write_text("3.png\n" if name == "a" else "4.png\n")
        text = (
            path.read_text()
            .replace('"images"', f'"{tmp_path}/images"')
            .replace('"index.csv"', f'"{tmp_path}/index.csv"')
        )
        (tmp_path / name / "data.toml").write_text(f'cache = "{tmp_path}/image-cache"\npatients = "who.txt"\n' + text)
        assert np.array_equal(load(tmp_path / name / "data.toml", study_of(INPUT)).x[0][0], PIXELS[3 + (name == "b")])
    assert len(decoded) == 10


def test_open_files_are_closed_with_the_last_data_set_that_uses_them(tmp_path):
    place = Place(tmp_path, b"k")
    part = gather(iter(PIXELS[:, None]), 10, INPUT, place)[2:]
    opened = {path.name for path in Path("/proc/self/fd").iterdir()}
    assert np.array_equal(part[0][0], PIXELS[2])
    del part
    gc.collect()
    assert len(opened - {path.name for path in Path("/proc/self/fd").iterdir()}) >= 1


def test_large_arrays_of_an_npz_are_read_row_by_row(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=PIXELS, y=np.zeros(10, dtype=np.int64))
    binding = 'kind = "image-npz"\npath = "a.npz"\ntrain = ["x", "y"]\npatient = "row"\nlabels = { 0 = "absent" }\n'
    data = read(tmp_path, INPUT, binding)
    assert isinstance(data.x, StoredImages)
    assert np.array_equal(np.asarray(data.x)[:, 0], PIXELS)
    assert Dataset(data.patients, data.x, data.y, data.split)


_PEAK = """
import sys
from pathlib import Path
import numpy as np
from fedmodels.data import store
from fedmodels.data.store import Place, gather
from fedmodels.study_input import ImageInput
store._SPARE = 0
def peak():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM"))
count, start = int(sys.argv[1]), peak()
one = np.zeros((1, 224, 224), np.uint8)
x = gather((one for _ in range(count)), count, ImageInput(height=224, width=224), Place(Path(sys.argv[2]), b""))
for begin in range(0, count, 256):
    np.asarray(x[begin:begin + 256])
print((peak() - start) * 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """2,000 and 6,000 images of 50 kB: 200 MB more on disk, less than 10 MB more in memory."""
    peaks = []
    for count in (2000, 6000):
        command = [sys.executable, "-c", _PEAK, str(count), str(tmp_path / str(count))]
        run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
        peaks.append(int(run.stdout))
    assert peaks[0] > 10_000_000, "one batch is in memory"
    assert peaks[1] - peaks[0] < 10_000_000
