"""What a site calls its accounts stays out of what others read."""

import json

import pytest

from l2s_pydra.workflows.site_words import without_accounts, without_site


@pytest.mark.parametrize(
    "words",
    [
        ("--worker-args", "sbatch_args=--account=secret -p long", "max_jobs=9"),
        ("--worker-args", "task_args.Learn=-A secret", "max_jobs=9"),
        ("--worker-args=sbatch_args=--account=secret", "max_jobs=9"),
        ("--worker-args", "qsub_args=-P secret -M secret@a.b", "max_jobs=9"),
        ("--worker-args", "setup=cd /home/secret; module load cuda", "max_jobs=9"),
        ("--worker-args", "python=apptainer exec -B /home/secret a.sif python", "max_jobs=9"),
        ("--worker-args", json.dumps({"sbatch_args": "-A secret", "max_jobs": 9})),
        ("--worker-args", json.dumps({"task_args": {"Learn": "-A secret"}, "max_jobs": 9})),
    ],
)
def test_command_lines_keep_numbers_and_lose_the_site(words):
    shown = " ".join(without_site(["l2s-pydra", "data", "--set", "training.seed=3", *words]))
    assert "secret" not in shown
    assert "<site>" in shown
    assert "max_jobs" in shown
    assert "--set training.seed=3" in shown


def test_other_words_stay():
    words = ("l2s-pydra", "a b", "out", "--set", "x=1", "{not json", "gpu_args=--gpus={gpus}")
    assert without_site(words) == words


def test_commands_of_a_scheduler():
    words = [
        "sbatch",
        "--wckey=secret",
        "--mail-user",
        "secret",
        "-A",
        "secret",
        "-Msecret",
        "-p",
        "x",
    ]
    shown = without_accounts(words)
    assert "secret" not in " ".join(shown)
    assert shown[-2:] == ["-p", "x"]
    assert len(shown) == len(words)
