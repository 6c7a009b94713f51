"""The `recover` round of the slow reference: uploads, both steps of unmasking and the sum, in Python integers."""

from secagg_reference import chain, gcm, gmac, hkdf_expand, labelled_hash, mask, pack, session_digest

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256: FIPS 186-4, D.1.2.3


def polynomial(randomness, threshold):
    """b and the other coefficients, from 48 random bytes each."""
    return [int.from_bytes(randomness[48 * i : 48 * i + 48], "big") % ORDER for i in range(threshold)]


def share(coefficients, x):
    return sum(c * x**power for power, c in enumerate(coefficients)) % ORDER


def secret(shares):
    """b from {x: share}: Lagrange, at 0."""
    total = 0
    for x, value in shares.items():
        weight = value
        for other in shares:
            if other != x:
                weight = weight * other * pow(other - x, ORDER - 2, ORDER) % ORDER
        total += weight
    return total % ORDER


def word_bytes(words):
    return b"".join(word.to_bytes(4, "little") for word in words)


class Round:
    """One session of the vectors, knowing everything."""

    def __init__(self, t0, chains, session, threshold):
        self.session, self.threshold, self.chains = session, threshold, chains
        self.members = sorted(session["vectors"])
        self.h = session_digest("session-recover", t0, session)
        self.polynomials = {
            name: polynomial(bytes.fromhex(random), threshold) for name, random in session["randomness"].items()
        }

    def seed(self, name, peer):
        return hkdf_expand(chain(self.chains, self.session, name, peer), labelled_hash("pair-mask", self.h))

    def self_mask(self, name, b):
        return hkdf_expand(b.to_bytes(32, "big"), labelled_hash("self-mask", self.h, name))

    def share(self, dealer, holder):
        return share(self.polynomials[dealer], self.members.index(holder) + 1).to_bytes(32, "big")

    def sealed(self, dealer, holder):
        key = hkdf_expand(
            chain(self.chains, self.session, dealer, holder), labelled_hash("share-key", self.h, dealer, holder)
        )
        return gcm(key, self.share(dealer, holder), labelled_hash("share-data", self.h, dealer, holder))

    def request(self):
        fields = {"type": "session-recover/v1", "session": self.session["session"], "contributors": self.members}
        return pack(fields)

    def upload(self, name):
        """(header, masked vector)."""
        vector = self.session["vectors"][name]
        own = mask(self.self_mask(name, self.polynomials[name][0]), len(vector))
        masked = [(a + b) % 2**32 for a, b in zip(vector, own, strict=True)]
        for peer in (member for member in self.members if member != name):
            sign = 1 if name < peer else -1
            pairs = zip(masked, mask(self.seed(name, peer), len(vector)), strict=True)
            masked = [(a + sign * b) % 2**32 for a, b in pairs]
        fields = {
            "type": "upload-recover/v1",
            "sender": name,
            "session": self.session["session"],
            "session_digest": self.h,
            "words": len(vector),
            "checksum": gmac(labelled_hash("upload-checksum", self.h, name), word_bytes(masked)),
            "shares": [self.sealed(name, peer) for peer in self.members if peer != name],
        }
        return pack(fields), masked

    def step_a(self, dropped):
        """(request, {survivor: reply})."""
        fields = {"session_digest": self.h, "dropped": dropped}
        replies = {
            name: pack(
                {"type": "pairs/v1", "sender": name, **fields, "seeds": [self.seed(name, peer) for peer in dropped]}
            )
            for name in self.members
            if name not in dropped
        }
        return pack({"type": "reveal-pairs/v1", **fields}), replies

    def step_b(self, dropped):
        """({survivor: request}, {survivor: reply})."""
        fields = {"session_digest": self.h, "dropped": dropped}
        alive = [name for name in self.members if name not in dropped]
        requests, replies = {}, {}
        for name in alive:
            sealed = [self.sealed(dealer, name) for dealer in alive if dealer != name]
            requests[name] = pack({"type": "reveal-shares/v1", **fields, "shares": sealed})
            replies[name] = self.step_b_reply(name, dropped, sealed)
        return requests, replies

    def step_b_reply(self, name, dropped, sealed):
        """What `name` answers where the coordinator gave it these sealed shares, right ones or not."""
        dealers, waiting = [dealer for dealer in self.members if dealer not in dropped], list(sealed)
        opened = [
            self.share(dealer, name) if dealer == name or waiting.pop(0) == self.sealed(dealer, name) else None
            for dealer in dealers
        ]
        fields = {"session_digest": self.h, "dropped": dropped, "shares": opened}
        return pack({"type": "shares/v1", "sender": name, **fields})

    def open(self, masked, dropped, holders):
        """The sum of the survivors, from their masked vectors, the revealed pair seeds and the shares of `holders`."""
        alive = [name for name in self.members if name not in dropped]
        words = len(masked[alive[0]])
        total = [sum(masked[name][i] for name in alive) for i in range(words)]
        for name in alive:
            places = {self.members.index(x) + 1: int.from_bytes(self.share(name, x), "big") for x in holders}
            own = mask(self.self_mask(name, secret(places)), words)
            total = [a - b for a, b in zip(total, own, strict=True)]
            for peer in dropped:
                sign = 1 if name < peer else -1
                total = [a - sign * b for a, b in zip(total, mask(self.seed(name, peer), words), strict=True)]
        return [value % 2**32 for value in total]
