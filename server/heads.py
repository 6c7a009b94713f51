"""The last signed ledger head of each hospital: kept here and relayed to all, so that an old ledger can be told."""

from contextlib import suppress

from fedmodels.errors import RemoteProtocolError
from fedmodels.joining import verify_head
from fedmodels.study import Roster
from server.checkpoint import Journal


class Heads:
    """Those that hospitals of this roster signed with their present keys. journal: where they outlive the run."""

    def __init__(self, roster: Roster, journal: Journal | None) -> None:
        self._keys, self._journal = roster.keys, journal
        self._heads: dict[str, bytes] = {}
        for hospital, head in (journal.heads() if journal else {}).items():
            with suppress(RemoteProtocolError):
                self.check(hospital, head)
                self.note(hospital, head)

    def check(self, hospital: str, head: bytes) -> None:
        """Raise `RemoteProtocolError` for a head that this hospital did not sign; an empty ledger has an empty one."""
        if hospital not in self._keys:
            raise RemoteProtocolError("a ledger head of a hospital that is not on the roster")
        if head:
            verify_head(self._keys[hospital], head)

    def note(self, hospital: str, head: bytes) -> None:
        """Take a head that was checked."""
        if head:
            self._heads[hospital] = head

    def all(self) -> dict[str, bytes]:
        return dict(self._heads)

    def keep(self) -> None:
        """Write them to the journal, beside those of hospitals that are not on this roster."""
        if self._journal:
            self._journal.keep_heads(self._journal.heads() | self._heads)
