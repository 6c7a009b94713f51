"""The commands of a hospital, each imported when it runs."""
