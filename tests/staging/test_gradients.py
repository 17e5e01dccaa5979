"""Gradients: backward inside and outside, transformations, hooks, modes, higher orders."""

import random

import numpy as np
import pytest
from staging.worlds import Cases, T, attempt

import agog as ag
from agog.errors import GradientError

case = Cases()


def V(*values):
    return T(*values, requires_grad=True)


def grads(*tensors):
    return [None if t.grad is None else t.grad.detach() + 0 for t in tensors]


@case(staged=True)
def forward_staged_backward_outside(stage):
    w = V(1, 2)
    f = stage(lambda x: (x * w).tanh().sum())
    for i in range(4):
        w.grad = None
        y = f(T(i, 1))
        y.backward()
        yield y, y.requires_grad, grads(w)


@case(staged=True)
def accumulation_over_several_calls(stage):
    w = V(1, 2)
    f = stage(lambda x: (x * w).exp().sum())
    for i in range(4):
        f(T(i, 1)).backward()
        f(T(1, i)).backward()
        yield grads(w)


@case(staged=True)
def two_results_one_backward(stage):
    w = V(1, 2)
    f = stage(lambda x: (x * w, (w * w).sum()))
    for i in range(4):
        w.grad = None
        a, b = f(T(i, 1))
        (a.sum() + b * 3).backward()
        yield a, b, grads(w)
        w.grad = None
        a, b = f(T(i, 1))
        b.backward()
        yield grads(w)


@case(staged=True)
def one_staged_result_feeds_another(stage):
    w, v = V(1, 2), V(3, 4)
    f = stage(lambda x: x * w)
    g = stage(lambda x: (x * v).sum())
    for i in range(4):
        w.grad = v.grad = None
        g(f(T(i, 1)) + 1).backward()
        yield grads(w, v)


@case(staged=True)
def argument_that_requires_grad(stage):
    f = stage(lambda x, y: (x * y).sum())
    for i in range(4):
        x, y = V(i, 1), T(2, 3)
        f(x, y).backward()
        yield grads(x)
        x, y = V(i, 1), V(2, 3)
        f(x, y).backward()
        yield grads(x, y)
        x = V(i, 1)
        f(x, x).backward()
        yield grads(x)
        h = V(i, 5)
        f(h * 2, h).backward()
        yield grads(h)


@case
def backward_twice(stage):
    w = V(1, 2)
    f = stage(lambda x: (x * w).tanh().sum())
    for i in range(4):
        y = f(T(i, 1))
        y.backward()
        yield attempt(y.backward)[:2]
        z = f(T(i, 1))
        z.backward(retain_graph=True)
        z.backward()
        yield grads(w)
        w.grad = None


@case
def backward_inside_then_outside(stage):
    w = V(1, 2)

    def f(x):
        y = (x * w).tanh().sum()
        y.backward()
        return y

    f = stage(f)
    for i in range(4):
        y = f(T(i, 1))
        yield y, y.requires_grad, attempt(y.backward)[:2], grads(w)


@case(staged=True)
def backward_inside_retained_then_outside(stage):
    w = V(1, 2)

    def f(x):
        y = (x * w).tanh().sum()
        y.backward(retain_graph=True)
        return y

    f = stage(f)
    for i in range(4):
        y = f(T(i, 1))
        y.backward()
        yield y, grads(w)
        w.grad = None


@case(staged=True)
def double_backward_through_a_call(stage):
    w = V(1, 2)
    f = stage(lambda x: ((x * w) ** 3).sum())
    for i in range(4):
        x = V(i, 1)
        (g,) = ag.gradients(f(x), x, create_graph=True)
        (g**2).sum().backward()
        yield g.detach(), grads(x, w)
        w.grad = None


