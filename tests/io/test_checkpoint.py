"""Checkpoints: everything comes back exactly, damage is found, training goes on to the bit."""

import os
import struct
import sys

import numpy as np
import pytest

import agog as ag
from agog import errors, io, nn, optim
from agog.data import DataLoader

safetensors = pytest.importorskip("safetensors")

DTYPES = ("bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 bfloat16 float32 float64 complex64 "
          "complex128").split()


def same(a, b):
    assert type(a) is type(b), (a, b)
    if isinstance(a, ag.Tensor | np.ndarray | np.generic):
        assert a.dtype == b.dtype and a.shape == b.shape
        x, y = np.asarray(a), np.asarray(b)
        assert x.tobytes() == y.tobytes()
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for k in a:
            same(a[k], b[k])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            same(x, y)
    elif isinstance(a, float):
        assert struct.pack("d", a) == struct.pack("d", b)
    else:
        assert a == b


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.safetensors"


def test_everything_comes_back(path, rng):
    obj = {
        "tensors": {d: ag.asarray(rng.integers(0, 2, (2, 3)), dtype=d) for d in DTYPES},
        "arrays": [np.arange(4)[::2], np.asfortranarray(rng.random((3, 2))), np.zeros((0, 5)), np.array(2.5)],
        "scalars": (np.float32(0.1), np.int64(3), np.complex64(1j)),
        "empty": ag.zeros((3, 0, 2)), "zero axes": ag.asarray(1.5),
        "numbers": [1, -(10 ** 30), 0.1, 1e-320, float("inf"), float("nan"), -0.0, 1 + 2j, True],
        "others": (None, "ä\n\"", b"\0\xff", np.dtype("float32")),
        1: {"a": {}, (2, "x"): []}, "": {"": {"": 1}}, "a.b": ag.ones(1), "a": {"b": ag.zeros(2)}, None: 0,
    }
    io.save(path, obj)
    same(obj, io.load(path))
    io.save(str(path), [])
    assert io.load(str(path)) == []


def test_parameters_come_back_as_plain_tensors(path):
    io.save(path, {"p": nn.Parameter([1.0, 2.0])})
    p = io.load(path)["p"]
    assert type(p) is ag.Tensor and not p.requires_grad and p.tolist() == [1, 2]
    p += 1.0
    assert p.tolist() == [2, 3]


def test_objects_with_a_state_dict(path):
    model = nn.Linear(2, 3)
    opt = optim.Adam(model.parameters())
    io.save(path, {"model": model, "opt": opt})
    loaded = io.load(path)
    same(model.state_dict(), loaded["model"])
    opt.load_state_dict(loaded["opt"])


def test_the_file_is_ordinary_safetensors(path):
    from safetensors.numpy import load_file, save_file

    model = nn.Linear(2, 3)
    io.save(path, {"model": model.state_dict(), "epoch": 3})
    arrays = load_file(path)
    assert sorted(arrays) == ["model.bias", "model.weight"]
    np.testing.assert_array_equal(arrays["model.weight"], model.weight.detach().numpy())
    save_file({"weight": np.ones((3, 2), np.float32), "bias": np.zeros(3, np.float32)}, path)
    loaded = io.load(path)
    assert loaded["weight"].tolist() == [[1, 1]] * 3
    io.load_model(path, model)
    assert model.bias.tolist() == [0, 0, 0]


def test_models(path):
    model, other = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    io.save_model(path, model)
    assert io.load_model(path, other) == ([], [])
    same(model.state_dict(), other.state_dict())
    with pytest.raises(errors.CheckpointError, match="expected"):
        io.load_model(path, nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4)))
    found = io.load_model(path, nn.Sequential(nn.Linear(2, 3)), strict=False)
    assert len(found.unexpected_keys) == 5
    io.save(path, {"model": model.state_dict(), "epoch": 1})
    with pytest.raises(errors.CheckpointError, match="more than the state of a model"):
        io.load_model(path, model)


