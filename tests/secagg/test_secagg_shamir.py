"""Shamir shares: the published answers of RFC 9591, secrecy below the threshold, and wrong shares found."""

import itertools
import random as ambient

import pytest
import secagg_reference_recover as reference
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_parties import randomness
from secagg_reference import gcm

from fedmodels.errors import LocalProtocolError
from fedmodels.secagg import shamir
from fedmodels.secagg.primitives import Secret, seal, unseal

# RFC 9591, appendix E.4: FROST(P-256, SHA-256)
GROUP_SECRET = "8ba9bba2e0fd8c4767154d35a0b7562244a4aaf6f36c8fb8735fa48b301bd8de"
GROUP_PUBLIC = "023a309ad94e9fe8a7ba45dfc58f38bf091959d3c99cfbd02b4dc00585ec45ab70"
COEFFICIENT = "80f25e6c0709353e46bfbe882a11bdbb1f8097e46340eb8673b7e14556e6c3a4"
SHARES = {
    1: "0c9c1a0fe806c184add50bbdcac913dda73e482daf95dcb9f35dbb0d8a9f7731",
    2: "8d8e787bef0ff6c2f494ca45f4dad198c6bee01212d6c84067159c52e1863ad5",
    3: "0e80d6e8f6192c003b5488ce1eec8f5429587d48cf001541e713b2d53c09d928",
}


def secret(text):
    return Secret(bytes.fromhex(text))


def integer(value):
    return int.from_bytes(value.reveal(), "big")


def test_shares_are_those_of_rfc_9591():
    shares = shamir.split([secret(GROUP_SECRET), secret(COEFFICIENT)], 3)
    assert {x: share.reveal().hex() for x, share in enumerate(shares, 1)} == SHARES
    polynomial = [int(GROUP_SECRET, 16), int(COEFFICIENT, 16)]
    assert {x: f"{reference.share(polynomial, x):064x}" for x in SHARES} == SHARES


@pytest.mark.parametrize("holders", [(1, 2), (1, 3), (2, 3), (1, 2, 3)])
def test_any_threshold_of_the_shares_of_rfc_9591_give_the_secret(holders):
    combined = shamir.combine({x: [secret(SHARES[x])] for x in holders}, 2)
    assert combined == shamir.Combined((secret(GROUP_SECRET),), {})
    assert reference.secret({x: int(SHARES[x], 16) for x in holders[:2]}) == int(GROUP_SECRET, 16)


def test_the_order_is_that_of_p_256():
    """order - 1 is the private key of the base point's negative, and the published secret belongs to its public key."""
    base = ec.derive_private_key(1, ec.SECP256R1()).public_key().public_numbers()
    negative = ec.derive_private_key(shamir.ORDER - 1, ec.SECP256R1()).public_key().public_numbers()
    assert (negative.x, negative.y != base.y) == (base.x, True)
    public = ec.derive_private_key(int(GROUP_SECRET, 16), ec.SECP256R1()).public_key()
    assert public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint).hex() == GROUP_PUBLIC


@given(st.integers(1, 9), st.integers(0, 6), st.integers(0, 2**32))
def test_shares_agree_with_the_reference_and_any_threshold_of_them_combine(threshold, more, seed):
    count, random = threshold + more, randomness(seed)
    polynomials = [shamir.scalars(threshold, random) for _ in range(2)]
    dealt = [shamir.split(polynomial, count) for polynomial in polynomials]
    for polynomial, shares in zip(polynomials, dealt, strict=True):
        coefficients = [integer(c) for c in polynomial]
        assert [integer(s) for s in shares] == [reference.share(coefficients, x) for x in range(1, count + 1)]
    holders = ambient.Random(seed).sample(range(1, count + 1), threshold)
    combined = shamir.combine({x: [shares[x - 1] for shares in dealt] for x in holders}, threshold)
    assert combined.secrets == tuple(polynomial[0] for polynomial in polynomials)
    assert not combined.wrong


