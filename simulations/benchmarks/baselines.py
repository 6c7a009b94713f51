"""What a federation is held against: a linear model, and the same model trained on everybody's records in one place."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import msgspec
import numpy as np
import numpy.typing as npt

from client.training import train_plain
from fedmodels.data.dataset import TEST, TRAIN, Dataset
from fedmodels.errors import UsageError
from fedmodels.evaluation.exact import exact_metrics
from fedmodels.models.batches import predict
from fedmodels.models.registry import build_model, model_with
from fedmodels.models.weights import flatten
from fedmodels.study import Study
from fedmodels.study_input import TextInput

Parts = Mapping[str, Dataset]
Predictor = Callable[[Dataset], npt.NDArray[np.float64]]

_INVERSE_PENALTY = 0.01  # standardised features: stronger than scikit-learn's 1, which overfits thousands of features


def pool(parts: Parts, split: int) -> Dataset:
    """The records of one split of all hospitals. Patients of different hospitals stay different patients."""
    chosen = [
        replace(data, patients=np.char.add(f"{name}/", data.patients)).part(split) for name, data in parts.items()
    ]
    lengths = [data.lengths for data in chosen if data.lengths is not None]
    return Dataset(
        np.concatenate([data.patients for data in chosen]),
        np.concatenate([data.x for data in chosen]),
        np.concatenate([data.y for data in chosen]),
        np.concatenate([data.split for data in chosen]),
        np.concatenate(lengths) if lengths else None,
    )


def scores(predictor: Predictor, parts: Parts) -> dict[str, float]:
    """Exact metrics of all test records together, and the mean of the hospitals' accuracies as `hospital_accuracy`."""
    return scores_of_each(dict.fromkeys(parts, predictor), parts)


def scores_of_each(predictors: Mapping[str, Predictor], parts: Parts) -> dict[str, float]:
    """The same where every hospital has a model of its own, because some layers stayed with it."""
    tests = {name: data.part(TEST) for name, data in parts.items()}
    scored = [(predictors[name](data), data.y) for name, data in tests.items() if len(data)]
    pooled = exact_metrics(np.concatenate([p for p, _ in scored]), np.concatenate([y for _, y in scored]))
    return pooled | {"hospital_accuracy": float(np.mean([exact_metrics(p, y)["accuracy"] for p, y in scored]))}


def train_pooled(study: Study, parts: Parts) -> Predictor:
    """The study's model after as many steps as a hospital takes in all rounds, on the pooled training records."""
    training = study.training
    steps = msgspec.structs.replace(training, local_steps=training.rounds * training.local_steps)
    whole = msgspec.structs.replace(study, training=steps)
    start = flatten(build_model(whole))
    model = model_with(whole, start + train_plain(whole, start, pool(parts, TRAIN), (training.seed,)).delta)
    return lambda data: predict(model, data, study.input)


def train_linear(study: Study, parts: Parts) -> Predictor:
    """Scikit-learn's logistic regression on the flattened, standardised features of the pooled training records.

    Text is the logarithm of 1 + the count of each hashed token. Labels are weighted as the study weights them.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        raise UsageError("scikit-learn is not installed", fix="pip install 'fedmodels[bench]'") from None
    train = pool(parts, TRAIN)
    weights = dict(enumerate(study.training.class_weights or (1.0,) * len(study.study.labels)))
    regression = LogisticRegression(C=_INVERSE_PENALTY, class_weight=weights, max_iter=300)
    model = make_pipeline(StandardScaler(), regression)
    model.fit(flat_features(study, train), train.y)

    def predictor(data: Dataset) -> npt.NDArray[np.float64]:
        probabilities = np.zeros((len(data), len(study.study.labels)))
        probabilities[:, model.classes_] = model.predict_proba(flat_features(study, data))
        return probabilities

    return predictor


def flat_features(study: Study, data: Dataset) -> npt.NDArray[np.float32]:
    """[n, features]: log(1 + count) of every token but padding for text, else all values of a record in a row."""
    if not isinstance(study.input, TextInput):
        return np.asarray(data.x).reshape(len(data), -1).astype(np.float32)
    size = study.input.vocabulary
    flat = np.arange(len(data))[:, None] * size + np.asarray(data.x).astype(np.int64)
    counts = np.bincount(flat.ravel(), minlength=len(data) * size).reshape(len(data), size)
    counts[:, 0] = 0
    return np.log1p(counts.astype(np.float32))
