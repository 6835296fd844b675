"""The losses of a training."""

from array import array
from dataclasses import dataclass, field


@dataclass
class History:
    """`losses` has one a step, the first that of step `first_step`; `val_losses` a (step, loss) for each measurement of
    the held-out part."""

    first_step: int = 1
    losses: "array[float]" = field(default_factory=lambda: array("d"))  # eight bytes each
    val_losses: list[tuple[int, float]] = field(default_factory=list)

    @property
    def steps(self) -> range:
        """The number of each step."""
        return range(self.first_step, self.first_step + len(self.losses))
