"""`fedmodels bench images`: memory and time for many images on disk, made up here: load, read again, one epoch."""

import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset as Dicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian
from rich.console import Console
from rich.table import Table

from fedmodels.data import load as loading
from fedmodels.models.batches import to_tensors
from fedmodels.study import About
from fedmodels.study_input import ImageInput
from simulations.benchmarks.aggregation.memory import status
from simulations.benchmarks.machine import Machine, this_machine
from simulations.benchmarks.output import describe, print_json, verdict, wide_console

_SIZE, _BATCH = 64, 256
_PER_FOLDER = 1000
_GOAL = 2 << 30  # bytes
_BINDINGS = {
    "png": 'kind = "image-folder"\npath = "images"\nindex = "index.csv"\n'
    '[columns]\npatient = "file"\nlabel = "label"\nfile = "file"\n',
    "dicom": 'kind = "dicom-folder"\npath = "images"\ndicom.values = "window"\n[columns]\nlabel = "ImageType"\n',
}


@dataclass(frozen=True)
class _Described:
    """A study's labels and 224 x 224 pixels, which `load` needs."""

    study: About
    input: ImageInput


_STUDY = _Described(About("images", "binary", ("A", "B")), ImageInput(height=224, width=224))


@dataclass(frozen=True)
class Report:
    """seconds: of each part, by name; peak: bytes of the whole process, interpreter and torch included."""

    machine: Machine
    images: int
    files: str
    seconds: dict[str, float]
    peak: int
    goal: int
    reached: bool
    load_after: float


def images(count: int, files: str, *, as_json: bool) -> None:
    """Measure and print a table, or JSON."""
    with Console(stderr=True).status("starting") as shown:
        report = run(count, files, shown.update)
    if as_json:
        print_json(report)
        return
    table = Table("", "seconds", title=f"{count:,} files ({files}, {_SIZE} x {_SIZE}) as 224 x 224")
    for name, value in report.seconds.items():
        table.add_row(name, f"{value:.1f}")
    console = wide_console()
    console.print(table)
    console.print(
        f"  {verdict(report.reached)}: peak memory {report.peak / 2**30:.2f} GiB, {_GOAL / 2**30:.0f} at most"
    )
    console.print(describe(report.machine, report.load_after))


def run(count: int, files: str, say: Callable[[str], object]) -> Report:
    """files: png (with an index) or dicom (by their tags)."""
    machine, seconds = this_machine(), dict[str, float]()

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        say(name)
        start = time.monotonic()
        yield
        seconds[name] = time.monotonic() - start

    with tempfile.TemporaryDirectory(prefix="fedmodels-bench-") as folder:
        binding = Path(folder) / "data.toml"
        with timed("write the files"):
            (_write_pictures if files == "png" else _write_dicom)(Path(folder), count)
            binding.write_text(_BINDINGS[files] + "[split]\ntest_fraction = 0.01\n", encoding="utf-8")
        with timed("load: decode and keep"):
            loading.load(binding, _STUDY)
        with timed("load again: has anything changed?"):
            data = loading.load(binding, _STUDY)
        loading._pools.clear()
        with timed("load in the next process: nothing is decoded"):
            data = loading.load(binding, _STUDY)
        with timed("one epoch: read in random order, to tensors"):
            order = np.random.default_rng(0).permutation(len(data))
            for begin in range(0, len(data), _BATCH):
                to_tensors(data.take(order[begin : begin + _BATCH]), _STUDY.input)
        loading._pools.clear()
        del data
        gc.collect()
    peak = status("VmHWM")
    return Report(machine, count, files, seconds, peak, _GOAL, peak <= _GOAL, round(os.getloadavg()[0], 2))


def _names(root: Path, count: int) -> Iterator[Path]:
    for n in range(count):
        if n % _PER_FOLDER == 0:
            (root / "images" / f"{n // _PER_FOLDER:04}").mkdir(parents=True)
        yield root / "images" / f"{n // _PER_FOLDER:04}" / f"{n}"


def _write_pictures(root: Path, count: int) -> None:
    draw = np.random.default_rng(0)
    with (root / "index.csv").open("w", encoding="utf-8") as index:
        index.write("file,label\n")
        for n, path in enumerate(_names(root, count)):
            Image.fromarray(draw.integers(0, 256, (_SIZE, _SIZE), dtype=np.uint8)).save(path, format="png")
            index.write(f"{path.relative_to(root / 'images')},{'AB'[n % 2]}\n")


def _write_dicom(root: Path, count: int) -> None:
    draw = np.random.default_rng(0)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = Dicom()
    file.file_meta, file.SOPClassUID = meta, DigitalXRayImageStorageForPresentation
    file.Rows = file.Columns = _SIZE
    file.SamplesPerPixel, file.PhotometricInterpretation, file.PixelRepresentation = 1, "MONOCHROME2", 0
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, 12, 11
    file.WindowCenter, file.WindowWidth = 2048, 4096
    for n, path in enumerate(_names(root, count)):
        file.PatientID, file.ImageType, file.SOPInstanceUID = f"p{n}", "AB"[n % 2], f"1.2.3.{n + 1}"
        file.PixelData = draw.integers(0, 4096, (_SIZE, _SIZE), dtype=np.uint16).astype("<u2").tobytes()
        file["PixelData"].VR = "OW"
        file.save_as(path, enforce_file_format=True)
