"""Adam against the reference's formula, and with weight decay and clipping against PyTorch too; other optimizers."""

import math
import random
from contextlib import closing
from functools import partial

import numpy as np
import pytest
import reference
from builds import compiled
from helpers import TINY, everything, tiny_trainer, write_names

from microgpt.api import Model
from microgpt.base.config import Config
from microgpt.base.errors import CheckpointError, NotFiniteError
from microgpt.core.optimizer import Adam, Optimizer
from microgpt.core.state import Checkpoint
from microgpt.core.trainer import Trainer
from microgpt.kernels import compiled as c
from microgpt.runs import checkpoint, run

STEPS = 12


def adam_kernel(*arrays):
    """C's function on param, m, v and grad: of its six numbers and the size."""
    module = compiled(c.ISA)
    kernel = getattr(module.lib, f"microgpt_adam_{c.REALS[arrays[0].dtype]}")
    pointers = [module.ffi.cast(module.ffi.typeof(kernel).args[0], a.ctypes.data) for a in arrays]
    return partial(kernel, *pointers)


def arrays(adam):
    """What an update changes, and the gradients."""
    return [adam.params, adam.arrays["m"], adam.arrays["v"], adam.grads]


def update(adam, rate=0.01):
    """One update by the kernel."""
    adam_kernel(*arrays(adam))(*adam.numbers(rate)[:6], adam.params.size)
    adam.advance()


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
        update(adam, rate)
        # a step is at most about as long as the rate, and each rounds a few times
        bound = 4 * (step + 1) * float(np.finfo(dtype).eps)
        for found, expected in ((flat, params), (adam.arrays["m"], m), (adam.arrays["v"], v)):
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
    update(Adam(flat, np.array([1e-3, -1e-3, 5.0, -1e6]), Config()), 0.25)
    np.testing.assert_allclose(flat, [-0.25, 0.25, -0.25, 0.25], rtol=1e-4)


def test_arrays_live_as_long_as_the_step(tmp_path):
    """A step holds on to its arrays, whatever becomes of the attributes that name them."""
    trainer, same = tiny_trainer(tmp_path), tiny_trainer(tmp_path)
    del trainer.params, trainer.grads, trainer.optimizer.params, trainer.optimizer.grads, trainer.optimizer.arrays
    large = [np.ones(200_000) for _ in range(9)]
    assert [trainer.step() for _ in range(4)] == [same.step() for _ in range(4)]
    assert all((a == 1).all() for a in large)


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_an_update_within_a_step(tmp_path, dtype, n_threads):
    """A step updates every parameter once, as the kernel alone does it from the same gradients."""
    trainer = tiny_trainer(tmp_path, dtype=dtype, batch_size=5, threads=n_threads)
    for _ in range(3):
        before = [a.copy() for a in arrays(trainer.optimizer)[:3]]
        numbers = trainer.optimizer.numbers(trainer.learning_rate(trainer.step_count))
        trainer.step()
        alone = [*before, trainer.grads.flat.copy()]
        adam_kernel(*alone)(*numbers[:6], alone[0].size)
        assert [a.tobytes() for a in alone[:3]] == [a.tobytes() for a in arrays(trainer.optimizer)[:3]]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_nothing_subnormal(dtype):
    """Moments that decay are 0 before they are subnormal, and so is a gradient whose square would be."""
    smallest = float(np.finfo(dtype).smallest_normal)
    flat, grad = np.ones(5, dtype), np.ones(5, dtype)
    adam = Adam(flat, grad, Config(num_steps=2000, beta1=0.5, beta2=0.5, dtype=dtype))
    for _ in range(200 if dtype == "float32" else 1100):
        update(adam)
        for moment in adam.arrays.values():
            assert (abs(moment) >= smallest).all() or not moment.any()
        grad[:] = 0
    assert not any(moment.any() for moment in adam.arrays.values())
    before = flat.tobytes()
    grad[:] = smallest**0.5 / 2
    update(adam)
    assert not any(moment.any() for moment in adam.arrays.values()) and flat.tobytes() == before


def test_powers_by_multiplication():
    """The powers of both betas are products, which are the same on every platform: pow need not be."""
    adam = Adam(np.zeros(1), np.zeros(1), Config(num_steps=99))
    powers = [1.0, 1.0]
    for _ in range(99):
        update(adam)
        powers = [power * beta for power, beta in zip(powers, (0.85, 0.99))]
        assert list(adam.scalars.values()) == powers
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
        plain.params.flat[:], plain.step_count = trainer.params.flat, trainer.step_count
        plain.step()
        before = trainer.params.flat.copy(), plain.grads.flat.copy(), trainer.learning_rate(trainer.step_count)
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
        for found, expected in zip(arrays(trainer.optimizer), (params, m, v)):
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
        found.add(b"".join(array.tobytes() for array in arrays(trainer.optimizer)))
    assert len(found) == 1


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_clip_that_never_acts(tmp_path, dtype, n_threads):
    """A clip above every gradient's length gives the bits of none."""
    clips = {"grad_clip": 0.0}, {"grad_clip": 1e9}
    plain, large = (tiny_trainer(tmp_path, 3, n_threads, dtype=dtype, **LARGE | DECAY | clip) for clip in clips)
    for one, other in zip(arrays(plain.optimizer), arrays(large.optimizer)):
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_gradient_too_long_to_measure(tmp_path, n_threads):
    """A gradient whose squares overflow is an error of its step, and changes no weight, moment or count."""
    trainer = tiny_trainer(tmp_path, threads=n_threads, **LARGE)
    trainer.step()
    trainer.params["lm_head"][:] *= 1e170  # the loss is finite
    before = [array.tobytes() for array in arrays(trainer.optimizer)[:3]]
    with pytest.raises(NotFiniteError, match="step 2: expected a finite gradient norm") as error:
        trainer.step()
    assert error.value.step == 2 and trainer.step_count == 1
    assert [array.tobytes() for array in arrays(trainer.optimizer)[:3]] == before


