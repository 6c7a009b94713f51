"""FedProx: local steps are held near the round's model, by a pull that sees no patient."""

from dataclasses import replace

import numpy as np
import pytest
from federations import tiny_study
from test_contribution import QUIET, patients

from client.training import train_plain, train_private
from fedmodels.errors import FileError
from fedmodels.models.registry import build_model
from fedmodels.models.weights import flatten

FULL = ("training.batch_rate=1.0", "training.gradient_norm=0", "training.learning_rate=0.3")
MU, RATE = 0.7, 0.3


@pytest.mark.parametrize("private", [False, True])
def test_the_second_step_goes_back_by_rate_times_mu_times_the_first(private: bool) -> None:
    def change(steps: int, mu: float) -> np.ndarray:
        study = tiny_study("privacy.mode=none", *FULL, f"training.local_steps={steps}", f"training.proximal={mu}")
        start = flatten(build_model(study))
        if private:
            return train_private(study, start, patients(30), replace(QUIET, steps_per_release=steps), 30).delta
        return train_plain(study, start, patients(30), (1,)).delta

    assert change(1, MU) == pytest.approx(change(1, 0.0), abs=1e-7)  # nothing to be pulled back from yet
    assert change(2, MU) == pytest.approx(change(2, 0.0) - RATE * MU * change(1, 0.0), abs=1e-6)


def test_without_a_patient_and_without_noise_nothing_moves() -> None:
    study = tiny_study(*FULL, "training.proximal=5.0")
    start = flatten(build_model(study))
    assert np.abs(train_private(study, start, patients(1).take([]), QUIET, 30).delta).max() < 1e-6


def test_in_mode_distributed_it_would_do_nothing_and_is_refused() -> None:
    with pytest.raises(FileError, match="does nothing"):
        tiny_study("privacy.mode=distributed", "training.local_steps=1", "training.proximal=0.1")
