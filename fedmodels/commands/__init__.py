"""What the `fedmodels` commands do for a person: read files, show progress, print one table."""
