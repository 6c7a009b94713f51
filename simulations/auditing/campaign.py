"""A run of a federation with canaries: real site directories and real messages, and a coordinator that audits.

Hospitals do what they do in any run: policy, ledger, sampling, clipping, noise, encoding, masks. Only Flower's
transport is left out, which sees nothing but masked vectors. The coordinator opens the secure sums, takes its steps
with the part that belongs to the model, and keeps what every hospital contributed before masking, so that afterwards
any set of colluding hospitals can be subtracted.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from client.site import Site
from fedmodels import secagg, wire
from fedmodels.audit.design import Design, Floats, Integers
from fedmodels.audit.evidence import Evidence, Traces, step_weights
from fedmodels.data.dataset import TRAIN
from fedmodels.data.load import load
from fedmodels.dp.accounting import SampledGaussian
from fedmodels.dp.canaries import Canaries
from fedmodels.dp.plan import Plan, plan_for
from fedmodels.errors import RunError, UsageError
from fedmodels.models.registry import build_model
from fedmodels.models.weights import flatten
from fedmodels.packing import GradientPacking, MeanUpdate, UpdatePacking, gradient_packing, update_packing
from fedmodels.study import Roster, Study
from server.optimiser import initial_state, server_step
from simulations.auditing.constants import movements

OnRound = Callable[[int], None]
Absent = Callable[[int], Sequence[int]]
"""The hospitals that are away in a round, which opens without them."""


def audited_plan(study: Study) -> Plan:
    """The study's plan; `UsageError` without privacy, where there is nothing to audit."""
    plan = plan_for(study)
    if plan is None:
        raise UsageError(
            "privacy mode `none` promises nothing that could be audited",
            where="privacy.mode",
            fix="audit a mode with noise: --mode distributed",
        )
    return plan


