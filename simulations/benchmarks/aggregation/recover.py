"""This project's `recover` round, through the same functions as in a run. A dropout costs one more exchange.

The terms have the smallest threshold that is safe with one colluding hospital. Masking includes sharing the self mask
and sealing its shares. Not counted: the files that persist a hospital's state, and those in which the coordinator keeps
the uploads for hospitals that fail after theirs.
"""

import os
from collections.abc import Mapping

from fedmodels import secagg
from simulations.benchmarks.aggregation.contest import Case, Clock, Contender, Inputs, Round, RunRound
from simulations.benchmarks.aggregation.retry import BOUND, MAX_COLLUDING, MODEL_DIGEST, set_up


def threshold(contributors: int) -> int:
    """The smallest t with 2t - n - c >= 2."""
    return (contributors + MAX_COLLUDING + 3) // 2


def _prepare(case: Case, inputs: Inputs) -> RunRound:
    parties = set_up(case.contributors, threshold(case.contributors))
    lattice, everybody = secagg.Lattice(BOUND, case.contributors), tuple(parties.ready)
    first, uploading = everybody[0], tuple(everybody[i] for i in case.uploading)

    def run(clock: Clock) -> Round:
        states: dict[str, secagg.State] = dict(parties.ready)
        with clock.phase("encode"):
            lattice.encode(inputs.update)
        with clock.phase("add"):
            _, session = secagg.open_recovery(parties.aggregator, 1, everybody, MODEL_DIGEST, case.words)
        sent: list[int] = []  # bytes of each message of the first contributor
        for i, name in enumerate(uploading):
            vector = inputs.integers(i)
            with clock.phase("mask", timed=name == first):
                states[name], upload = secagg.upload_recover(
                    states[name], session.request, MODEL_DIGEST, vector, os.urandom, in_place=True
                )
            with clock.phase("add"):
                session.add(upload.header, upload.vector)
            if name == first:
                sent += [len(upload.header) + upload.vector.nbytes]
        while requests := _advance(session, clock):
            for name, request in requests.items():
                with clock.phase("open", timed=name == first):
                    states[name], reply = secagg.reveal(states[name], request)
                with clock.phase("unmask"):
                    session.answer(reply)
                if name == first:
                    sent += [len(reply)]
        with clock.phase("unmask"):
            total = session.result()
        return Round(total, sum(sent), exchanges=len(sent))

    return run


def _advance(session: secagg.RecoverSession, clock: Clock) -> Mapping[str, bytes]:
    with clock.phase("unmask"):
        return session.advance()


CONTENDER = Contender("fedmodels, recover", _prepare, lambda case: case.contributors)
