"""Section `slurm`: formats of time limits, what a stage's own settings do, and the mistakes that YAML invites."""

import pytest

from hnm.config import Config, ConfigError, check_config, load_config
from hnm.slurm_config import JobConfig, minutes_of, resources_of


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("90:00", 90), ("90:01", 91), ("0:30", 1), ("12:00:00", 720), ("00:00:01", 1), ("1-0", 1440),
     ("1-00:00:00", 1440), ("2-12:30", 3630), ("1-0:0:1", 1441)],
)  # fmt: skip
def test_time_limits_of_sbatch(text: str, minutes: int) -> None:
    assert minutes_of(text) == minutes


@pytest.mark.parametrize("text", ["0", "00:00", "1:2:3:4", "1h", "", "12h30", "-5"])
def test_what_is_no_time_limit(text: str) -> None:
    with pytest.raises(ValueError, match="is no time limit: write hours:minutes:seconds"):
        minutes_of(text)


def test_a_stage_lies_over_the_general_settings() -> None:
    slurm = load_config(
        None,
        None,
        [
            *("slurm.partition=gpu", "slurm.gpus_per_node=8", "slurm.extra={mail-type: FAIL, licenses: a}"),
            *(
                "slurm.stages.tile.partition=cpu",
                "slurm.stages.tile.gpus_per_node=0",
                "slurm.stages.tile.extra={licenses: b}",
            ),
        ],
    ).slurm
    tile, train = resources_of(slurm, "tile"), resources_of(slurm, "train")
    assert (tile.partition, tile.gpus_per_node, tile.extra) == ("cpu", 0, {"mail-type": "FAIL", "licenses": "b"})
    assert (train.partition, train.gpus_per_node, train.time) == ("gpu", 8, "04:00:00")


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("slurm.time=12:00:00", "write it in quotes"),  # YAML 1.1: 43200
        ("slurm.time='1h'", "is no time limit"),
        ("slurm.mem=64", "write a number and K, M, G or T"),
        ("slurm.stages.train.partitio=x", "Did you mean 'partition'?"),
        ("slurm.stages.trian.nodes=2", "Did you mean 'train'?"),
        ("slurm.time='00:01:00'", "leaves no time to work: SLURM tells the job to save 120 s (slurm.signal_delay_s) before it"),
        ("slurm.nodes=0", "greater than or equal to 1"),
    ],
)
def test_mistakes_name_the_key_and_the_remedy(override: str, part: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(None, None, [override])
    assert part in str(error.value)
    assert "slurm" in str(error.value)


def test_a_record_that_spells_out_every_stage_is_read() -> None:
    """As config.yaml of a run had it when each stage was a section of its own."""
    empty = JobConfig().model_dump(mode="json")
    stages = dict.fromkeys(("tile", "merge", "pretrain", "train", "evaluate", "predict", "crossval", "summary"), empty)
    assert check_config({"slurm": {"stages": stages}}, {}) == Config()
    slurm = check_config({"slurm": {"stages": stages | {"train": empty | {"time": "1-0"}}}}, {}).slurm
    assert list(slurm.stages) == ["train"]
    assert (resources_of(slurm, "train").time, resources_of(slurm, "tile").time) == ("1-0", "04:00:00")
