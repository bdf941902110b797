"""The cohort on disk: its tables, the user's tables, splits, annotations."""
