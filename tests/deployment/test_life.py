"""A coordinator and three hospitals, each in its own directory and processes, over TLS on loopback: a whole life, and
what happens when any of them is killed at any moment."""

import json
from pathlib import Path

import pytest
from life import HOSPITALS, Consortium, command

pytestmark = pytest.mark.deployment


def test_a_whole_life(tmp_path: Path) -> None:
    with Consortium(tmp_path, "training.rounds=6") as consortium:
        consortium.up()
        found = json.loads(command("server", "status", str(consortium.home), "--json"))
        assert found["link"]
        assert [h["connected"] for h in found["hospitals"]] == [True, True, True]
        consortium.run()
        consortium.wait_for_round(2)
        command("server", "stop", str(consortium.home))
        assert consortium.coordinator.wait(60) == 1
        assert "`server resume` goes on with it" in consortium.coordinator.text()
        found = json.loads(command("server", "status", str(consortium.home), "--json"))
        assert found["run"]["state"] == "stopped"
        done = found["run"]["round"]
        assert 2 <= done < 6
        consortium.resume()
        result = consortium.finish()
        assert result["hospitals"] == list(HOSPITALS)
        assert result["rounds_completed"] == 6
        assert result["dropouts"] == []
        assert result["metrics"]["n"] > 0
        found = json.loads(command("server", "status", str(consortium.home), "--json"))
        assert (found["run"]["state"], found["run"]["round"]) == ("finished", 6)
        for hospital in consortium.hospitals:
            rows = hospital.ledger()
            assert [(row["kind"], row["round"]) for row in rows] == [
                *(("train", n) for n in range(1, 7)),
                ("evaluate", 6),
            ]
        for name in ("model.safetensors", "model.json", "report.html", "rounds.jsonl", "study.toml"):
            assert (consortium.directory / name).exists()
        binding = str(consortium.hospitals[0].site / "data.toml")
        measured = json.loads(command("evaluate", str(consortium.directory), "--data", binding, "--json"))
        assert measured["metrics"]["n"] > 0
    assert consortium.strangers.read_text() == ""  # nothing phones home


def check_books(consortium: Consortium) -> None:
    """Every release that the coordinator used was charged: sums that opened are in the ledgers of all contributors."""
    lines = consortium.rounds()
    assert [line["round"] for line in lines] == list(range(1, len(lines) + 1))
    for hospital in consortium.hospitals:
        trained = [row["round"] for row in hospital.ledger() if row["kind"] == "train"]
        used = [line["round"] for line in lines if hospital.name in line["hospitals"]]
        assert set(used) <= set(trained)
        assert len(trained) >= len(used)
        spent = json.loads(command("client", "ledger", "show", str(hospital.site), "--json"))
        result = json.loads((consortium.directory / "result.json").read_text())
        assert spent["studies"][0]["epsilon_spent"] <= result["privacy"]["epsilon"][hospital.name] + 1e-6


@pytest.mark.parametrize("dropout", ["retry", "recover"])
def test_everything_is_killed_once_and_the_study_finishes(tmp_path: Path, dropout: str) -> None:
    """Hospitals in training, between ledger and upload, between log and upload, between upload and unmask; then the
    process that runs the study; then the link."""
    settings = ("training.rounds=9", f"federation.on_dropout={dropout}", "federation.max_retries=8")
    with Consortium(tmp_path, *settings) as consortium:
        first, second, third = consortium.hospitals
        first.dies_at("training", 2)
        second.dies_at("charged", 3)
        third.dies_at("logged", 5)
        if dropout == "recover":
            first.dies_at("unmask", 4)
        third.dies_at("evaluation", 1)
        consortium.up()
        consortium.run()
        consortium.wait_for_round(5, 120)
        consortium.coordinator.kill()
        finished = len(consortium.rounds())
        consortium.resume()
        consortium.wait_for_round(max(7, finished + 1), 120)
        consortium.link.kill()
        consortium.start_link()
        result = consortium.finish(180)
        assert result["rounds_completed"] == 9
        assert (first.deaths, second.deaths, third.deaths) == ((2 if dropout == "recover" else 1), 1, 2)
        assert result["metrics"]["n"] > 0
        check_books(consortium)