# --------------------------------------------------------------------------------------------------------------- damage
def test_every_damaged_byte_is_found(path):
    io.save(path, {"a": ag.arange(6, dtype="float32"), "lr": 0.125, "t": (1, "x")})
    whole = path.read_bytes()
    good = io.load(path)
    for i in range(len(whole)):
        for flip in (0x01, 0x80):
            path.write_bytes(whole[:i] + bytes([whole[i] ^ flip]) + whole[i + 1:])
            try:
                loaded = io.load(path)
            except errors.CheckpointError as error:
                assert "x.safetensors" in str(error)
            else:  # harmless places only: spaces, the library's own notes
                same(good, loaded)


def test_every_truncation_is_found(path):
    io.save(path, {"a": ag.arange(6, dtype="float32"), "b": 1})
    whole = path.read_bytes()
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        with pytest.raises(errors.CheckpointError, match=f"it has {n} bytes"):
            io.load(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(errors.CheckpointError):
        io.load(path)


def test_no_checkpoint_at_all(path):
    with pytest.raises(FileNotFoundError):
        io.load(path)
    path.write_text("hello")
    with pytest.raises(errors.CheckpointError, match="no checkpoint"):
        io.load(path)


def test_foreign_damage(path):
    from safetensors.numpy import save_file

    save_file({"a": np.ones(3)}, path, metadata={"agog.tree": "{}", "agog.format": "99"})
    with pytest.raises(errors.CheckpointError, match="format '99'"):
        io.load(path)


def test_a_failed_save_leaves_the_old_file(path, monkeypatch):
    io.save(path, {"epoch": 1})
    with pytest.raises(errors.ArgumentTypeError, match=r"save: b\.1 is a set"):
        io.save(path, {"a": 1, "b": [0, {1}]})

    def crash(fd):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="no space"):
        io.save(path, {"epoch": 2})
    monkeypatch.undo()
    assert io.load(path) == {"epoch": 1} and os.listdir(path.parent) == [path.name]


def test_missing_extra(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for act in (lambda: io.save(path, {}), lambda: io.load(path)):
        with pytest.raises(errors.MissingExtraError, match="pip install safetensors"):
            act()


# ------------------------------------------------------------------------------------------------------------- going on
def make_run(cls, **kw):
    ag.random.seed(4)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 5)).astype("f4"), rng.integers(0, 3, 40)
    model = nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))
    opt = cls(model.parameters(), **kw)
    schedule = optim.lr_scheduler.CosineAnnealingLR(opt, 10)
    return model, opt, schedule, DataLoader((x, y), 16, shuffle=True)


def train(run, steps):
    model, opt, schedule, loader = run
    losses = []
    while len(losses) < steps:
        for x, y in loader:
            opt.zero_grad()
            loss = ag.cross_entropy(model(x), y)
            loss.backward()
            opt.step()
            schedule.step()
            losses.append(loss.item())
            if len(losses) == steps:
                break
    return losses


@pytest.mark.parametrize(("cls", "kw"), [
    (optim.SGD, {"lr": 0.1}), (optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.1}), (optim.Adam, {"lr": 0.01}),
    (optim.AdamW, {"lr": 0.01, "amsgrad": True}), (optim.RMSprop, {"lr": 0.01, "centered": True, "momentum": 0.5}),
    (optim.Adagrad, {"lr": 0.1, "lr_decay": 0.1}), (optim.Lion, {"lr": 0.001}),
])
def test_training_goes_on_to_the_bit(cls, kw, path):
    """10 steps at once, and 5 steps, a file, another process's worth of objects, and 5 more."""
    whole = make_run(cls, **kw)
    losses = train(whole, 10)
    first = make_run(cls, **kw)
    before = train(first, 5)
    model, opt, schedule, loader = first
    io.save(path, {"model": model, "optimizer": opt, "schedule": schedule, "loader": loader,
                   "rng": ag.random.get_state(), "losses": before})
    second = make_run(cls, **{**kw, "lr": 7.0})
    ag.random.seed(12345)
    for p in second[0].parameters():
        p.assign(p.detach() + 1.0)
    saved = io.load(path)
    for part, name in zip(second, ("model", "optimizer", "schedule", "loader")):
        part.load_state_dict(saved[name])
    ag.random.set_state(saved["rng"])
    after = train(second, 5)
    assert saved["losses"] + after == losses
    for a, b in zip(whole[0].state_dict().values(), second[0].state_dict().values()):
        assert a.numpy().tobytes() == b.numpy().tobytes()
    same(whole[1].state_dict(), second[1].state_dict())
