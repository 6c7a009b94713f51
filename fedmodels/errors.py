"""Every error a person can meet, in one hierarchy that says whose fault it is.

An error message has three parts: *what* happened, *where* (file and line, hospital, field), and what to do next
(*fix*). None of them ever quotes a patient's data. `exit_code` is what the command line returns:
0 done, 1 failed, 2 wrong use, 3 refused by a hospital's policy or budget.
"""


class FedmodelsError(Exception):
    """Base of all errors that fedmodels raises on purpose.

    what: one sentence without a full stop; where: file, key, hospital or message; fix: what the reader can do.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what, where, fix)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f"\n  -> {self.fix}" if self.fix else ""
        return f"{place}{self.what}{advice}"

    def __reduce__(self) -> tuple[object, ...]:
        """For errors of other processes. An exception's own way forgets what is given by name."""
        return self.__class__.__new__, (self.__class__, *self.args), self.__dict__


class UsageError(FedmodelsError):
    """The person at the command line asked for something that cannot be."""

    exit_code = 2


class FileError(UsageError):
    """A study, roster, data binding or policy file is malformed; `where` names file and line."""


class DataError(FedmodelsError):
    """A hospital's data does not match its data binding or the study. Counts and column names only, no values."""


class PrivacyError(FedmodelsError):
    """Privacy code met something that it does not understand, and therefore refuses."""


class Refused(FedmodelsError):
    """A hospital declines a request. `rule` is the name of the rule that decided, safe to send to the coordinator."""

    exit_code = 3

    def __init__(self, rule: str, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what, where=where, fix=fix)
        self.rule = rule
        self.args = (rule, what, where, fix)


class ProtocolError(FedmodelsError):
    """Secure aggregation cannot go on; nothing was released."""


class LocalProtocolError(ProtocolError):
    """Our own side used the protocol out of order."""


class RemoteProtocolError(ProtocolError):
    """A peer sent something that the protocol does not allow."""


class WrongShares(RemoteProtocolError):
    """A `recover` round opens nothing because hospitals lied in step B. `liars` are those that are proven to have: the
    next session is without them. Where it cannot be said who lied there are none, and `where` names who may have."""

    def __init__(self, liars: tuple[str, ...], what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what, where=where, fix=fix)
        self.liars = liars
        self.args = (liars, what, where, fix)


class RoundAborted(ProtocolError):
    """A round opens nothing because hospitals are missing. `missing` are their names, in roster order."""

    def __init__(self, missing: tuple[str, ...], *, where: str = "", fix: str = "") -> None:
        super().__init__("no answer from " + ", ".join(missing), where=where, fix=fix)
        self.missing = missing
        self.args = (missing, where, fix)


class RunError(FedmodelsError):
    """A federated run cannot continue (too few hospitals, too many aborted rounds, no run directory)."""
