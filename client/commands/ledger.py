"""`client ledger show`, `verify` and `witness`."""

import json
import math
import re
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from client.balance import Account, Balance, balance, over_time
from client.folder import SiteFolder
from client.ledger import Chain, LedgerError
from fedmodels.errors import Refused, UsageError
from fedmodels.joining import grouped
from fedmodels.study import Study

_console = Console(highlight=False)
_HEX = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def show(directory: Path, plot: Path | None, *, as_json: bool) -> None:
    """Print what was spent and what is left, after checking the whole ledger."""
    site = SiteFolder(directory)
    if plot and plot.suffix not in (".png", ".svg"):
        raise UsageError("a plot is a .png or an .svg", where=f"--plot {plot}", fix="choose one of the two")
    charges = site.ledger.charges()
    found = balance(charges, site.policy, _approved(site))
    if as_json:
        _console.print_json(json.dumps(_as_dict(site.name, found)))
    else:
        _console.print(_table(site.name, found))
    if plot:
        from client.ledger_plot import draw

        draw(plot, site.name, found, over_time(charges))
        if not as_json:
            _console.print(f"{plot} drawn.")


def verify(directory: Path, head: str) -> None:
    """Check every row, and that the ledger contains the row of a head that somebody else holds."""
    site = SiteFolder(directory)
    chain = site.ledger.chain()
    if not chain.hashes:
        _console.print("The ledger is empty: this hospital has released nothing, or its ledger is gone.")
    else:
        _console.print(f"{len(chain.hashes)} rows: chain, signatures and head file verify.")
        _console.print(f"Last row, {chain.charges[-1].time}: [bold]{grouped(chain.hashes[-1].hex())}[/]")
    if head:
        _console.print(_find(chain, head, site.ledger_path))


def witness(directory: Path, hospital: str) -> None:
    """Print the newest ledger head held of each other hospital."""
    held = [entry for entry in SiteFolder(directory).witness.newest() if hospital in ("", entry.hospital)]
    if not held:
        raise UsageError(
            f"no head is held of {hospital or 'any hospital'}",
            where=str(directory / "witness.sqlite"),
            fix="heads come with a study's requests; ask another hospital or the coordinator",
        )
    table = Table("hospital", Column("head of its ledger", no_wrap=True), "first seen here")
    for entry in held:
        table.add_row(entry.hospital, grouped(entry.head[:32].hex()), entry.time)
    _console.print(table)
    _console.print('Who is asked reads it out; who asks runs: fedmodels client ledger verify DIRECTORY --head "..."')


def _find(chain: Chain, head: str, path: Path) -> str:
    digits = re.sub(r"\s", "", head).lower()
    if not _HEX.fullmatch(digits):
        raise UsageError("not a head", where="--head", fix="give 40 hexadecimal digits in any grouping, or all 64")
    for number, digest in enumerate(chain.hashes, 1):
        if digest.hex().startswith(digits):
            return f"The head is that of row {number} of {len(chain.hashes)}, {chain.charges[number - 1].time}."
    raise LedgerError(
        "the ledger does not contain this head: it is another hospital's, or this ledger is older than what left",
        where=str(path),
        fix="compare the digits. If they are right, take part in nothing until the newest copy of ledger.sqlite and "
        "ledger.head is restored, and empty the folder `runs`",
    )


def _approved(site: SiteFolder) -> Study | None:
    try:
        return site.study
    except Refused:
        return None


def _table(hospital: str, found: Balance) -> Table:
    table = Table("study", "training uploads", "aborted", "evaluations", "epsilon spent", "of", "left",
                  title=f"Privacy ledger of {hospital}")  # fmt: skip
    for study in found.studies:
        counts = (str(study.train), str(study.aborts), str(study.evaluate))
        table.add_row(_title(study), *counts, *_three(study), end_section=study is found.studies[-1])
    table.add_row("in life", *["", "", ""], *_three(found), style="bold")
    return table


def _title(study: Account) -> str:
    short = study.digest.hex()[:16]
    return f"{study.name} ({short})" if study.name else short


def _three(account: Account | Balance) -> tuple[str, str, str]:
    return tuple("∞" if math.isinf(value) else f"{value:.3f}" for value in _values(account))  # type: ignore[return-value]


def _values(account: Account | Balance) -> tuple[float, float, float]:
    return account.spent, account.limit, account.left


def _as_dict(hospital: str, found: Balance) -> dict[str, object]:
    """null stands for infinite."""
    return {
        "hospital": hospital,
        "studies": [
            {
                "study": study.digest.hex(),
                "name": study.name,
                "training_uploads": study.train,
                "aborted": study.aborts,
                "evaluations": study.evaluate,
                **_epsilons(study),
            }
            for study in found.studies
        ],
        "lifetime": _epsilons(found),
    }


def _epsilons(account: Account | Balance) -> dict[str, float | None]:
    values = (None if math.isinf(value) else value for value in _values(account))
    return dict(zip(("epsilon_spent", "epsilon_limit", "epsilon_left"), values, strict=True))