@case(staged=True)
def gradient_penalty_inside(stage):
    w = V(1, 2)

    @stage
    def f(x):
        x = x.detach().requires_grad_()
        y = ((x * w) ** 3).sum()
        (g,) = ag.gradients(y, x, create_graph=True)
        loss = y + (g**2).sum()
        loss.backward()
        return loss.detach()

    for i in range(4):
        yield f(T(i, 1)), grads(w)
        w.grad = None


@case
def create_graph_backward_inside(stage):
    w = V(1, 2)

    @stage
    def f(x):
        ((w * x) ** 3).sum().backward(create_graph=True)
        return x * 2

    for i in range(4):
        yield f(T(i, 1)), w.grad.requires_grad
        (w.grad**2).sum().backward()
        yield grads(w)
        w.grad = None


@case(staged=True)
def gradients_function_inside(stage):
    w = V(1, 2)
    f = stage(lambda x: ag.gradients((x * w).sin().sum(), w)[0])
    for i in range(4):
        yield f(T(i, 1)), grads(w)


@case(staged=True)
def grad_value_and_grad_vjp_jvp(stage):
    fn = lambda x, y: ((x * y).tanh() ** 2).sum()  # noqa: E731
    f = stage(
        lambda x, y: (
            ag.grad(fn)(x, y),
            ag.value_and_grad(fn, (0, 1))(x, y),
            ag.jvp(fn, (x, y), (y, x)),
            ag.vjp(fn, x, y)[1](ag.asarray(2.0)),
        )
    )
    inner = stage(fn)
    for i in range(4):
        x, y = T(i, 1), T(1, 2)
        yield f(x, y)
        yield ag.grad(inner)(x, y), ag.value_and_grad(inner, (0, 1))(x, y), ag.vjp(inner, x, y)[1](ag.asarray(2.0))
        yield ag.jvp(inner, (x, y), (y, x)), inner(x, y)


@case(staged=True)
def vmap_in_and_out(stage):
    fn = lambda x, y: (x * y).sum() + x[0]  # noqa: E731
    f = stage(lambda x, y: ag.vmap(fn)(x, y))
    g = stage(fn)
    for i in range(4):
        x, y = T(i, 1, 2, 3).reshape(2, 2), T(1, 2, 3, 4).reshape(2, 2)
        yield f(x, y), ag.vmap(g)(x, y), ag.vmap(g, in_axes=(0, None))(x, y[0]), g(x[0], y[0])


@case(staged=True)
def hessian_jacobian(stage):
    fn = lambda x: (x**3).sum() * x[0]  # noqa: E731
    f = stage(
        lambda x: (
            ag.hessian(fn)(x),
            ag.jacobian(lambda v: v**2)(x),
            ag.jacfwd(lambda v: v**2)(x),
            ag.hvp(fn, (x,), (x,)),
        )
    )
    g = stage(fn)
    for i in range(3):
        yield f(T(i, 1)), ag.hessian(g)(T(i, 1)), g(T(i, 1))


@case(staged=True)
def nested_grad_of_grad(stage):
    fn = lambda x: (x**4).sum()  # noqa: E731
    g2 = lambda x: ag.grad(lambda y: ag.grad(fn)(y).sum())(x)  # noqa: E731
    f = stage(g2)
    h = stage(fn)
    for i in range(4):
        yield f(T(i, 1)), ag.grad(lambda y: ag.grad(h)(y).sum())(T(i, 1)), h(T(1))


@case(staged=True)
def per_example_gradients(stage):
    w = T(1, 2)
    loss = lambda w, x: ((w * x).sum() - 1) ** 2  # noqa: E731
    f = stage(lambda xs: ag.vmap(ag.grad(loss), in_axes=(None, 0))(w, xs))
    for i in range(4):
        yield f(T(i, 1, 2, 3).reshape(2, 2))


