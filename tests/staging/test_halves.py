"""Training in 16 bits: one native call, and the steps that eager code makes."""

import numpy as np
import pytest

import agog as ag
from agog import nn, optim

half = pytest.mark.parametrize("half", ["float16", "bfloat16"])


def mlp():
    model = nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.LayerNorm(40), nn.Linear(40, 5))
    return model, lambda rng: (rng.standard_normal((16, 24)), rng.integers(0, 5, 16))


def cnn():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(48, 5))  # fmt: skip
    return model, lambda rng: (rng.standard_normal((6, 3, 8, 8)), rng.integers(0, 5, 6))


class Block(nn.Module):
    def __init__(self, d, heads):
        self.first, self.second = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attention = nn.MultiheadAttention(d, heads)
        self.forward_part = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))

    def forward(self, x):
        h = self.first(x)
        x = x + self.attention(h, h, h, is_causal=True)[0]
        return x + self.forward_part(self.second(x))


def transformer():
    model = nn.Sequential(nn.Embedding(11, 16), Block(16, 2), Block(16, 2), nn.LayerNorm(16), nn.Linear(16, 11))
    return model, lambda rng: (rng.integers(0, 11, (3, 9)), rng.integers(0, 11, (3, 9)))


@half
@pytest.mark.parametrize("make", [mlp, cnn, transformer])
def test_training(make, half):
    losses, weights, told = [], [], ""
    for staged in (False, True):
        ag.random.seed(0)
        model, data = make()
        model = model.to(half)
        optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        x, y = data(np.random.default_rng(0))
        x = ag.asarray(x, dtype=half) if x.dtype.kind == "f" else ag.asarray(x)
        y = ag.asarray(y)

        def step(x, y, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            out = model(x)
            loss = nn.functional.cross_entropy(out.reshape((-1, out.shape[-1])), y.reshape((-1,)))
            loss.backward()
            optimizer.step()
            return loss

        step = ag.function(step, strict=True) if staged else step
        losses.append([float(step(x, y)) for _ in range(6)])
        weights.append([np.asarray(p).astype(np.float32) for p in model.parameters()])
        if staged:
            told = str(step.explain(x, y))
    assert "1 native calls, 0 islands" in told
    digit = 2.0**-10 if half == "float16" else 2.0**-7
    np.testing.assert_allclose(losses[1], losses[0], rtol=4 * digit)
    for got, want in zip(weights[1], weights[0], strict=True):
        assert np.abs(got - want).max() <= 8 * digit * max(1.0, np.abs(want).max())
    assert losses[0][-1] < losses[0][0]