def test_fewer_than_threshold_shares_fit_every_secret():
    """For t - 1 shares and any secret there is exactly one polynomial: nothing is learnt. Checked by building it."""
    first, second = shamir.scalars(2, randomness("other secrets"))
    shares = shamir.split(shamir.scalars(3, randomness("a polynomial")), 5)
    for pair in itertools.combinations(range(1, 6), 2):
        for other in (first, second):
            points = {0: integer(other)} | {x: integer(shares[x - 1]) for x in pair}
            shifted = {x + 1: value for x, value in points.items()}  # the reference wants places from 1
            through = [sum(lagrange(shifted, at)) % shamir.ORDER for at in (1, *(x + 1 for x in pair))]
            assert through == list(points.values())


def lagrange(points, at):
    for x, value in points.items():
        weight = value
        for other in points:
            if other != x:
                weight = weight * (at - other) * pow(x - other, -1, shamir.ORDER) % shamir.ORDER
        yield weight


@settings(max_examples=60)
@given(st.integers(1, 6), st.integers(0, 6), st.data())
def test_up_to_half_of_the_redundancy_in_wrong_shares_is_found_and_named(threshold, more, data):
    count = threshold + more
    lying = data.draw(st.sets(st.integers(1, count), min_size=1, max_size=max(1, more // 2)))
    random = randomness(data.draw(st.integers(0, 2**32)))
    dealt = [shamir.split(shamir.scalars(threshold, random), count) for _ in range(3)]
    shares = {x: [dealer[x - 1] for dealer in dealt] for x in range(1, count + 1)}
    for x in lying:
        shares[x][1] = shamir.scalars(1, random)[0]
    combined = shamir.combine(shares, threshold)
    if more >= 2:
        assert combined.wrong == {1: frozenset(lying)}
    else:  # one more than the threshold shows that somebody is wrong, not who; none more shows nothing
        assert combined.wrong == ({1: frozenset()} if more else {})


def test_too_many_wrong_shares_are_noticed_but_nobody_is_accused():
    random = randomness(1)
    dealt = shamir.split(shamir.scalars(3, random), 7)
    shares = {x: [dealt[x - 1]] for x in range(1, 8)}
    for x in (1, 4, 6):
        shares[x] = [shamir.scalars(1, random)[0]]
    assert shamir.combine(shares, 3).wrong == {0: frozenset()}


def test_scalars_are_reduced_from_48_bytes_each():
    assert [integer(s) for s in shamir.scalars(2, lambda n: b"\xff" * n)] == [(2**384 - 1) % shamir.ORDER] * 2
    assert shamir.is_scalar(Secret((shamir.ORDER - 1).to_bytes(32, "big")))
    assert not shamir.is_scalar(Secret(shamir.ORDER.to_bytes(32, "big")))


def test_a_short_source_of_randomness_is_refused():
    with pytest.raises(LocalProtocolError, match="47 bytes instead of 48"):
        shamir.scalars(1, lambda n: bytes(n - 1))


def test_the_references_gcm_answers_as_the_gcm_specification():
    # McGrew and Viega, "The Galois/Counter Mode of Operation", appendix B, test case 14
    sealed = "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"
    assert gcm(bytes(32), bytes(16), b"").hex() == sealed == AESGCM(bytes(32)).encrypt(bytes(12), bytes(16), b"").hex()


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.binary(max_size=40))
@settings(max_examples=20)
def test_a_sealed_share_opens_for_its_key_and_data_only(key, share, data):
    sealed = seal(Secret(key), Secret(share), data)
    assert sealed == gcm(key, share, data)
    assert unseal(Secret(key), sealed, data) == Secret(share)
    assert unseal(Secret(key), sealed, data + b"!") is None
    assert unseal(Secret(bytes(b ^ 1 for b in key)), sealed, data) is None
    assert unseal(Secret(key), sealed[:-1] + bytes([sealed[-1] ^ 1]), data) is None