@case(staged=True)
def no_grad_in_all_places(stage):
    w = V(1, 2)

    @stage
    def f(x):
        with ag.no_grad():
            a = x * w
        b = x * w
        with ag.no_grad():
            with ag.enable_grad():
                c = x * w
        return a, b, c

    @stage
    @ag.no_grad()
    def g(x):
        return x * w

    for i in range(4):
        a, b, c = f(T(i, 1))
        yield a.requires_grad, b.requires_grad, c.requires_grad, g(T(i, 1)).requires_grad
        (b + c).sum().backward()
        yield grads(w)
        w.grad = None
        with ag.no_grad():
            yield [t.requires_grad for t in f(T(i, 1))], g(T(i, 1))


@case(staged=True)
def mode_asked_inside(stage):
    f = stage(lambda x: x * 2 if ag.is_grad_enabled() else x * 3)
    for _ in range(3):
        yield f(T(1))
        with ag.no_grad():
            yield f(T(1))


@case(staged=True)
def requires_grad_toggled(stage):
    w, v = V(1, 2), V(3, 4)
    f = stage(lambda x: (x * w * v).sum())
    for i in range(8):
        w.requires_grad = i % 4 < 2
        y = f(T(i, 1))
        yield y.requires_grad
        y.backward()
        yield grads(w, v)
        v.grad = None
        if w.requires_grad:
            w.grad = None


@case(staged=True)
def both_frozen(stage):
    w = V(1, 2)
    f = stage(lambda x: (x * w).sum())
    for i in range(6):
        w.requires_grad = i < 3
        y = f(T(i, 1))
        yield y, y.requires_grad


@case(staged=True)
def detach_and_stop_gradient_inside(stage):
    w = V(1, 2)
    f = stage(lambda x: ((x * w).detach() * w + ag.stop_gradient(w * 3) * w).sum())
    for i in range(4):
        y = f(T(i, 1))
        y.backward()
        yield y, grads(w)
        w.grad = None


@case(staged=True)
def leaf_made_inside(stage):
    @stage
    def f(x):
        p = (x * 2).detach().requires_grad_()
        y = (p**2).sum()
        y.backward()
        return p.grad, p.grad + 1

    for i in range(4):
        yield f(T(i, 1))


@case
def leaf_made_inside_and_returned(stage):
    @stage
    def f(x):
        p = (x * 2).detach().requires_grad_()
        (p**2).sum().backward()
        return p

    for i in range(4):
        p = f(T(i, 1))
        yield p, p.is_leaf, p.grad
        (p * 3).sum().backward()
        yield p.grad


@case
def fresh_leaf_returned(stage):
    f = stage(lambda x: ag.zeros(2, requires_grad=True) if False else (x * 2).detach().requires_grad_())
    for i in range(4):
        p = f(T(i, 1))
        yield p, p.is_leaf, p.grad
        (p * 3).sum().backward()
        yield p.grad


@case(staged=True)
def grad_attribute_read_inside(stage):
    w = V(1, 2)
    f = stage(lambda x: x if w.grad is None else x + w.grad)
    for i in range(6):
        yield f(T(1, 1))
        if i in (1, 2):
            (w * i).sum().backward()
        if i == 3:
            w.grad = T(7, 7)
        if i == 4:
            w.grad = None


@case(staged=True)
def grad_set_inside(stage):
    w = V(1, 2)

    @stage
    def f(x):
        w.grad = x * 2
        return w.grad + 1

    for i in range(4):
        yield f(T(i, 1)), grads(w)


@case(staged=True)
def gradient_clipping_by_hand(stage):
    w = V(1, 2)

    @stage
    def f(x):
        (w * x).sum().backward()
        norm = (w.grad**2).sum().sqrt()
        w.grad = w.grad * ag.minimum(1.0, 1.0 / norm)
        with ag.no_grad():
            w.assign(w - 0.1 * w.grad)
        g, w.grad = w.grad, None
        return norm, g

    for i in range(4):
        yield f(T(i, 3)), w, grads(w)


@case
def hooks_on_results_inside(stage):
    w = V(1, 2)

    @stage
    def f(x):
        y = x * w
        y.register_hook(lambda g: g * 10)
        y.sum().backward()
        g, w.grad = w.grad, None
        return g

    for i in range(4):
        yield f(T(i, 1))


