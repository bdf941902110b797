"""The Python face, what `import hnm` gives: cohorts, runs and encoders, opened to look at and to compute with."""
