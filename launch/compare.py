"""`hnm compare`: a table of two runs."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hnm.compare import compare, read_test_scores
from shards.files import write_json

SHOWN = ("auc", "auprc", "accuracy", "balanced_accuracy", "f1", "sensitivity", "specificity", "brier")
WITHOUT_TEST = (("instance", "auc"), ("instance", "auprc"), ("instance", "in_positive_auc"), ("froc", "score"))


def run(run_a: Path, run_b: Path, json_file: Path | None) -> int:
    """Print the comparison of two runs, and write it to `json_file` if that is given."""
    a, b = read_test_scores(run_a), read_test_scores(run_b)
    result = compare(a, b)
    console = Console(highlight=False)
    console.print(_table(result, a.metrics, b.metrics))
    console.print(_verdict(result), markup=False)
    if json_file is not None:
        write_json(json_file, result)
        console.print(f"wrote {json_file}", markup=False, soft_wrap=True)
    return 0


def _table(result: dict[str, Any], metrics_a: dict[str, Any], metrics_b: dict[str, Any]) -> Table:
    table = Table(title=f"{result['num_slides']} test slides; 95 % intervals by patient")
    table.add_column("figure")
    for heading in (f"A: {Path(result['a']).name}", f"B: {Path(result['b']).name}", "B - A"):
        table.add_column(heading, justify="right")
    for name in SHOWN:
        figure = result["figures"][name]
        cells = [_with_interval(figure[which], figure[f"{which}_interval"]) for which in ("a", "b", "difference")]
        table.add_row(f"slide {name}", *cells)
    for section, name in WITHOUT_TEST:
        first, second = ((metrics.get(section) or {}).get(name) for metrics in (metrics_a, metrics_b))
        if first is not None and second is not None:
            table.add_row(f"{section} {name}", f"{first:.3f}", f"{second:.3f}", f"{second - first:+.3f}")
    return table


def _with_interval(value: float | None, interval: dict[str, Any]) -> str:
    if value is None:
        return "unknown"
    if interval["low"] is None:
        return f"{value:.3f}"
    return f"{value:.3f} ({interval['low']:.3f} to {interval['high']:.3f})"


def _verdict(result: dict[str, Any]) -> str:
    if result["delong_p"] is None:
        return "no DeLong test: it needs at least two positive and two negative test slides"
    return f"DeLong's test of the two AUCs: p = {result['delong_p']:.4g}"