@case
def hooks_inside_backward_outside(stage):
    w = V(1, 2)

    @stage
    def f(x):
        y = x * w
        y.register_hook(lambda g: g * 10)
        return y.sum()

    for i in range(4):
        f(T(i, 1)).backward()
        yield grads(w)
        w.grad = None


@case
def hook_on_a_parameter(stage):
    w = V(1, 2)
    seen = []
    f = stage(lambda x: (x * w).sum())

    @stage
    def step(x):
        (x * w).sum().backward()
        g, w.grad = w.grad, None
        return g

    for i in range(3):
        yield step(T(i, 1))
    remove = w.register_hook(lambda g: seen.append(1) or g * 100)
    for i in range(3):
        f(T(i, 1)).backward()
        yield grads(w), len(seen)
        w.grad = None
        yield step(T(i, 1)), len(seen)
    remove()
    for i in range(3):
        f(T(i, 1)).backward()
        yield grads(w), len(seen), step(T(i, 1))
        w.grad = None


@case(staged=True)
def hook_on_a_parameter_removed_after_native_calls(stage):
    w = V(1, 2)
    opt = ag.optim.SGD([w], lr=0.1)

    @stage
    def step(x):
        (w * x).sum().backward()
        opt.step()
        opt.zero_grad()

    for i in range(12):
        if i == 4:
            remove = w.register_hook(lambda g: g * 0)
        if i == 8:
            remove()
        step(T(1, 1))
        yield w.detach() + 0


@case
def hook_on_a_staged_result(stage):
    w = V(1, 2)
    f = stage(lambda x: x * w)
    for i in range(4):
        y = f(T(i, 1))
        y.register_hook(lambda g: g * 10)
        y.sum().backward()
        yield grads(w)
        w.grad = None


@case(staged=True)
def custom_gradient_in_and_out(stage):
    @ag.custom_gradient
    def clip(x):
        return x * 1.0, lambda g: ag.clip(g, -0.5, 0.5)

    w = V(1, 2)

    @stage
    def f(x):
        (clip(x * w) * 3).sum().backward()
        g, w.grad = w.grad, None
        return g

    for i in range(4):
        yield f(T(i, 1))


@case(staged=True)
def custom_gradient_forward_only(stage):
    @ag.custom_gradient
    def clip(x):
        return x * 1.0, lambda g: ag.clip(g, -0.5, 0.5)

    w = V(1, 2)
    f = stage(lambda x: (clip(x * w) * 3).sum())
    for i in range(4):
        f(T(i, 1)).backward()
        yield grads(w)
        w.grad = None


@case
def staged_inside_custom_gradient(stage):
    inner = stage(lambda x: x**2)

    @ag.custom_gradient
    def square(x):
        return inner(x), lambda g: g * 2 * x

    for i in range(4):
        x = V(i, 1)
        square(x).sum().backward()
        yield grads(x), inner(T(2))


@case(staged=True)
def checkpoint_inside(stage):
    w = V(1, 2)

    @stage
    def f(x):
        y = ag.checkpoint(lambda v: (v * w).tanh() * w)(x)
        y.sum().backward()
        g, w.grad = w.grad, None
        return g

    for i in range(4):
        yield f(T(i, 1))


@case
def checkpoint_forward_only(stage):
    w = V(1, 2)
    f = stage(lambda x: ag.checkpoint(lambda v: (v * w).tanh() * w)(x).sum())
    g = stage(lambda v: (v * w).tanh() * w)
    for i in range(4):
        f(T(i, 1)).backward()
        yield grads(w)
        w.grad = None
        ag.checkpoint(g)(T(i, 1)).sum().backward()
        yield grads(w)
        w.grad = None


