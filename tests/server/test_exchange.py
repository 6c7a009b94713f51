"""An exchange with many hospitals in the memory of one: replies, models, and uploads of `recover` sessions on disk."""

import stat
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from federations import grid_of, tiny_federation
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

import server.exchange
import server.link
from client.app import register
from fedmodels import wire
from server.app import run_study
from server.exchange import Answer, Exchange
from server.kept import Kept, forget_uploads
from server.link import _Arriving, _LinkGrid
from server.records import RoundLine
from simulations.localgrid import LocalGrid

HOSPITALS = 5
WORDS = 1000


class Counted:
    """How many of the things that it was shown are in use at a time."""

    def __init__(self) -> None:
        self._seen: list[weakref.ref] = []
        self.most = self.shown = 0

    def show(self, thing: object) -> None:
        self._seen.append(weakref.ref(thing))
        self.shown += 1
        self.most = max(self.most, sum(each() is not None for each in self._seen))


def message_of(node: int) -> Message:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 7, 1
    message = Message(RecordDict(), node, "train")
    message.metadata.__dict__["_message_id"] = str(node)
    vector = ArrayRecord({"vector": Array(np.full(WORDS, node, np.uint32))})
    body = ConfigRecord({"body": wire.encode(wire.ContributeReply(b"header"))})
    return Message(RecordDict({"reply": body, "vector": vector}), reply_to=message)


class AllAtOnce(LocalGrid):
    """Everybody's reply is complete at the first poll; each is made when it is asked for."""

    def __init__(self, messages: Counted) -> None:
        super().__init__(ClientApp(), [{}] * HOSPITALS)
        self._messages = messages

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return [str(message.metadata.dst_node_id) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        for identifier in list(message_ids):
            message = message_of(int(identifier))
            self._messages.show(message)
            yield message
            del message


def ask_all(messages: Counted) -> Iterator[Answer]:
    grid = AllAtOnce(messages)
    return Exchange(grid).ask(dict.fromkeys(grid.get_node_ids(), wire.PresenceRequest(bytes(16), bytes(16))), 60.0)


def test_one_reply_and_one_vector_are_in_memory_however_many_arrived_at_once() -> None:
    messages, vectors = Counted(), Counted()
    total = np.zeros(WORDS, np.uint32)
    for answer in ask_all(messages):
        vectors.show(answer.array)
        total += answer.array
        del answer
    assert total[0] == sum(range(2, 2 + HOSPITALS))
    assert (messages.shown, messages.most) == (HOSPITALS, 1)
    assert (vectors.shown, vectors.most) == (HOSPITALS, 1)


def test_control_replies_that_are_collected_first_are_noticed() -> None:
    messages, vectors = Counted(), Counted()
    for answer in list(ask_all(messages)):
        vectors.show(answer.array)
    assert vectors.most == HOSPITALS


@pytest.mark.parametrize("dropout", ["retry", "recover"])
def test_a_round_holds_one_upload_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dropout: str) -> None:
    """A whole run, with the sums: all hospitals' replies are complete before the first is taken."""
    vectors, read = Counted(), server.exchange._answer

    def counted(node: int, message: Message) -> Answer:
        answer = read(node, message)
        if answer.array is not None:
            vectors.show(answer.array)
        return answer

    class Eager(LocalGrid):
        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            identifiers = list(super().push_messages(messages))
            for identifier in identifiers:
                body, pushed = self._pending.pop(identifier)
                self._replies[identifier] = self._deliver(body, pushed)
            return identifiers

    monkeypatch.setattr(server.exchange, "_answer", counted)
    federation = tiny_federation(tmp_path, f"federation.on_dropout={dropout}", "training.rounds=1")
    grid = Eager(register(ClientApp()), [{"site": str(site)} for site in federation.sites])
    run_study(Exchange(grid), federation.study_file, federation.roster_file, tmp_path / "run")
    assert (vectors.shown, vectors.most) == (8, 1)  # four uploads of training, four of the evaluation
    assert not (tmp_path / "run" / "uploads").exists()


