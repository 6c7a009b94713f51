"""The lattice: exactness, error, range and refusals."""

from fractions import Fraction
from math import ceil

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedmodels.errors import LocalProtocolError
from fedmodels.secagg import Lattice

COUNTS = st.integers(1, 1000)
BOUNDS = st.floats(1e-6, 1e12)


@given(BOUNDS, COUNTS, st.integers(0, 1 << 29))
def test_the_scale_is_the_largest_power_of_two_that_cannot_wrap(bound, n, headroom):
    scale = Fraction(Lattice(bound, n, headroom).scale)
    assert 1 in (scale.numerator, scale.denominator)
    assert scale.numerator & (scale.numerator - 1) == 0
    assert scale.denominator & (scale.denominator - 1) == 0
    units = scale * Fraction(bound)
    assert n * (units + Fraction(1, 2)) + headroom < 1 << 31 <= n * (2 * units + Fraction(1, 2)) + headroom


def test_200_contributors_get_2_to_the_23_units():
    assert Lattice(0.25, 200).scale == 1 << 25


@given(BOUNDS, COUNTS, st.sampled_from([-1.0, 1.0]))
def test_a_sum_of_extremes_keeps_its_sign_and_value(bound, n, sign):
    lattice = Lattice(bound, n)
    encoded, clipped = lattice.encode(np.array([sign * bound, sign * bound * 1.5]))
    assert clipped == 1
    total = np.uint32(n) * encoded
    np.testing.assert_allclose(lattice.decode(total), [sign * n * bound] * 2, rtol=1e-12, atol=n / (2 * lattice.scale))


@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 8)), elements=st.floats(-10, 10)),
    st.floats(0.1, 5),
)
def test_the_error_of_a_sum_is_at_most_half_a_unit_per_contributor(rows, bound):
    lattice = Lattice(bound, len(rows))
    encoded = [lattice.encode(row) for row in rows]
    total = np.sum([vector for vector, _ in encoded], axis=0, dtype=np.uint32)
    expected = np.clip(rows, -bound, bound).sum(axis=0)
    slack = 1e-9 * bound
    assert np.abs(lattice.decode(total) - expected).max() <= len(rows) / (2 * lattice.scale) + slack
    assert [clipped for _, clipped in encoded] == [(np.abs(row) > bound).sum() for row in rows]


@given(hnp.arrays(np.float32, 5, elements=st.floats(-3, 3, width=32)), st.floats(0.001, 4), COUNTS)
@example(np.array([0.1, -0.1, np.nextafter(np.float32(0.1), np.float32(0)), 3, 0], np.float32), 0.1, 3)
@example(np.array([0.1, -0.1, np.nextafter(np.float32(0.1), np.float32(1)), 3, 0], np.float32), 0.3, 1)
def test_float32_and_float64_encode_alike_but_for_the_bound_itself(values, bound, n):
    lattice = Lattice(bound, n)
    first, second = lattice.encode(values), lattice.encode(values.astype(np.float64))
    inside = np.abs(values.astype(np.float64)) <= bound
    np.testing.assert_array_equal(first[0][inside], second[0][inside])
    difference = np.abs(first[0].view(np.int32).astype(np.int64) - second[0].view(np.int32))
    assert difference.max() <= 1 + 2.0**-23 * bound * lattice.scale
    assert first[1] == second[1]


@pytest.mark.parametrize(("bound", "worst"), [(0.25, 1.3e-5), (1.0, 5.4e-5), (8.0, 4.5e-4)])
def test_relative_error_of_200_heavy_tailed_updates(bound, worst):
    generator = np.random.default_rng(7)
    updates = generator.laplace(scale=1e-3, size=(200, 20_000))
    lattice = Lattice(bound, 200)
    total = np.zeros(20_000, np.uint32)
    for update in updates:
        encoded, clipped = lattice.encode(update)
        assert clipped == 0
        total += encoded
    exact = updates.sum(axis=0)
    error = np.linalg.norm(lattice.decode(total) - exact) / np.linalg.norm(exact)
    predicted = bound / (2**23 * np.sqrt(12) * np.sqrt(2) * 1e-3)
    assert error == pytest.approx(predicted, rel=0.03)
    assert worst / 4 < error < worst


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(dtype, wrong):
    with pytest.raises(LocalProtocolError, match="NaN or infinite"):
        Lattice(1.0, 3).encode(np.array([0.0, wrong], dtype))


@given(COUNTS, st.integers(0, 1 << 29))
@example(2, 1)
def test_integers_of_all_contributors_add_up_exactly_or_are_refused(n, headroom):
    lattice = Lattice(1.0, n, headroom)
    share = ceil(Fraction((1 << 31) - headroom, n) - Fraction(1, 2)) - 1
    counts = np.array([share, -share, 1, 0])
    total = np.uint32(n) * lattice.encode_integers(counts)
    assert lattice.decode_integers(total).tolist() == [n * int(count) for count in counts]
    assert n * (share + Fraction(1, 2)) + headroom < 1 << 31 <= n * (share + Fraction(3, 2)) + headroom
    for wrong in (share + 1, -share - 1):
        with pytest.raises(LocalProtocolError, match="one contributor's share"):
            lattice.encode_integers(np.array([wrong]))


@given(st.lists(st.lists(st.integers(-1000, 1000), min_size=3, max_size=3), min_size=1, max_size=20))
def test_integer_sums_are_exact(rows):
    lattice = Lattice(1.0, 20)
    total = np.sum([lattice.encode_integers(np.array(row)) for row in rows], axis=0, dtype=np.uint32)
    assert lattice.decode_integers(total).tolist() == [sum(column) for column in zip(*rows, strict=True)]


def test_unsigned_integers_beyond_the_range_do_not_wrap_into_it():
    with pytest.raises(LocalProtocolError):
        Lattice(1.0, 3).encode_integers(np.array([2**64 - 1], np.uint64))


def test_empty_parts_are_empty():
    lattice = Lattice(1.0, 3)
    assert lattice.encode_integers(np.array([], np.int64)).size == 0
    assert lattice.encode(np.array([], np.float32))[0].size == 0


@given(
    st.floats(max_value=0) | st.sampled_from([np.inf, np.nan]) | st.floats(1e-9, 1e12),
    st.integers(-2, 2**33),
    st.integers(-2, 2**33),
)
@example(1e-310, 3, 0)
def test_a_lattice_that_cannot_be_is_refused(bound, n, headroom):
    assume(not (1e-9 <= bound <= 1e12 and n >= 1 and headroom >= 0 and 3 * n + 2 * headroom < 1 << 32))
    with pytest.raises(LocalProtocolError):
        Lattice(bound, n, headroom)


@pytest.mark.parametrize(
    "call",
    [
        lambda lattice: lattice.encode(np.zeros((2, 2))),
        lambda lattice: lattice.encode(np.zeros(2, np.int64)),
        lambda lattice: lattice.encode(np.zeros(2, np.float16)),
        lambda lattice: lattice.encode_integers(np.zeros((2, 2), np.int64)),
        lambda lattice: lattice.encode_integers(np.zeros(2)),
        lambda lattice: lattice.encode_integers(np.zeros(2, np.bool_)),
        lambda lattice: lattice.decode(np.zeros(2, np.int64)),
        lambda lattice: lattice.decode_integers(np.zeros((2, 2), np.uint32)),
    ],
)
def test_arrays_of_another_type_or_shape_are_refused(call):
    with pytest.raises(LocalProtocolError, match="one-dimensional"):
        call(Lattice(1.0, 3))
