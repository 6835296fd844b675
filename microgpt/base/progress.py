"""What a run prints while it trains: step lines on stdout, a progress bar on a terminal or in a notebook."""

import math
import sys
import time
from typing import Any

from .config import LINE, RUNNING_TEXT, Config
from .terminal import notice, printable

NARROW = 70  # columns; a narrower bar shows only the smoothed loss


def smoothed(mean: float, loss: float, n: int) -> float:
    """The smoothed loss after n losses, from the one before (`mean`), for the bar and plots.

    It averages over about the last tenth of the losses, at most 100.  So it follows the fast fall at the beginning and
    is smooth enough later to compare with held-out losses.
    """
    return mean + (loss - mean) / min(1 + n // 10, 100)


class Reporter:
    """Receives every step's loss, prints the lines that are due, and updates the bar, if there is one."""

    def __init__(self, config: Config, first_step: int = 0, bar: Any = None, lines: str = "due") -> None:
        """`lines` selects the step lines to print: those that are "due", only the "last", or "none"."""
        self.config, self.bar, self.lines = config, bar, lines
        self.smoothed, self.n_losses = 0.0, 0
        self.val_loss = ""  # the held-out loss for the bar, when no line shows it
        self._first, self._started, self._next = first_step, time.monotonic(), 0.0

    def steps(self, first: int, losses: list[float]) -> None:
        """Receive the losses of consecutive steps, beginning with step `first`.  Only the last may get a line."""
        config, step, loss = self.config, first + len(losses) - 1, losses[-1]
        last = step == config.num_steps
        due = self.lines == "due" and (step % config.log_every == 0 or step == 1)
        if self.bar is not None:
            for x in losses:
                self.n_losses += 1
                self.smoothed = smoothed(self.smoothed, x, self.n_losses)
            now = time.monotonic()
            if now >= self._next or last:
                self._next = now + 0.1
                rate = (step - self._first) / (now - self._started)
                self.bar.set_postfix_str(self._postfix(loss, rate), refresh=False)
                self.bar.update(step - self.bar.n)
        if due or (last and self.lines != "none"):
            self._print(f"{self._place(step)} | loss {loss:.4f}")

    def _postfix(self, loss: float, steps_per_second: float) -> str:
        if (self.bar.ncols or NARROW) < NARROW:
            return f"loss {self.smoothed:.2f}"
        rate, unit = steps_per_second * self.config.batch_size, "docs"
        if self.config.split == RUNNING_TEXT:
            rate, unit = rate * self.config.block_size, "chars"
        return f"loss {loss:.2f}, smoothed {self.smoothed:.2f}{self.val_loss}, {rate:,.0f} {unit}/s"

    def held_out(self, step: int, loss: float) -> None:
        if self.lines == "none":
            self.val_loss = f", held out {loss:.2f}"
        else:
            bits = loss / math.log(2)
            self._print(f"{self._place(step)} | held-out loss {loss:.4f} ({bits:.3f} bits per character)")

    def samples(self, step: int, texts: list[str]) -> None:
        place = f"{self._place(step)} | samples"
        if self.config.split == LINE:
            self._print(f"{place} {', '.join(map(printable, texts))}")
        else:  # each is an indented block
            blocks = ("\n".join(f"  {printable(line)}" for line in text.split("\n")) for text in texts)
            self._print(f"{place}\n" + "\n\n".join(blocks))

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


def on_terminal(config: Config, first_step: int) -> Reporter:
    """The command line's Reporter: a bar if stderr is a terminal; if stdout is one too, only the last step line."""
    bar = progress_bar(config.num_steps, first_step) if sys.stderr.isatty() else None
    return Reporter(config, first_step, bar, "due" if bar is None or not sys.stdout.isatty() else "last")


def progress_bar(total: int, first: int = 0, notebook: bool = False) -> Any:
    """A tqdm bar, for a terminal or a notebook; None if tqdm is not installed."""
    try:
        if notebook:
            from tqdm.auto import tqdm
        else:
            from tqdm import tqdm
    except ImportError:
        notice("no progress bar: it needs tqdm (pip install tqdm)")
        return None
    shape = "{n_fmt}/{total_fmt} {bar}{postfix}, {remaining} left"
    return tqdm(initial=first, total=total, bar_format=shape, file=sys.stderr, dynamic_ncols=True)
