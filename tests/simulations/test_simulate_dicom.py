"""A whole study on SYNTHETIC DICOM files, kept on disk, augmented, with privacy and secure aggregation."""

import json
from pathlib import Path

import numpy as np
import pytest
from dicom_files import write_dicom

from fedmodels.data import load as loading
from fedmodels.data import store
from fedmodels.data.checks.run import examine
from fedmodels.study import parse_study
from simulations.commands import Conditions, simulate

STUDY = """\
[study]
name = "bars"
task = "binary"
labels = ["flat", "upright"]
synthetic = true
[model]
name = "cnn"
sizes = { channels = [4], dense = 8 }
[input]
modality = "image"
height = 16
width = 16
[training]
rounds = 2
batch_rate = 0.5
learning_rate = 0.1
augment = ["shift", "brightness"]
augmentations = 2
[privacy]
mode = "distributed"
[federation]
hospitals = 3
"""
BINDING = """\
kind = "dicom-folder"
path = "export"
dicom.values = "window"
columns.label = "SeriesDescription"
split.test_fraction = 0.3
where.Modality = "DX"
"""


def hospital(folder: Path, seed: int) -> str:
    draw = np.random.default_rng(seed)
    for n in range(24):
        bars = np.tile(np.arange(32) % 8 < 4, (32, 1))
        noisy = (bars if n % 2 else bars.T) * 2000 + draw.integers(0, 1500, (32, 32))
        write_dicom(folder / "export" / f"{n}", noisy.astype(np.uint16), PatientID=f"h{seed}-{n}", Modality="DX",
                    SeriesDescription="upright" if n % 2 else "flat", BitsStored=12, WindowCenter=2048,
                    WindowWidth=4096)  # fmt: skip
    (folder / "data.toml").write_text(BINDING)
    return str(folder)


def test_a_private_study_on_dicom_files_kept_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_IN_MEMORY", 0)
    monkeypatch.setattr(loading, "_pools", type(loading._pools)())
    monkeypatch.chdir(tmp_path)
    Path("study.toml").write_text(STUDY)
    sites = [hospital(tmp_path / f"site-{n}", n) for n in range(3)]
    simulate("study.toml", Path("out"), sites, None, Conditions(), ())
    result = json.loads(Path("out/result.json").read_text())
    assert result["rounds_completed"] == 2
    examined = examine(tmp_path / "site-0" / "data.toml", parse_study(STUDY), lambda *_: None)
    assert {finding.name for finding in examined.findings} >= {"blank images"}, (
        "`data check` reads images from the disk"
    )
    assert len(list(tmp_path.glob("site-*/image-cache/*.images"))) == 3
    assert not list(tmp_path.glob("out/**/*.images")), "simulated hospitals use the caches beside the bindings"
