"""The kinds of data bindings, each a section by section description of one `data.toml`; `binding` reads them."""

import codecs
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from fedmodels.data.encoding import DETECT
from fedmodels.typed import Strict

ROW = "row"
_CACHE = "image-cache"

Text = Annotated[str, Meta(min_length=1)]
Fraction = Annotated[float, Meta(gt=0.0, lt=1.0)]
ArrayNames = Annotated[tuple[str, ...], Meta(min_length=1, max_length=3)]


class Split(Strict, frozen=True):
    """`[split]`: which patients are test patients. Exactly one of three ways.

    test_fraction: by a salted hash of the patient, so that new patients never move old ones; or
    column: of the data itself, holding the words `train` and `test`; or
    file + patient + column: a file that lists patients, narrowed by `where`; patients that it does not list
    are unused.
    """

    test_fraction: Fraction | None = None
    column: str = ""
    file: str = ""
    patient: str = ""
    where: dict[str, str] = msgspec.field(default_factory=dict)
    train: str = "train"
    test: str = "test"

    def __post_init__(self) -> None:
        if (self.test_fraction is None) == (not self.column):
            raise ValueError("give either `test_fraction` or `column`")
        if bool(self.file) != bool(self.patient):
            raise ValueError("a split `file` needs the name of its `patient` column, and the other way round")
        if self.file and not self.column:
            raise ValueError("a split `file` needs the `column` that holds the words for train and test")
        if self.where and not self.file:
            raise ValueError("`split.where` narrows a split `file`; to narrow the data itself use `[where]`")
        if self.train == self.test:
            raise ValueError("`train` and `test` must be different words")


class RecordColumns(Strict, frozen=True, kw_only=True):
    """`[columns]` of a table. patient = "row": every row is a patient of its own, numbered from 0.

    label: left out when the records have none.
    """

    patient: Text
    label: Text | None = None


class TextColumns(RecordColumns, frozen=True, kw_only=True):
    """`[columns]` of texts. Several text columns are read one after the other, as if written on separate lines."""

    text: Annotated[tuple[Text, ...], Meta(min_length=1)]


class ImageColumns(RecordColumns, frozen=True, kw_only=True):
    """`[columns]` of the index of an image folder. file: path relative to the folder."""

    file: Text


class DicomColumns(RecordColumns, frozen=True, kw_only=True):
    """`[columns]` of a folder of DICOM files: keywords of tags. key: the tag by which `outcomes` lists its rows."""

    patient: Text = "PatientID"
    key: Text = "PatientID"


class SeriesColumns(Strict, frozen=True):
    """`[columns]` of long-format series: the first four in the measurements; patient and label in any outcomes.

    admission: of dates of admission, in the outcomes or in `admissions`, where times are dates.
    """

    patient: Text = "patient"
    time: Text = "time"
    variable: Text = "variable"
    value: Text = "value"
    label: Text = "label"
    admission: Text = "admission"


class GridColumns(Strict, frozen=True):
    """`[columns]` of series on the study's grid; every variable has a column of its own name."""

    patient: Text = "patient"
    step: Text = "step"
    label: Text = "label"


def _check_encoding(encoding: str) -> None:
    if encoding == DETECT:
        return
    try:
        codecs.lookup(encoding)
    except LookupError:
        raise ValueError("unknown `encoding`: use a name such as utf-8, gb18030 or latin-1") from None


class Common(Strict, frozen=True, kw_only=True):
    """Keys of every kind of binding.

    labels: study label of each value in the data; empty when the data holds the study's labels themselves.
    where: only records whose column has this value. patients: a file that lists the only patients to use, one a line.
    encoding: of the text files that the binding names; `detect` tells UTF-8, GB18030 and Latin-1 apart.
    """

    path: Text
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    where: dict[str, str] = msgspec.field(default_factory=dict)
    patients: str = ""
    encoding: str = DETECT

    HOW_TO_LABEL: ClassVar[str]

    def __post_init__(self) -> None:
        _check_encoding(self.encoding)

    @property
    def labelled(self) -> bool:
        """Whether the binding names labels; if not, `HOW_TO_LABEL` says how it would."""
        raise NotImplementedError


class _Listed(Common, frozen=True, kw_only=True):
    """What every kind has whose patients are listed in a file."""

    split: Split | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labelled and self.split is None:
            raise ValueError("missing key `split`: labelled records need a `[split]` into train and test patients")


class _Rows(_Listed, frozen=True, kw_only=True):
    """One row per record."""

    HOW_TO_LABEL = "name their column as `label` under `[columns]`, and add a `[split]`"

    columns: RecordColumns

    @property
    def labelled(self) -> bool:
        return self.columns.label is not None


class _Series(_Listed, frozen=True, kw_only=True):
    """One series per patient of the outcomes; without them per patient of the measurements, and unlabelled.

    units: unit of variables of the study in the data, where it is not the study's; they are converted.
    """

    HOW_TO_LABEL = "name the file that holds them as `outcomes`, and add a `[split]`"

    outcomes: Text | None = None
    units: dict[str, Text] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.outcomes and self.split and self.split.column and not self.split.file:
            raise ValueError("`split.column` names a column of `outcomes`: add them, or leave `[split]` out")

    @property
    def labelled(self) -> bool:
        return self.outcomes is not None


