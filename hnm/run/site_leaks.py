"""Hospitals on both sides of a split, where that was not to be: `data.split_by` says so."""

from hnm.run.study import Study
from hnm.statistics.bootstrap import MANY_SITES
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


def few_sites_warning(study: Study) -> list[str]:
    """Return a sentence where splits are by site, and the test slides are of too few for intervals by site."""
    if study.split_by == "patient" or study.is_drawn_by_site(study.judged):
        return []
    num = len(set(study.cohort.sites[study.judged].tolist()) - {""})
    return [
        f"the intervals are by patient, for the test slides are of {num} known site{'' if num == 1 else 's'} (by site from "
        f"{MANY_SITES} on): for other hospitals they are too narrow."
    ]
