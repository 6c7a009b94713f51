"""Small federations on SYNTHETIC tables, as the simulator makes them, for tests of client, server and simulation."""

from pathlib import Path

from flwr.clientapp import ClientApp

from client.app import register
from fedmodels.settings import apply_settings
from fedmodels.study import Study, parse_study
from simulations.cohorts import write_cohort
from simulations.federation import Federation, build_federation, natural
from simulations.localgrid import LocalGrid

STUDY = """\
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
[input]
modality = "table"
columns = [
    { name = "age", low = 0, high = 120 },
    { name = "marker", low = 0, high = 100 },
    { name = "pressure", low = 60, high = 220 },
    { name = "smoker", kind = "category", values = ["never", "former", "current"] },
]
"""


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
