"""Does a cohort suit an encoder? The side of its patches and their microns per pixel, against what the network was trained at."""

from collections.abc import Sequence
from pathlib import Path

from hnm.encoder.foreign import ForeignEncoder
from hnm.encoder.networks import Encoder, in_words
from hnm.encoder.spec import told_in
from hnm.engine.state import load_metadata
from hnm.run.session import Session
from shards.cohort.cohort import Cohort

MPP_TOLERANCE = 1.25  # between 0.4 and 0.5 microns per pixel nobody looks twice; 20x and 40x are a factor of 2 apart


def tell_encoder(encoder: Encoder, session: Session) -> None:
    """Say which network it is and what it sees, and warn of what does not suit it."""
    session.journal.say(f"encoder {in_words(encoder)}")
    for text in unsuited(encoder, session.study.cohort):
        session.journal.say(f"warning: {text}")


def unsuited(encoder: Encoder, cohort: Cohort) -> list[str]:
    """Return what about a cohort does not suit an encoder, in words."""
    trained_at = encoder.spec.mpp if isinstance(encoder, ForeignEncoder) else ()
    return unsuited_figures(*scale_of(cohort), encoder.input.spec.side_px, trained_at)


def unsuited_file(path: Path, cohort: Cohort) -> list[str]:
    """Return the same for the encoder of a file of ours; a file that does not say what its network sees tells nothing.

    Raises:
        InputError: the file is not readable.
    """
    network, wanted = told_in(load_metadata(path), str(path))
    return unsuited_figures(*scale_of(cohort), wanted.side_px, network.mpp if network else ()) if wanted else []


def scale_of(cohort: Cohort) -> tuple[int, list[float]]:
    """Return side of a cohort's patches, pixels, and their least and largest microns per pixel; an empty list: unknown."""
    settings = cohort.info["settings"]
    known = [mpp for mpp in cohort.slides["source_mpp"].to_pylist() if mpp]
    return settings["patch_px"], [settings["mpp"]] if settings["mpp"] else [min(known), max(known)] if known else []


def unsuited_figures(patch_px: int, mpp: Sequence[float], side_px: int | None, trained_at: Sequence[float]) -> list[str]:
    """Return what does not suit, in words.

    Args:
        patch_px: side of the cohort's patches.
        mpp: least and largest microns per pixel of the patches; empty: unknown.
        side_px: that the network sees; None: patches as they are.
        trained_at: microns per pixel that it was trained at; empty: unknown.
    """
    side, found = side_px or patch_px, []
    if side != patch_px:
        found.append(f"patches of {patch_px} px are resized to the {side} px that the encoder takes")
    seen = [value * patch_px / side for value in mpp]
    off = [value for value in seen if all(max(value / at, at / value) > MPP_TOLERANCE for at in trained_at)]
    if trained_at and off:
        found.append(
            f"the encoder sees {' to '.join(f'{value:.3g}' for value in dict.fromkeys(seen))} microns per pixel and was trained "
            f"at {', '.join(f'{at:.3g}' for at in trained_at)} (tile.mpp, tile.patch_px)"
        )
    return found