@case(staged=True)
def assigned_between_forward_and_backward(stage):
    w = V(1, 2)
    f = stage(lambda x: ((x * w) ** 2).sum())
    for i in range(4):
        y = f(T(i, 1))
        w.assign(w.detach() + 1)
        y.backward()
        yield y, grads(w), w
        w.grad = None


@case(staged=True)
def argument_changed_between_forward_and_backward(stage):
    w = V(1, 2)
    f = stage(lambda x: ((x * w) ** 2).sum())
    for i in range(4):
        x = T(i, 1)
        y = f(x)
        x += 100
        y.backward()
        yield y, grads(w), x
        w.grad = None


@case(staged=True)
def in_place_with_history(stage):
    @stage
    def f(w, x):
        y = x * w
        y += w
        y[0] = w[1] * 2
        y *= y
        return y.sum()

    for i in range(4):
        w = V(1, 2)
        y = f(w, T(i, 1))
        y.backward()
        yield y, grads(w)


@case
def in_place_on_a_leaf_raises(stage):
    def f(w):
        w += 1
        return w

    f = stage(f)
    for _ in range(3):
        yield attempt(f, V(1, 2))[:2]


@case
def captured_intermediate_with_history(stage):
    w = V(1, 2)
    h = w * 2
    f = stage(lambda x: (x * h).sum())
    for i in range(4):
        f(T(i, 1)).backward(retain_graph=True)
        yield grads(w)
    h = w * 3
    f(T(1, 1)).backward()
    yield grads(w)


@case(staged=True)
def argument_with_history(stage):
    w = V(1, 2)
    f = stage(lambda h: (h**2).sum())
    for i in range(4):
        f(w * i).backward()
        yield grads(w)


@case
def returns_captured_parameter_and_argument(stage):
    w = V(1, 2)
    f = stage(lambda x: (w, x, x * w))
    for i in range(4):
        x = T(i, 1)
        a, b, c = f(x)
        yield a is w, b is x, c
        c.sum().backward()
        yield grads(w)


@case(staged=True)
def unused_parameters(stage):
    w, v = V(1, 2), V(3, 4)
    f = stage(lambda x: ((x * w).sum(), v.detach() * 2))
    for i in range(4):
        y, z = f(T(i, 1))
        y.backward()
        yield grads(w, v), z.requires_grad


@case(staged=True)
def integer_results_of_differentiable_inputs(stage):
    w = V(1, 2)
    f = stage(lambda x: ((x * w).argmax(), (x * w) > 1, x * w))
    for i in range(4):
        a, b, c = f(T(i, 1))
        c.sum().backward()
        yield a, b, a.requires_grad, grads(w)
        w.grad = None


@case(staged=True)
def mixed_precision_gradients(stage):
    w = V(1, 2)
    f = stage(lambda x: ((x.astype("bfloat16") * w.astype("bfloat16")).astype("float32") ** 2).sum())
    g = stage(lambda x: (x.astype("float64") * w).sum())
    for i in range(4):
        f(T(i, 1)).backward()
        g(T(i, 1)).backward()
        yield grads(w), w.grad.dtype
        w.grad = None


@case(staged=True)
def complex_gradients(stage):
    w = ag.asarray(np.array([1 + 2j, 3j], np.complex64), requires_grad=True)
    f = stage(lambda x: abs(x * w).sum())
    for i in range(1, 5):
        f(T(i, 1)).backward()
        yield grads(w)
        w.grad = None


@case
def backward_with_gradient_argument_and_errors(stage):
    w = V(1, 2)
    f = stage(lambda x: x * w)
    for i in range(4):
        yield attempt(f(T(i, 1)).backward)[:2]
        f(T(i, 1)).backward(T(10, 20))
        yield grads(w)
        w.grad = None
        with ag.no_grad():
            yield attempt(f(T(i, 1)).sum().backward)[:2]


@case(staged=True)
def backward_on_a_branch(stage):
    w = V(1, 2)

    @stage
    def f(x):
        y = (x * w).sum()
        if y > 3:
            y.backward()
        return y.detach()

    for i in (0, 0, 5, 5, 0, 5):
        yield f(T(i, 1)), grads(w)
        w.grad = None


