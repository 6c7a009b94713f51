"""What a hospital's own log and ledger prove about all that left it: without the coordinator, without patients' data.

`kept` reads the messages again of which the bytes are kept, `uniformity` tests masked vectors, `checks` has a named
check for each thing that must hold, and `examination` runs them all on a site directory.
"""
