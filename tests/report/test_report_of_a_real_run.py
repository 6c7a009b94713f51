"""What the coordinator writes is what the report reads."""

import numpy as np
import pytest
from run_directories import HOSPITALS, write_run

from fedmodels.models.artifact import load_model
from fedmodels.models.registry import build_model
from fedmodels.models.weights import flatten
from fedmodels.packing import evaluation_layout
from fedmodels.report.record import read_record
from fedmodels.study import parse_roster, parse_study
from server.records import Dropout, RoundLine, Seconds
from server.rounds import Outcome, evaluate
from server.rundir import RunDirectory


@pytest.mark.parametrize("mode", ["none", "local", "distributed"])
def test_a_run_directory_of_the_server_is_read_back_and_reported(tmp_path, mode):
    files = write_run(tmp_path / "by-hand", mode=mode, rounds=2)
    study_text, roster_text = (files / "study.toml").read_bytes(), (files / "roster.toml").read_bytes()
    study, roster = parse_study(study_text.decode()), parse_roster(roster_text.decode())
    directory = RunDirectory.create(tmp_path / "run", study_text, roster_text)
    private = mode != "none"
    for number in (1, 2):
        directory.add(
            RoundLine(number, HOSPITALS, None if private else 0.5, 1.25, 0, 1.5 if private else None, seconds=2.0)
        )
    model = flatten(build_model(study)) + np.float32(0.5)
    gone = Dropout(2, "evaluate", "basel", "no answer in time")
    counts = np.arange(evaluation_layout(study).length) % 7
    evaluated = evaluate(study, counts, 3)
    directory.finish(
        study, roster, Outcome(bytes(16), model, evaluated, (gone,), dict.fromkeys(HOSPITALS, 2), Seconds(1.0))
    )

    record = read_record(tmp_path / "run")
    assert record.result.summary == evaluated.summary
    assert record.counts is not None
    assert (record.counts.hospitals, list(record.counts.counts)) == (3, counts.tolist())
    _, card = load_model(tmp_path / "run")
    assert evaluated.summary.operating_point is not None
    assert card.threshold == evaluated.summary.operating_point.threshold
    assert card.temperature == evaluated.summary.calibration.temperature
    assert record.sessions == 2
    assert record.result.dropouts[0].kind == "evaluate"
    assert [line.update_norm for line in record.rounds] == [1.25, 1.25]
    page = (tmp_path / "run" / "report.html").read_text()
    assert ("NOTHING IS PROMISED" in page) == (mode == "none")
