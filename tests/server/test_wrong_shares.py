"""Hospitals that lie in step B of a `recover` round: who is proven to is left out, the run and its model survive."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from federations import charges, tiny_federation
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from client.app import register
from fedmodels import wire
from fedmodels.errors import RunError
from fedmodels.joining import sign_presence, verify_presence
from fedmodels.secagg.messages import RecoverHeader, Shares, decode, encode
from fedmodels.secagg.primitives import Secret
from server.app import resume_study, run_study
from server.consortium import Consortium
from server.exchange import Exchange
from server.records import RoundLine
from simulations.federation import Federation
from simulations.localgrid import LocalGrid

LIAR, NODE, VICTIM = "hospital-03", 4, "hospital-01"
SEVEN = ("federation.hospitals=7", "federation.on_dropout=recover", "training.rounds=2")  # the threshold is 5
EVERYBODY = range(7)
Lies = Callable[[int, str], Sequence[int]]
"""Which dealers' shares a node opens wrong in a session (counted from 1) of this kind; places in the list it sends."""


class HospitalsGrid(LocalGrid):
    """The hospitals of a federation, as they are."""

    def __init__(self, federation: Federation) -> None:
        super().__init__(register(ClientApp()), [{"site": str(site)} for site in federation.sites])


class LyingGrid(HospitalsGrid):
    """Hospitals that answer step B with numbers that are no shares of the secrets they were asked for."""

    def __init__(self, federation: Federation, lies: dict[int, Lies]) -> None:
        super().__init__(federation)
        self._lies, self._sessions, self._kind = lies, dict.fromkeys(lies, 0), ""

    def _reply(self, message: Message) -> Message:
        reply, node = super()._reply(message), message.metadata.dst_node_id
        request = wire.decode_request(message.content.config_records["request"]["body"])
        if isinstance(request, wire.ContributeRequest):
            self._kind = request.kind
            if node in self._sessions:
                self._sessions[node] += 1
        if not isinstance(request, wire.UnmaskRequest) or node not in self._lies:
            return reply
        answer = wire.decode_reply(reply.content.config_records["reply"]["body"])
        told = decode(answer.message, Shares)
        wrong = self._lies[node](self._sessions[node], self._kind)
        shares = [Secret(bytes([1]) * 32) if i in wrong else share for i, share in enumerate(told.shares)]
        lie = encode(msgspec.structs.replace(told, shares=tuple(shares)))
        body = ConfigRecord({"body": wire.encode(wire.UnmaskReply(lie))})
        return Message(RecordDict({"reply": body}), reply_to=message)


def run(tmp_path: Path, lies: dict[int, Lies], *settings: str) -> tuple[dict, list[RoundLine], Federation]:
    federation = tiny_federation(tmp_path, *SEVEN, *settings)
    grid, lines = LyingGrid(federation, lies), []
    result = run_study(Exchange(grid), federation.study_file, federation.roster_file, tmp_path / "run", lines.append)
    return result, lines, federation


def always(_session: int, _kind: str) -> Sequence[int]:
    return EVERYBODY


def test_a_hospital_that_lies_in_training_is_left_out_from_then_on_and_the_round_is_run_again(tmp_path: Path) -> None:
    result, lines, federation = run(tmp_path, {NODE: always})
    assert [len(line.hospitals) for line in lines] == [6, 6]
    assert not any(LIAR in line.hospitals for line in lines)
    (dropout,) = result["dropouts"]  # named once, and nobody else is
    assert dropout == {
        "round": 1, "kind": "train", "hospital": LIAR, "reason": "it gave wrong shares of self masks",
    }  # fmt: skip
    assert charges(federation) == [3, 3, 1, 3, 3, 3, 3]  # the liar was not asked again
    assert result["metrics"]


def test_a_lie_in_the_evaluation_loses_neither_the_model_nor_the_evaluation(tmp_path: Path) -> None:
    def lie(_session: int, kind: str) -> Sequence[int]:
        return EVERYBODY if kind == "evaluate" else ()

    result, lines, _ = run(tmp_path, {NODE: lie}, "training.rounds=1")
    assert [len(line.hospitals) for line in lines] == [7]
    assert [(d["kind"], d["hospital"]) for d in result["dropouts"]] == [("evaluate", LIAR)]
    assert result["metrics"]
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_the_model_is_kept_where_nobody_can_be_blamed_for_the_lost_evaluation(tmp_path: Path) -> None:
    def lie(_session: int, kind: str) -> Sequence[int]:
        return [0] if kind == "evaluate" else ()

    result, _, _ = run(tmp_path, {NODE: lie}, "training.rounds=1")
    assert (result["metrics"], result["dropouts"]) == ({}, [])
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_a_single_wrong_share_blames_nobody_and_the_round_is_run_again_with_all(tmp_path: Path) -> None:
    """Its dealer or its holder may have lied: an honest hospital must not be left out for another's lie."""
    result, lines, federation = run(tmp_path, {NODE: lambda session, _: [5] if session == 1 else ()})
    assert [len(line.hospitals) for line in lines] == [7, 7]
    assert result["dropouts"] == []
    assert charges(federation) == [3] * 7


