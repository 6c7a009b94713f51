"""Published test vectors against the wrappers that the protocol uses, and against the slow reference."""

import numpy as np
import pytest
import secagg_reference as reference
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from fedmodels.secagg import primitives
from fedmodels.secagg.keystream import CHUNK_BYTES, add_masks, checksum, combine_checked, mask_in_place
from fedmodels.secagg.primitives import Label, Secret, digest

BASE_POINT = "09" + 31 * "00"
X25519 = {  # RFC 7748: section 5.2 (two single steps, one iterated), section 6.1 (both sides)
    "5.2 first": (
        "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
        "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
        "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
    ),
    "5.2 second": (
        "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
        "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
        "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
    ),
    "5.2 after one iteration": (
        BASE_POINT,
        BASE_POINT,
        "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079",
    ),
    "6.1 Alice": (
        "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
        "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
        "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742",
    ),
    "6.1 Bob": (
        "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
        "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
        "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742",
    ),
}
ED25519 = {  # RFC 8032, section 7.1: secret key, public key, message, signature
    "test 1": (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    "test 2": (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
}
HKDF = {  # RFC 5869, appendix A: input key, salt, info, PRK, the first 32 bytes of the output
    "A.1": (
        22 * "0b",
        "000102030405060708090a0b0c",
        "f0f1f2f3f4f5f6f7f8f9",
        "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf",
    ),
    "A.2": (
        bytes(range(0x50)).hex(),
        bytes(range(0x60, 0xB0)).hex(),
        bytes(range(0xB0, 0x100)).hex(),
        "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c",
    ),
    "A.3": (
        22 * "0b",
        "",
        "",
        "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d",
    ),
}
CTR_KEY = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
CTR_COUNTER = int("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff", 16)
CTR_PLAIN = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
CTR_CIPHER = (
    "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
    "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
)


def ctr(key, counter_block, data):
    return Cipher(algorithms.AES(key), modes.CTR(counter_block)).encryptor().update(data)


@pytest.mark.parametrize("vector", X25519.values(), ids=X25519)
def test_x25519_answers_as_rfc_7748(vector):
    scalar, point, expected = map(bytes.fromhex, vector)
    assert primitives.x25519(Secret(scalar), point) == Secret(expected)
    assert reference.x25519(scalar, point) == expected


def test_x25519_public_key_answers_as_rfc_7748():
    alice, bob = (bytes.fromhex(X25519[name][0]) for name in ("6.1 Alice", "6.1 Bob"))
    assert primitives.x25519_public(Secret(alice)).hex() == X25519["6.1 Bob"][1]
    assert primitives.x25519_public(Secret(bob)).hex() == X25519["6.1 Alice"][1]


@pytest.mark.parametrize("point", [0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18])
def test_x25519_gives_nothing_for_a_point_of_low_order(point):
    assert primitives.x25519(Secret(b"k" * 32), point.to_bytes(32, "little")) is None


@pytest.mark.parametrize("vector", ED25519.values(), ids=ED25519)
def test_ed25519_answers_as_rfc_8032(vector):
    secret, public, message, signature = map(bytes.fromhex, vector)
    identity = Ed25519PrivateKey.from_private_bytes(secret)
    assert identity.public_key().public_bytes_raw() == public == reference.ed25519_public(secret)
    assert primitives.ed25519_sign(identity, message) == signature == reference.ed25519_sign(secret, message)
    assert primitives.ed25519_verifies(public, signature, message)
    assert not primitives.ed25519_verifies(public, signature, message + b"!")
    assert not primitives.ed25519_verifies(public[:-1] + b"\xff", signature, message)


@pytest.mark.parametrize("vector", HKDF.values(), ids=HKDF)
def test_hkdf_answers_as_rfc_5869(vector):
    secret, salt, info, pseudorandom_key, output = map(bytes.fromhex, vector)
    assert primitives.hkdf(secret, salt, info) == output
    assert primitives.hkdf_expand(pseudorandom_key, info) == output == reference.hkdf_expand(pseudorandom_key, info)


def test_aes_ctr_answers_as_nist_sp_800_38a():
    assert ctr(CTR_KEY, CTR_COUNTER.to_bytes(16, "big"), CTR_PLAIN).hex() == CTR_CIPHER
    blocks = [reference.aes256(CTR_KEY, (CTR_COUNTER + i).to_bytes(16, "big")) for i in range(4)]
    assert bytes(a ^ b for a, b in zip(b"".join(blocks), CTR_PLAIN, strict=True)).hex() == CTR_CIPHER


@pytest.mark.parametrize("words", [1, 65535, 65536, 65537, 3 * 65536 + 5])
def test_a_mask_is_the_aes_ctr_keystream_in_chunks(words):
    stream = b"".join(ctr(CTR_KEY, c.to_bytes(12, "big") + b"\0\0\0\2", bytes(CHUNK_BYTES)) for c in range(4))
    expected = np.frombuffer(stream, "<u4")[:words]
    zeros = np.zeros(words, np.uint32)
    np.testing.assert_array_equal(add_masks(zeros, [Secret(CTR_KEY)], []), expected)
    np.testing.assert_array_equal(add_masks(zeros, [], [Secret(CTR_KEY)]), (1 << 32) - expected.astype(np.int64))
    assert reference.mask(CTR_KEY, min(words, 9)) == expected[:9].tolist()


@pytest.mark.parametrize("words", [1, 65536, 65537, 9 * 65536 + 5])
def test_the_checksum_made_while_masking_is_that_of_the_masked_vector(words):
    plus, minus = [Secret(bytes([i]) * 32) for i in (1, 2)], [Secret(bytes([i]) * 32) for i in (3, 4, 5)]
    vector = np.arange(words, dtype=np.uint32) * 0x17171717
    expected = add_masks(vector, plus, minus)
    proof = mask_in_place(vector, plus, minus, b"session", "hospital-1")
    np.testing.assert_array_equal(vector, expected)
    assert proof == checksum(b"session", "hospital-1", vector) != checksum(b"session", "hospital-2", vector)


@pytest.mark.parametrize("words", [6 * 65536 + 5, 40 * 65536])
def test_two_cores_mask_and_combine_as_one_does(words, monkeypatch):
    plus, minus = [Secret(bytes([i]) * 32) for i in (1, 2, 6)], [Secret(bytes([i]) * 32) for i in (3, 4, 5)]
    vector = np.arange(words, dtype=np.uint32) * 0x17171717
    outcomes = []
    for cores in (1, 2, 2, 2):
        monkeypatch.setattr("fedmodels.cores.CORES", cores)
        masked, total = vector.copy(), vector[::-1].copy()
        proof = mask_in_place(masked, plus, minus, b"session", "hospital-1")
        assert combine_checked(total, np.add, masked, b"session", "hospital-1", proof)
        outcomes.append((proof, masked, total))
    for proof, masked, total in outcomes[1:]:
        assert proof == outcomes[0][0]
        np.testing.assert_array_equal(masked, outcomes[0][1])
        np.testing.assert_array_equal(total, outcomes[0][2])


@pytest.mark.parametrize("operation", [np.add, np.subtract])
@pytest.mark.parametrize("words", [1, 65536, 65537, 9 * 65536 + 5])
def test_a_vector_is_combined_only_if_its_checksum_is_right(words, operation):
    total, vector = np.full(words, 7, np.uint32), np.arange(words, dtype=np.uint32) * 0x17171717
    before, proof = total.copy(), checksum(b"session", "hospital-1", vector)
    vector[-1] ^= 1
    assert not combine_checked(total, operation, vector, b"session", "hospital-1", proof)
    np.testing.assert_array_equal(total, before)
    vector[-1] ^= 1
    assert combine_checked(total, operation, vector, b"session", "hospital-1", proof)
    np.testing.assert_array_equal(total, operation(before, vector))


@pytest.mark.parametrize("words", [1, 131072, 131073, 9 * 65536 + 5])
def test_the_first_vector_replaces_whatever_was_in_the_memory_of_the_sum(words):
    total, vector = np.full(words, 7, np.uint32), np.arange(words, dtype=np.uint32) * 0x17171717
    proof = checksum(b"session", "hospital-1", vector)
    assert not combine_checked(total, None, vector, b"session", "hospital-2", proof)
    total[:] = 9
    assert combine_checked(total, None, vector, b"session", "hospital-1", proof)
    np.testing.assert_array_equal(total, vector)


def test_masks_are_added_and_subtracted_modulo_2_to_the_32():
    plus, minus = [Secret(bytes([i]) * 32) for i in (1, 2)], [Secret(bytes([i]) * 32) for i in (3, 4, 5)]
    vector = np.arange(11, dtype=np.uint32) * 0x17171717
    expected = vector.tolist()
    for key, sign in [*((key, 1) for key in plus), *((key, -1) for key in minus)]:
        mask = reference.mask(key.reveal(), 11)
        expected = [(a + sign * b) % 2**32 for a, b in zip(expected, mask, strict=True)]
    assert add_masks(vector, plus, minus).tolist() == expected
    assert vector.tolist() == (np.arange(11, dtype=np.uint32) * 0x17171717).tolist()
    assert add_masks(vector, plus, minus, in_place=True) is vector
    assert vector.tolist() == expected


def test_gmac_of_nothing_answers_as_the_gcm_specification():
    # McGrew and Viega, "The Galois/Counter Mode of Operation", appendix B, test case 13
    assert reference.gmac(bytes(32), b"").hex() == "530f8afbc74536b9a963b4f1c4cb738b"


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=9))
def test_the_checksum_is_the_gmac_of_the_words(words):
    key = digest(Label.CHECKSUM, b"h" * 32, b"hospital-0")
    data = b"".join(word.to_bytes(4, "little") for word in words)
    assert checksum(b"h" * 32, "hospital-0", np.array(words, np.uint32)) == reference.gmac(key, data)


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_the_hash_is_injective_in_its_parts(first, second):
    assert (digest(Label.TERMS, *first) == digest(Label.TERMS, *second)) == (first == second)


def test_no_two_labels_derive_the_same_hash_or_key():
    key = Secret(b"k" * 32)
    assert len({digest(label) for label in Label}) == len({primitives.derive(key, label).reveal() for label in Label})
    assert len({digest(label) for label in Label}) == len(Label)
