"""Plain sums: what adding vectors costs when nothing is secret."""

import numpy as np

from simulations.benchmarks.aggregation.contest import Case, Clock, Contender, Inputs, Round, RunRound


def _prepare(case: Case, inputs: Inputs) -> RunRound:
    def run(clock: Clock) -> Round:
        with clock.phase("add"):
            total = np.zeros(case.words, np.uint32)
        for contributor in case.uploading:
            vector = inputs.integers(contributor)
            with clock.phase("add"):
                np.add(total, vector, out=total)
        return Round(total, vector.nbytes, exchanges=1)

    return run


CONTENDER = Contender("plain sum", _prepare)