def test_lies_of_unknown_origin_end_the_run_when_its_retries_are_used_up(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"hospital-03 or hospital-06: wrong shares.*\n.*max_retries") as caught:
        run(tmp_path, {NODE: lambda *_: [5]}, "federation.max_retries=1")
    assert str(caught.value).startswith("session 2, step B")


def test_two_liars_together_who_cannot_be_told_apart_from_the_others_blame_nobody(tmp_path: Path) -> None:
    """They make the shares of all seven dealers look wrong, which one liar could not."""
    everybody = ", ".join(f"hospital hospital-0{i}" for i in range(1, 8))
    with pytest.raises(RunError, match=rf"step B, {everybody}: wrong shares") as caught:
        run(tmp_path, {NODE: always, 6: always}, "federation.max_retries=0")
    assert "without" not in str(caught.value)


def test_honest_hospitals_are_never_accused(tmp_path: Path) -> None:
    result, lines, _ = run(tmp_path, {})
    assert [len(line.hospitals) for line in lines] == [7, 7]
    assert result["dropouts"] == []


def test_too_few_hospitals_that_do_not_lie_end_the_run_at_once(tmp_path: Path) -> None:
    settings = ("federation.min_contributors=7", "federation.timeout_seconds=500")
    with pytest.raises(
        RunError, match=r"wrong shares: hospital-03: only 6 hospitals may still take part, 7 are needed"
    ):
        run(tmp_path, {NODE: always}, *settings)


def test_without_privacy_a_lie_ends_the_run_because_no_round_is_repeated(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"hospital-03: wrong shares.*\n.*never run twice"):
        run(tmp_path, {NODE: always}, "privacy.mode=none")


def test_a_liar_stays_out_when_the_coordinator_is_started_again(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def stop(line: RoundLine) -> None:
        raise Killed

    federation = tiny_federation(tmp_path, *SEVEN)
    grid, heads, lines = LyingGrid(federation, {NODE: always}), tmp_path / "heads.json", []
    files = federation.study_file, federation.roster_file
    with pytest.raises(Killed):
        run_study(Exchange(grid), *files, tmp_path / "run", stop, heads)
    result = resume_study(Exchange(grid), tmp_path / "run", lines.append, heads)
    assert [len(line.hospitals) for line in lines] == [6]
    assert [dropout["hospital"] for dropout in result["dropouts"]] == [LIAR]
    assert charges(federation)[2] == 1


def test_a_liar_stays_out_though_the_coordinator_is_killed_before_the_round_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object, again: bool) -> None:
        if again:
            raise Killed

    federation = tiny_federation(tmp_path, *SEVEN)
    grid, heads, lines = LyingGrid(federation, {NODE: always}), tmp_path / "heads.json", []
    files = federation.study_file, federation.roster_file
    with monkeypatch.context() as patched:
        patched.setattr(Consortium, "gather", killed)
        with pytest.raises(Killed):
            run_study(Exchange(grid), *files, tmp_path / "run", lines.append, heads)
    result = resume_study(Exchange(grid), tmp_path / "run", lines.append, heads)
    assert [len(line.hospitals) for line in lines] == [6, 6]
    assert [dropout["hospital"] for dropout in result["dropouts"]] == [LIAR]
    assert charges(federation)[2] == 1


class SealingGrid(HospitalsGrid):
    """The sealed shares of `hospital-03` open for nobody."""

    def _reply(self, message: Message) -> Message:
        reply = super()._reply(message)
        if message.metadata.dst_node_id != NODE:
            return reply
        body = wire.decode_reply(reply.content.config_records["reply"]["body"])
        if isinstance(body, wire.ContributeReply):
            header = decode(body.header, RecoverHeader)
            lie = msgspec.structs.replace(header, shares=(bytes(48),) * len(header.shares))
            body = msgspec.structs.replace(body, header=encode(lie))
            reply.content.config_records["reply"]["body"] = wire.encode(body)
        return reply


