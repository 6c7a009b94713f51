"""The discrete Gaussian against its exact probabilities, with the same checks failing for what is nearly right."""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from fedmodels.dp import discrete_gaussian as module
from fedmodels.dp.discrete_gaussian import discrete_gaussian
from fedmodels.dp.randomness import SecureSource, discrete_laplace
from fedmodels.errors import PrivacyError

KEY = bytes(range(32))
SIGMAS = [3.0, 3.3, 20.0, 127.9, 128.0, 1000.5, 1e6, 2.0**28]


def draws(sigma: float | Fraction, count: int = 400_000) -> np.ndarray:
    return discrete_gaussian(count, sigma, SecureSource(KEY))


def p_value(sample: np.ndarray, sigma: float) -> float:
    """Chi-square against the exact probabilities, of single integers where sigma is small, else of 160 bins.

    Beyond sigma 100 the normal distribution gives the probability of a bin of integers to 1e-30.
    """
    if sigma <= 100:
        reach = math.ceil(6 * sigma)
        weights = np.exp(-(np.arange(-10 * reach, 10 * reach + 1) ** 2) / (2 * sigma**2))
        probabilities = weights[9 * reach : 11 * reach + 1] / weights.sum()
        counts = np.bincount(np.clip(sample, -reach, reach) + reach, minlength=2 * reach + 1)
    else:
        edges = np.floor(np.linspace(-4 * sigma, 4 * sigma, 161))
        counts = np.diff([0, *np.searchsorted(np.sort(sample), edges), len(sample)])
        probabilities = np.diff([0, *stats.norm.cdf((edges - 0.5) / sigma), 1])
    enough = probabilities * len(sample) > 10
    rest = [len(sample) - counts[enough].sum()], [1 - probabilities[enough].sum()]
    observed, expected = np.append(counts[enough], rest[0]), np.append(probabilities[enough], rest[1])
    return float(stats.chisquare(observed, expected * len(sample), sum_check=False).pvalue)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_draws_have_the_exact_probabilities(sigma: float) -> None:
    assert p_value(draws(sigma), sigma) > 1e-3


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_same_check_finds_a_scale_that_is_two_percent_off(sigma: float) -> None:
    wrong = max(3.0, 0.98 * sigma) if sigma > 3 else 3.06
    assert p_value(draws(wrong), sigma) < 1e-6


def test_the_same_check_finds_a_rounded_continuous_gaussian() -> None:
    """Rounding adds the variance of a uniform, 1/12: at sigma 3 that is not the discrete Gaussian."""
    continuous = 3.0 * SecureSource(KEY).normal(4_000_000)
    assert p_value(np.rint(continuous).astype(np.int64), 3.0) < 1e-6
    assert p_value(draws(3.0, 4_000_000), 3.0) > 1e-3


@pytest.mark.parametrize("sigma", SIGMAS)
def test_moments(sigma: float) -> None:
    sample = draws(sigma) / sigma
    error = 4 / math.sqrt(len(sample))
    assert sample.mean() == pytest.approx(0.0, abs=error)
    assert sample.std() == pytest.approx(1.0, abs=0.01)
    assert (sample**3).mean() == pytest.approx(0.0, abs=error * math.sqrt(15))
    assert (sample**4).mean() == pytest.approx(3.0, abs=error * math.sqrt(96))


@pytest.mark.parametrize("sigma", [3.0, 500.0, 2.0**28])
@pytest.mark.parametrize(("deviations", "millions"), [(3, 1), (4, 2), (5, 60)])
def test_tails_hold_as_much_as_they_should(sigma: float, deviations: int, millions: int) -> None:
    beyond = math.ceil(deviations * sigma)
    if sigma < 100:
        weights = np.exp(-(np.arange(-60, 61) ** 2) / (2 * sigma**2))
        tail = 2 * weights[60 + beyond :].sum() / weights.sum()
    else:
        tail = 2 * stats.norm.sf((beyond - 0.5) / sigma)
    source = SecureSource(KEY)
    found = sum(int((np.abs(discrete_gaussian(10**6, sigma, source)) >= beyond).sum()) for _ in range(millions))
    assert stats.binomtest(found, millions * 10**6, tail).pvalue > 1e-3
    assert stats.binomtest(found, millions * 10**6, 2 * tail).pvalue < 0.05  # a tail twice as heavy would not pass


