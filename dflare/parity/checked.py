"""What real images showed of a pair."""

from dataclasses import dataclass

from dflare.errors import InputError


@dataclass(frozen=True)
class Finding:
    """Something wrong with a pair, in words, and the settings that repair it, as the command line takes them."""

    text: str
    settings: str = ""
    fatal: bool = False

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Checked:
    """What `n` real images showed of a pair. Rates in [0, 1]; None where they cannot be known."""

    n: int
    agreed: int | None = None  # images on which the two do not deviate; ties agree
    accuracy: tuple[float | None, float | None] = (None, None)  # of the original and the compressed
    classes: tuple[int | None, int | None] = (None, None)  # that they know
    probabilities: tuple[bool, bool] = (False, False)  # whether all its answers are non-negative and sum to 1
    findings: tuple[Finding, ...] = ()

    @property
    def agreement(self) -> float | None:
        """Share of the images on which the two do not deviate."""
        return None if self.agreed is None else self.agreed / self.n

    @property
    def fatal(self) -> Finding | None:
        """What forbids a search."""
        return next((finding for finding in self.findings if finding.fatal), None)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What does not forbid it."""
        return tuple(finding for finding in self.findings if not finding.fatal)

    def require(self) -> None:
        """Raise `InputError`, in one sentence, for what forbids a search."""
        if self.fatal is not None:
            raise InputError(str(self.fatal))


def percent(share: float) -> str:
    """A share of 1 as a reader gets it: "97.5 %"."""
    return f"{100 * share:.1f} %"
