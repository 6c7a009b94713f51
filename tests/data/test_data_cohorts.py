import numpy as np
import pytest
import torch
from data_files import study_of
from torch import nn

from fedmodels.data.load import load
from fedmodels.errors import UsageError
from simulations.cohorts import LABELS, cohort_input, write_cohort

KINDS = ("image", "series", "text", "table")


def _load(kind, folder, hospitals=5, patients=375):
    study = study_of(cohort_input(kind), LABELS)
    return [load(path, study) for path in write_cohort(kind, folder, hospitals, patients, seed=0)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_cohort_says_that_it_is_synthetic_and_loads_with_every_patient_once(tmp_path, kind):
    sites = _load(kind, tmp_path / "c", hospitals=3, patients=40)
    assert [len(site) for site in sites] == [40, 40, 40]
    assert len({patient for site in sites for patient in site.patients.tolist()}) == 120
    for path in [tmp_path / "c" / "README.txt", *(tmp_path / "c").glob("*/data.toml")]:
        assert "SYNTHETIC" in path.read_text(encoding="utf-8").splitlines()[0]
    assert all(0 < len(site.part(1)) < 20 for site in sites)


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_every_byte(tmp_path, kind):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_cohort(kind, tmp_path / name, 2, 10, seed)
    content = {
        name: [path.read_bytes() for path in sorted((tmp_path / name).glob("hospital-*/*")) if path.suffix != ".npz"]
        + [np.load(path)["train_images"].tobytes() for path in sorted((tmp_path / name).glob("*/*.npz"))]
        for name in "abc"
    }
    assert content["a"] == content["b"]
    assert content["a"] != content["c"]


def test_nothing_is_written_into_a_folder_that_is_in_use(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="not empty"):
        write_cohort("table", tmp_path, 1, 10, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("kind", KINDS)
def test_hospitals_differ_in_how_common_the_disease_is(tmp_path, kind):
    shares = [site.y.mean() for site in _load(kind, tmp_path / "c")]
    assert max(shares) - min(shares) > 0.05


def test_scanners_sampling_and_language_differ_between_hospitals(tmp_path):
    brightness = [site.x.mean() for site in _load("image", tmp_path / "image")]
    assert max(brightness) - min(brightness) > 10
    density = [site.x[:, :, 1].mean() for site in _load("series", tmp_path / "series")]
    assert max(density) - min(density) > 0.05
    write_cohort("text", tmp_path / "text", 5, 200, 0)
    notes = [path.read_text(encoding="utf-8") for path in sorted((tmp_path / "text").glob("*/notes.csv"))]
    chinese = [note.count("。\n") / 200 for note in notes]
    assert max(chinese) - min(chinese) > 0.2


def _auroc(score, y):
    order = np.argsort(np.argsort(score))
    positive = y == 1
    pairs = positive.sum() * (~positive).sum()
    return (order[positive].sum() - positive.sum() * (positive.sum() - 1) / 2) / pairs


def _features(kind, x):
    if kind != "text":
        return x.reshape(len(x), -1) / x.max()
    bags = np.zeros((len(x), 1024))
    bags[np.arange(len(x))[:, None], x] = 1
    return bags[:, 1:]


@pytest.mark.parametrize("kind", KINDS)
def test_no_linear_model_learns_a_cohort(tmp_path, kind):
    linear_model = pytest.importorskip("sklearn.linear_model", reason="needs scikit-learn (extra bench)")
    sites = _load(kind, tmp_path / "c")
    x, y, split = (np.concatenate([getattr(site, name) for site in sites]) for name in ("x", "y", "split"))
    features, train = _features(kind, x), split == 0
    model = linear_model.LogisticRegression(C=0.1, max_iter=100).fit(features[train], y[train])
    assert _auroc(model.decision_function(features[~train]), y[~train]) <= 0.7


class _Recurrent(nn.Module):
    def __init__(self, features, vocabulary=0):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 32) if vocabulary else nn.Identity()
        self.cell = nn.GRU(32 if vocabulary else features, 48, batch_first=True)
        self.out = nn.Linear(48, 1)

    def forward(self, x, lengths):
        states, _ = self.cell(self.embedding(x))
        return self.out(states[torch.arange(len(x)), lengths - 1])


class _Feedforward(nn.Sequential):
    def forward(self, x, lengths):
        return super().forward(x)


def _network(kind):
    match kind:
        case "image":
            first = (nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
            second = (nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
            return _Feedforward(*first, *second, nn.Linear(32 * 49, 1)), 4
        case "table":
            return _Feedforward(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1)), 20
        case "series":
            return _Recurrent(8), 18
        case _:
            return _Recurrent(1, vocabulary=1024), 6


@pytest.fixture
def one_thread():
    """Small networks on a busy machine: more threads wait for each other longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_small_network_learns_a_cohort(tmp_path, kind, one_thread):
    sites = _load(kind, tmp_path / "c")
    columns = ("x", "y", "split", "lengths" if sites[0].lengths is not None else "y")
    x, y, split, lengths = (np.concatenate([getattr(site, name) for site in sites]) for name in columns)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, epochs = _network(kind)
    inputs = torch.from_numpy(x.astype(np.int64)) if kind == "text" else torch.from_numpy(x.astype(np.float32))
    inputs = inputs / 127.5 - 1 if kind == "image" else inputs
    ends, targets = torch.from_numpy(lengths), torch.from_numpy(y.astype(np.float32))
    train, test = np.flatnonzero(split == 0), np.flatnonzero(split == 1)
    optimiser, order = torch.optim.Adam(network.parameters(), 3e-3), np.random.default_rng(0)
    for _ in range(epochs):
        for batch in np.array_split(order.permutation(train), len(train) // 32):
            optimiser.zero_grad()
            logits = network(inputs[batch], ends[batch])[:, 0]
            nn.functional.binary_cross_entropy_with_logits(logits, targets[batch]).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
    with torch.no_grad():
        score = network(inputs[test], ends[test])[:, 0].numpy()
    assert _auroc(score, y[test]) >= 0.92