@pytest.mark.parametrize("sigma", [3.0, 40.0, 1e5])
def test_positive_and_negative_numbers_are_equally_likely(sigma: float) -> None:
    sample = draws(sigma)
    found = int((sample > 0).sum())
    assert stats.binomtest(found, int((sample != 0).sum())).pvalue > 1e-3
    assert stats.ks_2samp(sample, -sample).pvalue > 1e-3


def test_every_low_bit_is_fair_inside_the_blocks() -> None:
    sample = draws(2.0**28)
    for bit in range(23):
        assert stats.binomtest(int((sample >> bit & 1).sum()), len(sample)).pvalue > 1e-4


@pytest.mark.parametrize("sigma", [3.0, 1e4])
def test_chunks_are_independent_and_a_longer_draw_begins_with_the_shorter_one(sigma: float) -> None:
    chunk = module._CHUNK
    sample = draws(sigma, 8 * chunk + 5)
    assert np.array_equal(sample[:chunk], draws(sigma, chunk))
    correlations = np.corrcoef(sample[: 8 * chunk].reshape(8, chunk))
    assert np.abs(correlations - np.eye(8)).max() < 5 / math.sqrt(chunk)
    assert abs(np.corrcoef(sample[:-1], sample[1:])[0, 1]) < 5 / math.sqrt(len(sample))
    assert discrete_gaussian(0, sigma, SecureSource(KEY)).shape == (0,)


def test_two_sources_give_different_noise() -> None:
    one, two = (discrete_gaussian(100_000, 50.0, SecureSource()) for _ in range(2))
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.02


def canonne_kamath_steinke(sigma: Fraction, source: SecureSource) -> Iterator[int]:
    """Their Algorithm 3, as it is printed, without a floating-point number."""
    scale = math.floor(sigma) + 1
    while True:
        for candidate in discrete_laplace(1000, Fraction(scale), source).tolist():
            if bernoulli_exp((abs(candidate) - sigma**2 / scale) ** 2 / (2 * sigma**2), source):
                yield candidate


def bernoulli_exp(gamma: Fraction, source: SecureSource) -> bool:
    """True with probability exp(-gamma): their Algorithm 1 for any gamma >= 0."""
    while gamma > 1:
        if not bernoulli_exp(Fraction(1), source):
            return False
        gamma -= 1
    k = 1
    while source.below(gamma.denominator * k) < gamma.numerator:
        k += 1
    return k % 2 == 1


@pytest.mark.parametrize("sigma", [Fraction(3), Fraction(31, 2)])
def test_the_published_sampler_agrees(sigma: Fraction) -> None:
    stream = canonne_kamath_steinke(sigma, SecureSource(KEY))
    reference = np.array([next(stream) for _ in range(20_000)])
    assert p_value(reference, float(sigma)) > 1e-3
    assert stats.ks_2samp(reference, draws(sigma)).pvalue > 1e-3
    assert stats.ks_2samp(reference, draws(sigma * Fraction(11, 10))).pvalue < 1e-3


class Script(SecureSource):
    """Yields the given bytes first, then those of a key."""

    def __init__(self, *script: bytes) -> None:
        super().__init__(KEY)
        self._script = list(script)

    def bytes(self, count: int) -> bytes:
        if not self._script:
            return super().bytes(count)
        head = self._script.pop(0)
        assert len(head) == count
        return head