@case(staged=True)
def gradient_through_control_flow_on_values(stage):
    w = V(1, 2)

    @stage
    def f(x):
        y = x * w
        while y.sum() < 20:
            y = y * 2
        return y.sum() if y[0] > 3 else (y * y).sum()

    for i in (1, 1, 5, 5, 9, 1):
        f(T(i, 1)).backward()
        yield grads(w)
        w.grad = None


@case(staged=True)
def cond_while_scan_with_gradients(stage):
    w = V(0.5, 2)

    @stage
    def f(x):
        y = ag.cond(x.sum() > 1, lambda v: v * w, lambda v: v - w, x)
        _, z = ag.while_loop(lambda i, v: i < 3, lambda i, v: (i + 1, v * w), (ag.asarray(0), y))
        c, ys = ag.scan(lambda c, v: (c * 0.5 + v, c * v), ag.asarray(1.0), z)
        return c + ys.sum()

    for i in (1, 1, -5, -5, 9, 1):
        y = f(T(i, 1))
        y.backward()
        yield y, grads(w)
        w.grad = None


@case(staged=True)
def long_graph(stage):
    w = V(0.5, 0.25)

    @stage
    def f(x):
        for _ in range(60):
            x = (x * w + x).tanh()
        return x.sum()

    for i in range(3):
        f(T(i, 1)).backward()
        yield grads(w)
        w.grad = None


@case
def staged_function_called_under_outer_tape_levels(stage):
    f = stage(lambda x: x**2)
    for i in range(3):
        x = V(i, 1)
        yield f(x)
        yield ag.grad(lambda v: f(v).sum())(x)
        y = ag.grad(lambda v: f(v * x).sum())(x)  # noqa: B023
        yield y, y.requires_grad
        y.sum().backward()
        yield grads(x)


@case(staged=True)
def custom_gradient_that_returns_its_argument(stage):
    @ag.custom_gradient
    def clipped(x):
        return x, lambda g: ag.clip(g, -0.5, 0.5)

    @ag.custom_gradient
    def reversed_(x):
        return x, lambda g: -g

    f = stage(lambda x: (clipped(x) * 3 + reversed_(x) * x).sum())
    for i in range(4):
        x = V(i, 1)
        f(x).backward()
        yield grads(x), ag.grad(f)(T(i, 2))


@case(staged=True)
def straight_through_rounding(stage):
    @ag.custom_gradient
    def rounded(x):
        return ag.round(x), lambda g: g

    w = V(1.2, 2.7)
    f = stage(lambda x: (rounded(x * w) ** 2).sum())
    for i in range(4):
        f(T(i, 1.4)).backward()
        yield grads(w)
        w.grad = None


@case(staged=True)
def custom_gradient_with_saved_values_and_two_results(stage):
    @ag.custom_gradient
    def both(x, y):
        e = ag.exp(x * 0.1)
        return (e * y, e + y), lambda gs: (gs[0] * y * e * 0.1 + gs[1] * e, gs[0] * e + 7 * gs[1])

    @stage
    def f(x, y):
        a, b = both(x * 2, y)
        return (a * b).sum() + b.sum()

    for i in range(4):
        x, y = V(i, 1), V(2, i)
        f(x, y).backward()
        yield grads(x, y)


@case(staged=True)
def custom_jvp_forward_only(stage):
    @ag.custom_jvp
    def f(x):
        return ag.log(1 + ag.exp(x))

    @f.defjvp
    def _(primals, tangents):
        (x,), (t,) = primals, tangents
        return f(x), 3 * t * ag.sigmoid(x)

    g = stage(lambda x: f(x * 2).sum())
    for i in range(4):
        x = V(i, 1)
        g(x).backward()
        yield grads(x), ag.grad(g)(T(i, 3))


