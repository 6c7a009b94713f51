"""The seam: canaries go the way of patients, and without them nothing is different."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from federations import DISTRIBUTED, Coordinator, sites_of, tiny_study
from secure_sums import patients

from client import contribution
from client.contribution import Task, update_vector
from client.training import gradient_sum, train_private
from fedmodels import secagg
from fedmodels.audit.design import Size, draw_design
from fedmodels.dp import gradients
from fedmodels.dp.canaries import Canaries
from fedmodels.dp.plan import Plan, plan_for
from fedmodels.dp.randomness import SecureSource
from fedmodels.errors import PrivacyError, RemoteProtocolError
from fedmodels.models.registry import build_model
from fedmodels.models.weights import flatten
from fedmodels.study import Hospital, Roster

STUDY = tiny_study(*DISTRIBUTED, "privacy.clip=2.0")
MODEL = flatten(build_model(STUDY))
ROSTER = Roster(tuple(Hospital(f"h{i}", f"{i:064x}", 100) for i in range(4)))
EVERYBODY = Plan(
    sampling_rate=1.0, clip=2.0, noise_multiplier=1.0, steps_per_release=1, releases=9, delta=1e-5, mode="distributed"
)
QUIET = replace(EVERYBODY, mode="local", noise_multiplier=1e-9)
WIDTH = 5
DATA = patients(STUDY, 30)


def canaries(*lengths: float, inner: np.ndarray | None = None) -> Canaries:
    """One for each length, from coordinate 0 on, and those whose gradients are the rows of `inner`."""
    rows = np.zeros((0, MODEL.size), np.float32) if inner is None else inner.astype(np.float32)
    names = np.array([f"canary-{i}" for i in range(len(lengths) + len(rows))], np.str_)
    return Canaries(names, np.arange(len(lengths)), np.array(lengths, np.float32), rows, WIDTH)


def test_a_canary_adds_its_clipped_gradient_to_its_own_coordinate_and_nothing_else() -> None:
    """Shorter than the clip, as long, far longer; two coordinates stay empty. The others' sum is what it was."""
    total = gradient_sum(STUDY, MODEL, DATA, EVERYBODY, canaries(0.5, 2.0, 1e6))
    assert total[MODEL.size :] == pytest.approx([0.5, 2.0, 2.0, 0.0, 0.0], rel=1e-4)
    assert total[: MODEL.size] == pytest.approx(gradient_sum(STUDY, MODEL, DATA, EVERYBODY), abs=1e-5)


def test_a_canary_in_the_models_weights_is_clipped_like_a_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """And through the product's own clip: the control replaces that."""
    direction = np.random.default_rng(0).normal(size=MODEL.size)
    direction /= np.linalg.norm(direction)

    def moved() -> np.ndarray:
        both = gradient_sum(STUDY, MODEL, DATA, EVERYBODY, canaries(50.0, inner=100.0 * direction[None]))
        return both - np.append(gradient_sum(STUDY, MODEL, DATA, EVERYBODY), np.zeros(WIDTH))

    assert moved()[: MODEL.size] == pytest.approx(2.0 * direction, abs=1e-4)
    assert moved()[MODEL.size] == pytest.approx(2.0, rel=1e-4)
    monkeypatch.setattr(gradients, "clip_factors", lambda norms, clip: norms * 0.0 + 1.0)
    assert moved()[: MODEL.size] == pytest.approx(100.0 * direction, abs=1e-2)
    assert moved()[MODEL.size] == pytest.approx(50.0, rel=1e-4)


def test_canaries_are_drawn_by_the_hospitals_own_sampler() -> None:
    """With the plan's rate, 0.25 of 400: the standard error is 0.02. `drawn` says who it was, batch by batch."""
    count = 400
    many = Canaries(
        np.char.add("c", np.arange(count).astype(str)), np.arange(count), np.ones(count, np.float32),
        np.zeros((0, MODEL.size), np.float32), count,
    )  # fmt: skip
    plan = replace(EVERYBODY, sampling_rate=0.25)
    first, second = (gradient_sum(STUDY, MODEL, DATA, plan, many)[MODEL.size :] for _ in range(2))
    assert first.mean() == pytest.approx(0.25, abs=0.09)
    assert (first != second).any()
    assert [np.flatnonzero(total > 0).tolist() for total in (first, second)] == [sorted(r) for r in many.drawn]


def test_free_coordinates_of_local_steps_are_weights_that_start_at_zero() -> None:
    """Three plain steps without noise: minus learning rate times the clipped gradient over the public divisor, each."""
    study = tiny_study("training.learning_rate=0.5", "training.local_steps=3", "privacy.clip=2.0")
    update = train_private(study, MODEL, DATA, replace(QUIET, steps_per_release=3), 100, canaries(2.0, 1e6, 1.0))
    assert update.delta[MODEL.size :] * -100 / 0.5 == pytest.approx([6.0, 6.0, 3.0, 0.0, 0.0], rel=1e-3, abs=1e-6)


