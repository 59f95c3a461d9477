import numpy as np
import pytest
from matplotlib.image import imread

from l2s_pydra.errors import DatasetError
from l2s_pydra.reports.curves import learned_values, theta_over_time, training_curves

COLUMNS = (
    "step",
    "seconds",
    "learning_rate",
    "synthetic_loss",
    "real_loss",
    "gradient_norm",
    "theta_gradient_norm",
    "validation_dice",
)


def write_log(path, theta=(), steps=50, without=()):
    """Training log of a run; the columns ``without`` hold n/a only."""
    rng = np.random.default_rng(0)
    names = [*COLUMNS, *(f"theta/{name}" for name in theta)]
    lines = ["\t".join(names)]
    for step in range(1, steps + 1):
        row = {name: f"{rng.uniform(0.1, 1):.4f}" for name in names} | {"step": str(step)}
        row |= dict.fromkeys(without, "n/a")
        if step % 10:
            row["validation_dice"] = "n/a"
        lines.append("\t".join(row.values()))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    "without", [(), ("real_loss", "theta_gradient_norm"), ("synthetic_loss", "validation_dice")]
)
def test_curves_of_every_mode(tmp_path, without):
    path = training_curves(
        write_log(tmp_path / "training.tsv", without=without), tmp_path / "fig" / "c.png"
    )
    assert imread(path).shape[1] == 1400


def test_curves_of_one_step(tmp_path):
    table = write_log(tmp_path / "training.tsv", ["sigma"], steps=1)
    assert training_curves(table, tmp_path / "c.png").stat().st_size > 1000
    assert theta_over_time(table, tmp_path / "t.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("theta", "rows"),
    [
        (["sigma"], 1),
        (["c1", "c2", "c3", "sigma"], 1),
        ([f"{q}/g{i}" for q in ("mean", "variation", "spread") for i in range(17)] + ["bias"], 3),
    ],
)
def test_theta_has_one_panel_a_group(tmp_path, theta, rows):
    table = write_log(tmp_path / "training.tsv", theta)
    assert imread(theta_over_time(table, tmp_path / "t.png")).shape[0] == 165 * rows + 70


def test_no_theta_no_figure(tmp_path):
    table = write_log(tmp_path / "training.tsv")
    assert theta_over_time(table, tmp_path / "t.png") is None
    assert learned_values({}, tmp_path / "v.png") is None
    assert list(tmp_path.iterdir()) == [table]


def test_learned_values(tmp_path):
    names = ["mean/thalamus", "mean/stem", "spread/thalamus", "spread/stem", "bias"]
    start, end = dict.fromkeys(names, 0.5), dict.fromkeys(names, 0.7)
    path = learned_values({"start": start, "average": end, "final": end}, tmp_path / "v.png")
    assert path.stat().st_size > 1000
    assert learned_values({"final": {"sigma": 0.1}}, tmp_path / "w.png").exists()


def test_broken_logs_are_named(tmp_path):
    table = tmp_path / "training.tsv"
    with pytest.raises(DatasetError, match=r"training\.tsv: cannot read"):
        training_curves(table, tmp_path / "c.png")
    table.write_text("step\n1\n")
    with pytest.raises(DatasetError, match=r"training\.tsv: table lacks the column"):
        training_curves(table, tmp_path / "c.png")
    table.write_text("\t".join(COLUMNS) + "\n")
    with pytest.raises(DatasetError, match=r"training\.tsv: table has no row"):
        training_curves(table, tmp_path / "c.png")
