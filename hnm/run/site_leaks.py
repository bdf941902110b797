"""Hospitals on both sides of a split, where that was not to be: `data.split_by` says so."""

from hnm.run.study import Study
from shards.cohort.source_sites import sites_in_several

MAX_NAMED = 5


def site_warnings(study: Study) -> list[str]:
    """Return a sentence where splits were to be by site, and a site is in several, or it is not known of all slides."""
    if study.split_by == "patient":
        return []
    splits, sites, lines = study.split_of, study.cohort.sites, []
    asked = f"data.split_by={study.split_by}"
    if num_unknown := int(((sites == "") & (splits != "")).sum()):
        lines.append(
            f"{asked}: of {num_unknown} slides the site is not known (column site of slides.csv, or TCGA's barcode): whether it "
            "is in several splits cannot be told."
        )
    if several := sites_in_several(sites, splits):
        some = ", ".join(several[:MAX_NAMED]) + (" ..." if len(several) > MAX_NAMED else "")
        lines.append(
            f"{asked}, but slides of {len(several)} of {len(set(sites[splits != '']) - {''})} sites ({some}) are in more than "
            "one split: the figures are those of hospitals that the model knows. Draw the splits by site (tile.split_by=site, "
            "or hnm crossval)."
        )
    return lines
