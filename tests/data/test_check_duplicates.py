"""Duplicates and near duplicates: planted ones are found, unlike records and chance coincidences are not."""

import io

import numpy as np
import pytest
from check_subjects import IMAGE, SERIES, TEXT, bad, found, pictures, series, subject, table, texts
from PIL import Image

from fedmodels.data.checks.hamming import hashes, pairs_within, radius
from fedmodels.data.checks.images import frequencies
from fedmodels.data.checks.sketches import Ragged, candidates, signatures, similar
from fedmodels.data.dataset import TEST, TRAIN, Dataset
from fedmodels.study_input import Column, TableInput


def _doubled(x, one, other):
    x = x.copy()
    x[other] = x[one]
    return x


def _kinds():
    tokens, lengths = texts()
    lengths[7] = lengths[5]
    return {
        "image": (IMAGE, pictures(), {}),
        "series": (SERIES, series(), {"lengths": np.full(100, 24)}),
        "text": (TEXT, tokens, {"lengths": lengths}),
        "table": (table().study.input, table().data.x, {}),
    }


@pytest.mark.parametrize("kind", ["image", "series", "text", "table"])
def test_a_copied_record_is_found_with_its_split_and_its_label(kind):
    input_, x, changes = _kinds()[kind]
    assert not [name for name in found(subject(input_, x, **changes)) if "across" in name or "different" in name]
    assert found(subject(input_, x, **changes))["duplicates"].verdict == "ok"
    copied = found(subject(input_, _doubled(x, 5, 7), **changes))  # row 7 is of the test split, 5 and 7 differ in label
    assert [group.tolist() for group in copied["duplicates"].groups] == [[5, 7]]
    assert copied["duplicates across splits"].verdict == "warn"
    assert [group.tolist() for group in copied["duplicates with different labels"].groups] == [[5, 7]]
    assert copied["near duplicates"].verdict == "ok"  # what is the same is not nearly the same


def test_copies_of_one_patient_are_no_concern():
    x = _doubled(pictures(), 5, 6)
    patients = np.array([f"p{row if row != 6 else 5}" for row in range(len(x))])
    same = found(subject(IMAGE, x, patients=patients, y=np.zeros(len(x), dtype=np.int64)))
    assert same["duplicates"].verdict == "ok"


def test_many_test_records_seen_in_training_are_a_failure():
    x = pictures(200)
    split = np.where(np.arange(200) < 100, TRAIN, TEST).astype(np.uint8)
    x[100:108] = x[:8]  # 8 % of 100, the standard error being 5 %
    assert bad(subject(IMAGE, x, split=split))["duplicates across splits"] == "fail"
    x[100:105] = pictures(205)[200:]
    assert bad(subject(IMAGE, x, split=split))["duplicates across splits"] == "warn"


def test_patients_with_two_labels_are_found():
    patients = np.repeat(np.arange(100).astype(str), 2)
    split, y = np.zeros(200, dtype=np.uint8), np.repeat(np.arange(100) % 2, 2)
    assert found(table(200, patients=patients, split=split, y=y))["labels of patients"].verdict == "ok"
    y[10:12] = 0, 1
    torn = found(table(200, patients=patients, split=split, y=y))["labels of patients"]
    assert (torn.verdict, [group.tolist() for group in torn.groups]) == ("warn", [[10, 11]])


def test_rows_of_a_few_categories_coincide_without_a_warning():
    input_ = TableInput(tuple(Column(name, "category", values=("0", "1")) for name in "abc"))
    cells = np.random.default_rng(3).integers(0, 2, (200, 3))
    x = np.zeros((200, 9), dtype=np.float32)
    for column in range(3):
        x[np.arange(200), 3 * column + cells[:, column]] = 1
    assert {name for name in bad(subject(input_, x)) if "duplicates" in name} == set()
    assert found(subject(input_, x))["duplicates"].numbers["pairs_by_chance"] == pytest.approx(
        199 * 200 / 2 / 8, rel=0.1
    )


def test_a_row_that_differs_in_one_column_is_found_and_in_two_is_not():
    x = _doubled(table().data.x, 5, 7)
    x[7, 4] = 0.123
    near = found(subject(table().study.input, x))
    assert [group.tolist() for group in near["near duplicates"].groups] == [[5, 7]]
    assert near["near duplicates with different labels"].verdict == "warn"
    x[7, 6] = 0.123
    assert found(subject(table().study.input, x))["near duplicates"].verdict == "ok"


def _jpeg(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=75)
    return np.asarray(Image.open(buffer))


