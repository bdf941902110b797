"""The foundation models of the registry as a Markdown table, read from the program itself."""

from hnm.encoder.registry import REGISTRY, Row

HEADER = "| name | repository | side | microns per pixel | features | million parameters | pooling | licence | gated | sources |"
POOLING = {"own": "as the network returns", "class_and_mean": "class token, mean of patches"}


def encoder_table() -> str:
    """Return a row for each foundation model."""
    return "\n".join([HEADER, "|" + "---|" * HEADER.count(" | ") + "---|", *(_row(name, row) for name, row in REGISTRY.items())])


def _row(name: str, row: Row) -> str:
    commit = f" at `{row.revision[:7]}`" if row.revision else ""
    cells = [
        f"`{name}`", f"[{row.repository}](https://huggingface.co/{row.repository}){commit}", row.input.side_px,
        ", ".join(f"{mpp:g}" for mpp in row.mpp), row.feature_dim,
        f"{row.millions:.1f}" if row.millions else "", POOLING[row.pooling], row.licence,
        "yes" if row.gated else "no", row.source,
    ]  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"
