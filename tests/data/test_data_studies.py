"""Every example study is valid, whether or not its data are here."""

import pytest
from data_files import STUDIES

from fedmodels.data.binding import parse_binding
from fedmodels.data.catalogue import CATALOGUE
from fedmodels.study import parse_study
from simulations.cohorts import LABELS, cohort_input, read_cohort

FOLDERS = sorted(path.parent for path in STUDIES.glob("*/study.toml"))
BINDINGS = sorted([*STUDIES.glob("*/data.toml"), *STUDIES.glob("*/original.toml"), *STUDIES.glob("*/sites/*.toml")])


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_a_study_is_named_after_its_folder_and_says_where_its_patients_come_from(folder):
    study = parse_study((folder / "study.toml").read_text(encoding="utf-8"), str(folder))
    assert study.study.name == folder.name
    sites = list(folder.glob("sites/*.toml"))
    kinds = [(folder / "data.toml").exists(), (folder / "cohort.toml").exists(), bool(sites)]
    assert kinds.count(True) == 1
    assert study.study.synthetic == kinds[1]
    assert not sites or len(sites) == study.federation.hospitals


@pytest.mark.parametrize("path", BINDINGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_studys_binding_is_valid_and_maps_onto_the_studys_labels(path):
    folder = path.parents[1] if path.parent.name == "sites" else path.parent
    study = parse_study((folder / "study.toml").read_text(encoding="utf-8"), str(folder))
    binding = parse_binding(path.read_text(encoding="utf-8"), str(path))
    assert set(binding.labels.values()) in (set(), set(study.study.labels))


def test_what_is_fetched_is_what_the_studies_on_originals_read():
    read = {parse_binding(path.read_text(encoding="utf-8")).path for path in BINDINGS if path.name != "data.toml"}
    fetched = {f"$FEDMODELS_DATA/{entry.name}/{file.name}" for entry in CATALOGUE for file in entry.files}
    assert read <= fetched


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*/cohort.toml")), ids=lambda path: path.parent.name)
def test_a_synthetic_study_has_the_input_and_labels_of_its_cohort(path):
    study = parse_study(path.with_name("study.toml").read_text(encoding="utf-8"))
    assert study.input == cohort_input(read_cohort(path).kind)
    assert study.study.labels == LABELS
