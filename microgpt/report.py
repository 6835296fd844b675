"""What a run tells while it goes on: step lines on stdout, a progress bar on a terminal, metrics in a file."""

import os
import sys
import time

from .config import ConfigError


def printable(text, stream):
    """The text as it is, or with control characters escaped where a terminal would obey them."""
    if not stream.isatty():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def notice(message):
    print(f"microgpt: {printable(message, sys.stderr)}", file=sys.stderr)


def open_metrics(path, config):
    """The metrics file, opened for writing; ConfigError when it cannot be, or when it is the input itself."""
    try:
        if os.path.exists(path) and os.path.samefile(path, config.input):
            raise ConfigError(f"--metrics: expected a file other than --input, found {path!r}")
        return open(path, "w", encoding="utf-8", buffering=1)
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"--metrics: expected a file that can be written, found {path!r}: {reason}") from None


class Reporter:
    """Told of every step, it prints the ones that are due."""

    def __init__(self, config, metrics=None):
        self.config = config
        self.metrics = metrics
        self.bar = progress_bar(config)
        self.lines = self.bar is None or not sys.stdout.isatty()
        self.smoothed = None
        self._shown, self._next = 0, 0.0

    def step(self, step, loss, rate):
        """`step` counts from 1."""
        config = self.config
        if self.metrics is not None:
            self.metrics.write(f'{{"step": {step}, "loss": {loss!r}, "lr": {rate!r}}}\n')
        if self.lines and (step % config.log_every == 0 or step == 1 or step == config.num_steps):
            print(f"step {step:4d} / {config.num_steps:4d} | loss {loss:.4f}", flush=True)
        if self.bar is not None:
            self.smoothed = loss if self.smoothed is None else 0.99 * self.smoothed + 0.01 * loss
            now = time.monotonic()
            if now >= self._next or step == config.num_steps:
                self._next = now + 0.1
                rate = self.bar.format_dict["rate"] or 0.0
                self.bar.set_postfix_str(
                    f"loss {loss:.4f}, smoothed {self.smoothed:.4f}, {rate * config.batch_size:.0f} docs/s", refresh=False
                )
                self.bar.update(step - self._shown)
                self._shown = step

    def close(self):
        if self.bar is not None:
            self.bar.close()


def progress_bar(config):
    """A tqdm bar when stderr is a terminal and tqdm is installed, else None."""
    if not sys.stderr.isatty():
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(total=config.num_steps, unit="step", file=sys.stderr, dynamic_ncols=True)
