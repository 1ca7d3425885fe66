"""What can go wrong for who asks something of a lab. The command line makes its exit codes of them."""

from typing import TYPE_CHECKING

from bus.outcomes import Outcome

if TYPE_CHECKING:
    from labledger.client.progress import Progress


class LabError(Exception):
    """Something that was asked for did not happen. The text says what to do."""


class CommandError(LabError):
    """A command had another outcome than "accepted"; it is in `outcome`."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.reason or outcome.outcome)
        self.outcome = outcome


class CommandRefused(CommandError):
    """The domain's no."""


class CommandInvalid(CommandError):
    """The command is not what its schema says; `outcome.problems` tells where."""


class CommandParked(CommandError):
    """Nobody could handle it. It is kept under `outcome.parked_id` and can be retried."""


class NotFound(LabError):
    """What was asked about does not exist."""


class NotReachable(LabError):
    """NATS or Postgres does not answer, or the lab is not running."""


class NotAllowed(LabError):
    """The user that signed in to NATS has no right to that."""


class NoOutcomeYet(LabError):
    """Waited long enough. The command is safe in the stream: sending it again under the same id finds its outcome."""

    def __init__(self, text: str, command_id: str = "") -> None:
        super().__init__(text)
        self.command_id = command_id


class NotDone(LabError):
    """A scan that was waited for did not complete; `progress` says how it ended."""

    def __init__(self, progress: "Progress") -> None:
        ended = f": {progress.reason}" if progress.reason else ""
        super().__init__(f"scan {progress.scan_id} {progress.in_words}{ended}")
        self.progress = progress


ERRORS: dict[str, type[CommandError]] = {
    "refused": CommandRefused,
    "invalid": CommandInvalid,
    "parked": CommandParked,
}
