"""Adam against the reference's formula, and with weight decay and clipping against PyTorch too."""

import math
import random
from functools import partial

import numpy as np
import pytest
import reference
from builds import compiled
from helpers import tiny_trainer

from microgpt.base.config import Config
from microgpt.base.errors import NotFiniteError
from microgpt.core.optimizer import Adam
from microgpt.kernels import compiled as c

STEPS = 12


def adam_kernel(*arrays):
    """C's function on param, m, v and grad: of its six numbers and the size."""
    module = compiled(c.ISA)
    kernel = getattr(module.lib, f"microgpt_adam_{c.REALS[arrays[0].dtype]}")
    pointers = [module.ffi.cast(module.ffi.typeof(kernel).args[0], a.ctypes.data) for a in arrays]
    return partial(kernel, *pointers)


def update(adam):
    """One update by the kernel."""
    adam_kernel(*adam.arrays)(*adam.numbers()[:6], adam.m.size)
    adam.count()


@pytest.mark.parametrize("size", [1, 7, 16, 37])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_formula(dtype, size):
    """Parameters and both moments follow the plain-Python formula, step after step, for any number of parameters."""
    config = Config(num_steps=STEPS, learning_rate=0.3, beta1=0.8, beta2=0.95, eps=1e-3, dtype=dtype)
    rng = random.Random(size)
    flat = np.array([rng.gauss(0, 1) for _ in range(size)], dtype)
    grad = np.zeros(size, dtype)
    adam = Adam(flat, grad, config)
    params, m, v = {"w": [flat.tolist()]}, {"w": [[0.0] * size]}, {"w": [[0.0] * size]}
    for step in range(STEPS):
        grad[:] = [rng.gauss(0, 10.0 ** rng.randint(-6, 2)) for _ in range(size)]
        rate = 0.3 * (1 - step / STEPS)
        reference.adam_step(params, m, v, {"w": [grad.tolist()]}, step, rate, 0.8, 0.95, 1e-3)
        assert adam.learning_rate() == pytest.approx(rate, rel=1e-15)
        update(adam)
        # a step is at most about as long as the rate, and each rounds a few times
        bound = 4 * (step + 1) * float(np.finfo(dtype).eps)
        for found, expected in ((flat, params), (adam.m, m), (adam.v, v)):
            expected = np.array(expected["w"][0])
            np.testing.assert_allclose(found, expected, rtol=bound, atol=bound * np.abs(expected).max())


def test_no_gradient_no_step():
    """Where every gradient so far was 0 a parameter keeps its bits, though the second moment is 0 as well."""
    flat = np.array([1.0, -2.0, 0.0])
    adam = Adam(flat, np.zeros(3), Config())
    for _ in range(5):
        update(adam)
    assert flat.tolist() == [1.0, -2.0, 0.0]


def test_first_step_is_the_rate():
    """Bias correction makes the first step one learning rate long, against the gradient's sign, whatever its size."""
    flat = np.zeros(4)
    update(Adam(flat, np.array([1e-3, -1e-3, 5.0, -1e6]), Config(learning_rate=0.25)))
    np.testing.assert_allclose(flat, [-0.25, 0.25, -0.25, 0.25], rtol=1e-4)


def test_arrays_live_as_long_as_the_step(tmp_path):
    """A step holds on to its arrays, whatever becomes of the attributes that name them."""
    trainer, same = tiny_trainer(tmp_path), tiny_trainer(tmp_path)
    del trainer.params, trainer.grads, trainer.adam.m, trainer.adam.v, trainer.adam.arrays
    large = [np.ones(200_000) for _ in range(9)]
    assert [trainer.step() for _ in range(4)] == [same.step() for _ in range(4)]
    assert all((a == 1).all() for a in large)


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_an_update_within_a_step(tmp_path, dtype, n_threads):
    """A step updates every parameter once, as the kernel alone does it from the same gradients."""
    trainer = tiny_trainer(tmp_path, dtype=dtype, batch_size=5, threads=n_threads)
    for _ in range(3):
        before = [a.copy() for a in trainer.adam.arrays[:3]]
        numbers = trainer.adam.numbers()
        trainer.step()
        alone = [*before, trainer.grads.flat.copy()]
        adam_kernel(*alone)(*numbers[:6], alone[0].size)
        assert [a.tobytes() for a in alone[:3]] == [a.tobytes() for a in trainer.adam.arrays[:3]]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_nothing_subnormal(dtype):
    """Moments that decay are 0 before they are subnormal, and so is a gradient whose square would be."""
    smallest = float(np.finfo(dtype).smallest_normal)
    flat, grad = np.ones(5, dtype), np.ones(5, dtype)
    adam = Adam(flat, grad, Config(num_steps=2000, beta1=0.5, beta2=0.5, dtype=dtype))
    for _ in range(200 if dtype == "float32" else 1100):
        update(adam)
        for moment in adam.m, adam.v:
            assert (abs(moment) >= smallest).all() or not moment.any()
        grad[:] = 0
    assert not adam.m.any() and not adam.v.any()
    before = flat.tobytes()
    grad[:] = smallest**0.5 / 2
    update(adam)
    assert not adam.m.any() and not adam.v.any() and flat.tobytes() == before


def test_powers_by_multiplication():
    """The powers of both betas are products, which are the same on every platform: pow need not be."""
    adam = Adam(np.zeros(1), np.zeros(1), Config(num_steps=99))
    powers = [1.0, 1.0]
    for _ in range(99):
        update(adam)
        powers = [power * beta for power, beta in zip(powers, (0.85, 0.99))]
        assert [adam.beta1_t, adam.beta2_t] == powers
    assert powers != [0.85**99, 0.99**99]