class Campaign:
    """An audited run over the hospitals of `directories`, all of which have approved the same study and roster.

    design: None for the same run without canaries, which an audit's own cost is measured against.
    """

    def __init__(self, directories: Sequence[Path], design: Design | None) -> None:
        self._design = design
        self._canaries: list[Canaries | None] = [design.at(h) if design else None for h in range(len(directories))]
        self._sites = [_site(path, c) for path, c in zip(directories, self._canaries, strict=True)]
        self.study, self.roster = self._sites[0].study, self._sites[0].roster
        self.plan = audited_plan(self.study)
        self._weights = step_weights(self.study.training, self.plan)
        start = flatten(build_model(self.study, self.study.training.seed)).astype(np.float64)
        self._state, self._parameters = initial_state(start, self.study), start.size
        self._packing = _packing(self.study, self.roster, self.plan, start.size + (design.free if design else 0))
        self._aggregator = secagg.Aggregator(wire.terms(self.study, self.roster, os.urandom(16)))
        self._present: list[npt.NDArray[np.bool_]] = []
        self._traces: list[Traces] = []
        self._sums_open = True

    def run(self, rounds: int, on_round: OnRound = lambda _: None, absent: Absent = lambda _: ()) -> None:
        """Set up, and train for so many rounds."""
        self._set_up()
        for number in range(1, rounds + 1):
            away = set(absent(number))
            self._round(number, [h for h in range(len(self._sites)) if h not in away])
            on_round(number)

    def _set_up(self) -> None:
        request = wire.SetupRequest(self._aggregator.terms.run_id, self.study.digest, self.roster.digest)
        for site in self._sites:
            reply, _ = site.handle(request, None)
            if not isinstance(reply, wire.SetupReply):
                raise RunError("a hospital did not take part", where=site.name)
            self._aggregator = secagg.collect(self._aggregator, reply.key_message)

    def _round(self, number: int, members: list[int]) -> None:
        model = self._state.model.astype(np.float32)
        recover = self.study.federation.on_dropout == "recover"
        names = tuple(self._sites[h].name for h in members)
        digest = wire.model_digest("train", number, model.size, wire.weights_digest(model))
        start = secagg.open_session
        session: secagg.Session | secagg.RecoverSession
        if recover:
            start = secagg.open_recovery  # type: ignore[assignment]
        self._aggregator, session = start(
            self._aggregator, self._aggregator.next_session, names, digest, self._packing.words
        )
        run_id, keys = self._aggregator.terms.run_id, secagg.relay(self._aggregator)
        request = wire.ContributeRequest(run_id, "train", number, session.request, keys)
        for hospital in members:
            reply, vector = self._sites[hospital].handle(request, model)
            if not isinstance(reply, wire.ContributeReply) or vector is None:
                raise RunError("a hospital contributed nothing", where=self._sites[hospital].name)
            session.add(reply.header, vector)
        if isinstance(session, secagg.RecoverSession):
            self._unmask(session)
        self._keep(session.result(), members)

    def _unmask(self, session: secagg.RecoverSession) -> None:
        sites = {site.name: site for site in self._sites}
        while requests := session.advance():
            for name, body in requests.items():
                reply, _ = sites[name].handle(wire.UnmaskRequest(self._aggregator.terms.run_id, body), None)
                if isinstance(reply, wire.UnmaskReply):
                    session.answer(reply.message)

    def _keep(self, total: npt.NDArray[np.uint32], members: list[int]) -> None:
        """Take the coordinator's step, and the traces of the round."""
        names = tuple(self._sites[h].name for h in members)
        mean = self._packing.unpack(total, names)
        shorter = np.sqrt(self._parameters / mean.update.size)
        of_model = MeanUpdate(mean.update[: self._parameters], noise_norm=mean.noise_norm * float(shorter))
        self._state = server_step(self._state, of_model, self.study)
        if not self._design:
            return
        traces = np.zeros((len(self._sites), len(self._design.owner)), np.float32)
        opened = np.zeros_like(total)
        for hospital in members:
            canaries = self._canaries[hospital]
            if canaries:
                vector = canaries.contributed.pop()
                opened += vector
                traces[hospital] = self._design.read(self._unpacked(vector, hospital))
        self._sums_open &= bool((opened == total).all())
        self._traces.append(traces)
        self._present.append(np.isin(np.arange(len(self._sites)), members))

    def _unpacked(self, vector: npt.NDArray[np.uint32], hospital: int) -> Floats:
        """[D + free] one contribution as a sum of clipped gradients with its noise, for one unit of noise per step."""
        packing, name = self._packing, self._sites[hospital].name
        if isinstance(packing, GradientPacking):
            return packing.lattice.decode(vector)
        divisor = self.plan.expected_batch(self.roster.sizes[name])
        scale = divisor / self.study.training.learning_rate / float(np.linalg.norm(self._weights))
        return -packing.unpack(vector, (name,)).update * scale

    def evidence(self) -> Evidence:
        """What was found, the public constants measured as well."""
        if not self._design:
            raise UsageError("a run without canaries shows nothing")
        patient = load(self._sites[0].directory / "data.toml", self.study).part(TRAIN).take([0])
        exposure, drawn, batches = self._participation(self._design)
        return Evidence(
            plan=self.plan,
            design=self._design,
            max_colluding=self.study.privacy.max_colluding,
            own=np.stack(self._traces),
            present=np.stack(self._present),
            exposure=exposure,
            drawn=drawn,
            batches=batches,
            charges=tuple(_charges(site) for site in self._sites),
            sums_open=self._sums_open,
            movements=movements(self.study, self.plan, patient),
            threshold=self.study.threshold if self.study.federation.on_dropout == "recover" else None,
        )

    def _participation(self, design: Design) -> tuple[Floats, Integers, tuple[Integers, ...]]:
        exposure = np.zeros((len(self._traces), len(design.owner)))
        drawn = np.zeros(len(design.owner), np.int64)
        batches = []
        weights = self._weights / np.linalg.norm(self._weights)
        for hospital, canaries in enumerate(self._canaries):
            taken = np.flatnonzero(np.array(self._present)[:, hospital])
            members, every = design.members(hospital), canaries.drawn if canaries else []
            for number, rows in enumerate(every):
                drawn[members[rows]] += 1
                release, step = divmod(number, len(weights))
                exposure[taken[release], members[rows]] += weights[step]
            batches.append(np.array([len(rows) for rows in every], np.int64))
        return exposure, drawn, tuple(batches)


def _site(directory: Path, canaries: Canaries | None) -> Site:
    site = Site(directory)
    site.canaries = canaries
    return site


def _packing(study: Study, roster: Roster, plan: Plan, words: int) -> GradientPacking | UpdatePacking:
    if plan.mode == "distributed":
        return gradient_packing(study, roster, plan, words)
    return update_packing(study, roster, words)


def _charges(site: Site) -> tuple[SampledGaussian, ...]:
    """The training releases on a hospital's ledger, whose chain is verified on the way."""
    return tuple(
        SampledGaussian(charge.sampling_rate, charge.noise_multiplier, charge.steps)
        for charge in site.ledger.charges()
        if charge.kind == "train"
    )
