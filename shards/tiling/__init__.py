"""Slides to tars: survey, tissue, cut, merge."""
