"""Train a small convolutional network on handwritten digits, eagerly and staged, side by side.

    python -m examples.digits                 # what `make demo` runs
    python -m examples.digits --mode eager --epochs 30
    python -m examples.digits --resume        # go on from the last checkpoint

The data are the 1,797 scanned digits of 8 x 8 pixels inside scikit-learn (UCI, "Optical Recognition of Handwritten
Digits"); one fifth is held back for testing. Everything is written to one folder: a checkpoint after every epoch, and
a picture of the learning curves and of some predictions. Ctrl-C leaves a checkpoint to go on from.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import sys
import time
from typing import Any, Callable

import numpy as np

import agog as ag
from agog import nn, optim
from agog.data import DataLoader

TARGET = 0.97


def load_data(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(train images, train labels, test images, test labels): float32 (N, 1, 8, 8) in [0, 1], int64 (N,)."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[:, None]
    labels = digits.target.astype(np.int64)
    x, x_test, y, y_test = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=seed)
    return x, y, x_test, y_test


def build_model() -> nn.Module:
    """Two convolutions and a small classifier: 38,000 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, 10),
    )


class Run:
    """One training run: model, optimizer, schedule, data order and history, all in its checkpoint."""

    def __init__(self, mode: str, folder: pathlib.Path, data: Any, epochs: int, batch_size: int, seed: int):
        ag.random.seed(seed)
        self.mode, self.path, self.epochs = mode, folder / f"{mode}.safetensors", epochs
        x, y, self.x_test, self.y_test = data
        self.model = build_model()
        self.optimizer = optim.AdamW(self.model.parameters(), lr=3e-3, weight_decay=1e-2)
        self.schedule = optim.lr_scheduler.CosineAnnealingLR(self.optimizer, epochs)
        self.loader = DataLoader((x, y), batch_size, shuffle=True, seed=seed, drop_last=True)
        self.history: dict[str, list[float]] = {"loss": [], "accuracy": []}
        self.epoch = 0
        self.step_times: list[float] = []
        self.step: Callable[[Any, Any], Any] = ag.function(self.train_step) if mode == "staged" else self.train_step

    def train_step(self, x: Any, y: Any) -> Any:
        """One step of training; the same Python for both modes."""
        loss = ag.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def accuracy(self) -> float:
        """The share of test digits that are recognised."""
        return float((self.predict() == self.y_test).mean())

    def predict(self) -> np.ndarray:
        """The class of every test digit."""
        self.model.eval()
        with ag.no_grad():
            classes = self.model(ag.asarray(self.x_test)).argmax(axis=1)
        self.model.train()
        return np.asarray(classes)

    def train_epoch(self, tick: Callable[[float], None]) -> None:
        """All batches once; calls `tick(loss)` after every step."""
        losses = []
        for x, y in self.loader:
            start = time.perf_counter()
            loss = self.step(x, y)
            self.step_times.append(time.perf_counter() - start)
            losses.append(loss)
            tick(losses[-1].item())
        self.history["loss"].append(statistics.fmean(loss.item() for loss in losses))
        self.schedule.step()
        self.epoch += 1
        self.history["accuracy"].append(self.accuracy())

    def save(self) -> None:
        ag.io.save(self.path, {
            "model": self.model, "optimizer": self.optimizer, "schedule": self.schedule, "loader": self.loader,
            "random": ag.random.get_state(), "epoch": self.epoch, "history": self.history})

    def resume(self) -> bool:
        """Go on from this run's checkpoint, if there is one."""
        if not self.path.exists():
            return False
        saved = ag.io.load(self.path)
        for name in ("model", "optimizer", "schedule", "loader"):
            getattr(self, name).load_state_dict(saved[name])
        ag.random.set_state(saved["random"])
        self.epoch, self.history = saved["epoch"], saved["history"]
        return True

    def verify_checkpoint(self) -> None:
        """Load the checkpoint into a fresh model and compare its predictions with ours, bit for bit."""
        fresh = build_model()
        fresh.load_state_dict(ag.io.load(self.path)["model"])
        fresh.eval()
        self.model.eval()
        x = ag.asarray(self.x_test)
        with ag.no_grad():
            same = bool((fresh(x) == self.model(x)).all())
        if not same:
            raise SystemExit(f"{self.path}: the loaded model gives other results")

    def milliseconds(self) -> float:
        """The median time of a step, the first ten left out: they may record and compile."""
        return statistics.median(self.step_times[10:] or self.step_times or [float("nan")]) * 1e3


