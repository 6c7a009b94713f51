"""The public data sets of the example studies: where the originals lie, how to recognise them, whom to cite.

Checksums are of the originals, byte for byte. MD5 stands only where the publisher gives nothing better: it detects an
accident, not an attack. `note` says what a reader of results should know.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedmodels.data.flamby import write_split


@dataclass(frozen=True)
class RemoteFile:
    """One file of a data set: its name below the data set's folder, its URL and its checksum in hex."""

    name: str
    url: str
    algorithm: Literal["sha256", "md5"]
    checksum: str


@dataclass(frozen=True)
class DataSet:
    """A data set, in a folder of its name. derive: writes what follows from the originals, returning its path."""

    name: str
    files: tuple[RemoteFile, ...]
    licence: str
    citation: str
    note: str = ""
    derive: Callable[[Path], Path] | None = None


_UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease/"
_PHYSIONET = "https://physionet.org/files/challenge-2012/1.0.0/"
_TOYHOM = (
    "https://raw.githubusercontent.com/Toyhom/Chinese-medical-dialogue-data/26724a4357fcd142f0cab81188cacf1a2dd8a827/"
)


def _sha256(name: str, url: str, checksum: str) -> RemoteFile:
    return RemoteFile(name, url, "sha256", checksum)


def _uci(site: str, checksum: str) -> RemoteFile:
    name = f"processed.{site}.data"
    return _sha256(name, _UCI + name, checksum)


CATALOGUE: tuple[DataSet, ...] = (
    DataSet(
        "heart_disease",
        (
            _uci("cleveland", "a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8"),
            _uci("hungarian", "d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796"),
            _uci("switzerland", "834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314"),
            _uci("va", "e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f"),
            _sha256(
                "heart-disease.names",
                _UCI + "heart-disease.names",
                "ec7ed5aa4ed8321097808f47b836301c2a0c36f3bb09c40b8b43b622363e6b61",
            ),
        ),
        "CC BY 4.0",
        "Janosi, Steinbrunn, Pfisterer, Detrano: Heart Disease. UCI Machine Learning Repository, 1988",
        note="flamby_split.csv, FLamby's split into training and test patients, is computed from the four files",
        derive=write_split,
    ),
    DataSet(
        "physionet2012",
        (
            _sha256(
                "set-a.tar.gz",
                _PHYSIONET + "set-a.tar.gz",
                "8cb250f179cd0952b4b9ebcf8954b63d70383131670fac1cfee13deaa13ca920",
            ),
            _sha256(
                "Outcomes-a.txt",
                _PHYSIONET + "Outcomes-a.txt",
                "2613ea60ccda29f87571a7d6b09ad130858a8ccd66325bd073365925026883c2",
            ),
        ),
        "Open Data Commons Attribution License 1.0",
        "Silva et al.: Predicting in-hospital mortality of ICU patients. Computing in Cardiology, 2012",
    ),
    DataSet(
        "pneumoniamnist",
        (
            RemoteFile(
                "pneumoniamnist.npz",
                "https://zenodo.org/records/10519652/files/pneumoniamnist.npz",
                "md5",
                "28209eda62fecd6e6a2d98b1501bb15f",
            ),
        ),
        "CC BY 4.0",
        "Kermany et al.: Identifying medical diagnoses by image-based deep learning. Cell, 2018; "
        "Yang et al.: MedMNIST v2. Scientific Data, 2023",
        note="the publisher gives an MD5 only; the study `pneumonia` reads this file through `original.toml`",
    ),
    DataSet(
        "zh_internal_medicine",
        (
            _sha256(
                "sample_IM5000-6000.csv",
                _TOYHOM + "%E6%A0%B7%E4%BE%8B_%E5%86%85%E7%A7%915000-6000.csv",
                "133e5f7e9a3255468375c258381d131b1dc0a4fff6d431cbe743884139b1eb25",
            ),
        ),
        "MIT",
        "Toyhom: Chinese medical dialogue data, 2019",
        note="the checksum is of the file in the authors' repository at that commit; the study `chinese_triage` reads "
        "it through `original.toml`",
    ),
)


def data_set(name: str) -> DataSet | None:
    """The data set of this name, or None."""
    return next((entry for entry in CATALOGUE if entry.name == name), None)
