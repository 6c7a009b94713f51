"""Shamir's secret sharing over the order of P-256, so that the shares of RFC 9591 (FROST, P-256) are known answers.

A secret is the value at 0 of a random polynomial of degree t - 1; share x is its value at x = 1, 2, ... Any t shares
give the secret, fewer say nothing about it (Shamir 1979, "How to Share a Secret"). More than t shares are a
Reed-Solomon codeword: up to (m - t) / 2 wrong ones among m are found by Gao's decoder (2003, "A New Algorithm for
Decoding Reed-Solomon Codes").
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from fedmodels.errors import LocalProtocolError
from fedmodels.secagg.primitives import KEY_BYTES, Randomness, Secret

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_WIDE_BYTES = 48  # 16 bytes more than the order has: reduced, they are uniform up to 2^-128


def scalars(count: int, random: Randomness) -> tuple[Secret, ...]:
    """Uniform integers below ORDER, as 32 bytes big-endian; `LocalProtocolError` for a source that falls short."""
    return tuple(_scalar(random(_WIDE_BYTES)) for _ in range(count))


def _scalar(wide: bytes) -> Secret:
    if len(wide) != _WIDE_BYTES:
        raise LocalProtocolError(
            f"the random source returned {len(wide)} bytes instead of {_WIDE_BYTES}",
            fix="pass a source of randomness that returns as many bytes as it is asked for",
        )
    return _secret(int.from_bytes(wide, "big"))


def is_scalar(value: Secret) -> bool:
    return _integer(value) < ORDER


def split(polynomial: Sequence[Secret], count: int) -> tuple[Secret, ...]:
    """The shares 1 to `count` of the secret `polynomial[0]`; its threshold is the number of coefficients."""
    coefficients = [_integer(coefficient) for coefficient in polynomial]
    return tuple(_secret(_value(coefficients, x)) for x in range(1, count + 1))


@dataclass(frozen=True)
class Combined:
    """Secrets from shares, one per dealer; None where there are too few. wrong: for each dealer (by place) whose shares
    do not lie on one polynomial, the shares that are off; nobody where there are too few right ones to tell."""

    secrets: tuple[Secret | None, ...]
    wrong: Mapping[int, frozenset[int]]


def combine(shares: Mapping[int, Sequence[Secret | None]], threshold: int) -> Combined:
    """The secrets of all dealers from shares[x][dealer] at the places x; None where a dealer's share is missing.

    A secret is right where its dealer is not in `wrong` and fewer than `m - threshold + 1` of its m shares are wrong;
    with exactly `threshold` shares nothing can be checked.
    """
    places, weights_of = sorted(shares), cache(_weights)
    secrets: list[Secret | None] = []
    wrong = {}
    for dealer, column in enumerate(zip(*(shares[x] for x in places), strict=True)):
        known = {x: _integer(share) for x, share in zip(places, column, strict=True) if share is not None}
        here, values = tuple(known), list(known.values())
        if len(here) < threshold:
            secrets.append(None)
            continue
        at_zero, checks = weights_of(here, threshold)
        secrets.append(_secret(_dot(at_zero, values)))
        if any(_dot(weights, values) != value for weights, value in zip(checks, values[threshold:], strict=True)):
            wrong[dealer] = _off(here, values, threshold)
    return Combined(tuple(secrets), wrong)


def _weights(places: tuple[int, ...], threshold: int) -> tuple[list[int], list[list[int]]]:
    """Those of the first `threshold` shares that give the secret, and those that give each share after them."""
    first = places[:threshold]
    return _lagrange(first, 0), [_lagrange(first, x) for x in places[threshold:]]


def _integer(value: Secret) -> int:
    return int.from_bytes(value.reveal(), "big")


def _secret(value: int) -> Secret:
    return Secret((value % ORDER).to_bytes(KEY_BYTES, "big"))


def _value(polynomial: Sequence[int], x: int) -> int:
    total = 0
    for coefficient in reversed(polynomial):
        total = (total * x + coefficient) % ORDER
    return total


def _dot(weights: Sequence[int], column: Sequence[int]) -> int:
    return sum(a * b for a, b in zip(weights, column, strict=False)) % ORDER


def _lagrange(places: Sequence[int], at: int) -> list[int]:
    """Weights w with f(at) = sum of w * f(x) over `places`, for every polynomial of degree below their number."""
    weights = []
    for x in places:
        above = below = 1
        for other in places:
            if other != x:
                above, below = above * (at - other) % ORDER, below * (x - other) % ORDER
        weights.append(above * pow(below, -1, ORDER) % ORDER)
    return weights


def _off(places: Sequence[int], column: Sequence[int], threshold: int) -> frozenset[int]:
    """Places whose share is not on the polynomial of degree < threshold that nearly all lie on; none if there is none.

    Gao's decoder: the extended Euclidean algorithm on the product of (X - x) and the interpolating polynomial,
    stopped at degree (m + t) / 2.
    """
    bound = (len(places) + threshold) // 2
    low, high = _interpolation(places, column), [1]
    for x in places:
        high = _minus([0, *high], [x * c % ORDER for c in high])
    factor_low, factor_high = [1], [0]
    while len(low) > bound:
        quotient, remainder = _divide(high, low)
        high, low = low, remainder
        factor_low, factor_high = _minus(factor_high, _times(quotient, factor_low)), factor_low
    polynomial, remainder = _divide(low, factor_low)
    if any(remainder) or len(polynomial) > threshold:
        return frozenset()
    return frozenset(x for x, share in zip(places, column, strict=True) if _value(polynomial, x) != share)


def _interpolation(places: Sequence[int], column: Sequence[int]) -> list[int]:
    """Newton's form, expanded."""
    result, basis = [0], [1]
    for x, value in zip(places, column, strict=True):
        step = (value - _value(result, x)) * pow(_value(basis, x), -1, ORDER) % ORDER
        result = _minus(result, [-step * c % ORDER for c in basis])
        basis = _minus([0, *basis], [x * c % ORDER for c in basis])
    return result


def _minus(a: Sequence[int], b: Sequence[int]) -> list[int]:
    size = max(len(a), len(b))
    pairs = zip([*a, *[0] * (size - len(a))], [*b, *[0] * (size - len(b))], strict=True)
    return _trim([(x - y) % ORDER for x, y in pairs])


def _times(a: Sequence[int], b: Sequence[int]) -> list[int]:
    product = [0] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            product[i + j] = (product[i + j] + x * y) % ORDER
    return _trim(product)


def _divide(a: Sequence[int], b: Sequence[int]) -> tuple[list[int], list[int]]:
    """(quotient, remainder); b is not zero."""
    remainder, inverse = list(a), pow(b[-1], -1, ORDER)
    quotient = [0] * max(len(a) - len(b) + 1, 1)
    for place in range(len(a) - len(b), -1, -1):
        factor = quotient[place] = remainder[place + len(b) - 1] * inverse % ORDER
        for i, c in enumerate(b):
            remainder[place + i] = (remainder[place + i] - factor * c) % ORDER
    return _trim(quotient), _trim(remainder)


def _trim(polynomial: list[int]) -> list[int]:
    """Without leading zeros; the zero polynomial is [0]."""
    while len(polynomial) > 1 and polynomial[-1] == 0:
        polynomial.pop()
    return polynomial