def test_the_link_keeps_no_reply_while_it_fetches_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = Counted()

    def fetch(node: int) -> Message:
        message = message_of(node)
        messages.show(message)
        return message

    monkeypatch.setattr(server.link, "_POLL_SECONDS", 0.0)
    grid = object.__new__(_LinkGrid)
    grid._config, grid._asked = SimpleNamespace(address="here"), 0.0
    grid._arriving = {str(node): node for node in range(2, 2 + HOSPITALS)}
    grid._fetch = fetch
    for message in grid.pull_messages(list(grid._arriving)):
        assert isinstance(message, Message)
        del message
    assert (messages.shown, messages.most) == (HOSPITALS, 1)


def test_the_link_holds_at_most_four_replies_that_are_still_arriving(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first half of each of nine replies is there. The control: with another limit there are as many."""
    there = SimpleNamespace(object_found=True, object_available=True, object_content=bytes(WORDS))
    late = SimpleNamespace(object_found=True, object_available=False, object_content=b"")
    grid = object.__new__(_LinkGrid)
    grid._run, grid.node = Run.create_empty(1), None
    grid._client = SimpleNamespace(PullObject=lambda request: there if request.object_id == "first" else late)

    def held() -> int:
        replies = [_Arriving(message_of(node), ["first", "second"]) for node in range(9)]
        grid._arriving = dict(enumerate(replies))
        assert [grid._fetch(reply) for reply in replies * 2] == [None] * 18
        return sum(bool(reply.contents) for reply in replies)

    assert held() == 4
    monkeypatch.setattr(server.link, "_HELD_REPLIES", 7)
    assert held() == 7


def test_all_hospitals_are_sent_one_copy_of_the_model() -> None:
    pushed: list[Message] = []

    class Noting(LocalGrid):
        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            pushed.extend(messages)
            return super().push_messages(pushed)

    grid = Noting(ClientApp(), [{}] * HOSPITALS)
    request = wire.PresenceRequest(bytes(16), bytes(16))
    assert list(Exchange(grid).ask(dict.fromkeys(grid.get_node_ids(), request), 0.0, np.ones(3, np.float32))) == []
    assert len({id(message.content["model"]["model"].data) for message in pushed}) == 1
    assert len(pushed) == HOSPITALS


def test_uploads_are_kept_in_the_run_directory_for_this_user_alone_and_only_while_needed(tmp_path: Path) -> None:
    vector, folder = np.arange(5, dtype=np.uint32), tmp_path / "uploads"
    with Kept(tmp_path) as kept:
        assert not folder.exists()  # a `retry` session keeps none
        kept.put("a", vector)
        (file,) = folder.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert np.array_equal(kept.get("a"), vector)
        assert kept.get("b") is None
    assert not folder.exists()


def test_uploads_of_a_coordinator_that_was_killed_count_for_nothing_and_go_with_the_next_session_or_run(
    tmp_path: Path,
) -> None:
    def session() -> None:
        with Kept(tmp_path) as kept:
            assert kept.get("a") is None
            kept.put("b", np.arange(5, dtype=np.uint32))

    for forget in (session, lambda: forget_uploads(tmp_path)):
        left = Kept(tmp_path)
        left.__enter__()
        left.put("a", np.arange(5, dtype=np.uint32))
        forget()
        assert not (tmp_path / "uploads").exists()


def test_only_uploads_that_were_kept_here_are_removed(tmp_path: Path) -> None:
    mine = tmp_path / "uploads" / "mine.npy"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    with Kept(tmp_path) as kept:
        kept.put("a", np.arange(5, dtype=np.uint32))
        assert len(list(mine.parent.iterdir())) == 2
    forget_uploads(tmp_path)
    assert list(mine.parent.iterdir()) == [mine]


@pytest.mark.parametrize("dropout", ["retry", "recover"])
def test_a_folder_of_somebody_elses_uploads_outlives_the_run(tmp_path: Path, dropout: str) -> None:
    mine = tmp_path / "run" / "uploads"

    def put(line: RoundLine) -> None:
        mine.mkdir(exist_ok=True)
        (mine / "scan.npy").write_bytes(b"mine")

    federation = tiny_federation(tmp_path, f"federation.on_dropout={dropout}", "training.rounds=2")
    files = federation.study_file, federation.roster_file
    run_study(Exchange(grid_of(federation)), *files, tmp_path / "run", put)
    assert [path.name for path in mine.iterdir()] == ["scan.npy"]


def test_a_session_that_keeps_nothing_leaves_even_an_empty_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "uploads").mkdir()
    with Kept(tmp_path):
        pass
    assert (tmp_path / "uploads").is_dir()
