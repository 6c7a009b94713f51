"""Hospitals of mode `distributed` in memory: what each contributes, and the secure sum of it that opens."""

import hashlib
import os
from collections.abc import Collection

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from federations import DISTRIBUTED, RUN, tiny_study

from client.contribution import Task, update_vector
from fedmodels import secagg, wire
from fedmodels.data.dataset import TRAIN, Dataset
from fedmodels.data.features import feature_count
from fedmodels.dp.plan import Plan, plan_for
from fedmodels.models.registry import build_model
from fedmodels.models.weights import flatten
from fedmodels.packing import GradientPacking, gradient_packing
from fedmodels.study import Hospital, Roster, Study


def distributed_study(*settings: str) -> Study:
    return tiny_study(*DISTRIBUTED, *settings)


def patients(study: Study, count: int, seed: int = 0) -> Dataset:
    """`count` patients of one record each; none of them shares features or label rule with another seed."""
    x = np.random.default_rng(seed).normal(size=(count, feature_count(study.input))).astype(np.float32)
    names = np.array([f"p{seed}-{i:04}" for i in range(count)])
    return Dataset(names, x, (np.arange(count) % 2).astype(np.int64), np.full(count, TRAIN, np.uint8))


def nobody(study: Study) -> Dataset:
    return patients(study, 1).take([])


class Hospitals:
    """Every hospital of a study, set up with each other by the real protocol.

    plan: the study's own unless another is given. The model is the study's first one throughout.
    """

    def __init__(self, study: Study, size: int = 100, plan: Plan | None = None) -> None:
        planned = plan or plan_for(study)
        assert planned is not None
        self.study, self.plan, self.model = study, planned, flatten(build_model(study))
        self.names = tuple(f"h{i:02}" for i in range(study.federation.hospitals))
        keys = {name: Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
                for name in self.names}  # fmt: skip
        self.roster = Roster(
            tuple(Hospital(name, key.public_key().public_bytes_raw().hex(), size) for name, key in keys.items())
        )
        terms = wire.terms(study, self.roster, RUN)
        self._aggregator, announced = secagg.Aggregator(terms), {}
        for name, key in keys.items():
            announced[name], message = secagg.begin_setup(terms, name, key, os.urandom)
            self._aggregator = secagg.collect(self._aggregator, message)
        relay = secagg.relay(self._aggregator)
        self._states: dict[str, secagg.State] = {n: secagg.finish_setup(s, relay) for n, s in announced.items()}

    @property
    def packing(self) -> GradientPacking:
        return gradient_packing(self.study, self.roster, self.plan, self.model.size)

    def vector(self, name: str, data: Dataset, contributors: int) -> np.ndarray:
        """What a hospital contributes to a round, before masking."""
        task = Task(1, contributors)
        return update_vector(self.study, self.roster, name, data, self.plan, task=task, model=self.model)

    def vectors(self, data: dict[str, Dataset]) -> dict[str, np.ndarray]:
        """Those of a round over the hospitals in `data`."""
        return {name: self.vector(name, part, len(data)) for name, part in data.items()}

    def opened(self, vectors: dict[str, np.ndarray], lost: Collection[str] = ()) -> np.ndarray:
        """[D] uint32, the secure sum as it opens; the uploads of `lost` never arrive (`recover` only)."""
        recover = self.study.federation.on_dropout == "recover"
        start = secagg.open_recovery if recover else secagg.open_session
        digest = wire.model_digest("train", 1, self.model.size, wire.weights_digest(self.model))
        number = self._aggregator.next_session
        self._aggregator, session = start(self._aggregator, number, tuple(vectors), digest, self.model.size)
        for name, vector in vectors.items():
            arguments = (self._states[name], session.request, digest, vector)
            if recover:
                self._states[name], upload = secagg.upload_recover(*arguments, os.urandom)
            else:
                self._states[name], upload = secagg.upload(*arguments)
            if name not in lost:
                session.add(upload.header, upload.vector)
        if isinstance(session, secagg.RecoverSession):
            self._unmask(session)
        return session.result()

    def _unmask(self, session: secagg.RecoverSession) -> None:
        while requests := session.advance(None):
            for name, request in requests.items():
                self._states[name], reply = secagg.reveal(self._states[name], request)
                session.answer(reply)

    def gradient(self, total: np.ndarray, hospitals: tuple[str, ...] = ()) -> np.ndarray:
        """[D] the mean gradient that the coordinator takes a step with."""
        return -self.packing.unpack(total, hospitals or self.names).update
