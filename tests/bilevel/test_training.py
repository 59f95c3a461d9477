"""The loop: who sees which images, what moves when, and that an interruption changes nothing."""

import attrs
import numpy as np
import pytest
import torch

from l2s_pydra.bilevel import batches as batches_module
from l2s_pydra.bilevel import training
from l2s_pydra.bilevel.hypergradient import Exact, OneSidedDifference
from l2s_pydra.bilevel.self_check import EPSILONS, estimator_from
from l2s_pydra.bilevel.state import TrainingState
from l2s_pydra.bilevel.training import RealScan, Trainer, TrainingData
from l2s_pydra.config import MODES, LearnConfig
from l2s_pydra.errors import ConfigError, TrainingError
from l2s_pydra.normalisation import normalise
from l2s_pydra.synthesis import GenerationLabels, Synthesizer
from l2s_pydra.synthesis.intensity import pool, soft_labels

N_CLASSES = 4
OPPOSITE = (0, 2, 1, 3)
STEPS, WARMUP = 9, 2
NAMES = ("outside", "sided", "middle", "tissue")


def config(ndim=2, **changes):
    settings = {
        "spacing_mm": 2.0,
        "segmenter__ndim": ndim,
        "segmenter__width": 4,
        "segmenter__depth": 2,
        "segmenter__convolutions": 1,
        "training__steps": STEPS,
        "training__batch_size": 2,
        "training__theta_warmup_steps": WARMUP,
        "training__wide_share": 0.0,
        "training__validate_every": 4,
        "training__checkpoint_every": 4,
        "training__precision": "fp32",
        "training__estimator": "one_sided_difference",
        "training__epsilon": 0.01,
    }
    return LearnConfig().evolve(**{**settings, **changes})