class DicomRules(Strict, frozen=True, kw_only=True):
    """`[dicom]`: what becomes of the pixels of DICOM files.

    values: `rescaled` are what the device measured (Hounsfield units of CT, otherwise mostly the stored numbers),
    clipped to the study's `input.low` and `high`; `window` is what a radiologist sees, its black at `low` and its white
    at `high`. window: centre and width instead of each file's own. frame: of files with several; `only` refuses them,
    `all` makes each frame a record of its patient.
    """

    values: Literal["rescaled", "window"]
    window: tuple[float, Annotated[float, Meta(gt=0.0)]] | None = None
    frame: Literal["only", "first", "middle", "all"] = "only"

    def __post_init__(self) -> None:
        if self.window and self.values != "window":
            raise ValueError('`dicom.window` needs `dicom.values = "window"`')


class ImageFolder(_Rows, frozen=True, tag="image-folder", tag_field="kind", kw_only=True):
    """Image files below the folder `path`, listed in the CSV `index`. dicom: needed if some are DICOM."""

    index: Text
    columns: ImageColumns
    dicom: DicomRules | None = None
    cache: Text = _CACHE


class DicomFolder(_Rows, frozen=True, tag="dicom-folder", tag_field="kind", kw_only=True):
    """All DICOM files below the folder `path`: `columns`, `where` and `split.column` name their tags, by keyword.

    outcomes: a CSV whose column `columns.key` has the values of the tag of that name (PatientID, StudyInstanceUID,
    SOPInstanceUID, ...), each once; its other columns may be named as tags are. Files that it does not list are unused.
    """

    HOW_TO_LABEL = "name their tag, or their column in `outcomes`, as `label` under `[columns]`, and add a `[split]`"

    columns: DicomColumns = DicomColumns()
    dicom: DicomRules
    outcomes: Text | None = None
    cache: Text = _CACHE


class ImageNpz(Common, frozen=True, tag="image-npz", tag_field="kind", kw_only=True):
    """An uncompressed or compressed NPZ. train, test: names of the arrays of images, labels and, optionally, patients.

    Without arrays of patients, `patient = "row"` says that every image is of another patient; they are numbered from 0
    through train and then test. Without labels: images alone, or images, "" and patients; `train` may then be absent.
    """

    HOW_TO_LABEL = "name the array of labels after the array of images in `train` and `test`"

    train: ArrayNames | None = None
    test: ArrayNames | None = None
    patient: Literal["row"] | None = None
    cache: Text = _CACHE

    def __post_init__(self) -> None:
        super().__post_init__()
        forms = {tuple(bool(name) for name in names) for names in (self.train, self.test) if names}
        allowed = [{(True,)}, {(True, True)}] if self.patient else [{(True, False, True)}, {(True, True, True)}]
        if forms not in allowed:
            raise ValueError(
                'name three arrays per split (images, labels, patients), or two and `patient = "row"` if every image '
                'is of another patient; if unlabelled, (images, "", patients), or images alone and `patient = "row"`'
            )
        if self.labelled and not self.train:
            raise ValueError("missing key `train`: only unlabelled images may do without")
        if self.where:
            raise ValueError("`where` needs columns, which an NPZ does not have")

    @property
    def labelled(self) -> bool:
        return any(len(names) > 1 and names[1] != "" for names in (self.train, self.test) if names)


class SeriesLong(_Series, frozen=True, tag="series-long", tag_field="kind", kw_only=True):
    """A file with one measurement per row and, unless unlabelled, a file `outcomes` with one patient per row.

    time_unit: of the time since admission; "hh:mm" is hours and minutes. "datetime": ISO 8601 dates and times, counted
    from the patient's date of admission in the outcomes, or in the file `admissions`.
    missing: values that mean not measured.
    `where` and a split column name columns of the outcomes, `where` also statics of the study.
    """

    columns: SeriesColumns = SeriesColumns()
    time_unit: Literal["minutes", "hours", "hh:mm", "datetime"] = "minutes"
    admissions: Text | None = None
    missing: tuple[str, ...] = ("",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.time_unit == "datetime" and not (self.admissions or self.outcomes):
            raise ValueError('time_unit "datetime" needs dates of admission: name a file of them as `admissions`')
        if self.admissions and self.time_unit != "datetime":
            raise ValueError('`admissions` is for time_unit "datetime"')


class SeriesGrid(_Series, frozen=True, tag="series-grid", tag_field="kind", kw_only=True):
    """A file with one row per patient and step of the study's grid, numbered from 0, and one column per variable.

    Steps without any measurement may be left out. missing: values that mean not measured. Outcomes as of series-long.
    """

    columns: GridColumns = GridColumns()
    missing: tuple[str, ...] = ("",)


class SeriesPhysionet2012(_Series, frozen=True, tag="series-physionet2012", tag_field="kind", kw_only=True):
    """PhysioNet/CinC Challenge 2012: a folder or .tar.gz with one text file per stay, and the `outcomes` file."""


class TextFile(_Rows, frozen=True, tag="text", tag_field="kind", kw_only=True):
    """A file with one text per row."""

    columns: TextColumns


class TableFile(_Rows, frozen=True, tag="table", tag_field="kind", kw_only=True):
    """A file with one record per row. header: column names of a CSV without a first line of names.

    missing: values that mean not known. units: as of series.
    """

    header: tuple[Text, ...] = ()
    units: dict[str, Text] = msgspec.field(default_factory=dict)
    missing: tuple[str, ...] = ("",)


ImageBinding = ImageFolder | DicomFolder | ImageNpz
RowBinding = ImageFolder | DicomFolder | SeriesLong | SeriesGrid | SeriesPhysionet2012 | TextFile | TableFile
DataBinding = RowBinding | ImageNpz
