"""The words of the pages and of the documentation, a line each: docs/glossary.md and the end of each report are made from it."""

WORDS = {
    "aggregator": "the network that makes one score of a slide, and one of each of its patches, from the patches' features",
    "AUC": "the probability that a positive slide scores higher than a negative one: 0.5 is chance, 1 is perfect",
    "bag": "a slide as the aggregator sees it: the set of its patches, with one label for all",
    "baseline": "a trivial method on the same first features; a method that does not beat it has not earned its time",
    "calibration": "whether eight of ten slides that score 0.8 are positive; scores here are no probabilities of disease",
    "candidates": "patches of positive slides that score high: taken for positive when the encoder is fine-tuned",
    "cohort": "the slides of a study, cut into patches: the folder that hnm tile writes",
    "context": "what tells a slide's label without any positive patch: surroundings, stain, scanner; a figure may rest on it",
    "encoder": "the network that turns a patch into a feature vector",
    "fingerprint": "a hash of the patch table and the slide names: two cohorts with the same one are the same",
    "fold": "one part of the patients in a cross-validation; each part is tested once, by a model that has not seen it",
    "FROC": "share of lesions found, against wrong finds a slide; Camelyon16's score is the mean at 1/4, 1/2, 1, 2, 4 and 8",
    "gate": "pseudo labels are replaced only if the aggregator is at least as good on validation slides as the best before",
    "hard negatives": "patches of negative slides with the highest scores of the whole cohort: what the model confuses",
    "interval": "95 %: where the figure would lie if other patients of the same kind had been tested",
    "level 0": "a slide at its full resolution; all coordinates are its pixels, counted from the upper left corner",
    "members": "networks of one aggregator, trained alike from different random weights; the score is the mean of theirs",
    "mimics": "tissue known to look like tumour and to be none; it is told how many of the mined negatives are such",
    "mpp": "microns per pixel: 0.25 is about 40x, 0.5 about 20x, 1 about 10x",
    "out of fold": "said by the model of the fold that tested the slide, which had seen neither it nor its patient",
    "patch": "a square of a slide, cut at one scale; its id is its row in the cohort's table",
    "pseudo label": "what fine-tuning takes a patch for, 1 or 0; nobody has looked at it",
    "rank": "one of the processes that train together; rank 0 decides and writes",
    "round": "embed all patches, train the aggregator, score, mine, fine-tune the encoder; then again",
    "self-paced": "of the candidates, the best share so far: it grows from epoch to epoch",
    "shard": "a tar file with some thousand patches as JPEGs",
    "threshold": "the score from which a slide or patch is called positive; chosen on validation slides, never on test slides",
    "truth": "whether a patch is positive by an outline or point that a person drew; never needed for training",
    "validation": "slides that choose epoch, round and thresholds; figures on them flatter",
    "witness rate": "the share of patches taken for positive that truly are, where the truth is known",
}


def glossary() -> str:
    """Return the words as a Markdown list, for the documentation."""
    return "\n".join(f"{word}\n: {text}\n" for word, text in WORDS.items())
