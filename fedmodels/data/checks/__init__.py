"""What is wrong with a hospital's records, found before anybody trains on them: `run.examine`.

Every check is a pure function of a `subject.Subject` to `finding.Finding`s. A finding is a count or a share with the
name of a public column or label; it never holds a cell, a patient or a file name. Thresholds are not fitted to any data
set: each is derived where it stands, from the number of records and of comparisons, or from what a metric can resolve.
"""
