"""A run to walk through, slide by slide: which negatives the model takes for positive, and whether the next round still does."""