def label_map(size, shift):
    """Tissue around a left, a middle and a right block."""
    labels = torch.zeros(size, dtype=torch.uint8)
    labels[tuple(slice(n // 8, -(n // 8)) for n in size)] = 4
    inner = [slice(n // 4, -(n // 4)) for n in size[1:]]
    for i, label in enumerate((1, 3, 2)):
        labels[(slice(size[0] * (3 + 2 * i) // 12, size[0] * (5 + 2 * i) // 12), *inner)] = label
    return labels.roll(shift, 1)


def scan(labels, channel, name, *, seed):
    """A real image of a label map on the fine and on the working grid."""
    means = torch.tensor([0, 90.0, 90.0, 60.0, 30.0])
    noise = torch.randn(labels.shape, generator=torch.Generator().manual_seed(seed))
    channels = channel[labels.long()]
    fine = means[labels.long()] + 5 * noise
    return RealScan(
        name=name,
        image=pool(fine[None, None], 2)[0, 0],
        target=soft_labels(channels, N_CLASSES, 2),
        fine_image=fine,
        fine_channels=channels.to(torch.uint8),
    )


def data_of(ndim=2, *, real_seed=0, map_shift=0, settings=None):
    size = (32, 32) if ndim == 2 else (16, 16, 16)
    labels = GenerationLabels(
        group=torch.tensor([0, 1, 1, 2, 3], dtype=torch.uint8),
        channel=torch.tensor([0, 1, 2, 3, 0]),
        group_names=NAMES,
        swap=torch.tensor([0, 2, 1, 3, 4], dtype=torch.uint8),
        n_channels=N_CLASSES,
    )
    maps = [label_map(size, i) for i in (0, 2, 1, -1)]
    learn = [
        scan(m, labels.channel, f"sub-{i}", seed=real_seed + i) for i, m in enumerate(maps[:2])
    ]
    judge = scan(label_map(size, 3), labels.channel, "sub-9", seed=99)
    if ndim == 2:
        judge = attrs.evolve(
            judge,
            image=judge.image[..., None].repeat(1, 1, 2),
            target=judge.target[..., None].repeat(1, 1, 1, 2),
        )
    return TrainingData(
        synthesizer=Synthesizer(
            label_maps=[m.roll(map_shift, 0) for m in maps],
            labels=labels,
            config=(settings or config(ndim)).synthesis,
            spacing_mm=2.0,
        ),
        own=[0, 1],
        learn=learn,
        validate=[judge],
        statistics={"sided": (0.9, 0.05), "middle": (0.6, 0.05), "tissue": (0.3, 0.05)},
        opposite=OPPOSITE,
    )


def train(settings=None, data=None, **options):
    settings = settings or config()
    trainer = Trainer(
        settings, data or data_of(settings.segmenter.ndim), n_classes=N_CLASSES, **options
    )
    trainer.run()
    return trainer


def same(one, two):
    """Whether tensors, or nested dicts and lists of them, are equal to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return repr(one) == repr(two)


def without_time(state):
    values = attrs.asdict(state, recurse=False)
    rows = [
        {k: v for k, v in row.items() if not k.endswith("seconds")} for row in values["history"]
    ]
    return {**values, "history": rows, "seconds": 0}


class Recorder:
    """Copies of phi and theta after each step, and the rows of the log."""

    def __init__(self, trainer):
        self.trainer = trainer
        self.phi, self.theta, self.rows = [], [], []
        self(None)

    def __call__(self, row):
        copies = [
            {k: v.clone() for k, v in module.state_dict().items()}
            for module in (self.trainer.segmenter, self.trainer.augmentation)
        ]
        self.phi.append(copies[0])
        self.theta.append(copies[1])
        if row is not None:
            self.rows.append(row)

    def moved(self):
        """Steps at which theta moved, counted from 0."""
        pairs = zip(self.theta, self.theta[1:], strict=False)
        return [i for i, (before, after) in enumerate(pairs) if not same(before, after)]


def recorded(settings, data=None):
    trainer = Trainer(settings, data or data_of(settings.segmenter.ndim), n_classes=N_CLASSES)
    recorder = Recorder(trainer)
    trainer.run(recorder)
    return recorder


class StopError(Exception):
    pass


def interrupt(step):
    def progress(row):
        if row["step"] == step:
            raise StopError

    return progress


CASES = {
    "learn2synth": {},
    "wide": {"training__wide_share": 0.5, "training__optimizer": "adamw"},
    "exact": {"training__estimator": "exact", "training__optimizer": "sgd"},
    "supervised": {"training__mode": "supervised"},
    "mixed": {"training__mode": "learn2synth-mixed", "training__outer_remap_share": 0.5},
    "finetuned": {"training__mode": "finetuned-averaged", "training__finetune_share": 0.5},
    "synthseg": {"training__mode": "synthseg", "training__precision": "bf16"},
    "noise": {"augmentation__name": "noise", "training__synthetic_fraction": 0.5},
    "unet": {"augmentation__name": "unet", "augmentation__options": {"width": 4}},
    "odd": {"training__checkpoint_every": 3, "training__validate_every": 5},
    "3d": {"ndim": 3},
    "auto": {"training__estimator": "auto", "training__epsilon": None},
    "central": {"training__estimator": "central_difference", "training__micro_batch_size": 1},
    "checkpointed": {"training__checkpoint_activations": True, "training__gradient_clip": 0.1},
}


@pytest.mark.parametrize("case", CASES)
def test_an_interruption_changes_nothing(case, tmp_path):
    settings = config(**CASES[case])
    path = tmp_path / "training.safetensors"
    whole = train(settings)
    first = Trainer(
        settings, data_of(settings.segmenter.ndim), n_classes=N_CLASSES, checkpoint=path
    )
    with pytest.raises(StopError):
        first.run(interrupt(6))
    # Whatever else draws random numbers in between.
    torch.manual_seed(17)
    second = Trainer(
        settings, data_of(settings.segmenter.ndim), n_classes=N_CLASSES, checkpoint=path
    )
    assert second.state.step == settings.training.checkpoint_every * (
        5 // settings.training.checkpoint_every
    )
    second.run()
    one, two = without_time(whole.state), without_time(second.state)
    for name in one:
        assert same(one[name], two[name]), name
    assert whole.theta_start == second.theta_start


def test_a_finished_run_is_not_run_again(tmp_path):
    path = tmp_path / "training.safetensors"
    trainer = train(checkpoint=path)
    again = Trainer(config(), data_of(), n_classes=N_CLASSES, checkpoint=path)

    def never(row):
        raise AssertionError(row)

    again.run(never)
    for name, value in attrs.asdict(trainer.state, recurse=False).items():
        assert same(value, getattr(again.state, name)), name


@pytest.mark.parametrize("name", ["contrast", "unet"])
def test_the_seed_decides_everything(name):
    settings = config(augmentation__name=name)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = train(settings)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    two = train(settings)
    assert same(without_time(one.state), without_time(two.state))
    other = train(settings.evolve(training__seed=1))
    assert not same(one.state.phi, other.state.phi)


@pytest.mark.parametrize(
    "change",
    [
        lambda s, d: (s.evolve(training__seed=1), d),
        lambda s, d: (s, data_of(real_seed=5)),
        lambda s, d: (s, data_of(map_shift=1)),
        lambda s, d: (s, attrs.evolve(d, learn=d.learn[:1])),
        lambda s, d: (s, attrs.evolve(d, synthesizer=attrs.evolve(d.synthesizer,
            labels=attrs.evolve(d.synthesizer.labels, channel=torch.tensor([0, 2, 1, 3, 0]))))),
    ],
    ids=["settings", "scans", "maps", "participants", "tables"],
)  # fmt: skip
def test_another_run_is_not_resumed(change, tmp_path):
    path = tmp_path / "training.safetensors"
    train(config(training__steps=1), checkpoint=path)
    settings, data = change(config(training__steps=1), data_of())
    with pytest.raises(TrainingError, match="other settings or data") as error:
        Trainer(settings, data, n_classes=N_CLASSES, checkpoint=path)
    assert str(error.value).startswith(f"{path}: ")


def test_theta_moves_at_every_step_after_the_warm_up():
    recorder = recorded(config())
    assert recorder.moved() == list(range(WARMUP, STEPS))
    assert recorder.trainer.state.theta_steps == STEPS - WARMUP
    for before, after in zip(recorder.theta[WARMUP:], recorder.theta[WARMUP + 1 :], strict=False):
        for key, value in after.items():
            # Adam: the first steps are as long as the learning rate, whatever the gradient.
            assert (value != before[key]).any(), key


def test_theta_moves_at_every_other_step():
    recorder = recorded(config(training__hypergradient_every=3))
    assert recorder.moved() == [3, 6]


@pytest.mark.parametrize("mode", sorted(set(MODES) - {"learn2synth", "learn2synth-mixed"}))
@pytest.mark.parametrize("name", ["contrast", "noise"])
def test_theta_of_a_baseline_never_moves(mode, name):
    recorder = recorded(config(training__mode=mode, augmentation__name=name))
    assert recorder.moved() == []
    state = recorder.trainer.state
    assert state.theta_steps == 0
    assert same(state.theta_average, recorder.theta[0])


def test_theta_starts_at_the_moments_of_the_scans():
    start = Trainer(config(), data_of(), n_classes=N_CLASSES).theta_start
    assert start["mean/sided"] == pytest.approx(0.9)
    assert start["mean/tissue"] == pytest.approx(0.3)


def test_averages_are_those_of_the_iterates():
    recorder = recorded(config(training__phi_average=0.8, training__theta_average=0.6))
    phi, theta = dict(recorder.phi[0]), dict(recorder.theta[0])
    moves = 0
    for step in range(STEPS):
        decay = min(0.8, (1 + step) / (10 + step))
        phi = {k: decay * v + (1 - decay) * recorder.phi[step + 1][k] for k, v in phi.items()}
        if step >= WARMUP:
            moves += 1
            decay = min(0.6, moves / (moves + 1))
            theta = {
                k: decay * v + (1 - decay) * recorder.theta[step + 1][k] for k, v in theta.items()
            }
    state = recorder.trainer.state
    for key, value in phi.items():
        torch.testing.assert_close(state.phi_average[key], value)
    for key, value in theta.items():
        torch.testing.assert_close(state.theta_average[key], value)


def test_real_images_never_train_the_segmenter():
    """With theta held still, it learns the same from whatever real images there are."""
    still = config(training__theta_learning_rate=1e-30)
    one, two = train(still), train(still, data_of(real_seed=50))
    assert one.state.theta_steps == two.state.theta_steps == STEPS - WARMUP
    losses = [
        [row["real_loss"] for row in t.state.history if "real_loss" in row] for t in (one, two)
    ]
    assert all(a != b for a, b in zip(*losses, strict=True))
    assert same(one.state.phi, two.state.phi)
    assert same(one.state.phi_moments, two.state.phi_moments)
    # They reach it through theta alone.
    one, two = train(), train(data=data_of(real_seed=50))
    assert not same(one.state.theta, two.state.theta)
    assert not same(one.state.phi, two.state.phi)


def test_synthseg_never_sees_a_real_image():
    settings = config(training__mode="synthseg")
    one, two = train(settings), train(settings, data_of(real_seed=50))
    assert same(one.state.phi, two.state.phi)
    assert not any("real_loss" in row for row in one.state.history)


def test_supervised_never_sees_a_synthetic_image():
    settings = config(training__mode="supervised")
    one, two = train(settings), train(settings, data_of(map_shift=3))
    assert same(one.state.phi, two.state.phi)
    other = train(settings, data_of(real_seed=50))
    assert not same(one.state.phi, other.state.phi)


def kinds_of_steps(trainer):
    """What each step was trained on, as the log tells."""
    rows = []
    trainer.run(rows.append)
    return ["synthetic" if "synthesis_seconds" in row else "real" for row in rows]


@pytest.mark.parametrize("mode", ["mixed", "mixed-randomised", "learn2synth-mixed"])
def test_mixed_modes_see_both_kinds(mode):
    settings = config(training__mode=mode, training__steps=40, training__validate_every=40)
    trainer = Trainer(settings, data_of(), n_classes=N_CLASSES)
    kinds = kinds_of_steps(trainer)
    # Three standard errors.
    assert kinds.count("real") / 40 == pytest.approx(0.5, abs=3 * 0.5 / 40**0.5)
    assert (trainer.state.theta_steps > 0) == (mode == "learn2synth-mixed")


def test_random_contrast_is_a_map_of_intensities():
    """The same intensity everywhere in an image becomes the same one; black stays black."""
    trainer = Trainer(config(), data_of(), n_classes=N_CLASSES)
    plain, target = trainer.batches.real(3, 2, augmented=False)
    changed, same_target = trainer.batches.real(3, 2, augmented=False, remapped=1.0)
    assert torch.equal(target, same_target)
    for before, after in zip(plain, changed, strict=True):
        assert not torch.allclose(before, after, atol=0.05)
        flat = torch.tensor([[0.0], [0.3]]).repeat(1, 64).flatten()[None, :]
        assert remapped_levels(flat) == 2
        order = before.flatten().sort().indices
        # A continuous map: neighbours in intensity stay neighbours.
        jumps = after.flatten()[order].diff().abs()
        steps = before.flatten()[order].diff()
        assert float(jumps[steps < 1e-4].max()) < 0.05
    assert same(plain, trainer.batches.real(3, 2, augmented=False, remapped=0.0)[0])


def remapped_levels(image):
    return len(batches_module._random_contrast(image, 5).unique())


def test_finetuning_starts_where_synthseg_ends():
    tuned = train(config(training__mode="finetuned", training__steps=12))
    synthseg = train(config(training__mode="synthseg", training__steps=9))
    assert same(tuned.state.phi_tuned, synthseg.state.phi_average)
    kinds = kinds_of_steps(
        Trainer(
            config(training__mode="finetuned", training__steps=12), data_of(), n_classes=N_CLASSES
        )
    )
    assert kinds == ["synthetic"] * 9 + ["real"] * 3
    # Weights of before are not what is kept.
    assert tuned.state.best_step > 9


def test_averaged_finetuning_is_half_way():
    settings = config(training__steps=12, training__validate_every=12)
    one = train(settings.evolve(training__mode="finetuned")).state
    two = train(settings.evolve(training__mode="finetuned-averaged")).state
    assert same(one.phi_average, two.phi_average)
    for key, value in two.phi_best.items():
        middle = (one.phi_average[key] + one.phi_tuned[key]) / 2
        torch.testing.assert_close(value, middle)


def test_time_ends_a_training(monkeypatch):
    """The learning rate decays with the time that is used up, and fine-tuning has its share."""
    settings = config(training__steps=1000, training__max_minutes=1.0, training__validate_every=500)
    clock = iter(float(i) for i in range(10**6))
    monkeypatch.setattr(training.time, "monotonic", lambda: next(clock))
    rates = []
    trainer = Trainer(settings, data_of(), n_classes=N_CLASSES)
    state = trainer.run(lambda row: rates.append(row["learning_rate"]))
    assert 10 < state.step < 60
    assert state.seconds >= 60
    assert rates[-1] < 0.05 * max(rates)
    assert state.best_dice >= 0


def test_patience_ends_a_training(monkeypatch):
    settings = config(training__steps=100, training__validate_every=2, training__patience=3)
    trainer = Trainer(settings, data_of(), n_classes=N_CLASSES)
    script = iter([0.2, 0.5, 0.4, 0.4, 0.3, 0.9])
    monkeypatch.setattr(trainer, "score", lambda _: np.array([[next(script)]]))
    state = trainer.run()
    assert (state.step, state.best_step, state.best_dice) == (10, 4, 0.5)


def test_only_wide_draws_are_synthseg():
    one = train(config(training__wide_share=1.0))
    two = train(config(training__mode="synthseg", training__wide_share=0.0))
    assert one.state.theta_steps == 0
    assert same(one.state.phi, two.state.phi)


def test_share_of_wide_draws():
    settings = config(training__wide_share=0.7)
    trainer = Trainer(settings, data_of(), n_classes=N_CLASSES)
    share = np.mean([trainer.kinds.learned(step) for step in range(1000)])
    # Three standard errors.
    assert share == pytest.approx(0.3, abs=3 * (0.3 * 0.7 / 1000) ** 0.5)
    # An augmentation of finished images has no wide draws.
    noise = Trainer(settings.evolve(augmentation__name="noise"), data_of(), n_classes=N_CLASSES)
    assert all(noise.kinds.learned(step) for step in range(100))


@pytest.mark.parametrize(("share", "chosen"), [(0.0, {2, 3}), (1.0, {0, 1}), (0.5, {0, 1, 2, 3})])
def test_share_of_own_label_maps(share, chosen):
    trainer = Trainer(config(training__own_label_share=share), data_of(), n_classes=N_CLASSES)
    maps = [draw.label_map for step in range(100) for draw in trainer.batches.draws(step)]
    assert set(maps) == chosen
    assert np.mean([m < 2 for m in maps]) == pytest.approx(share, abs=0.11)


def test_own_label_maps_are_enough():
    data = data_of()
    maps = data.synthesizer.label_maps[:2]
    data = attrs.evolve(data, synthesizer=attrs.evolve(data.synthesizer, label_maps=maps))
    trainer = Trainer(config(training__own_label_share=0.0), data, n_classes=N_CLASSES)
    assert {draw.label_map for step in range(20) for draw in trainer.batches.draws(step)} == {0, 1}


def test_real_batches_are_the_scans_or_their_mirror_images():
    data = data_of()
    trainer = Trainer(config(), data, n_classes=N_CLASSES)
    known = []
    for real in data.learn:
        image = normalise(real.image[None, None])[0, 0]
        known += [(image, real.target), (image.flip(0), real.target.flip(1)[list(OPPOSITE)])]
    seen = set()
    for step in range(20):
        images, targets = trainer.batches.real(step, 2, augmented=False)
        found = [
            next(i for i, (x, y) in enumerate(known) if same([image[0], target], [x, y]))
            for image, target in zip(images, targets, strict=True)
        ]
        # Each scan once before any comes again.
        assert {i // 2 for i in found} == {0, 1}
        seen.update(found)
    assert seen == {0, 1, 2, 3}
    assert trainer.batches.real(0, 5, augmented=False)[0].shape == (5, 1, 16, 16)


def test_estimators_agree():
    norms = []
    for estimator in ("exact", "one_sided_difference"):
        settings = config(training__estimator=estimator, training__steps=WARMUP + 1)
        norms.append(train(settings).state.history[-1]["theta_gradient_norm"])
    # The difference quotient is right to a few per cent (Hypergradient's own tests).
    assert norms[1] == pytest.approx(norms[0], rel=0.05)


@pytest.mark.parametrize("every", [4, 100])
def test_the_best_validation_is_kept(monkeypatch, every):
    nan = float("nan")
    script = {
        4: [[0.2, 0.4, nan], [0.4, nan, nan]],
        8: [[0.9, 0.5, nan], [0.7, nan, nan]],
        9: [[0.6, 0.6, nan], [0.6, nan, nan]],
    }
    settings = config(training__validate_every=every)
    trainer = Trainer(settings, data_of(), n_classes=N_CLASSES)
    averages = {}

    def score(segmenter):
        step = trainer.state.step
        averages[step] = {k: v.clone() for k, v in segmenter.state_dict().items()}
        return np.array(script[step])

    monkeypatch.setattr(trainer, "score", score)
    state = trainer.run()
    assert list(averages) == ([4, 8, 9] if every == 4 else [9])
    best = 8 if every == 4 else 9
    assert state.best_step == best
    assert state.best_dice == pytest.approx(np.nanmean(script[best]))
    assert state.best_per_class == pytest.approx(
        [0.8, 0.5, nan] if best == 8 else [0.6, 0.6, nan], nan_ok=True
    )
    assert same(state.phi_best, averages[best])
    dice = [row["validation_dice"] for row in state.history if "validation_dice" in row]
    assert dice == pytest.approx([np.nanmean(script[step]) for step in averages])


@pytest.mark.parametrize("ndim", [2, 3])
def test_scores_are_dice_on_whole_volumes(ndim, monkeypatch):
    data = data_of(ndim)
    (judge,) = data.validate
    truth = judge.target.argmax(0)

    def takes_right_for_left(segmenter, image, **options):
        assert image is judge.image
        return judge.target[[0, 1, 0, 3]] + judge.target[[3, 2, 3, 0]] * torch.tensor(
            [0, 1, 0, 0]
        ).view(-1, *[1] * (judge.target.ndim - 1))

    monkeypatch.setattr(training, "predict_posteriors", takes_right_for_left)
    trainer = Trainer(config(ndim), data, n_classes=N_CLASSES)
    found = takes_right_for_left(None, judge.image).argmax(0)
    counts = [int((found == k).sum()) + int((truth == k).sum()) for k in (1, 2, 3)]
    both = [int(((found == k) & (truth == k)).sum()) for k in (1, 2, 3)]
    (scores,) = trainer.score(trainer.averaged)
    np.testing.assert_allclose(scores, 2 * np.array(both) / np.array(counts))
    assert scores[0] < 1
    assert scores[2] == 1


@pytest.mark.parametrize("ndim", [2, 3])
def test_scores_of_a_network(ndim):
    trainer = Trainer(config(ndim), data_of(ndim), n_classes=N_CLASSES)
    scores = trainer.score(trainer.averaged)
    assert scores.shape == (1, N_CLASSES - 1)
    assert ((scores >= 0) & (scores <= 1)).all()


def test_checkpoints_leave_no_trace_in_the_log(tmp_path, monkeypatch):
    path = tmp_path / "training.safetensors"
    settings = config(
        training__steps=1200, training__validate_every=600, training__checkpoint_every=400
    )

    def history(*stops, checkpoint=None):
        for stop in (*stops, None):
            trainer = Trainer(settings, data_of(), n_classes=N_CLASSES, checkpoint=checkpoint)
            monkeypatch.setattr(trainer, "_step", lambda step: {"synthetic_loss": step**0.5})
            if stop is None:
                return without_time(trainer.run())["history"]
            with pytest.raises(StopError):
                trainer.run(interrupt(stop))
        return None

    whole = history()
    assert [row["step"] for row in whole] == list(range(3, 1201, 3))
    assert same(history(500, 1100, checkpoint=path), whole)


def test_the_log_has_a_row_for_every_window():
    state = train(config(training__steps=12, training__validate_every=5)).state
    steps = [row["step"] for row in state.history]
    assert steps == list(range(1, 13))
    assert [r["step"] for r in state.history if "validation_dice" in r] == [5, 10, 12]
    assert all(row["learning_rate"] > 0 for row in state.history)
    assert [("real_loss" in row) for row in state.history] == [s >= WARMUP for s in range(12)]
    assert all("theta/mean/sided" in row for row in state.history)
    assert state.seconds == state.history[-1]["seconds"] > 0


def test_progress_is_told_after_every_step():
    rows = recorded(config()).rows
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert {row["steps"] for row in rows} == {STEPS}
    assert rows[0]["best_dice"] == -1
    assert rows[-1]["best_dice"] == max(r.get("validation_dice", -1) for r in rows)
    assert "mean/sided" in rows[0]["theta"]


def test_a_run_that_explodes_says_so(tmp_path):
    settings = config(
        training__learning_rate=1e30, training__schedule="constant", training__stop_after_skipped=3
    )
    with pytest.raises(TrainingError, match=r"not finite 3 times in a row.*no checkpoint"):
        train(settings)
    # A short run cannot end well either, if most of its steps were skipped.
    settings = settings.evolve(training__stop_after_skipped=100)
    path = tmp_path / "training.safetensors"
    with pytest.raises(TrainingError, match=f"{path} holds the last checkpoint"):
        train(settings, checkpoint=path)
    assert TrainingState.load(path).skipped > 0


def test_a_step_that_is_not_finite_is_skipped(monkeypatch, caplog):
    """One bad batch changes neither phi nor theta; the run goes on."""
    trainer = Trainer(config(), data_of(), n_classes=N_CLASSES)
    recorder = Recorder(trainer)
    loss = trainer.loss
    spoilt = {4}

    def sometimes(logits, target):
        return loss(logits, target) * (float("nan") if trainer.state.step in spoilt else 1)

    monkeypatch.setattr(trainer, "loss", sometimes)
    state = trainer.run(recorder)
    assert recorder.moved() == [i for i in range(WARMUP, STEPS) if i != 4]
    assert same(recorder.phi[4], recorder.phi[5])
    assert not same(recorder.phi[5], recorder.phi[6])
    assert state.step == STEPS
    assert (state.skipped, state.skipped_in_a_row, state.theta_skipped) == (1, 0, 0)
    assert recorder.rows[-1]["skipped_steps"] == 1
    assert "step 5 skipped" in caplog.text
    assert all(np.isfinite(list(row.values())).all() for row in state.history)


def test_a_hypergradient_that_is_not_finite_leaves_theta(monkeypatch):
    trainer = Trainer(config(), data_of(), n_classes=N_CLASSES)
    recorder = Recorder(trainer)
    real = trainer.batches.real

    def spoilt(step, count, **options):
        images, targets = real(step, count, **options)
        return images * (float("nan") if step == 4 else 1), targets

    monkeypatch.setattr(type(trainer.batches), "real", lambda self, *a, **k: spoilt(*a, **k))
    state = trainer.run(recorder)
    assert recorder.moved() == [i for i in range(WARMUP, STEPS) if i != 4]
    assert not same(recorder.phi[4], recorder.phi[5])
    assert (state.skipped, state.theta_skipped) == (0, 1)


@pytest.mark.parametrize("estimator", ["exact", "central_difference", "one_sided_difference"])
def test_micro_batches_and_checkpoints_change_nothing(estimator):
    base = config(
        training__estimator=estimator,
        training__batch_size=4,
        training__real_batch_size=2,
        training__steps=WARMUP + 3,
    )
    whole = train(base).state
    for change in ({"training__micro_batch_size": 1}, {"training__checkpoint_activations": True}):
        state = train(base.evolve(**change)).state
        for key, value in whole.phi.items():
            torch.testing.assert_close(state.phi[key], value, rtol=1e-3, atol=2e-5)
        for key, value in whole.theta.items():
            torch.testing.assert_close(state.theta[key], value, rtol=1e-3, atol=1e-3)


def test_trust_limits_the_step_of_theta():
    free, bound = recorded(config()), recorded(config(training__theta_trust=0.01))

    def longest(recorder):
        pairs = zip(recorder.theta, recorder.theta[1:], strict=False)
        return max(float((b[k] - a[k]).abs().max()) for a, b in pairs for k in a)

    assert longest(free) > 0.02
    assert longest(bound) == pytest.approx(0.01, rel=1e-3)


def test_clipped_gradient_of_theta_changes_its_moments():
    free = train(config(training__steps=WARMUP + 1)).state
    norm = free.history[-1]["theta_gradient_norm"]
    bound = train(config(training__steps=WARMUP + 1, training__theta_gradient_clip=norm / 2)).state
    for one, two in zip(free.theta_moments["m"], bound.theta_moments["m"], strict=True):
        torch.testing.assert_close(one / 2, two)


def test_clipped_gradient_of_phi():
    free = train(config(training__steps=1)).state
    norm = free.history[-1]["gradient_norm"]
    bound = train(config(training__steps=1, training__gradient_clip=norm / 2)).state
    for one, two in zip(free.phi_moments["m"], bound.phi_moments["m"], strict=True):
        torch.testing.assert_close(one / 2, two)


AUTO = {"training__estimator": "auto", "training__epsilon": None}


@pytest.mark.parametrize(
    ("network", "kind"),
    [
        ({}, OneSidedDifference),
        ({"segmenter__activation": "relu", "segmenter__norm": "instance"}, Exact),
    ],
)
def test_auto_takes_what_is_right_for_the_network(network, kind, caplog):
    settings = config(
        **AUTO, **network, segmenter__width=8, segmenter__convolutions=2, training__steps=20
    )
    trainer = Trainer(settings, data_of(), n_classes=N_CLASSES)
    with caplog.at_level("INFO"):
        checks = trainer.run().checks
    # When theta first moves, and at each quarter of what is left.
    assert [check["step"] for check in checks] == [2, 7, 11, 16]
    for check in checks:
        assert isinstance(estimator_from(check), kind)
        assert check["error"] <= settings.training.estimator_tolerance
        assert kind.__name__ in caplog.text
    if kind is Exact:
        assert "one_sided_difference had an error of" in checks[0]["reason"]


def test_auto_asks_for_full_precision_where_bf16_is_too_coarse():
    settings = config(
        **AUTO, segmenter__activation="gelu", segmenter__norm="group", segmenter__width=8,
        training__precision="bf16", training__steps=WARMUP + 2, training__estimator_tolerance=0.01,
    )  # fmt: skip
    checks = train(settings).state.checks
    assert checks[0]["error"] <= settings.training.estimator_tolerance
    assert len(checks[0]["tried"]) > len(EPSILONS)
    assert checks[0]["full_precision"]


def test_a_difference_without_epsilon_gets_the_best_one():
    settings = config(training__estimator="central_difference", training__epsilon=None)
    checks = train(settings).state.checks
    assert {check["estimator"] for check in checks} == {"central_difference"}
    assert {row["estimator"] for row in checks[0]["tried"]} == {"central_difference"}
    assert checks[0]["error"] == min(row["error"] for row in checks[0]["tried"])


def test_fixed_estimators_are_not_checked():
    assert train(config()).state.checks == []
    assert train(config(training__estimator="exact", training__epsilon=None)).state.checks == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_compiled_training_learns_the_same():
    settings = config(training__steps=WARMUP + 3)
    one, two = train(settings), train(settings.evolve(training__compile=True))
    for key, value in one.state.phi.items():
        torch.testing.assert_close(two.state.phi[key], value, rtol=1e-3, atol=2e-5)
    for key, value in one.state.theta.items():
        torch.testing.assert_close(two.state.theta[key], value, rtol=1e-3, atol=1e-3)


def test_it_learns():
    """Blocks that are told apart by intensity, in sixty steps."""
    settings = config(
        training__steps=60,
        training__learning_rate=1e-2,
        training__batch_size=4,
        training__theta_warmup_steps=20,
        training__hypergradient_every=4,
        training__validate_every=60,
        training__phi_average=0.9,
        synthesis__nonlinear_std_mm=1.0,
        synthesis__translation_mm=2.0,
    )
    state = train(settings).state
    losses = [row["synthetic_loss"] for row in state.history]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
    assert state.best_dice > 0.3


def test_unknown_augmentation():
    with pytest.raises(ConfigError, match="unknown augmentation 'magic'"):
        Trainer(config(augmentation__name="magic"), data_of(), n_classes=N_CLASSES)
