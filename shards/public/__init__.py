"""Tables of slides for public cohorts."""
