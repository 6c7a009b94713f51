"""The aggregator's `recover` session: uploads, then step A where hospitals dropped out, then step B, then the sum.

Nothing here is trusted by the contributors. Uploads are added up as they come, in the memory of one vector. A hospital
that fails *after* its upload has to come out of that sum again; its masked vector is needed for that, and is asked of
the caller (`Recall`), who keeps the uploads of a session wherever there is room, such as a folder on the disk.
"""

from collections.abc import Callable, Mapping, Sized
from dataclasses import replace

from fedmodels.errors import RemoteProtocolError, RoundAborted, WrongShares
from fedmodels.secagg.aggregator import Aggregator, bind
from fedmodels.secagg.blame import Pair, liars
from fedmodels.secagg.keystream import Vector, add_masks
from fedmodels.secagg.messages import (
    Pairs,
    RecoverHeader,
    RecoverRequest,
    RevealPairs,
    RevealShares,
    Shares,
    decode,
    encode,
)
from fedmodels.secagg.primitives import Secret
from fedmodels.secagg.recovery import self_mask
from fedmodels.secagg.shamir import combine, is_scalar
from fedmodels.secagg.terms import Terms
from fedmodels.secagg.uploads import Uploads

Recall = Callable[[str], Vector | None]
"""`recall(name)` gives back the masked vector that a hospital uploaded in this session, or None where it is gone."""

_UPLOAD, _STEP_A, _STEP_B, _OPEN = "upload", "step A", "step B", "open"