def word(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")


def one_draw(sigma: float, number: int, *more: bytes) -> int:
    """The draw for one 192-bit random number that a single look-up cannot decide."""
    prefix, middle, rest = number >> 176, number >> 128 & (2**48 - 1), number & (2**128 - 1)
    script = Script(word(prefix, 2), word(middle << 16, 8), rest.to_bytes(16, "big"), *more)
    return int(discrete_gaussian(1, sigma, script)[0])


@pytest.mark.parametrize("sigma", [3.0, 60.0])
def test_a_tie_with_the_first_64_bits_of_a_threshold_is_resolved_by_all_192(sigma: float) -> None:
    """On the threshold the larger integer begins; one unit of 2^-192 below it the smaller one ends."""
    table = module._table(Fraction(sigma))
    for place, start in enumerate(table.starts[1:], 1):
        block = int(table.blocks[place])
        assert one_draw(sigma, start) == block
        assert one_draw(sigma, start - 1) == block - 1


def test_thresholds_are_the_cumulative_probabilities_down_to_14_deviations() -> None:
    sums = np.cumsum(stats.norm.pdf(range(-43, 44), scale=3.0))
    starts = module._table(Fraction(3)).starts
    assert [start / 2**192 for start in starts[1:]] == pytest.approx((sums[:-1] / sums[-1]).tolist(), rel=1e-12)


def boundary(sigma: float, draw: int) -> tuple[module._Table, int]:
    """The table and a wedge's probability to 192 bits, from the definition with Python's integers."""
    table = module._table(Fraction(sigma))
    most, least = (int(end[0]) for end in table._ends(np.array([draw])))
    return table, table._chance(draw, most, least)


@pytest.mark.parametrize("draw", [5 * 8 + 3, -20 * 8 + 2, 100 * 8 + 6])
def test_a_wedge_that_floats_cannot_decide_is_decided_to_192_bits(draw: int) -> None:
    """Acceptance turns exactly at the probability, where both sides are the same number in float64."""
    table, chance = boundary(1000.0, draw)
    most, least, value = (math.exp(-(x**2) / 2e6) for x in (*map(int, np.ravel(table._ends(np.array([draw])))), draw))
    assert chance / 2**192 == pytest.approx((value - least) / (most - least), rel=1e-9)
    for number, expected in ((chance - 1, True), (chance, False)):
        source = Script(word(number >> 128, 8), (number & (2**128 - 1)).to_bytes(16, "big"))
        assert table._accepted(np.array([draw]), source).tolist() == [expected]


def test_without_the_exact_step_the_same_random_number_is_decided_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: among a few wedges, float64 alone gets a random number next to the probability wrong."""
    monkeypatch.setattr(module, "_FLOAT_TOLERANCE", 0.0)
    wrong = 0
    for draw in range(40, 48 * 8):
        table, chance = boundary(1000.0, draw)
        if draw % 8 in (0, 7):
            continue
        for number, expected in ((chance - 1, True), (chance, False)):
            wrong += table._accepted(np.array([draw]), Script(word(number >> 128, 8)))[0] != expected
    assert wrong > 0


def test_accepting_every_wedge_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wedges hold 1% of the draws; at sigma = 64 blocks, without rejection, the middle of a block is too likely."""
    accept: Callable[..., np.ndarray] = lambda self, draws, source: np.full(draws.size, True)  # noqa: E731
    sigma = 2.0**28
    width = 1 << 22
    inside = draws(sigma, 4_000_000)
    monkeypatch.setattr(module._Table, "_accepted", accept)
    broken = draws(sigma, 4_000_000)

    def slope(sample: np.ndarray) -> float:
        """Mean position of the magnitudes in their blocks: below the middle, because probability falls."""
        return float((np.abs(sample) % width).mean() / width)

    expected = 0.5 - math.sqrt(2 / math.pi) * width / sigma / 12
    error = 3 * math.sqrt(1 / 12 / 4_000_000)
    assert slope(inside) == pytest.approx(expected, abs=error)
    assert abs(slope(broken) - expected) > error


@pytest.mark.parametrize("sigma", [2.999, 0.0, -5.0, math.nan, math.inf, -math.inf, 2.0**28 + 1, Fraction(10) ** 400])
def test_a_scale_that_is_too_small_too_large_or_no_number_is_refused(sigma: float | Fraction) -> None:
    with pytest.raises(PrivacyError, match="lattice units"):
        discrete_gaussian(1, sigma, SecureSource())
