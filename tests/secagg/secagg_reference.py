"""A second, slow implementation of the protocol in Python integers, from the format in `fedmodels.secagg` alone.

It shares no code with the package and uses only hashlib and hmac. Never use it for anything but checking.
"""

import hashlib
import hmac

PRIME = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
TWISTED = -121665 * pow(121666, -1, PRIME) % PRIME


def x25519(secret, point):
    """RFC 7748, section 5: the Montgomery ladder."""
    scalar = int.from_bytes(secret, "little") & ~7 & (2**255 - 1) & ~(1 << 254) | (1 << 254)
    u = int.from_bytes(point, "little") & (2**255 - 1)
    x2, z2, x3, z3 = 1, 0, u, 1
    for bit in f"{scalar:0255b}":
        if bit == "1":
            x2, z2, x3, z3 = x3, z3, x2, z2
        total, difference = (x2 + z2) % PRIME, (x2 - z2) % PRIME
        square_t, square_d = total * total % PRIME, difference * difference % PRIME
        e = (square_t - square_d) % PRIME
        cross_1, cross_2 = (x3 - z3) * total % PRIME, (x3 + z3) * difference % PRIME
        x3, z3 = (cross_1 + cross_2) ** 2 % PRIME, u * (cross_1 - cross_2) ** 2 % PRIME
        x2, z2 = square_t * square_d % PRIME, e * (square_t + 121665 * e) % PRIME
        if bit == "1":
            x2, z2, x3, z3 = x3, z3, x2, z2
    return (x2 * pow(z2, -1, PRIME) % PRIME).to_bytes(32, "little")


def _add(p, q):
    x1, y1, x2, y2 = *p, *q
    product = TWISTED * x1 * x2 * y1 * y2 % PRIME
    x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, PRIME) % PRIME
    return x, (y1 * y2 + x1 * x2) * pow(1 - product, -1, PRIME) % PRIME


