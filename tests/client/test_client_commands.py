"""The hospital's commands as a person types them: what they show, what they refuse, and with which exit code."""

import json
import re
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import tomli_w
from federations import Coordinator, tiny_text
from invitations import invitation
from typer.testing import CliRunner

from client.folder import SiteFolder
from client.site import Site
from fedmodels.cli import app
from fedmodels.errors import FedmodelsError
from fedmodels.joining import card_fingerprint, grouped, parse_card, parse_invitation
from simulations.cohorts import write_cohort


@dataclass(frozen=True)
class Done:
    code: int
    said: str


def client(*arguments: object, answer: str | None = None) -> Done:
    """Run one command; what it said, its error included, in one line without the frames of tables."""
    result = CliRunner().invoke(app, ["client", *map(str, arguments)], input=answer)
    code, said = result.exit_code, result.output
    if isinstance(result.exception, FedmodelsError):
        code, said = result.exception.exit_code, f"{said} {result.exception}"
    elif result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Done(code, " ".join(re.sub(r"[─-╿]", " ", said).split()))


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four hospitals made by `client init`, connected to one coordinator; a study and their roster."""
    folder = tmp_path_factory.mktemp("joined")
    (folder / "invitation.toml").write_text(invitation("north-star"))
    (folder / "study.toml").write_text(tiny_text())
    for number, binding in enumerate(write_cohort("table", folder / "cohort", 4, 120, 0), 1):
        done = client("init", folder / f"h{number}", "--name", f"hospital-0{number}", "--size", 117 + number,
                      "--data", binding, "--invitation", folder / "invitation.toml", "--yes")  # fmt: skip
        assert done.code == 0, done.said
    cards = [parse_card((folder / f"h{n}" / "card.toml").read_text()) for n in range(1, 5)]
    (folder / "roster.toml").write_text(tomli_w.dumps({"hospital": [msgspec.to_builtins(card) for card in cards]}))
    return folder


@pytest.fixture
def folder(joined: Path, tmp_path: Path) -> Path:
    """A copy of its own."""
    return Path(shutil.copytree(joined, tmp_path / "joined"))


@pytest.fixture
def approved(folder: Path) -> Path:
    """After all four approved the study."""
    for number in range(1, 5):
        done = client("approve", folder / f"h{number}", folder / "study.toml", folder / "roster.toml", "--yes")
        assert done.code == 0, done.said
    return folder


@pytest.fixture
def trained(approved: Path) -> Path:
    """After one round in which the heads were relayed, and a refusal."""
    coordinator = Coordinator([Site(approved / f"h{number}") for number in range(1, 5)])
    heads = {}
    for _ in range(2):
        request = msgspec.structs.replace(coordinator.request(), heads=dict(heads))
        heads = {site.name: Site(site.directory).handle(request, coordinator.model)[0].head  # type: ignore[union-attr]
                 for site in coordinator.sites}  # fmt: skip
    coordinator.sites[0].refuse(ValueError("John Doe"))
    return approved


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def test_init_makes_keys_here_and_prints_a_card_with_its_fingerprint(tmp_path: Path) -> None:
    done = client("init", tmp_path / "a", "--name", "st-georg", "--size", 483)
    card = parse_card((tmp_path / "a" / "card.toml").read_text())
    assert (done.code, card.name, card.declared_size) == (0, "st-georg", 480)
    assert card == SiteFolder(tmp_path / "a").card(480)
    for said in (card_fingerprint(card), "480 (rounded from 483", "policy.toml", "fedmodels-client.service"):
        assert said in done.said
    service = Path(re.search(r"\S*fedmodels-client\.service", done.said)[0])  # type: ignore[index]
    assert "ExecStart=" in service.read_text()


@pytest.mark.parametrize(
    ("folder_name", "arguments", "says"),
    [
        ("h1", ["--name", "x", "--size", "5"], "already"),
        ("new", ["--name", "St. Georg", "--size", "5"], "cannot be a hospital's name"),
        ("new", ["--name", "x", "--size", "0"], "--size"),
        ("new", ["--name", "x", "--size", "5", "--data", "nowhere.toml"], "no such file"),
        ("new", ["--name", "x", "--size", "5", "--invitation", "{}/study.toml"], "unknown key"),
    ],
)
def test_a_wrong_init_makes_nothing(folder: Path, folder_name: str, arguments: list[str], says: str) -> None:
    before = contents(folder)
    done = client("init", folder / folder_name, *(argument.format(folder) for argument in arguments))
    assert done.code == 2
    assert says in done.said
    assert contents(folder) == before


def test_who_says_no_to_an_invitation_has_a_hospital_all_the_same(folder: Path) -> None:
    done = client("init", folder / "new", "--name", "new", "--size", "5", "--invitation", folder / "invitation.toml",
                  answer="n\n")  # fmt: skip
    assert done.code == 0
    assert "Not connected" in done.said
    assert "client connect" in done.said
    assert SiteFolder(folder / "new").invitation is None


def test_a_coordinator_is_pinned_only_by_whoever_says_yes(folder: Path) -> None:
    (folder / "other.toml").write_text(invitation("south-star"))
    other = parse_invitation((folder / "other.toml").read_text())
    before = contents(folder)
    done = client("connect", folder / "h1", folder / "other.toml", answer="n\n")
    assert (done.code, contents(folder)) == (1, before)
    for said in (other.fingerprint, "Another one than before: north-star", "nothing was changed"):
        assert said in done.said
    assert client("connect", folder / "h1", folder / "other.toml", answer="y\n").code == 0
    assert SiteFolder(folder / "h1").coordinator == other.fingerprint


def test_an_address_in_brackets_is_shown_whole(folder: Path) -> None:
    (folder / "ipv6.toml").write_text(invitation("north-star", "[fe80::1]:9443"))
    assert "at [fe80::1]:9443" in client("connect", folder / "h1", folder / "ipv6.toml", "--yes").said
    shown = client("approve", folder / "h1", folder / "study.toml", folder / "roster.toml", "--yes")
    assert "[fe80::1]:9443" in shown.said
    assert "[fe80::1]:9443" in client("doctor", folder / "h1").said


def test_a_coordinator_that_the_policy_does_not_list_is_refused(folder: Path) -> None:
    policy = folder / "h1" / "policy.toml"
    policy.write_text(policy.read_text().replace("coordinators = []", f'coordinators = ["{grouped("ab" * 32)}"]'))
    before = contents(folder)
    done = client("connect", folder / "h1", folder / "invitation.toml", "--yes")
    assert (done.code, contents(folder)) == (3, before)
    refused = client("approve", folder / "h1", folder / "study.toml", folder / "roster.toml", "--yes")
    assert (refused.code, "coordinator: the coordinator" in refused.said) == (3, True)


def test_approve_says_in_plain_words_what_a_person_agrees_to(folder: Path) -> None:
    done = client("approve", folder / "h1", folder / "study.toml", folder / "roster.toml", answer="n\n")
    site = SiteFolder(folder / "h1")
    for said in (
        "mlp, 49 parameters", "mode local", "any one patient's whole record", "all other hospitals colluded",
        "5 training uploads and one evaluation", "8.00 + 1 = 9.00", "north-star at 127.0.0.1:9",
        "(this one)", "hospital-04", "9.00 of the 20", "Policy: allows it.", "nothing was changed",
    ):  # fmt: skip
        assert said in done.said, said
    for number in range(1, 5):
        card = parse_card((folder / f"h{number}" / "card.toml").read_text())
        assert card_fingerprint(card) in done.said
    assert done.said.index("Policy:") < done.said.index("take part?")
    assert site.coordinator in done.said
    assert (done.code, (folder / "h1" / "approved" / "study.toml").exists()) == (1, False)


def test_approve_shows_what_changed_since_the_last_time(approved: Path) -> None:
    text = (approved / "study.toml").read_text()
    (approved / "study.toml").write_text(text.replace("rounds = 3", "rounds = 2") + "# a comment\n")
    roster = (approved / "roster.toml").read_text()
    stranger = client("init", approved / "h9", "--name", "hospital-04", "--size", "200")
    card = parse_card((approved / "h9" / "card.toml").read_text())
    old = parse_card((approved / "h4" / "card.toml").read_text())
    roster = roster.replace(old.identity_key, card.identity_key).replace(old.node_key, card.node_key)
    (approved / "roster.toml").write_text(roster)
    done = client("approve", approved / "h1", approved / "study.toml", approved / "roster.toml", "--yes")
    assert (stranger.code, done.code) == (0, 0)
    assert "training.rounds: 3 -> 2" in done.said
    assert f"hospital-04: HAS OTHER KEYS, fingerprint {card_fingerprint(card)}" in done.said
    assert "learning_rate" not in done.said
    again = client("approve", approved / "h1", approved / "study.toml", approved / "roster.toml", "--yes")
    assert "The same study and roster" in again.said


@pytest.mark.parametrize(
    ("policy", "rule"),
    [
        ('modes = ["distributed"]', "mode"),
        ("epsilon_per_study = 8.5", "epsilon-per-study"),
        ("epsilon_lifetime = 8.5", "budget-lifetime"),
        ("min_patients = 500", "min-patients"),
        ("min_roster = 5", "min-roster"),
        ("max_parameters = 48", "max-parameters"),
    ],
)
def test_what_the_policy_refuses_is_never_asked_about_and_not_approved(folder: Path, policy: str, rule: str) -> None:
    (folder / "h1" / "policy.toml").write_text(policy + "\n")
    before = contents(folder)
    done = client("approve", folder / "h1", folder / "study.toml", folder / "roster.toml", "--yes")
    assert (done.code, contents(folder)) == (3, before)
    assert f"Policy: refuses it, by {rule}:" in done.said
    assert "take part?" not in done.said


def test_a_roster_with_other_keys_of_this_hospital_is_wrong_use(folder: Path) -> None:
    card = parse_card((folder / "h1" / "card.toml").read_text())
    roster = (folder / "roster.toml").read_text().replace(card.identity_key, "ab" * 32)
    (folder / "roster.toml").write_text(roster)
    done = client("approve", folder / "h1", folder / "study.toml", folder / "roster.toml", "--yes")
    assert (done.code, "own keys" in done.said) == (2, True)


def test_without_privacy_the_worst_case_has_no_bound(folder: Path) -> None:
    (folder / "study.toml").write_text(tiny_text("privacy.mode=none"))
    done = client("approve", folder / "h1", folder / "study.toml", folder / "roster.toml", "--yes")
    assert done.code == 3
    assert "no bound on what anybody may learn" in done.said


def test_the_ledger_shows_spent_and_left_as_table_json_and_picture(trained: Path, tmp_path: Path) -> None:
    site = trained / "h1"
    done = client("ledger", "show", site, "--plot", tmp_path / "ledger.svg")
    told = json.loads(CliRunner().invoke(app, ["client", "ledger", "show", str(site), "--json"]).output)
    (study,) = told["studies"]
    assert (study["name"], study["training_uploads"], study["aborted"]) == ("tiny", 2, 1)
    assert study["epsilon_spent"] + study["epsilon_left"] == pytest.approx(9.0)
    assert told["lifetime"]["epsilon_left"] == pytest.approx(20.0 - study["epsilon_spent"])
    assert f"{study['epsilon_spent']:.3f}" in done.said
    picture = (tmp_path / "ledger.svg").read_text()
    for said in ("tiny", "in life", f"{study['epsilon_spent']:.2f} of 9", "limit in life 20"):
        assert said in picture


def test_a_ledger_without_privacy_has_no_bound_in_json_and_picture(folder: Path, tmp_path: Path) -> None:
    (folder / "study.toml").write_text(tiny_text("privacy.mode=none"))
    for number in range(1, 5):
        (folder / f"h{number}" / "policy.toml").write_text('modes = ["none"]\n')
        client("approve", folder / f"h{number}", folder / "study.toml", folder / "roster.toml", "--yes")
    coordinator = Coordinator([Site(folder / f"h{number}") for number in range(1, 5)])
    coordinator.sites[0].handle(coordinator.request(), coordinator.model)
    told = json.loads(CliRunner().invoke(app, ["client", "ledger", "show", str(folder / "h1"), "--json"]).output)
    assert (told["lifetime"]["epsilon_spent"], told["lifetime"]["epsilon_left"]) == (None, 0.0)
    assert client("ledger", "show", folder / "h1", "--plot", tmp_path / "l.svg").code == 0
    assert "no bound" in (tmp_path / "l.svg").read_text()


def test_ledger_verify_finds_a_head_or_says_that_the_ledger_is_older(trained: Path) -> None:
    site = SiteFolder(trained / "h1")
    held = {entry.hospital: entry.head for entry in SiteFolder(trained / "h2").witness.newest()}
    head = grouped(held["hospital-01"][:32].hex())
    told = client("ledger", "witness", trained / "h2", "hospital-01")
    assert head in told.said
    done = client("ledger", "verify", trained / "h1", "--head", head)
    assert (done.code, "row 1 of 2" in done.said) == (0, True)
    for name in ("ledger.sqlite", "ledger.head"):
        (site.directory / name).unlink()
    older = client("ledger", "verify", trained / "h1", "--head", head)
    assert (older.code, "older than what left" in older.said) == (1, True)
    assert client("ledger", "verify", trained / "h1", "--head", "12").code == 2
    assert client("ledger", "witness", trained / "h2", "nobody").code == 2


def test_ledger_verify_names_the_row_that_was_edited(trained: Path) -> None:
    database = sqlite3.connect(trained / "h1" / "ledger.sqlite")
    database.executescript("DELETE FROM ledger WHERE number = 1")
    database.close()
    for command in (("ledger", "verify"), ("ledger", "show"), ("log", "verify")):
        done = client(*command, trained / "h1")
        assert (done.code, "row 1 does not verify" in done.said) == (1, True)


def test_the_log_lists_every_message_and_proves_it(trained: Path) -> None:
    lines = json.loads(CliRunner().invoke(app, ["client", "log", "show", str(trained / "h1"), "--json"]).output)
    assert [line["kind"] for line in lines] == ["setup", "train", "train", "refusal"]
    assert {line["to"] for line in lines} == {"north-star at 127.0.0.1:9"}
    run = lines[0]["run"][:8]
    only = json.loads(
        CliRunner().invoke(app, ["client", "log", "show", str(trained / "h1"), "--run", run, "--json"]).output
    )
    assert [line["kind"] for line in only] == ["setup", "train", "train"]
    assert "4 messages" in client("log", "show", trained / "h1").said
    done = client("log", "verify", trained / "h1")
    assert done.code == 0
    for said in ("4 messages are listed, the chain of lines is whole", "4 are proven", "2 masked vectors left"):
        assert said in done.said


def test_log_verify_exits_with_1_where_a_line_is_gone(trained: Path) -> None:
    path = trained / "h1" / "log.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], *lines[2:]]))
    done = client("log", "verify", trained / "h1")
    assert (done.code, "line 2: a line before it was edited" in done.said) == (1, True)
    assert "1 charges have no upload on the log" in done.said


@pytest.mark.parametrize(
    "command",
    [("connect", "{}", "invitation.toml"), ("approve", "{}", "study.toml", "roster.toml"), ("doctor", "{}"),
     ("up", "{}"), ("ledger", "show", "{}"), ("ledger", "verify", "{}"), ("ledger", "witness", "{}"),
     ("log", "show", "{}"), ("log", "verify", "{}")],
)  # fmt: skip
def test_a_folder_without_a_hospital_is_wrong_use(tmp_path: Path, command: tuple[str, ...]) -> None:
    done = client(*(part.format(tmp_path) for part in command))
    assert (done.code, "there is no hospital in this folder" in done.said) == (2, True)
    assert list(tmp_path.iterdir()) == []