class RecoverSession:
    """One `recover` session, driven by

        for each upload: session.add(header, vector)
        while requests := session.advance(recall):
            send each hospital its request; for each reply: session.answer(reply)
        total = session.result()

    `advance` ends a stage with those who answered in time. A message that is refused leaves the session as it was.
    """

    def __init__(self, terms: Terms, request: RecoverRequest, digest: bytes, words: int) -> None:
        self.request = encode(request)
        self._terms, self._threshold = terms, terms.threshold or 0
        self._uploads = Uploads(request, digest, words, RecoverHeader)
        self._stage = _UPLOAD
        self._pairs: dict[str, Pairs] = {}
        self._shares: dict[str, Shares] = {}

    @property
    def survivors(self) -> tuple[str, ...]:
        """The contributors whose uploads are in the sum, in roster order; U without D."""
        return tuple(name for name in self._contributors if name in self._uploads.headers)

    @property
    def dropped(self) -> tuple[str, ...]:
        """D: the contributors whose uploads are not in the sum, in roster order."""
        return self._uploads.missing

    @property
    def missing(self) -> tuple[str, ...]:
        """Those who have not answered in the present stage, in roster order."""
        if self._stage == _UPLOAD:
            return self.dropped
        answers = {_STEP_A: self._pairs.keys(), _STEP_B: self._shares.keys()}.get(self._stage, self.survivors)
        return tuple(name for name in self.survivors if name not in answers)

    @property
    def _contributors(self) -> tuple[str, ...]:
        return self._uploads.request.contributors

    def add(self, header: bytes, vector: Vector) -> None:
        """Add one upload: an encoded `RecoverHeader` and the vector beside it. The same upload again changes nothing.

        Raises `RemoteProtocolError`, naming the hospital, as `Session.add` does, and for an upload that is too late.
        Sharp edge: an upload says itself whose it is; `check_sender` first.
        """
        upload = decode(header, RecoverHeader)
        if self._stage != _UPLOAD and self._uploads.headers.get(upload.sender) != upload:
            raise self._uploads.error(upload.sender, "its upload came too late")
        fits = upload.session_digest == self._uploads.digest  # else the uploads know a better reason to refuse
        if fits and len(upload.shares) != len(self._contributors) - 1:
            raise self._uploads.error(upload.sender, "the upload does not have a sealed share for every contributor")
        self._uploads.add(header, vector)

    def advance(self, recall: Recall | None = None) -> Mapping[str, bytes]:
        """End the present stage: requests for the next one, by hospital; none once the sum is open.

        Raises `RoundAborted` with all hospitals that are missing where too few are left. Answers to step B that come
        after that are still taken, and `advance` may be tried again. `WrongShares` says that hospitals lied in step
        B, and which of them are proven to have.
        """
        if self._stage == _UPLOAD:
            self._drop((), recall)
        elif self._stage == _STEP_A and self.missing:
            self._drop(self.missing, recall)
        elif self._stage == _STEP_A:
            self._stage = _STEP_B
        elif self._stage == _STEP_B:
            self._open()
        return self._requests()

    def _drop(self, failed: tuple[str, ...], recall: Recall | None) -> None:
        """Let D grow by `failed`, whose uploads are in the sum, and go on to step A; to step B while D is empty."""
        gone = tuple(name for name in self._contributors if name in {*self.dropped, *failed})
        if len(self._contributors) - len(gone) < self._terms.least:
            raise self._aborted(gone, "run the round again with a new session number and fresh training")
        for name in failed:
            vector = recall(name) if recall else None
            if vector is None or not self._uploads.take_back(name, vector):
                raise self._aborted(gone, "keep the uploads of a session until it is open, and pass `recall`")
            self._pairs.clear()  # they answered for a smaller D
        self._stage = _STEP_A if self.dropped else _STEP_B

    def _aborted(self, missing: tuple[str, ...], fix: str) -> RoundAborted:
        return RoundAborted(missing, where=f"{self._uploads.where}, {self._stage}", fix=fix)

    def _requests(self) -> dict[str, bytes]:
        if self._stage == _STEP_A:
            return dict.fromkeys(self.survivors, encode(RevealPairs(self._uploads.digest, self.dropped)))
        if self._stage == _STEP_B:
            return {
                name: encode(RevealShares(self._uploads.digest, self.dropped, self._sealed_for(name)))
                for name in self.survivors
            }
        return {}

    def _sealed_for(self, holder: str) -> tuple[bytes, ...]:
        place = self._contributors.index(holder)  # a dealer leaves itself out: later places are one less
        headers = [(self._contributors.index(name), self._uploads.headers[name]) for name in self.survivors]
        return tuple(header.shares[place - (dealer < place)] for dealer, header in headers if dealer != place)

    def answer(self, message: bytes) -> None:
        """Take the answer to a request of the present stage. The same again changes nothing.

        Raises `RemoteProtocolError`, naming the hospital, for one of another stage, session or list, and for a second
        and different one; a stale answer that was delayed on its way is one of these. Sharp edge: see `add`.
        """
        if self._stage == _STEP_A:
            pairs = decode(message, Pairs)
            self._check(pairs, self._pairs, pairs.seeds, len(self.dropped))
            self._pairs[pairs.sender] = pairs
        elif self._stage == _STEP_B:
            shares = decode(message, Shares)
            self._check(shares, self._shares, shares.shares, len(self.survivors))
            if not all(share is None or is_scalar(share) for share in shares.shares):
                raise self._uploads.error(shares.sender, "its answer holds a number that is no share")
            if shares.shares[self.survivors.index(shares.sender)] is None:
                raise self._uploads.error(shares.sender, "its answer lacks the share of its own secret")
            self._shares[shares.sender] = shares
        else:
            raise RemoteProtocolError(
                "an answer came that nothing was asked for", where=self._uploads.where, fix="leave it out"
            )

    def _check(self, reply: Pairs | Shares, known: Mapping[str, Pairs | Shares], secrets: Sized, count: int) -> None:
        problem = ""
        if reply.sender not in self.survivors:
            problem = "an answer comes from a sender that was not asked"
        elif reply.session_digest != self._uploads.digest:
            problem = "its answer is for another session, model, list of contributors or set-up"
        elif reply.dropped != self.dropped:
            problem = "its answer is for another list of dropped hospitals"
        elif len(secrets) != count:
            problem = f"its answer holds {len(secrets)} secrets instead of {count}"
        elif known.get(reply.sender, reply) != reply:
            problem = "it sent a second, different answer"
        if problem:
            raise self._uploads.error(reply.sender, problem)

    def _open(self) -> None:
        """Reconstruct the survivors' self masks and take all masks that did not cancel out of the sum."""
        if len(self._shares) < self._threshold:
            raise self._aborted(self.missing, f"{self._threshold} answers are needed; wait for more, or run it again")
        places = {self._contributors.index(name) + 1: reply.shares for name, reply in self._shares.items()}
        combined = combine(places, self._threshold)
        secrets = [secret for secret in combined.secrets if secret is not None]
        if combined.wrong or len(secrets) < len(self.survivors):
            raise self._lie(combined.wrong)
        selves = zip(self.survivors, secrets, strict=True)
        minus = [self_mask(secret, self._uploads.digest, name) for name, secret in selves]
        plus: list[Secret] = []
        for name, reply in self._pairs.items():
            for peer, seed in zip(reply.dropped, reply.seeds, strict=True):
                (minus if name < peer else plus).append(seed)
        add_masks(self._uploads.sum, plus, minus, in_place=True)
        self._stage = _OPEN

    def _lie(self, wrong: Mapping[int, frozenset[int]]) -> WrongShares:
        """The error for these wrong shares, by the place of their dealer among the survivors, and those not opened.

        No honest hospital is among its `liars` while at most c = `max_colluding` hospitals lie (one, where c is 0), and
        no more open shares to wrong numbers than half of the answers beyond the threshold: what the decoder corrects.
        """
        bearable, most = (len(self._shares) - self._threshold) // 2, max(1, self._terms.max_colluding)
        unopened = self._unopened()
        pairs = unopened | {
            frozenset({self.survivors[dealer], self._contributors[place - 1]})
            for dealer, places in wrong.items()
            for place in places
        }
        if most <= bearable:  # then the decoder corrects all that may happen to an honest dealer
            pairs |= {frozenset({self.survivors[dealer]}) for dealer, places in wrong.items() if not places}
        found = liars(pairs, min(most, bearable), bearable)
        proven = (*found, *(name for name in liars(unopened, most, most) if name not in found))
        unsure = sorted(" or ".join(sorted(pair)) for pair in pairs if not pair & set(proven))
        named = "".join(f", hospital {name}" for name in (*proven, *unsure))
        return WrongShares(
            proven,
            "wrong shares of self masks" + ("" if named else ", and too few answers to tell whose they are"),
            where=f"{self._uploads.where}, {self._stage}{named}",
            fix="run the round again without the hospitals that lied, with fresh training and a new session number",
        )

    def _unopened(self) -> set[Pair]:
        """Dealer and holder of every share that is said not to open."""
        return {
            frozenset({dealer, holder})
            for holder, reply in self._shares.items()
            for dealer, share in zip(self.survivors, reply.shares, strict=True)
            if share is None
        }

    def result(self) -> Vector:
        """The sum of the survivors' vectors modulo 2^32; `RoundAborted` names who is missing while it is not open."""
        if self._stage != _OPEN:
            raise self._aborted(self.missing, "go on with `advance` until it asks for nothing more")
        total = self._uploads.sum.view()
        total.flags.writeable = False
        return total


def open_recovery(
    state: Aggregator, session: int, contributors: tuple[str, ...], model_digest: bytes, words: int
) -> tuple[Aggregator, RecoverSession]:
    """As `open_session`, for terms with on_dropout `recover`."""
    request = RecoverRequest(session, tuple(sorted(contributors)))
    bound = bind(state, request, model_digest, words)
    return replace(state, next_session=session + 1), RecoverSession(state.terms, request, bound, words)