# ---- a step in two halves ----

HALVES = {
    "plain": {},
    "decay": DECAY,
    "clip": {"grad_clip": 0.5} | DECAY,
    "shards": {"shards": 2},
    "shards, clip": {"shards": 4, "grad_clip": 0.5} | DECAY,
}


@pytest.mark.parametrize("settings", HALVES.values(), ids=HALVES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_two_halves(tmp_path, dtype, settings):
    """gradients() and update() give the bits of step(), by any number of threads."""
    found = set()
    for threads in 1, 2, 3:
        whole, halves = (tiny_trainer(tmp_path, 0, threads, batch_size=8, dtype=dtype, **settings) for _ in range(2))
        for _ in range(5):
            loss = halves.gradients()
            halves.update()
            assert loss == whole.step()
            assert halves.grads.flat.tobytes() == whole.grads.flat.tobytes()
        assert everything(halves.checkpoint()) == everything(whole.checkpoint())
        found.add(repr(everything(whole.checkpoint())))
    assert len(found) == 1


def test_gradients_change_only_the_gradients(tmp_path):
    """gradients() may be repeated: it gives the same loss and gradients, and the run stays where it is."""
    trainer = tiny_trainer(tmp_path, 2)
    before = everything(trainer.checkpoint())
    losses = [trainer.gradients(), trainer.gradients()]
    assert losses[0] == losses[1] and everything(trainer.checkpoint()) == before


def test_an_update_without_gradients(tmp_path):
    """update() is refused unless gradients() came after the last update, by itself or within step()."""
    trainer = tiny_trainer(tmp_path)
    line = "update: expected gradients"
    with pytest.raises(ValueError, match=line):
        trainer.update()
    trainer.gradients()
    trainer.update()
    with pytest.raises(ValueError, match=line):
        trainer.update()
    trainer.gradients()
    trainer.step()
    with pytest.raises(ValueError, match=line):
        trainer.update()
    assert trainer.step_count == 2


@pytest.mark.parametrize("shards", [1, 2])
def test_gradients_that_are_not_finite(tmp_path, shards):
    """A loss that is not finite is an error of gradients(), and there is nothing to update then."""
    trainer = tiny_trainer(tmp_path, 1, batch_size=2, shards=shards)
    trainer.gradients()
    trainer.params["wte"][:] = np.nan
    before = [array.tobytes() for array in arrays(trainer.optimizer)[:3]]
    with pytest.raises(NotFiniteError, match="step 2"):
        trainer.gradients()
    with pytest.raises(ValueError, match="update"):
        trainer.update()
    assert [array.tobytes() for array in arrays(trainer.optimizer)[:3]] == before and trainer.step_count == 1


def test_past_the_end(tmp_path):
    """After the last step there are neither steps nor gradients."""
    trainer = tiny_trainer(tmp_path, 8)
    for method in trainer.step, trainer.gradients:
        with pytest.raises(ValueError, match="num_steps: all 8 steps are done"):
            method()


# ---- other optimizers ----


class Momentum(Optimizer):
    """SGD with momentum."""

    def __init__(self, params, grads, config):
        super().__init__(params, grads, config)
        self.arrays["velocity"] = np.zeros_like(params)
        self.scalars["rate_sum"] = 0.0

    def step(self, learning_rate):
        velocity = self.arrays["velocity"]
        velocity *= 0.9
        velocity += self.grads
        self.params -= self.params.dtype.type(learning_rate) * velocity
        self.scalars["rate_sum"] += learning_rate


def momentum_trainer(folder, checkpoint=None, **settings):
    settings = {"learning_rate": 0.1, "batch_size": 4} | settings
    config = Config(input=write_names(folder / "names.txt"), **TINY | settings)
    return Trainer(config, checkpoint, optimizer=Momentum)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("way", ["run", "model"])
def test_a_custom_optimizer_resumes(tmp_path, dtype, way):
    """Saved by a run or a model and resumed, another optimizer ends with the same bits, and its losses fall."""
    settings = {"dtype": dtype, "num_steps": 60, "grad_clip": 1.0, "weight_decay": 0.01}
    straight = momentum_trainer(tmp_path, **settings)
    losses = [straight.step() for _ in range(60)]
    assert sum(losses[-10:]) < sum(losses[:10])
    first = momentum_trainer(tmp_path, **settings)
    if way == "run":
        first.steps(30, [], ())
        with closing(run.Run(str(tmp_path / "run"))) as target:
            target.create()
            target.start(first.checkpoint(), first.input)
        saved = run.load(str(tmp_path / "run"))
    else:
        first.steps(30, [], ())
        Model(first.checkpoint()).save(tmp_path / "m.npz")
        saved = checkpoint.load(str(tmp_path / "m.npz"))
    again = momentum_trainer(tmp_path, saved, **settings)
    assert again.step_count == 30 and [again.step() for _ in range(30)] == losses[30:]
    assert everything(again.checkpoint()) == everything(straight.checkpoint())


def test_an_optimizer_resumes_its_own_state_only(tmp_path):
    """Another optimizer's checkpoint is one CheckpointError line, which names both; weights alone suit any."""
    trainer = momentum_trainer(tmp_path)
    trainer.step()
    expected = (
        "Adam, with arrays m, v and scalars beta1_t, beta2_t, found one with arrays velocity and scalars rate_sum"
    )
    with pytest.raises(CheckpointError, match=expected):
        Trainer(trainer.config, trainer.checkpoint())
    adam = tiny_trainer(tmp_path, 1)
    with pytest.raises(CheckpointError, match="Momentum"):
        momentum_trainer(tmp_path, adam.checkpoint())
    c = trainer.checkpoint()
    weights = Checkpoint.beginning(c.config, c.vocab, c.data_sha256, c.params)
    for optimizer in Adam, Momentum:
        assert np.isfinite(Trainer(c.config, weights, optimizer=optimizer).step())


@pytest.mark.parametrize("most", [0.5, 1e9])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_clipping_and_decay_of_a_custom_optimizer(tmp_path, dtype, most):
    """Gradients that are too long are clipped by C's factor, and weights decay, before step() sees them."""
    seen = []

    class Seeing(Momentum):
        def step(self, learning_rate):
            seen.append((self.params.copy(), self.grads.copy()))

    config = Config(input=write_names(tmp_path / "n"), **TINY, grad_clip=most, weight_decay=0.1, dtype=dtype)
    trainer, adam = Trainer(config, optimizer=Seeing), Trainer(config)
    before = trainer.params.flat.copy()
    trainer.gradients()
    assert 0.5 < math.sqrt((trainer.grads.flat**2).sum()) < 1e9
    trainer.update()
    adam.step()
    bound = 4 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(seen[0][1], adam.grads.flat, rtol=bound)
    np.testing.assert_allclose(seen[0][0], before * (1 - 0.01 * 0.1), rtol=bound)


def test_a_custom_optimizer_and_a_gradient_too_long_to_measure(tmp_path):
    """With clipping, a norm that is not finite is an error, and nothing is updated."""
    trainer = momentum_trainer(tmp_path, grad_clip=1.0)
    trainer.gradients()
    trainer.grads.flat[:] = 1e200
    before = trainer.params.flat.tobytes()
    with pytest.raises(NotFiniteError, match="step 1: expected a finite gradient norm"):
        trainer.update()
    assert trainer.params.flat.tobytes() == before and trainer.step_count == 0


def test_a_subclass_of_adam(tmp_path):
    """A step() that extends Adam's is called, with the bits of Adam's own."""

    class Counting(Adam):
        steps = 0

        def step(self, learning_rate):
            super().step(learning_rate)
            self.steps += 1

    adam = tiny_trainer(tmp_path, 5, grad_clip=0.5, weight_decay=0.1)
    other = Trainer(adam.config, optimizer=Counting)
    other.steps(5, [], ())
    assert other.optimizer.steps == 5 and everything(other.checkpoint()) == everything(adam.checkpoint())


@pytest.mark.parametrize(
    "arrays, scalars",
    [({"wte": None}, {}), ({"run": None}, {}), ({"a b": None}, {}), ({}, {"step": 1.0}), ({}, {"sha256": 1.0})],
)
def test_names_that_a_checkpoint_cannot_hold(tmp_path, arrays, scalars):
    """State under a name that the file needs for something else is not saved."""
    trainer = momentum_trainer(tmp_path)
    trainer.optimizer.arrays |= dict.fromkeys(arrays, np.zeros_like(trainer.params.flat))
    trainer.optimizer.scalars |= scalars
    with pytest.raises(CheckpointError, match="a name of the optimizer's state"):
        checkpoint.to_bytes(trainer.checkpoint())


def test_arrays_that_a_checkpoint_cannot_hold(tmp_path):
    """An array of another length or dtype, or one too many, is not saved."""
    trainer = momentum_trainer(tmp_path)
    state, flat = trainer.optimizer.arrays, trainer.params.flat
    for wrong in {"x": flat[1:]}, {"x": flat.astype("f4")}, {f"x{i}": flat for i in range(16)}:
        trainer.optimizer.arrays = state | wrong
        with pytest.raises(CheckpointError, match="expected"):
            checkpoint.to_bytes(trainer.checkpoint())
