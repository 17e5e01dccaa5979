"""The demo: trains both ways, saves, resumes to the same numbers, survives Ctrl-C, refuses bad input."""

import numpy as np
import pytest

import agog as ag

pytest.importorskip("sklearn")
pytest.importorskip("rich")
pytest.importorskip("matplotlib")
from examples import digits  # noqa: E402


def test_both_modes_train_alike(tmp_path, capsys):
    assert digits.main(["--epochs", "3", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "staged steps take" in text and "verified" in text
    assert {p.name for p in tmp_path.iterdir()} == {"eager.safetensors", "staged.safetensors", "digits.png"}
    assert (tmp_path / "digits.png").stat().st_size > 10_000
    eager, staged = (ag.io.load(tmp_path / f"{mode}.safetensors")["history"] for mode in ("eager", "staged"))
    np.testing.assert_allclose(eager["loss"], staged["loss"], rtol=1e-4)
    assert eager["loss"][-1] < eager["loss"][0] / 2 and eager["accuracy"][-1] > 0.85


def test_interrupted_and_resumed_is_as_if_nothing_happened(tmp_path, monkeypatch, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run = ["--mode", "eager", "--epochs", "3", "--out"]
    digits.main([*run, str(whole)])
    train_epoch = digits.Run.train_epoch

    def interrupted(self, tick):
        if self.epoch == 1:
            raise KeyboardInterrupt
        train_epoch(self, tick)

    with monkeypatch.context() as patch:
        patch.setattr(digits.Run, "train_epoch", interrupted)
        with pytest.raises(SystemExit, match="--resume"):
            digits.main([*run, str(parts)])
    digits.main([*run, str(parts), "--resume"])
    a, b = (ag.io.load(folder / "eager.safetensors") for folder in (whole, parts))
    assert a["history"] == b["history"]
    for name, value in a["model"].items():
        np.testing.assert_array_equal(value, b["model"][name])


def test_bad_arguments(capsys):
    for arguments in (["--epochs", "0"], ["--mode", "sideways"], ["--batch-size", "-1"]):
        with pytest.raises(SystemExit):
            digits.main(arguments)
        assert capsys.readouterr().err
