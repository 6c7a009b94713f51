"""Homomorphic encryption: CKKS with TenSEAL, in the parameters that NVIDIA FLARE provisions by default.

All hospitals share one secret key, which the aggregator must not have: whoever gets hold of it, at any one of them,
reads everybody's upload. Encryption goes ciphertext by ciphertext, in one thread; uploads are bytes, since nothing else
than TenSEAL's own format carries a ciphertext. Opening is the decryption of the sum at one hospital.
"""

from importlib.util import find_spec
from typing import Any

import numpy as np

from simulations.benchmarks.aggregation.contest import Case, Clock, Contender, Inputs, Round, RunRound

_DEGREE = 8192
_MODULI = (60, 40, 40)
_SCALE = 2.0**40
_SLOTS = _DEGREE // 2


def _missing() -> str:
    return "" if find_spec("tenseal") else "not installed: pip install 'fedmodels[ckks]'"


def _contexts() -> tuple[Any, Any]:
    """The hospitals' context, and the aggregator's, which has no secret key."""
    import tenseal

    secret = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS,
        _DEGREE,
        coeff_mod_bit_sizes=list(_MODULI),
        encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
        n_threads=1,
    )
    secret.global_scale = _SCALE
    return secret, tenseal.context_from(secret.serialize(save_secret_key=False), n_threads=1)


def _prepare(case: Case, inputs: Inputs) -> RunRound:
    from tenseal import ckks_vector, ckks_vector_from

    secret, public = _contexts()

    def encrypt(contributor: int) -> list[bytes]:
        values = inputs.integers(contributor).astype(np.float64)
        parts = [values[start : start + _SLOTS] for start in range(0, case.words, _SLOTS)]
        return [ckks_vector(secret, part).serialize() for part in parts]

    others = [encrypt(contributor) for contributor in case.uploading[1:]]

    def run(clock: Clock) -> Round:
        with clock.phase("mask"):
            upload = encrypt(0)
        with clock.phase("add"):
            sums = [ckks_vector_from(public, part) for part in upload]
            for other in others:
                for total, part in zip(sums, other, strict=True):
                    total += ckks_vector_from(public, part)
        with clock.phase("unmask"):
            published = [total.serialize() for total in sums]
        with clock.phase("open"):
            opened = np.concatenate([ckks_vector_from(secret, part).decrypt() for part in published])
        bytes_up = sum(len(part) for part in upload)
        return Round(np.rint(opened).astype(np.uint32), bytes_up, exchanges=1)

    return run


CONTENDER = Contender("CKKS (TenSEAL)", _prepare, largest=Case(1_000_000, 10, dropout=False), missing=_missing)
