"""Every byte that leaves a hospital in a whole run: masked vectors, keys, mask secrets - and nothing else."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from federations import tiny_federation
from flwr.app import Message
from flwr.clientapp import ClientApp
from scipy import stats

from client.app import register
from client.site import Site
from fedmodels import wire
from fedmodels.evaluation.counts import Layout
from fedmodels.joining import verify_head
from fedmodels.models.registry import expected_parameters
from fedmodels.packing import evaluation_layout
from fedmodels.secagg.messages import Pairs, RecoverHeader, SetupKey, Shares, UploadHeader, decode
from server.app import run_study
from server.exchange import Exchange
from simulations.faults import Faults, FaultyGrid, RandomFaults
from simulations.federation import Federation
from simulations.localgrid import LocalGrid, _serialise

HEADERS = {"retry": UploadHeader, "recover": RecoverHeader}


class Tap(LocalGrid):
    """Keeps everything that hospitals hand over."""

    sent: list[tuple[int, bytes, Message]]

    def _reply(self, message: Message) -> Message:
        reply = super()._reply(message)
        self.sent.append((message.metadata.dst_node_id - 2, _serialise(reply), reply))
        return reply


class Wiretap(FaultyGrid, Tap):
    """Sits between the hospitals and the faults: what is lost on its way was handed over, too."""

    def __init__(self, federation: Federation, faults: Faults) -> None:
        self.sent = []
        super().__init__(register(ClientApp()), [{"site": str(site)} for site in federation.sites], faults)


def tapped(tmp_path: Path, *settings: str, drop: float = 0.0) -> tuple[Wiretap, Federation]:
    federation = tiny_federation(tmp_path, *settings)
    grid = Wiretap(federation, RandomFaults(drop, 0))
    run_study(Exchange(grid), federation.study_file, federation.roster_file, tmp_path / "run")
    return grid, federation


@pytest.mark.parametrize(
    ("mode", "on_dropout", "drop"),
    [
        ("local", "retry", 0.0),
        ("none", "retry", 0.0),
        ("distributed", "retry", 0.0),
        ("local", "recover", 0.15),
        ("none", "recover", 0.0),
        ("distributed", "recover", 0.15),
    ],
)
def test_nothing_leaves_but_masked_vectors_keys_and_mask_secrets(
    tmp_path: Path, mode: str, on_dropout: str, drop: float
) -> None:
    grid, federation = tapped(
        tmp_path, f"privacy.mode={mode}", f"federation.on_dropout={on_dropout}", "privacy.max_colluding=0",
        "federation.max_retries=20", "training.local_steps=1", drop=drop,
    )  # fmt: skip
    sites = [Site(path) for path in federation.sites]
    study, keys = sites[0].study, sites[0].roster.keys
    rows = {site.name: site.ledger.chain().hashes for site in sites}
    beside = 0 if mode == "distributed" else 2  # a loss and a count of clipped numbers
    words = {expected_parameters(study) + beside, evaluation_layout(study).length}
    kinds: Counter[str] = Counter()
    masked: dict[bytes, np.ndarray] = {}  # by header: an answer that was lost leaves again as it was
    for _, body, reply in grid.sent:
        content = reply.content
        assert set(content) <= {"reply", "vector"}
        assert set(content.config_records["reply"]) == {"body"}
        answer = wire.decode_reply(content.config_records["reply"]["body"])  # strict: no field that is not listed
        kinds[type(answer).__name__] += 1
        size = 0
        match answer:
            case wire.SetupReply():
                assert decode(answer.key_message, SetupKey).sender == answer.hospital
                assert answer.head == b""  # no row yet
            case wire.ContributeReply():
                header = decode(answer.header, HEADERS[on_dropout])
                vector = content.array_records["vector"]["vector"].numpy()
                assert (vector.dtype, vector.shape) == (np.uint32, (header.words,))
                assert header.words in words
                assert verify_head(keys[header.sender], answer.head) in rows[header.sender]
                masked[answer.header] = vector
                size = vector.nbytes
            case wire.UnmaskReply():
                decode(answer.message, Pairs if b"pairs/v1" in answer.message else Shares)
            case wire.PresenceReply():
                pass
            case _:
                pytest.fail(f"{answer} left a hospital")
        assert ("vector" in content) == isinstance(answer, wire.ContributeReply)
        assert len(body) - size < 1500  # headers of Flower and of the protocol: no room for anything else
    assert kinds["ContributeReply"] >= 12
    assert (kinds["UnmaskReply"] > 0) == (on_dropout == "recover")
    counts = np.bincount(np.frombuffer(np.concatenate(list(masked.values())).tobytes(), np.uint8), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-4


def test_the_hospitals_own_log_lists_exactly_what_left_with_its_digest(tmp_path: Path) -> None:
    grid, federation = tapped(
        tmp_path, "federation.on_dropout=recover", "privacy.max_colluding=0", "federation.max_retries=20", drop=0.15
    )
    for position, path in enumerate(federation.sites):
        sent = Counter(_digest(reply) for node, _, reply in grid.sent if node == position)
        log = [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]
        assert Counter(line["sha256"] for line in log) == sent
        assert all(line["to"] == "coordinator" for line in log)


def _digest(reply: Message) -> str:
    """Of exactly the bytes that left: the encoded reply, and the vector's own bytes."""
    body, vector = reply.content.config_records["reply"]["body"], reply.content.array_records.get("vector")
    assert isinstance(body, bytes)
    return hashlib.sha256(body + (b"" if vector is None else vector["vector"].numpy().tobytes())).hexdigest()


def test_the_size_of_what_leaves_says_nothing_about_the_number_of_patients(tmp_path: Path) -> None:
    sizes = []
    for name, rows in (("all", None), ("half", 40)):
        federation = tiny_federation(tmp_path / name)
        table = tmp_path / name / "cohort" / "hospital-01" / "table.csv"
        lines = table.read_text().splitlines()[:rows]
        table.write_text("\n".join(lines) + "\n")
        grid = Wiretap(federation, RandomFaults(0.0, 0))
        run_study(Exchange(grid), federation.study_file, federation.roster_file, tmp_path / name / "run")
        sizes.append([_size(reply) for node, _, reply in grid.sent if node == 0])
    assert sizes[0] == sizes[1]


def _size(reply: Message) -> tuple[int, int]:
    arrays = reply.content.array_records.get("vector")
    body = reply.content.config_records["reply"]["body"]
    assert isinstance(body, bytes)
    return len(body), 0 if arrays is None else arrays["vector"].numpy().nbytes


def test_the_uniformity_test_would_notice_a_vector_that_is_not_masked() -> None:
    plain = np.zeros(Layout(2, 32).length, np.uint32)
    counts = np.bincount(np.frombuffer(plain.tobytes(), np.uint8), minlength=256)
    assert stats.chisquare(counts).pvalue < 1e-4
