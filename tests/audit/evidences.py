"""Evidence of runs that were never run: traces drawn from the distribution that an implementation should have."""

from dataclasses import replace

import numpy as np

from fedmodels.audit.design import Size, draw_design
from fedmodels.audit.evidence import Evidence
from fedmodels.dp.accounting import SampledGaussian
from fedmodels.dp.plan import Plan

HOSPITALS = 4
PLAN = Plan(
    sampling_rate=0.2, clip=1.0, noise_multiplier=1.5, steps_per_release=1, releases=40, delta=1e-5, mode="distributed"
)


def drawn(
    draw: np.random.Generator, *, noise: float = 1.0, shift: float = 1.0, free: int = 1200, rounds: int = 40
) -> Evidence:
    """One colluder is planned for, so that each of four hospitals adds the noise multiplier / sqrt(3).

    noise, shift: factors on what the plan promises.
    """
    design = draw_design(HOSPITALS, Size(free, 0), 5, PLAN.clip, draw)
    hit = (draw.random((rounds, free)) < PLAN.sampling_rate) & design.inside
    share = noise * PLAN.noise_multiplier / np.sqrt(HOSPITALS - 1)
    own = draw.normal(scale=share, size=(rounds, HOSPITALS, free))
    own[:, design.owner, np.arange(free)] += shift * hit
    charges = (SampledGaussian(PLAN.sampling_rate, PLAN.noise_multiplier, 1),) * rounds
    return Evidence(
        plan=replace(PLAN, releases=rounds),
        design=design,
        max_colluding=1,
        own=own.astype(np.float32),
        present=np.ones((rounds, HOSPITALS), np.bool_),
        exposure=hit.astype(np.float64),
        drawn=hit.sum(axis=0),
        batches=tuple(hit[:, design.members(h)].sum(axis=1) for h in range(HOSPITALS)),
        charges=(charges,) * HOSPITALS,
        sums_open=True,
        movements=np.array([[1.0, 0.0], [1.0, 0.0]]),
    )
