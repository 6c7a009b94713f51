"""Small federations on SYNTHETIC tables, as the simulator makes them, for tests of client, server and simulation."""

from pathlib import Path

from flwr.clientapp import ClientApp

from client.app import register
from client.site import Site
from fedmodels import secagg, wire
from fedmodels.models.registry import build_model
from fedmodels.models.weights import flatten
from fedmodels.secagg.messages import decode_request
from fedmodels.settings import apply_settings
from fedmodels.study import Study, parse_study
from server.app import run_study
from server.exchange import Exchange
from server.records import RoundLine
from simulations.cohorts import TABLE_INPUT, write_cohort
from simulations.faults import Fault, Faults, FaultyGrid
from simulations.federation import Federation, build_federation, natural
from simulations.localgrid import LocalGrid

RUN = bytes(16)
DISTRIBUTED = ("privacy.mode=distributed", "training.local_steps=1")
STUDY = (
    """\
[study]
name = "tiny"
task = "binary"
labels = ["healthy", "diseased"]
synthetic = true
[model]
name = "mlp"
sizes = { hidden = [4] }
[training]
rounds = 3
local_steps = 2
batch_rate = 0.2
learning_rate = 0.5
[privacy]
mode = "local"
[federation]
hospitals = 4
timeout_seconds = 60
"""
    + TABLE_INPUT
)


def tiny_text(*settings: str) -> str:
    return apply_settings(STUDY, settings)


def tiny_study(*settings: str) -> Study:
    return parse_study(tiny_text(*settings))


def tiny_federation(out: Path, *settings: str) -> Federation:
    text = tiny_text(*settings)
    study = parse_study(text)
    bindings = write_cohort("table", out / "cohort", study.federation.hospitals, 60, 0)
    return build_federation(study, text.encode(), natural(bindings), out)


def grid_of(federation: Federation) -> LocalGrid:
    return LocalGrid(register(ClientApp()), [{"site": str(site)} for site in federation.sites])


def lose(session: int, *nodes: int, kind: str = "train") -> Faults:
    """The uploads of these nodes to one session never arrive."""

    def faults(request: wire.Request, node: int) -> Fault:
        hit = isinstance(request, wire.ContributeRequest) and request.kind == kind and node in nodes
        if hit and decode_request(request.session).session == session:
            return "cut off"
        return "none"

    return faults


def run(tmp_path: Path, *settings: str, faults: Faults = lambda *_: "none") -> tuple[dict, list[RoundLine], Federation]:
    federation = tiny_federation(tmp_path, *settings)
    grid = FaultyGrid(register(ClientApp()), [{"site": str(site)} for site in federation.sites], faults)
    lines: list[RoundLine] = []
    result = run_study(Exchange(grid), federation.study_file, federation.roster_file, tmp_path / "run", lines.append)
    return result, lines, federation


def charges(federation: Federation) -> list[int]:
    return [len([c for c in Site(path).ledger.charges() if c.kind == "train"]) for path in federation.sites]


class Coordinator:
    """The least that a coordinator does, by hand, with the real protocol."""

    def __init__(self, sites: list[Site], run: bytes = RUN) -> None:
        first = sites[0]
        self.sites, self.run = sites, run
        self.aggregator = secagg.Aggregator(wire.terms(first.study, first.roster, run))
        self.open = secagg.open_session
        if first.study.federation.on_dropout == "recover":
            self.open = secagg.open_recovery
        self.model = flatten(build_model(first.study))
        for site in sites:
            reply, _ = site.handle(wire.SetupRequest(run, first.study.digest, first.roster.digest), None)
            assert isinstance(reply, wire.SetupReply)
            self.aggregator = secagg.collect(self.aggregator, reply.key_message)

    def request(
        self, kind: wire.Kind = "train", round_: int = 1, number: int | None = None, words: int | None = None
    ) -> wire.ContributeRequest:
        self.aggregator, session = self.open(
            self.aggregator,
            number or self.aggregator.next_session,
            tuple(s.name for s in self.sites),
            wire.model_digest(kind, round_, self.model.size, wire.weights_digest(self.model)),
            words or self.model.size + 2,
        )
        self.session = session
        return wire.ContributeRequest(self.run, kind, round_, session.request, secagg.relay(self.aggregator))


def sites_of(tmp_path: Path, *settings: str) -> list[Site]:
    return [Site(path) for path in tiny_federation(tmp_path, *settings).sites]