def test_a_hospital_whose_shares_open_for_nobody_is_left_out_and_nobody_else(tmp_path: Path) -> None:
    federation, lines = tiny_federation(tmp_path, *SEVEN), []
    grid = SealingGrid(federation)
    result = run_study(Exchange(grid), federation.study_file, federation.roster_file, tmp_path / "run", lines.append)
    assert [len(line.hospitals) for line in lines] == [6, 6]
    assert [dropout["hospital"] for dropout in result["dropouts"]] == [LIAR]
    assert charges(federation) == [3, 3, 1, 3, 3, 3, 3]


class HastyGrid(HospitalsGrid):
    """`hospital-03` answers before everybody else."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        pushed = list(messages)
        identifiers = list(super().push_messages(pushed))
        nodes = dict(zip(identifiers, (message.metadata.dst_node_id for message in pushed), strict=True))
        self._pending = dict(sorted(self._pending.items(), key=lambda item: nodes.get(item[0]) != NODE))
        return identifiers


class ImpersonatingGrid(HastyGrid):
    """It does so in the name of `hospital-01`."""

    def __init__(self, federation: Federation, kind: type) -> None:
        super().__init__(federation)
        self._kind, self.told = kind, 0

    def _reply(self, message: Message) -> Message:
        reply = super()._reply(message)
        body = wire.decode_reply(reply.content.config_records["reply"]["body"])
        if message.metadata.dst_node_id != NODE or not isinstance(body, self._kind):
            return reply
        self.told += 1
        if isinstance(body, wire.UnmaskReply):
            told = decode(body.message, Shares)
            shares = tuple(Secret(bytes([1]) * 32) for _ in told.shares)
            body = wire.UnmaskReply(encode(msgspec.structs.replace(told, sender=VICTIM, shares=shares)))
        else:
            header = decode(body.header, RecoverHeader)
            body = msgspec.structs.replace(body, header=encode(msgspec.structs.replace(header, sender=VICTIM)))
        reply.content.config_records["reply"]["body"] = wire.encode(body)
        return reply


@pytest.mark.parametrize("kind", [wire.UnmaskReply, wire.ContributeReply])
def test_a_hospital_that_answers_in_anothers_name_harms_nobody_but_itself(tmp_path: Path, kind: type) -> None:
    federation, lines = tiny_federation(tmp_path, *SEVEN, "training.rounds=1"), []
    grid = ImpersonatingGrid(federation, kind)
    result = run_study(Exchange(grid), federation.study_file, federation.roster_file, tmp_path / "run", lines.append)
    assert grid.told
    assert all(VICTIM in line.hospitals for line in lines)
    assert not any(dropout["hospital"] == VICTIM for dropout in result["dropouts"])
    if kind is wire.ContributeReply:
        assert "another hospital's" in result["dropouts"][0]["reason"]


def test_a_presence_is_for_one_question_of_one_run_by_one_hospital() -> None:
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    run_id, nonce = bytes(16), bytes([1]) * 16
    signature, public = sign_presence(key, run_id, nonce), key.public_key().public_bytes_raw()
    assert verify_presence(public, run_id, nonce, signature)
    for wrong in [(other, run_id, nonce), (public, nonce, nonce), (public, run_id, run_id), (public, nonce, run_id)]:
        assert not verify_presence(*wrong, signature)


def test_a_stranger_that_says_it_is_a_hospital_is_not_taken_for_it(tmp_path: Path) -> None:
    """After a restart the coordinator asks nodes whose they are. One says that it is another's, and says so first."""
    federation = tiny_federation(tmp_path, *SEVEN)
    heads, lines, asked = tmp_path / "heads.json", [], []

    class Stranger(HastyGrid):
        def _reply(self, message: Message) -> Message:
            reply = super()._reply(message)
            body = wire.decode_reply(reply.content.config_records["reply"]["body"])
            if isinstance(body, wire.PresenceReply) and body.hospital == LIAR:
                asked.append(message.metadata.dst_node_id)
                body = msgspec.structs.replace(body, hospital=VICTIM)
                reply.content.config_records["reply"]["body"] = wire.encode(body)
            return reply

    def stop(line: RoundLine) -> None:
        raise KeyboardInterrupt

    grid = Stranger(federation)
    files = federation.study_file, federation.roster_file
    with pytest.raises(KeyboardInterrupt):
        run_study(Exchange(grid), *files, tmp_path / "run", stop, heads)
    result = resume_study(Exchange(grid), tmp_path / "run", lines.append, heads)
    assert asked
    assert [VICTIM in line.hospitals for line in lines] == [True]
    assert not any(dropout["hospital"] == VICTIM for dropout in result["dropouts"])