@case(staged=True)
def custom_gradient_differentiated_twice(stage):
    @ag.custom_gradient
    def cube(x):
        return x**3, lambda g: g * 3 * x**2 * 1.5

    f = stage(lambda x: (cube(x) * x).sum())
    for i in range(3):
        x = T(i, 2)
        f(V(i, 1)).backward()
        yield ag.grad(lambda v: (ag.grad(f)(v) * v).sum())(x), ag.vmap(ag.grad(f))(T(1, 2, 3, 4).reshape(2, 2))


@case(staged=True)
def custom_gradient_everywhere_inside(stage):
    @ag.custom_gradient
    def scaled(x):
        return x * 2, lambda g: g * 5

    @stage
    def f(w, x):
        value, g = ag.value_and_grad(lambda w: scaled(w * x).sum())(w)
        return value + scaled(g * w).sum()

    for i in range(4):
        w = V(i, 1)
        f(w, T(2, 3)).backward()
        yield grads(w)


@case
def custom_gradient_whose_rule_does_more(stage):
    log, state = [], {"scale": 2.0, "w": T(3)}

    @ag.custom_gradient
    def logged(x):
        def pull(g):
            log.append(g.shape)
            return g

        return x * 2, pull

    @ag.custom_gradient
    def printed(x):
        def pull(g):
            print("pulled")
            return g

        return x * 2, pull

    @ag.custom_gradient
    def looked(x):
        return x * 2, lambda g: g if g.sum() > 0 else -2 * g

    @ag.custom_gradient
    def captured(x):
        return x * 2, lambda g: g * state["w"]

    @ag.custom_gradient
    def scaled(x):
        return x * state["scale"], lambda g: g * state["scale"]

    @ag.custom_gradient
    def drawn(x):
        return x * 2, lambda g: g * random.random()

    rules = (logged, printed, looked, captured, scaled, drawn)
    fs = [stage(lambda x, c=c: (c(x) * x).sum()) for c in rules]
    for i in range(4):
        for f in fs:
            x = V(i, -1)
            f(x).backward()
            yield grads(x), len(log)
        state["scale"] += i
        state["w"].assign(T(i))


@case
def custom_gradient_in_a_loop_on_values(stage):
    @ag.custom_gradient
    def doubled(x):
        return x * 2, lambda g: g * 5

    @stage
    def f(x):
        while x.sum() < 20:
            x = doubled(x) + 1
        return x.sum()

    for v in (1, 3, 5, 1, 9, 30, 2, 1):
        x = V(v, 1)
        f(x).backward()
        yield grads(x)


@case
def custom_gradient_of_one_of_two_results(stage):
    @ag.custom_gradient
    def unit(x):
        return x * 2, lambda g: g / ag.sqrt((g * g).sum())

    f = stage(lambda x: (unit(x).sum(), (x * 3).sum()))
    for i in range(3):
        x = V(i, 1)
        f(x)[i % 2].backward()
        yield grads(x)


test_staged_is_plain = case.test()


def test_a_rule_that_reads_what_has_changed_before_backward_says_so():
    state = {"scale": 2.0}

    @ag.custom_gradient
    def scaled(x):
        return x * 1, lambda g: g * state["scale"]

    f = ag.function(lambda x: scaled(x).sum(), strict=True)
    for scale in (2.0, 2.0, 3.0, 3.0):
        state["scale"] = scale
        x = V(1, 2)
        f(x).backward()
        np.testing.assert_array_equal(np.asarray(x.grad), [scale, scale])
    y = f(x)
    state["scale"] = 4.0
    with pytest.raises(GradientError, match="scale|state"):
        y.backward()


def test_a_graph_of_a_function_with_a_rule():
    @ag.custom_gradient
    def doubled(x):
        return x * 2, lambda g: g * 7

    graph = ag.trace(lambda x: doubled(x) + 1, ag.Spec((2,)))
    np.testing.assert_array_equal(graph.run(np.ones(2, np.float32)), [3, 3])
