"""The record of a folder's jobs: it may come with a stranger's folder."""

import json
from pathlib import Path

import pytest

from launch.cluster.submissions import SubmittedJob, add_job, read_jobs, submission_folder
from shards.errors import InputError

JOB = SubmittedJob("17", "train", "slurm", "2026-11-28T10:00:00", "42c834e", ["train"], 4)


@pytest.mark.parametrize("job_id", ["../../.ssh/x", "17; rm -rf ~", "", "-u root", 17, None])
def test_a_job_that_is_no_number_is_refused(tmp_path: Path, job_id: object) -> None:
    add_job(tmp_path, JOB)
    path = submission_folder(tmp_path) / "jobs.json"
    path.write_text(json.dumps([json.loads(path.read_text())[0] | {"job_id": job_id}]))
    with pytest.raises(InputError, match=r"jobs\.json.*is no number of a job"):
        read_jobs(tmp_path)


@pytest.mark.parametrize("text", ['[{"job_id": "17"', "[1]", '[{"job_id": "17"}]', '{"a": 1}'])
def test_a_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    add_job(tmp_path, JOB)
    (submission_folder(tmp_path) / "jobs.json").write_text(text)
    with pytest.raises(InputError, match=r"jobs\.json: is no record of submitted jobs"):
        read_jobs(tmp_path)
