from rich.console import Console

from hnm.config import load_config
from launch.verbs.demo import AT_RANDOM, rounds_table


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
