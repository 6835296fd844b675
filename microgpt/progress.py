"""What a run tells while it goes on: step lines on stdout, a progress bar on a terminal."""

import sys
import time
from typing import Any

from .config import Config
from .terminal import notice, printable

SMOOTHING = 0.99  # of the loss that is shown, in the bar and in plots


class Reporter:
    """Told of all steps, it prints the lines that are due, and moves the bar."""

    def __init__(self, config: Config, first_step: int = 0) -> None:
        self.config = config
        self.bar = progress_bar(config, first_step)
        self.lines = self.bar is None or not sys.stdout.isatty()
        self.smoothed: float | None = None
        self._first, self._started, self._next = first_step, time.monotonic(), 0.0

    def steps(self, first: int, losses: list[float]) -> None:
        """The losses of the steps from `first` on, of which only the last can be due for a line."""
        config, step, loss = self.config, first + len(losses) - 1, losses[-1]
        if self.lines and (step % config.log_every == 0 or step == 1 or step == config.num_steps):
            print(f"{self._place(step)} | loss {loss:.4f}", flush=True)
        if self.bar is not None:
            for loss in losses:
                self.smoothed = loss if self.smoothed is None else SMOOTHING * self.smoothed + (1 - SMOOTHING) * loss
            now = time.monotonic()
            if now >= self._next or step == config.num_steps:
                self._next = now + 0.1
                docs = (step - self._first) * config.batch_size / (now - self._started)
                self.bar.set_postfix_str(f"loss {loss:.2f} ~ {self.smoothed:.2f}, {docs:,.0f} docs/s", refresh=False)
                self.bar.update(step - self.bar.n)
        if self.bar is not None and not self.lines and step == config.num_steps:
            self._print(f"{self._place(step)} | loss {loss:.4f}")

    def held_out(self, step: int, loss: float) -> None:
        self._print(f"{self._place(step)} | held-out loss {loss:.4f}")

    def samples(self, step: int, texts: list[str]) -> None:
        self._print(f"{self._place(step)} | samples {', '.join(printable(text) for text in texts)}")

    def _place(self, step: int) -> str:
        return f"step {step:4d} / {self.config.num_steps:4d}"

    def _print(self, line: str) -> None:
        if self.bar is not None:
            self.bar.clear()
        print(line, flush=True)
        if self.bar is not None:
            self.bar.refresh()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def progress_bar(config: Config, first_step: int) -> Any:
    """A tqdm bar when stderr is a terminal and tqdm is installed, else None."""
    if not sys.stderr.isatty():
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        notice("no progress bar: it needs tqdm (pip install tqdm)")
        return None
    shape = "{n_fmt}/{total_fmt} {bar}{postfix}, {remaining} left"  # fits 80 columns
    return tqdm(initial=first_step, total=config.num_steps, bar_format=shape, file=sys.stderr, dynamic_ncols=True)