def _multiple(scalar):
    y = 4 * pow(5, -1, PRIME) % PRIME
    square = (y * y - 1) * pow(TWISTED * y * y + 1, -1, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    if (x * x - square) % PRIME:
        x = x * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
    point, result = (x if x % 2 == 0 else PRIME - x, y), (0, 1)
    while scalar:
        if scalar & 1:
            result = _add(result, point)
        point, scalar = _add(point, point), scalar >> 1
    return (result[1] | (result[0] & 1) << 255).to_bytes(32, "little")


def _expanded(seed):
    hashed = hashlib.sha512(seed).digest()
    return int.from_bytes(hashed[:32], "little") & ~7 & (2**254 - 1) | (1 << 254), hashed[32:]


def ed25519_public(seed):
    """RFC 8032, section 5.1.5."""
    return _multiple(_expanded(seed)[0])


def ed25519_sign(seed, message):
    """RFC 8032, section 5.1.6."""
    scalar, prefix = _expanded(seed)
    nonce = int.from_bytes(hashlib.sha512(prefix + message).digest(), "little") % ORDER
    commitment = _multiple(nonce)
    challenge = hashlib.sha512(commitment + _multiple(scalar) + message).digest()
    response = (nonce + int.from_bytes(challenge, "little") * scalar) % ORDER
    return commitment + response.to_bytes(32, "little")


def _double(byte):
    return (byte << 1 ^ (0x11B if byte & 0x80 else 0)) & 0xFF


def _box():
    box, p, q = [0x63] * 256, 1, 1
    for _ in range(255):
        p ^= _double(p)
        for shift in (1, 2, 4):
            q ^= q << shift & 0xFF
        q ^= 0x09 if q & 0x80 else 0
        box[p] = q ^ (q << 1 | q >> 7) & 255 ^ (q << 2 | q >> 6) & 255 ^ (q << 3 | q >> 5) & 255
        box[p] ^= (q << 4 | q >> 4) & 255 ^ 0x63
    return box


BOX = _box()


def aes256(key, block):
    """FIPS 197: one block."""
    words, constant = [key[i : i + 4] for i in range(0, 32, 4)], 1
    for i in range(8, 60):
        word = words[-1]
        if i % 8 == 0:
            word = bytes([BOX[word[1]] ^ constant, BOX[word[2]], BOX[word[3]], BOX[word[0]]])
            constant = _double(constant)
        elif i % 8 == 4:
            word = bytes(BOX[b] for b in word)
        words.append(bytes(a ^ b for a, b in zip(words[-8], word, strict=True)))
    rounds = [b"".join(words[i : i + 4]) for i in range(0, 60, 4)]
    state = [a ^ b for a, b in zip(block, rounds[0], strict=True)]
    for number, round_key in enumerate(rounds[1:], 1):
        state = [BOX[state[(i + 4 * (i % 4)) % 16]] for i in range(16)]
        if number < 14:
            mixed = []
            for c in range(0, 16, 4):
                a = state[c : c + 4]
                every = a[0] ^ a[1] ^ a[2] ^ a[3]
                mixed += [a[i] ^ every ^ _double(a[i] ^ a[(i + 1) % 4]) for i in range(4)]
            state = mixed
        state = [a ^ b for a, b in zip(state, round_key, strict=True)]
    return bytes(state)


def gcm(key, plain, associated):
    """NIST SP 800-38D under a nonce of 12 zeros: ciphertext and tag."""
    subkey, tag = int.from_bytes(aes256(key, bytes(16)), "big"), 0
    stream = b"".join(aes256(key, bytes(12) + (2 + i).to_bytes(4, "big")) for i in range(-(-len(plain) // 16)))
    cipher = bytes(a ^ b for a, b in zip(plain, stream, strict=False))
    padded = associated + bytes(-len(associated) % 16) + cipher + bytes(-len(cipher) % 16)
    padded += (8 * len(associated)).to_bytes(8, "big") + (8 * len(cipher)).to_bytes(8, "big")
    for start in range(0, len(padded), 16):
        x, v, tag = tag ^ int.from_bytes(padded[start : start + 16], "big"), subkey, 0
        for bit in range(127, -1, -1):
            tag ^= v if x >> bit & 1 else 0
            v = v >> 1 ^ (0xE1 << 120 if v & 1 else 0)
    return cipher + (tag ^ int.from_bytes(aes256(key, bytes(15) + b"\1"), "big")).to_bytes(16, "big")


def gmac(key, data):
    """The tag of `data` as associated data, nothing encrypted."""
    return gcm(key, b"", data)


def mask(key, words):
    """The first words (at most one chunk of 2^16) of a key's mask."""
    stream = b"".join(aes256(key, bytes(12) + (2 + i).to_bytes(4, "big")) for i in range(words // 4 + 1))
    return [int.from_bytes(stream[i : i + 4], "little") for i in range(0, 4 * words, 4)]


def hkdf_expand(key, info):
    """RFC 5869, one block."""
    return hmac.digest(key, info + b"\1", "sha256")


def labelled_hash(*parts):
    """H of the format."""
    raw = [part.encode() if isinstance(part, str) else part for part in ("fedmodels/secagg/v1", *parts)]
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in raw)).digest()


def number(value):
    """8 bytes, big-endian."""
    return value.to_bytes(8, "big")


def pack(value):
    """MessagePack, of the types and sizes that the vectors need."""
    if value is None:
        return b"\xc0"
    if isinstance(value, int):
        return bytes([value])
    if isinstance(value, str):
        return bytes([0xA0 | len(value)]) + value.encode()
    if isinstance(value, bytes):
        return b"\xc4" + bytes([len(value)]) + value
    if isinstance(value, dict):
        return bytes([0x80 | len(value)]) + b"".join(pack(key) + pack(item) for key, item in value.items())
    return bytes([0x90 | len(value)]) + b"".join(pack(item) for item in value)


def set_up(run):
    """All of the set-up: (messages by name, relayed message, T0, first chain key of every pair of names)."""
    identities = {name: bytes.fromhex(seed) for name, seed in sorted(run["identities"].items())}
    roster = labelled_hash("roster", *[p for n, seed in identities.items() for p in (n, ed25519_public(seed))])
    label, extra = ("terms-recover", [number(run["threshold"])]) if "threshold" in run else ("terms", [])
    terms = labelled_hash(label, bytes.fromhex(run["run_id"]), bytes.fromhex(run["study_digest"]), roster, *extra)
    secrets = {name: bytes.fromhex(run["ephemerals"][name]) for name in identities}
    keys = {name: x25519(secret, bytes([9]) + bytes(31)) for name, secret in secrets.items()}
    bodies = {}
    for name, key in keys.items():
        signature = ed25519_sign(identities[name], labelled_hash("setup-key", terms, name, key))
        bodies[name] = {"type": "setup-key/v1", "sender": name, "key": key, "signature": signature}
    t0 = labelled_hash("transcript", terms, *[part for item in keys.items() for part in item])
    chains = {}
    for low in keys:
        for high in (name for name in keys if name > low):
            extracted = hmac.digest(t0, x25519(secrets[low], keys[high]), "sha256")
            chains[low, high] = hkdf_expand(extracted, labelled_hash("pair-chain", low, high))
    relayed = pack({"type": "setup-keys/v1", "keys": list(bodies.values())})
    return {name: pack(body) for name, body in bodies.items()}, relayed, t0, chains


def session_digest(label, t0, session):
    """h of a session of the vectors."""
    members = sorted(session["vectors"])
    return labelled_hash(label, t0, number(session["session"]), bytes.fromhex(session["model_digest"]), *members)


def chain(chains, session, name, peer):
    """The chain key of two contributors, ratcheted to the session."""
    key = chains[min(name, peer), max(name, peer)]
    for _ in range(session["session"] - 1):
        key = hkdf_expand(key, labelled_hash("chain-ratchet"))
    return key


def upload(t0, chains, session, name):
    """One contributor's (header, masked vector) in a session of the vectors."""
    members, vector = sorted(session["vectors"]), session["vectors"][name]
    h = session_digest("session", t0, session)
    masked = list(vector)
    for peer in (member for member in members if member != name):
        seed = hkdf_expand(chain(chains, session, name, peer), labelled_hash("pair-mask", h))
        sign = 1 if name < peer else -1
        masked = [(a + sign * b) % 2**32 for a, b in zip(masked, mask(seed, len(vector)), strict=True)]
    checksum = gmac(labelled_hash("upload-checksum", h, name), b"".join(w.to_bytes(4, "little") for w in masked))
    header = {"type": "upload/v1", "sender": name, "session": session["session"], "session_digest": h}
    return pack({**header, "words": len(vector), "checksum": checksum}), masked
