"""The ledger: append-only, chained, signed; epsilon composes within a study and adds up across studies."""

import sqlite3
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.ledger import Charge, Ledger, LedgerError, epsilon_of
from fedmodels.dp.accounting import SampledGaussian, epsilon_upper

STUDY, OTHER = b"a" * 32, b"b" * 32


def charge(session: int, study: bytes = STUDY, **changes: object) -> Charge:
    base = Charge(study, b"r" * 32, b"i" * 16, session, "train", 1, ("a", "b"), "2026-01-01T00:00:00+00:00", "local",
                  sampling_rate=0.1, noise_multiplier=1.0, steps=10, delta=1e-5)  # fmt: skip
    return msgspec.structs.replace(base, **changes)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    kept = Ledger(tmp_path / "ledger.sqlite", Ed25519PrivateKey.from_private_bytes(bytes(32)))
    for session in (1, 2, 3):
        kept.append(charge(session))
    return kept


def test_charges_come_back_in_order_also_after_a_restart(ledger: Ledger, tmp_path: Path) -> None:
    assert [c.session for c in ledger.charges()] == [1, 2, 3]
    again = Ledger(tmp_path / "ledger.sqlite", Ed25519PrivateKey.from_private_bytes(bytes(32)))
    again.append(charge(4))
    assert [c.session for c in again.charges()] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE ledger SET charge = (SELECT charge FROM ledger WHERE number = 1) WHERE number = 2",
        "DELETE FROM ledger WHERE number = 2",
        "DELETE FROM ledger WHERE number = 1",
        "DELETE FROM ledger WHERE number = 3",
        "DELETE FROM ledger",
        "UPDATE ledger SET number = -number; UPDATE ledger SET number = 4 + number",
        "UPDATE ledger SET signature = zeroblob(64) WHERE number = 3",
        "UPDATE ledger SET hash = zeroblob(32) WHERE number = 3",
        "UPDATE ledger SET previous = zeroblob(32) WHERE number = 3",
    ],
)
def test_an_edited_removed_or_reordered_row_is_found(ledger: Ledger, tmp_path: Path, tampering: str) -> None:
    database = sqlite3.connect(tmp_path / "ledger.sqlite")
    database.executescript(tampering)
    database.commit()
    database.close()
    with pytest.raises(LedgerError, match="row"):
        ledger.charges()


def test_a_row_signed_by_another_key_is_found(ledger: Ledger, tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.sqlite", Ed25519PrivateKey.generate()).append(charge(4))
    with pytest.raises(LedgerError, match="row 4"):
        ledger.charges()


def test_a_ledger_that_is_gone_is_found(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").unlink()
    with pytest.raises(LedgerError, match="gone"):
        Ledger(tmp_path / "ledger.sqlite", Ed25519PrivateKey.from_private_bytes(bytes(32)))


def test_a_head_that_is_gone_is_found(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "ledger.head").unlink()
    with pytest.raises(LedgerError, match="head is gone"):
        ledger.charges()


def test_a_crash_between_row_and_head_is_understood(ledger: Ledger, tmp_path: Path) -> None:
    before = (tmp_path / "ledger.head").read_bytes()
    ledger.append(charge(4))
    (tmp_path / "ledger.head").write_bytes(before)
    assert [c.session for c in ledger.charges()] == [1, 2, 3, 4]
    ledger.append(charge(5))
    assert len(ledger.charges()) == 5


def test_a_head_that_cannot_be_written_twice_running_is_made_good_before_the_next_row(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the head would fall two rows behind, which is what removed rows look like."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("client.ledger.write_synced", full)
        for _ in range(2):
            with pytest.raises(LedgerError, match="head cannot be written"):
                ledger.append(charge(4))
    assert [c.session for c in ledger.charges()] == [1, 2, 3, 4]
    assert ledger.append(charge(5)) == ledger.chain().hashes[-1]
    assert [c.session for c in ledger.charges()] == [1, 2, 3, 4, 5]


def test_reading_a_ledger_that_is_not_there_makes_no_file(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "ledger.sqlite", Ed25519PrivateKey.generate()).charges() == []
    assert list(tmp_path.iterdir()) == []


def test_different_noise_in_one_study_composes_at_one_delta() -> None:
    charges = [charge(1), charge(2, noise_multiplier=2.0)]
    here, _ = epsilon_of(charges, STUDY)
    parts = [epsilon_upper(SampledGaussian(0.1, noise, 10), 1e-5) for noise in (1.0, 2.0)]
    assert max(parts) < here < sum(parts)


def test_a_file_that_is_no_database_is_a_named_error(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(b"not a database, but long enough to look at" * 10)
    with pytest.raises(LedgerError, match="cannot be read"):
        Ledger(tmp_path / "ledger.sqlite", Ed25519PrivateKey.generate()).charges()


def test_epsilon_composes_within_a_study_and_adds_up_across_studies(ledger: Ledger) -> None:
    charges = [*ledger.charges(), charge(1, OTHER), charge(4, steps=0, pure_epsilon=0.5)]
    here, elsewhere = epsilon_of(charges, STUDY)
    assert here == pytest.approx(epsilon_upper(SampledGaussian(0.1, 1.0, 30), 1e-5) + 0.5)
    assert elsewhere == pytest.approx(epsilon_upper(SampledGaussian(0.1, 1.0, 10), 1e-5))


def test_a_release_without_privacy_costs_infinity() -> None:
    here, elsewhere = epsilon_of([charge(1, OTHER, mode="none", steps=0)], STUDY)
    assert (here, elsewhere) == (0.0, float("inf"))
