"""Site directories for a simulation: the same ones as in deployment, made on one machine."""

import re
from dataclasses import dataclass
from pathlib import Path

import msgspec
import tomli_w

from client.folder import bind, create_site, declared_size
from client.site import Site
from fedmodels.data.binding import read_binding
from fedmodels.data.dataset import TRAIN
from fedmodels.data.load import load
from fedmodels.errors import UsageError
from fedmodels.files import write_synced
from fedmodels.models.registry import expected_parameters
from fedmodels.study import Roster, Study
from simulations.partition import Partition, divide


@dataclass(frozen=True)
class HospitalData:
    """One simulated hospital: its name, its binding, and the only patients to use (None = all)."""

    name: str
    binding: Path
    patients: frozenset[str] | None = None


@dataclass(frozen=True)
class Federation:
    """What a run needs: the two public files and the site directories, in roster order."""

    study_file: Path
    roster_file: Path
    sites: tuple[Path, ...]


def natural(bindings: list[Path]) -> list[HospitalData]:
    """One hospital for each binding, named after its file, or after its folder when the file is `data.toml`."""
    names = [path.parent.name if path.stem == "data" else path.stem for path in bindings]
    if len(set(names)) != len(names):
        raise UsageError("two sites have the same name", where="--sites", fix="rename a folder")
    for name in names:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", name):
            raise UsageError(
                f"`{name}` cannot be a hospital's name", where="--sites", fix="name the folder with a-z, 0-9, - and _"
            )
    return sorted((HospitalData(n, p) for n, p in zip(names, bindings, strict=True)), key=lambda h: h.name)


def partitioned(study: Study, binding: Path, hospitals: int, partition: Partition) -> list[HospitalData]:
    """Hospitals that divide the patients of one pooled binding among them; the study's seed decides who gets whom."""
    parts = divide(load(binding, study), hospitals, partition, study.training.seed)
    width = len(str(hospitals))
    return [HospitalData(f"hospital-{i:0{width}d}", binding, part) for i, part in enumerate(parts, 1)]


def build_federation(study: Study, study_text: bytes, hospitals: list[HospitalData], out: Path) -> Federation:
    """Make a site directory for each hospital below `out/sites`, exchange cards, and approve study and roster."""
    cards, sites = [], []
    for hospital in hospitals:
        directory = out / "sites" / hospital.name
        if directory.exists():
            raise UsageError("there is a run in this folder already", where=str(out), fix="name a new folder")
        create_site(directory, hospital.name, _policy(study))
        _bind(directory, hospital)
        site = Site(directory)
        patients = load(directory / "data.toml", study).patients_in(TRAIN)
        cards.append(site.card(declared_size(patients)))
        sites.append(directory)
    roster = Roster(tuple(cards))
    roster_text = tomli_w.dumps(msgspec.to_builtins(roster)).encode()
    for directory in sites:
        Site(directory).approve(study_text, roster_text)
    study_file, roster_file = sites[0] / "approved" / "study.toml", sites[0] / "approved" / "roster.toml"
    return Federation(study_file, roster_file, tuple(sites))


def _bind(directory: Path, hospital: HospitalData) -> None:
    binding = read_binding(hospital.binding)
    if hospital.patients is not None:
        write_synced(directory / "patients.txt", "".join(f"{p}\n" for p in sorted(hospital.patients)).encode())
        binding = msgspec.structs.replace(binding, patients="patients.txt")
    bind(directory, binding)


def _policy(study: Study) -> str:
    """A simulated hospital agrees to what the researcher simulates; in deployment its own people decide."""
    budget = study.epsilon_total if study.privacy.mode != "none" else 1.0
    policy = {
        "modes": [study.privacy.mode],
        "min_colluding": study.privacy.max_colluding,
        "epsilon_per_study": budget,
        "epsilon_lifetime": budget,
        "delta": study.privacy.delta,
        "min_roster": study.federation.hospitals,
        "min_hospitals": study.federation.min_contributors,
        "min_patients": 1,
        "max_rounds": study.training.rounds + study.federation.max_retries,
        "max_aborts": study.federation.max_retries,
        "max_parameters": expected_parameters(study),
        "keep_sent_megabytes": 0,
    }
    return "# Written by the simulator to fit the study.\n" + tomli_w.dumps(policy)
