"""DICOM files made for tests, and where pydicom keeps those that come with it."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"


def write_dicom(path: Path, pixels: np.ndarray | None, **tags: Any) -> Path:
    """A file whose pixels are [h, w] or, with `NumberOfFrames`, [frames, h, w], of uint8, uint16 or int16.

    tags: by keyword; None leaves one out that would be written otherwise.
    """
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    known = {"SOPClassUID": CTImageStorage, "SOPInstanceUID": generate_uid(), "PatientID": "p", "Modality": "CR"}
    if pixels is not None:
        bits = 8 * pixels.dtype.itemsize
        known |= {
            "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "Rows": pixels.shape[-2],
            "Columns": pixels.shape[-1], "BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1,
            "PixelRepresentation": int(pixels.dtype.kind == "i"),
        }  # fmt: skip
    known |= tags
    known |= {"HighBit": known["BitsStored"] - 1} if known.get("BitsStored") else {}
    for keyword, value in known.items():
        if value is not None:
            setattr(dataset, keyword, value)
    if pixels is not None:
        dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
        dataset["PixelData"].VR = "OW" if pixels.dtype.itemsize > 1 else "OB"
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path
