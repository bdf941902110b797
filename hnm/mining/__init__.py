"""Scores to pseudo labels, hard negatives and sampling weights, over the whole cohort."""