# ---- weight decay and clipping ----

SMALL = {"batch_size": 3, "num_steps": 6, "learning_rate": 0.05, "grad_clip": 0.85}
LARGE = {"batch_size": 5, "num_steps": 3, "n_embd": 60, "grad_clip": 4.0}  # more than two blocks of squares
DECAY, NO_CLIP = {"weight_decay": 0.3}, {"grad_clip": 0.0}
CASES = {
    "decay": SMALL | DECAY | NO_CLIP,
    "clip": SMALL,
    "both": SMALL | DECAY,
    "both, large": LARGE | DECAY,
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def followed(folder, **settings):
    """A trainer after each of its steps, with the parameters before, the gradient that is not clipped, and the rate."""
    trainer = tiny_trainer(folder, threads=1, **settings)
    plain = tiny_trainer(folder, threads=1, **settings | NO_CLIP | {"weight_decay": 0.0})
    for _ in range(trainer.config.num_steps):
        plain.params.flat[:], plain.adam.step_count = trainer.params.flat, trainer.step_count
        plain.step()
        before = trainer.params.flat.copy(), plain.grads.flat.copy(), trainer.adam.learning_rate()
        trainer.step()
        yield trainer, *before


def shortened(gradient, clip):
    """The gradient at most `clip` long, as PyTorch shortens it, and how long it was."""
    norm = math.sqrt(math.fsum(g * g for g in gradient))
    return [g * min(1, clip / (norm + 1e-6)) for g in gradient] if clip else gradient, norm


@cases
def test_decay_and_clipping(tmp_path, case):
    """Weights lose their part and gradients what is too long before each update, as in plain Python."""
    m, v, norms = {}, {}, []
    for trainer, weights, gradient, rate in followed(tmp_path, schedule="cosine", warmup_steps=2, **case):
        gradient, norm = shortened(gradient.tolist(), case["grad_clip"])
        params = {"w": [[w - rate * case.get("weight_decay", 0) * w for w in weights.tolist()]]}
        for moment in m, v:
            moment.setdefault("w", [[0.0] * len(weights)])
        reference.adam_step(params, m, v, {"w": [gradient]}, trainer.step_count - 1, rate)
        for found, expected in (trainer.params.flat, params), (trainer.adam.m, m), (trainer.adam.v, v):
            expected = np.array(expected["w"][0])
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())
        norms.append(norm)
    assert len(weights) > 40_000 or "n_embd" not in case
    assert not case["grad_clip"] or min(norms) < case["grad_clip"] < max(norms)  # some are too long, some are not


@cases
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_pytorch(tmp_path, dtype, case):
    """Parameters are those of torch.optim.AdamW after torch.nn.utils.clip_grad_norm_."""
    torch = pytest.importorskip("torch")
    eps, optimizer = float(np.finfo(dtype).eps), None
    for trainer, weights, gradient, rate in followed(tmp_path, dtype=dtype, schedule="constant", **case):
        if optimizer is None:
            weight = torch.nn.Parameter(torch.from_numpy(weights))
            settings = {"betas": (0.85, 0.99), "eps": 1e-8, "weight_decay": case.get("weight_decay", 0)}
            optimizer = torch.optim.AdamW([weight], lr=rate, **settings)
        weight.grad = torch.from_numpy(gradient)
        if case["grad_clip"]:
            torch.nn.utils.clip_grad_norm_([weight], case["grad_clip"])
        optimizer.step()
        # a step is about as long as the rate, less than 1 like the weights, and rounds a dozen times
        bound = 1e-12 if dtype == "float64" else 12 * trainer.step_count * eps * max(rate, abs(weights).max())
        found = weight.detach().numpy()
        np.testing.assert_allclose(trainer.params.flat, found, rtol=1e-12 if dtype == "float64" else 0, atol=bound)


@cases
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_any_number_of_threads(tmp_path, dtype, case):
    """Decay and clipping give the same bits by any number of threads."""
    found = set()
    for threads in 1, 2, 3, 5:
        trainer = tiny_trainer(tmp_path, 3, threads, dtype=dtype, **case)
        found.add(b"".join(array.tobytes() for array in trainer.adam.arrays))
    assert len(found) == 1


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_clip_that_never_acts(tmp_path, dtype, n_threads):
    """A clip above every gradient's length gives the bits of none."""
    clips = {"grad_clip": 0.0}, {"grad_clip": 1e9}
    plain, large = (tiny_trainer(tmp_path, 3, n_threads, dtype=dtype, **LARGE | DECAY | clip) for clip in clips)
    for one, other in zip(plain.adam.arrays, large.adam.arrays):
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_gradient_too_long_to_measure(tmp_path, n_threads):
    """A gradient whose squares overflow is an error of its step, and changes no weight, moment or count."""
    trainer = tiny_trainer(tmp_path, threads=n_threads, **LARGE)
    trainer.step()
    trainer.params["lm_head"][:] *= 1e170  # the loss is finite
    before = [array.tobytes() for array in trainer.adam.arrays[:3]]
    with pytest.raises(NotFiniteError, match="step 2: expected a gradient of finite length") as error:
        trainer.step()
    assert error.value.step == 2 and trainer.step_count == 1
    assert [array.tobytes() for array in trainer.adam.arrays[:3]] == before
