"""Annotation files as the tools write them, for tests."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def feature(name: str | None, kind: str, coordinates: object) -> dict[str, Any]:
    """Return a QuPath feature of a class."""
    properties: dict[str, Any] = {"objectType": "annotation"}
    if name is not None:
        properties["classification"] = {"name": name, "color": [200, 0, 0]}
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": properties}


def write_features(path: Path, features: Sequence[object]) -> Path:
    """Write a FeatureCollection."""
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def box(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    """Return a closed ring."""
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def region(xy: object, tag: str = "Vertex", **attributes: str) -> str:
    """Return a Region of Aperio's XML (tag Vertex) or HALO's (tag V)."""
    words = "".join(f' {name}="{value}"' for name, value in attributes.items())
    points = "".join(f'<{tag} X="{x:g}" Y="{y:g}"/>' for x, y in np.asarray(xy, float))
    return f"<Region{words}><Vertices>{points}</Vertices></Region>"


def layers(named: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Return the XML of layers: (name, regions)."""
    parts = [f'<Annotation Name="{name}"><Regions>{"".join(regions)}</Regions></Annotation>' for name, regions in named]
    return f"<Annotations>{''.join(parts)}</Annotations>"
