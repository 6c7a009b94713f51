"""Records to be explained: of a data binding, or a single image or text file."""

import csv
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedmodels.data.binding_kinds import ImageColumns, ImageFolder
from fedmodels.data.dataset import TEST, UNLABELLED, Dataset
from fedmodels.data.images import read_image_folder
from fedmodels.data.load import load, load_texts
from fedmodels.data.text import encode, seen
from fedmodels.errors import DataError, UsageError
from fedmodels.files import read_text
from fedmodels.models.artifact import Card
from fedmodels.study_input import ImageInput, TextInput


@dataclass(frozen=True, repr=False)
class Examples:
    """Records, and of texts also what the model sees of them; texts is empty for other inputs."""

    data: Dataset
    texts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.data)

    def at(self, row: int) -> "Examples":
        """The one record in this row."""
        return Examples(self.data.take([row]), self.texts[row : row + 1])


def read_examples(path: Path, card: Card) -> Examples:
    """The records of a data binding (`*.toml`, labelled or not), or one image, or one UTF-8 text (`*.txt`)."""
    if path.suffix != ".toml":
        return _one_file(path, card)
    data = load(path, card, labelled=False)
    if not isinstance(card.input, TextInput):
        return Examples(data)
    texts = load_texts(path, card)
    if not np.array_equal(encode(texts, card.input)[0], data.x):
        raise DataError("the texts changed while they were read", where=str(path), fix="try again")
    return Examples(data, tuple(texts))


def _one_file(path: Path, card: Card) -> Examples:
    match card.input:
        case ImageInput() if path.suffix != ".txt":
            return Examples(_image(path, card.input, card.study.labels))
        case TextInput() if path.suffix == ".txt":
            text = seen(read_text(path), card.input)
            x, lengths = encode([text], card.input)
            if not lengths[0]:
                raise DataError("there is no word in it", where=str(path), fix="name a text with words")
            split = np.array([TEST], dtype=np.uint8)
            return Examples(Dataset(np.array(["0"]), x, np.array([UNLABELLED]), split, lengths), (text,))
    raise UsageError(
        f"a record of this study ({card.input.__struct_config__.tag}) cannot be read from such a file",
        where=str(path),
        fix="name a data binding (data.toml), an image of an image study, or a .txt of a text study",
    )


def _image(path: Path, input_: ImageInput, labels: tuple[str, ...]) -> Dataset:
    """Read as a hospital's folder of images is, with an index of one line."""
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder, "index.csv")
        with index.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["file"], [path.name]])
        columns = ImageColumns(patient="row", file="file")
        binding = ImageFolder(path=str(path.parent.absolute()), index=str(index), columns=columns)
        try:
            return read_image_folder(binding, input_, labels)
        except DataError as error:
            raise DataError(
                "is absent, or not an image that a folder of images may hold",
                where=str(path),
                fix="check the path, or export the image as an 8-bit PNG or JPEG",
            ) from error
