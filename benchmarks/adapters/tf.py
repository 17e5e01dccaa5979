"""TensorFlow, eagerly, with the raw update kernels of its optimisers."""
import tensorflow as tf
from tensorflow import exp, reshape, tanh  # noqa: F401
from tensorflow.nn import relu  # noqa: F401


def setup(mode, threads):
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)


def version():
    return tf.__version__


def value_and_grad(f):
    def run(*args):
        with tf.GradientTape() as tape:
            y = f(*args)
        return y, tape.gradient(y, args)

    return run


def hessian(f):
    def run(x, *more):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = f(x, *more)
            g = inner.gradient(y, x)
        return outer.jacobian(g, x)

    return run


def example_gradients(f, n):
    """The gradients by the first n arguments, for each example in the others."""
    def run(*args):
        def one(example):
            with tf.GradientTape() as tape:
                for p in args[:n]:
                    tape.watch(p)
                y = f(*args[:n], *example)
            return tape.gradient(y, args[:n])

        return tf.vectorized_map(one, args[n:])

    return run


def jacobian(f, mode):
    """TensorFlow has no Jacobian by forward mode: both are by rows."""
    def run(x, *more):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = f(x, *more)
        return tape.jacobian(y, x)

    return run


def hessian_product(f):
    def run(x, v):
        with tf.autodiff.ForwardAccumulator(x, v) as forward:
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = f(x)
            g = tape.gradient(y, x)
        return forward.jvp(g)

    return run


def trainer(loss, params, opt, lr, b1=0.9, b2=0.999, eps=1e-8):
    p = {k: tf.Variable(v) for k, v in params.items()}
    m = {k: tf.Variable(tf.zeros_like(v)) for k, v in p.items()}
    v2 = {k: tf.Variable(tf.zeros_like(v)) for k, v in p.items()}
    power = [1.0, 1.0]

    def step(*batch):
        with tf.GradientTape() as tape:
            l = loss(p, *batch)
        g = tape.gradient(l, p)
        power[:] = power[0] * b1, power[1] * b2
        for k in p:
            if opt == "sgd":
                tf.raw_ops.ResourceApplyGradientDescent(var=p[k].handle, alpha=lr, delta=g[k])
            else:
                tf.raw_ops.ResourceApplyAdam(var=p[k].handle, m=m[k].handle, v=v2[k].handle, beta1_power=power[0],
                                             beta2_power=power[1], lr=lr, beta1=b1, beta2=b2, epsilon=eps, grad=g[k])
        return l

    return step


array, leaf = tf.constant, tf.Variable
numpy = lambda t: t.numpy()
wait = lambda t: None
sum, logsumexp = tf.reduce_sum, tf.reduce_logsumexp
linear = lambda x, w, b: tf.nn.bias_add(x @ w, b) if len(x.shape) == 2 else tf.linalg.matvec(w, x, True) + b
cross_entropy = lambda logits, labels: tf.reduce_mean(
    tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