def train(run: Run, progress: Any) -> None:
    """Train to the end with a progress bar, saving after every epoch."""
    bar = progress.add_task(run.mode, total=run.epochs * len(run.loader), completed=run.epoch * len(run.loader),
                            loss=float("nan"), accuracy=run.history["accuracy"][-1] if run.epoch else 0.0)
    try:
        while run.epoch < run.epochs:
            run.train_epoch(lambda loss: progress.update(bar, advance=1, loss=loss))
            progress.update(bar, accuracy=run.history["accuracy"][-1])
            run.save()
    except KeyboardInterrupt:
        raise SystemExit(f"\nstopped in epoch {run.epoch + 1}; {run.path} holds the end of epoch {run.epoch}: "
                         "--resume goes on from there"
                         if run.epoch else "\nstopped before the first epoch was over") from None


def draw(runs: list[Run], path: pathlib.Path) -> None:
    """A picture of the learning curves and of 30 test digits with what the first model makes of them."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.25, 1))
    loss, accuracy = left.subplots(2, 1, sharex=True)
    for run, style in zip(runs, ("-", "--")):
        epochs = range(1, len(run.history["loss"]) + 1)
        loss.semilogy(epochs, run.history["loss"], style, label=f"{run.mode}: {run.milliseconds():.2f} ms a step")
        accuracy.plot(epochs, [100 * a for a in run.history["accuracy"]], style, label=run.mode)
    loss.set_ylabel("training loss")
    loss.legend()
    accuracy.axhline(100 * TARGET, color="0.7", lw=1)
    accuracy.set(xlabel="epoch", ylabel="test accuracy, %", ylim=(80, 100.5))
    run, cells = runs[0], right.subplots(5, 6)
    classes = run.predict()
    wrong = np.flatnonzero(classes != run.y_test)
    shown = np.concatenate([wrong[:6], np.flatnonzero(classes == run.y_test)])[:30]
    for i, cell in zip(shown, cells.flat):
        cell.imshow(run.x_test[i, 0], cmap="gray_r")
        cell.set_title(f"{classes[i]}", color="tab:red" if classes[i] != run.y_test[i] else "black", fontsize=10, pad=2)
        cell.axis("off")
    right.suptitle("predictions, mistakes in red")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.digits", description=__doc__.splitlines()[0])
    parser.add_argument("--mode", choices=("both", "eager", "staged"), default="both")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/digits"))
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints in the folder")
    args = parser.parse_args(argv)
    if args.epochs < 1 or args.batch_size < 1:
        parser.error("--epochs and --batch-size take numbers of at least 1")
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        raise SystemExit("this program needs the demo extra: pip install agog[demo]") from None

    args.out.mkdir(parents=True, exist_ok=True)
    console = Console()
    data = load_data(args.seed)
    console.print(f"{len(data[0])} digits to learn from, {len(data[2])} to test; folder {args.out}")
    modes = ("eager", "staged") if args.mode == "both" else (args.mode,)
    runs = []
    with Progress(TextColumn("{task.description:>7}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"),
                  TextColumn("loss {task.fields[loss]:.4f}"), TextColumn("accuracy {task.fields[accuracy]:.2%}"),
                  TimeElapsedColumn(), console=console) as progress:
        for mode in modes:
            run = Run(mode, args.out, data, args.epochs, args.batch_size, args.seed)
            if args.resume and run.resume():
                progress.console.print(f"{mode}: resumed after epoch {run.epoch}")
            train(run, progress)
            runs.append(run)

    picture = args.out / "digits.png"
    draw(runs, picture)
    for run in runs:
        run.verify_checkpoint()
        console.print(f"{run.mode:>7}: test accuracy {run.history['accuracy'][-1]:.2%}, "
                      f"{run.milliseconds():.2f} ms a step (median), checkpoint {run.path} verified")
    if len(runs) == 2:
        a, b = runs
        worst = max(abs(x - y) / max(abs(x), 1e-3) for x, y in zip(a.history["loss"], b.history["loss"]))
        console.print(f"staged steps take {b.milliseconds() / a.milliseconds():.2f} of the eager time; "
                      f"losses differ by at most {worst:.1e} (relative)")
    console.print(f"picture: {picture}")
    reached = min(run.history["accuracy"][-1] for run in runs)
    if reached < TARGET:
        console.print(f"below the {TARGET:.0%} that this network reaches in 30 epochs")
        return 1 if args.epochs >= 30 else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