def keyed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = SecureSource.__init__
    monkeypatch.setattr(SecureSource, "__init__", lambda self, key=None: real(self, bytes(32)))


def test_canaries_that_are_nowhere_inside_change_nothing_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """But that their coordinates, with noise alone, are behind everything else. Rounds are of half of the patients."""
    keyed(monkeypatch)
    half, local = replace(EVERYBODY, sampling_rate=0.5), replace(QUIET, sampling_rate=0.5, noise_multiplier=1e-30)
    plain, audited = (gradient_sum(STUDY, MODEL, DATA, half, probe) for probe in (None, canaries()))
    assert (audited == np.append(plain, np.zeros(WIDTH))).all()
    plain, audited = (train_private(STUDY, MODEL, DATA, local, 100, probe).delta for probe in (None, canaries()))
    assert (audited[: MODEL.size] == plain).all()
    assert audited[MODEL.size :].all()
    for plan, more in ((half, 0), (local, 2)):
        vectors = [
            update_vector(STUDY, ROSTER, "h0", DATA, plan, task=Task(1, 4, probe), model=MODEL)
            for probe in (None, canaries())
        ]
        assert [vector.size for vector in vectors] == [MODEL.size + more, MODEL.size + WIDTH + more]


def test_what_is_contributed_is_kept_before_it_is_masked(tmp_path: Path) -> None:
    """An audited hospital's upload does not fit into the session of a coordinator that does not audit."""
    sites = sites_of(tmp_path, *DISTRIBUTED)
    sites[0].canaries = probe = canaries(1.0)
    coordinator = Coordinator(sites)
    coordinator.model = flatten(build_model(sites[0].study))
    reply, masked = sites[0].handle(coordinator.request(), coordinator.model)
    assert masked is not None
    assert len(probe.contributed) == 1
    assert (probe.contributed[0] != masked).mean() > 0.99
    coordinator.aggregator, session = secagg.open_session(
        coordinator.aggregator, coordinator.aggregator.next_session, tuple(s.name for s in sites),
        bytes(32), coordinator.model.size,
    )  # fmt: skip
    with pytest.raises(RemoteProtocolError):
        session.add(reply.header, masked)


def test_a_name_of_a_patient_a_wrong_model_and_no_privacy_are_refused() -> None:
    probe = canaries(1.0)
    with pytest.raises(PrivacyError, match="name of a patient"):
        probe.among(np.array(["p", "canary-0"]))
    with pytest.raises(PrivacyError, match="weights in a model"):
        gradient_sum(STUDY, MODEL, DATA, EVERYBODY, canaries(1.0, inner=np.zeros((1, 3))))
    none = tiny_study("privacy.mode=none")
    with pytest.raises(PrivacyError, match="mode `none`"):
        update_vector(none, ROSTER, "h0", DATA, plan_for(none), task=Task(1, 4, probe), model=MODEL)
    with pytest.raises(PrivacyError, match="coordinate of its own"):
        Canaries(np.array(["a"]), np.array([7]), np.ones(1, np.float32), np.zeros((0, 2), np.float32), WIDTH)
    with pytest.raises(PrivacyError, match="a name and a gradient"):
        Canaries(np.array(["a"]), np.array([0, 1]), np.ones(2, np.float32), np.zeros((0, 2), np.float32), WIDTH)
    assert contribution.Task(1, 4).canaries is None


# --- the design --------------------------------------------------------------------------------------------------


def test_a_design_has_canaries_of_every_kind_at_every_hospital() -> None:
    design = draw_design(4, Size(2000, 40), MODEL.size, 2.0, np.random.default_rng(1))
    assert design.inside.mean() == pytest.approx(0.5, abs=0.06)  # five standard errors
    assert np.linalg.norm(design.directions, axis=1) == pytest.approx(np.ones(40), abs=1e-5)
    for hospital in range(4):
        members = design.members(hospital)
        assert design.long[members[members < design.free]].mean() == pytest.approx(0.1, abs=0.08)
        assert (members >= design.free).any()
    assert len(set(design.names.tolist())) == 2040


def test_traces_are_read_where_canaries_leave_them() -> None:
    """All canaries of a hospital in its batch, without noise: each trace is 1, and 0 where there is no canary."""
    design = draw_design(2, Size(100, 6), MODEL.size, 2.0, np.random.default_rng(2))
    nobody = DATA.take([])
    traces = design.read(gradient_sum(STUDY, MODEL, nobody, EVERYBODY, design.at(1)))
    members = design.members(1)
    free = members[members < design.free]
    assert traces[free] == pytest.approx(np.ones(len(free)), rel=1e-4)
    assert not np.delete(traces[: design.free], free).any()
    inner = members[members >= design.free]
    assert traces[inner] == pytest.approx(np.ones(len(inner)), abs=1.0)  # directions overlap a little
    with pytest.raises(PrivacyError, match="at least 100"):
        Size(99, 0)
