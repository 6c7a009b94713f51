"""Flower 1.41's SecAgg+, from Flower's own primitives, in the order of its `secaggplus_mod` and `SecAggPlusWorkflow`.

All four stages belong to every round, as in Flower. Complete graph, shares to everybody, threshold 80%. Left out, in
Flower's favour: messages, turning arrays into bytes, dequantisation, and that its server holds all uploads at once.
Of the hospitals that are not timed, an upload carries only the masks that do not cancel in the sum.

This is one of the files that may use Flower's private names (see tests/test_walls.py).
"""

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt, encrypt, generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    factor_combine,
    factor_extract,
    get_parameters_shape,
    parameters_addition,
    parameters_mod,
    parameters_multiply,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import quantize
from flwr.common.secure_aggregation.secaggplus_utils import (
    pseudo_rand_gen,
    share_keys_plaintext_concat,
    share_keys_plaintext_separate,
)
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    private_key_to_bytes,
    public_key_to_bytes,
)

from simulations.benchmarks.aggregation.contest import Case, Clock, Contender, Inputs, Round, RunRound

_CLIP, _TARGET, _MODULUS = 8.0, 1 << 22, 1 << 32
_THRESHOLD = 0.8
_FACTOR = 1

Arrays = list[npt.NDArray[Any]]
PublicKeys = dict[int, tuple[bytes, bytes]]


@dataclass
class _Client:
    """`SecAggPlusState`: what a client keeps between the stages."""

    number: int
    sk1: bytes = b""
    sk2: bytes = b""
    keys: tuple[bytes, bytes] = (b"", b"")
    seed: bytes = b""
    seed_shares: dict[int, bytes] = field(default_factory=dict)
    key_shares: dict[int, bytes] = field(default_factory=dict)
    secrets: dict[int, bytes] = field(default_factory=dict)
    public: PublicKeys = field(default_factory=dict)

    def setup(self) -> tuple[bytes, bytes]:
        """Stage 0."""
        (sk1, pk1), (sk2, pk2) = generate_key_pairs(), generate_key_pairs()
        self.sk1, self.sk2 = private_key_to_bytes(sk1), private_key_to_bytes(sk2)
        self.keys = public_key_to_bytes(pk1), public_key_to_bytes(pk2)
        return self.keys

    def share_keys(self, public: PublicKeys) -> dict[int, bytes]:
        """Stage 1: a ciphertext for every other client."""
        self.public = public
        self.seed = os.urandom(32)
        threshold = round(_THRESHOLD * len(public))
        seed_shares = create_shares(self.seed, threshold, len(public))
        key_shares = create_shares(self.sk1, threshold, len(public))
        ciphertexts = {}
        for index, (peer, (_, pk2)) in enumerate(public.items()):
            if peer == self.number:
                self.seed_shares[peer], self.key_shares[peer] = seed_shares[index], key_shares[index]
            else:
                self.secrets[peer] = generate_shared_key(bytes_to_private_key(self.sk2), bytes_to_public_key(pk2))
                plaintext = share_keys_plaintext_concat(self.number, peer, seed_shares[index], key_shares[index])
                ciphertexts[peer] = encrypt(self.secrets[peer], plaintext)
        return ciphertexts

    def receive_shares(self, ciphertexts: dict[int, bytes]) -> None:
        for source, ciphertext in ciphertexts.items():
            plaintext = decrypt(self.secrets[source], ciphertext)
            _, _, self.seed_shares[source], self.key_shares[source] = share_keys_plaintext_separate(plaintext)

    def mask(self, quantized: Arrays, peers: list[int]) -> Arrays:
        """Stage 2, after quantisation: the private mask, and a pairwise mask for each of `peers`."""
        vector = factor_combine(_FACTOR, quantized)
        shapes = get_parameters_shape(vector)
        vector = parameters_addition(vector, pseudo_rand_gen(self.seed, _MODULUS, shapes))
        for peer in peers:
            shared = generate_shared_key(bytes_to_private_key(self.sk1), bytes_to_public_key(self.public[peer][0]))
            mask = pseudo_rand_gen(shared, _MODULUS, shapes)
            combine = parameters_addition if self.number > peer else parameters_subtraction
            vector = combine(vector, mask)
        return parameters_mod(vector, _MODULUS)

    def unmask(self, alive: list[int], dead: list[int]) -> dict[int, bytes]:
        """Stage 3."""
        return {n: self.seed_shares[n] for n in alive} | {n: self.key_shares[n] for n in dead}


def _unmask(masked: Arrays, shares: dict[int, list[bytes]], alive: list[int], public: PublicKeys) -> Arrays:
    """The server's `unmask_stage`, up to dequantisation."""
    shapes = get_parameters_shape(masked)
    for number, share_list in shares.items():
        secret = combine_shares(share_list)
        if number in alive:
            masked = parameters_subtraction(masked, pseudo_rand_gen(secret, _MODULUS, shapes))
            continue
        for peer in alive:
            shared = generate_shared_key(bytes_to_private_key(secret), bytes_to_public_key(public[peer][0]))
            mask = pseudo_rand_gen(shared, _MODULUS, shapes)
            combine = parameters_addition if number > peer else parameters_subtraction
            masked = combine(masked, mask)
    return parameters_mod(masked, _MODULUS)


def _prepare(case: Case, inputs: Inputs) -> RunRound:
    numbers, alive = list(range(case.contributors)), list(case.uploading)
    dead = [number for number in numbers if number not in alive]
    clients = [_Client(number) for number in numbers]
    public = {client.number: client.setup() for client in clients}
    sent = [client.share_keys(public) for client in clients]
    inboxes = [{source: sent[source][number] for source in numbers if source != number} for number in numbers]
    for client, inbox in zip(clients[1:], inboxes[1:], strict=True):
        client.receive_shares(inbox)

    def run(clock: Clock) -> Round:
        with clock.phase("keys"):
            again = _Client(0)
            keys = again.setup()
            ciphertexts = again.share_keys(public | {0: keys})
        with clock.phase("encode"):
            quantize(parameters_multiply([inputs.update], _FACTOR), _CLIP, _TARGET)
        total: Arrays = []
        for number in alive:
            quantized: Arrays = [inputs.integers(number).view(np.int32)]  # as `quantize` returns them
            with clock.phase("mask", timed=number == 0):
                if number == 0:
                    clients[0].receive_shares(inboxes[0])
                upload = clients[number].mask(quantized, numbers[1:] if number == 0 else [0, *dead])
            with clock.phase("add"):
                total = parameters_addition(total, upload) if total else upload
        with clock.phase("add"):
            total = parameters_mod(total, _MODULUS)
        with clock.phase("open"):
            reply = clients[0].unmask(alive, dead)
        replies = [clients[number].unmask(alive, dead) for number in alive]
        shares = {number: [shared[number] for shared in replies] for number in numbers}
        with clock.phase("unmask"):
            _, opened = factor_extract(_unmask(total, shares, alive, public))
        small = [*keys, *ciphertexts.values(), *reply.values()]
        bytes_up = sum(array.nbytes for array in upload) + sum(len(part) for part in small)
        return Round(opened[0].astype(np.uint32), bytes_up, exchanges=4)

    return run


CONTENDER = Contender("Flower SecAgg+", _prepare, lambda case: case.contributors)
