"""What a run has told, in events.jsonl, as MLflow wants it: names, numbers and texts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_events(path: Path, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (end in bytes, event) for the whole lines of events.jsonl from byte `start` on; a broken line is left out."""
    if not path.is_file():
        return
    with open(path, "rb") as file:
        end = file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                return
            end += len(line)
            try:
                event = json.loads(line)
            except ValueError:  # a disk that was full, or a kill, in the middle of a line
                continue
            yield end, event


def numbers_of(event: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield (name in MLflow, value) of a line of events.jsonl; none, if it is not of metrics."""
    if event.get("event") in ("metrics", "step"):
        for name, value in event.items():
            if name not in ("time", "event", "phase", "step", "epoch"):
                yield f"{event['phase']}/{name}", float(value)


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested sections as {"a.b": "value"}."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = str(value)
    return flat
