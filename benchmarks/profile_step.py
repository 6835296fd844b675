"""Profile a training step: time every kernel call of the recorded program by itself.

    python benchmarks/profile_step.py [--batch-size 16 --n-embd 64 --dtype float32 ...]

Each call is repeated in place on one batch, and the shortest of many timings counts.  The caches are therefore warm,
and the sum is a lower bound for the step.  The flags are those of `microgpt train`.

Improvements that it led to, in us of the kernel alone, before and after.  The two builds were timed in turns, and the
shortest of many timings counts.  The matrix products, half of a step, already ran at three quarters of the peak.

                                  float64, batch 1, 16 wide    float32, batch 16, 16 wide
    attention, both ways               1.7  ->  0.8                10.6  ->  9.1    whole vectors, padded rows
    Adam                               7.0  ->  4.4                 2.0  ->  1.8    square root without a division
    setting gradients to zero          0.2  ->  0.1                 1.3  ->  0.6    the first addition sets instead

Keeping columns in registers without masks, and setting gradients instead of zeroing them first, took the whole step
at batch 16 from 51.0 to 48.6 us (on another machine, as measured by speed.py).

With 6 layers, width 384, 256 tokens and batch 12, float32, rows of tokens a power of two apart evicted each other from
the cache.  Making rows about 256 tokens long, and an odd number of vectors, prevents this.  Times in ms:

    attention, forward                          200  ->  83
    attention, backward                         431  -> 158
    the whole step                            2,640  -> 2,170

Long runs of width 64 became three times slower than their first steps, until subnormal numbers were kept out of
attention weights, gradients and Adam.
"""

import argparse
import time
from collections import defaultdict

from microgpt.base.config import Config
from microgpt.base.settings import parsed
from microgpt.commands import add_settings
from microgpt.core.trainer import Trainer
from microgpt.kernels import compiled as c


def least(function, repeats=20, inner=20):
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(inner):
            function()
        best = min(best, (time.perf_counter() - start) / inner)
    return best * 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add_settings(parser, Config)
    config = Config(**parsed(Config, vars(parser.parse_args())))
    trainer = Trainer(config, threads=1)
    for _ in range(100):
        trainer.step()
    replay, (start, n) = trainer.replay, trainer.dataset.batch(100)
    nothing = c.recorded(config.dtype, [])
    empty = least(lambda: nothing(start, n))
    spent, count = defaultdict(float), defaultdict(int)
    for (name, _, fields), call in zip(trainer.program.in_order(), replay.calls, strict=True):
        if name.startswith("matmul"):
            name += f" {fields['m']} x {fields['k']}"
        alone = c.recorded(config.dtype, [call])
        spent[name] += least(lambda: alone(start, n)) - empty
        count[name] += 1
    numbers = trainer.optimizer.numbers(trainer.learning_rate(100))
    whole = least(lambda: trainer._fused(start, n, *numbers))
    spent["adam, for each gradient"], count["adam, for each gradient"] = whole - least(lambda: replay.over(start, n)), 1
    print(f"{config.dtype}, batch {config.batch_size}, n_embd {config.n_embd}, {n} columns, {c.ISA}")
    for name, us in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"{us:9.2f} us {100 * us / whole:5.1f} %  {count[name]:3d} x {name}")
    print(f"{sum(spent.values()):9.2f} us           sum\n{whole:9.2f} us           the program and Adam")


if __name__ == "__main__":
    main()
