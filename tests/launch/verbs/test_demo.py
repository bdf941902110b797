from pathlib import Path

import pytest
from rich.console import Console

from hnm.config import load_config
from launch.process.local import run_children
from launch.process.preemption import StopSignals
from launch.verbs.demo import AT_RANDOM, commands, rounds_table


def test_the_table_stands_mined_beside_random() -> None:
    arms = {
        name: [
            {"validation_instance_auc": 0.8, "validation_mimic_auc": 0.5, "mimic_share_hardest": 0.6},
            {"validation_instance_auc": last, "validation_mimic_auc": last - 0.1, "mimic_share_hardest": 1 - last},
        ]
        for name, last in (("mined", 0.95), ("random", 0.85))
    }
    console = Console(width=200, record=True)
    console.print(rounds_table(arms))
    rows = [line.split() for line in console.export_text().splitlines() if "│" in line]
    figures = [[cell for cell in row if cell != "│"] for row in rows]
    assert figures == [
        ["0", "0.800", "0.800", "0.500", "0.500", "0.600", "0.600"],
        ["1", "0.950", "0.850", "0.850", "0.750", "0.050", "0.150"],
    ]


def test_the_random_arm_has_no_preference_for_hard_negatives() -> None:
    mining = load_config("demo", None, [AT_RANDOM]).mining
    assert mining.hard_share <= mining.neg_ratio
    assert load_config("demo", None, []).mining.hard_share > mining.neg_ratio


def test_both_trainings_run_side_by_side_and_share_the_ranks() -> None:
    train = commands(Path("demo"), 4)[2]
    assert [command[0] for command in train] == ["train", "train"]
    assert all(command[command.index("--ranks") + 1] == "2" for command in train)
    assert "1" in commands(Path("demo"), 1)[2][0]


def test_commands_side_by_side_are_all_waited_for(capfd: pytest.CaptureFixture[str]) -> None:
    with StopSignals(is_quiet=True) as signals:
        assert run_children([["no-such-command"], ["--help"]], signals) == 2
    told = capfd.readouterr()
    assert "no-such-command" in told.err
    assert "hnm demo" in told.out