@pytest.mark.parametrize(
    "change",
    [
        lambda i: np.clip(i.astype(int) + 25, 0, 255),
        lambda i: 0.7 * i,
        lambda i: i + np.random.default_rng(1).normal(0, 3, i.shape),
        _jpeg,
        lambda i: np.asarray(Image.fromarray(i).resize((96, 96), 3).resize((32, 32), 2)),
    ],
    ids=["brighter", "less contrast", "noise", "JPEG", "resampled"],
)
def test_a_picture_that_was_processed_is_found(change):
    x = pictures()
    x[7, 0] = np.asarray(change(x[5, 0]), dtype=np.uint8)
    near = found(subject(IMAGE, x))
    assert near["duplicates"].verdict == "ok"
    assert [group.tolist() for group in near["near duplicates"].groups] == [[5, 7]]


@pytest.mark.parametrize("seed", range(5))
def test_unlike_pictures_are_never_called_near_duplicates(seed):
    x = pictures(600, seed)
    bits = hashes(frequencies(x))
    assert radius(bits) > 10
    assert len(pairs_within(bits, radius(bits), lambda done, total: None)) == 0


def test_pairs_within_a_distance_are_those_of_a_plain_loop():
    bits = np.random.default_rng(2).integers(0, 1 << 63, (1500, 2), dtype=np.uint64)
    bits[1200] = bits[3] ^ np.uint64(7)
    apart = [[int(a ^ b).bit_count() for a, b in zip(bits[i], bits[j], strict=True)] for i, j in ((3, 1200),)]
    assert np.sum(apart) == 6
    near = pairs_within(bits, 40, lambda done, total: None)
    every = np.bitwise_count(bits[:, None] ^ bits[None]).sum(axis=2)
    assert sorted(map(tuple, near.tolist())) == sorted(map(tuple, np.argwhere(np.triu(every <= 40, 1)).tolist()))


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_a_handful_of_pictures_is_nothing_to_judge_by(count):
    assert radius(hashes(frequencies(pictures(4)))[:count]) == -1 or count == 3


def test_a_text_that_was_shortened_or_corrected_is_found():
    x, lengths = texts()
    x[7] = x[5]
    x[7, 2] = 8000
    lengths[7] = lengths[5]
    x[9], lengths[9] = x[11], lengths[11] - 2
    x[9, lengths[9] :] = 0
    near = found(subject(TEXT, x, lengths=lengths))
    assert [group.tolist() for group in near["near duplicates"].groups] == [[5, 7], [9, 11]]


def test_a_series_of_which_a_few_values_were_corrected_is_found():
    x = _doubled(series(), 5, 7)
    x[7, :3, 0] = 0.5
    near = found(subject(SERIES, x, lengths=np.full(100, 24)))
    assert [group.tolist() for group in near["near duplicates"].groups] == [[5, 7]]


def test_similar_sets_are_those_of_a_jaccard_index_of_seven_tenths():
    generator = np.random.default_rng(4)
    base = generator.integers(0, 1 << 62, 100, dtype=np.uint64)
    others = [generator.integers(0, 1 << 62, 100, dtype=np.uint64) for _ in range(3)]
    # |A and B| / |A or B| of two sets of 100 with k in common is k / (200 - k): 0.695, 0.709 and 0.905
    sets = [base, *(np.concatenate([base[:k], other[k:]]) for k, other in zip((82, 83, 95), others, strict=True))]
    ragged = Ragged(np.concatenate(sets), np.full(4, 100))
    pairs = np.array([[0, 1], [0, 2], [0, 3]])
    chosen = lambda rows: Ragged(np.concatenate([sets[row] for row in rows]), np.full(len(rows), 100))  # noqa: E731
    assert similar(pairs, chosen).tolist() == [False, True, True]
    assert [0, 3] in candidates(signatures(ragged)).tolist()


def test_phrases_that_are_too_short_are_left_out():
    x, _ = texts(50)
    x[:, 8:] = 0
    x[:] = x[0]
    assert {name for name in bad(subject(TEXT, x, lengths=np.full(50, 8))) if "duplicates" in name} == set()


class _Lazy:
    """What an image folder may give instead of an array: blocks by their row numbers, never all."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.most = array, array.shape, array.dtype, 0

    def __len__(self):
        return len(self.array)

    def __getitem__(self, rows):
        self.most = max(self.most, len(rows))
        return self.array[rows]


def test_images_that_lie_on_disk_are_read_block_by_block(monkeypatch):
    monkeypatch.setattr("fedmodels.data.checks.subject._BLOCK_BYTES", 20 * 32 * 32)
    whole = subject(IMAGE, pictures())
    lazy = _Lazy(whole.data.x)
    data = whole.data
    blocks = Dataset(data.patients, lazy, data.y, data.split)
    assert [f.what for f in found(type(whole)(whole.study, blocks, whole.source)).values()] == [
        f.what for f in found(whole).values()
    ]
    assert lazy.most == 20
