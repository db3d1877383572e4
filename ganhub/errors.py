"""The one kind of error that a person is meant to read."""


class GanHubError(Exception):
    """One sentence that names the row or file, the cause and what to do next.

    Args:
        message: the sentence, the same in the page, the CLI and the API.
        code: a stable word for programs (`not_found`, `offline`, `wrong_hash`, `queue_full`, ...).
    """

    code = "error"

    def __init__(self, message: str, code: str | None = None):
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code

    def __reduce__(self):  # keeps the code when an error crosses a process boundary
        return type(self), (self.message, self.code)


class RegistryError(GanHubError):
    """A row of the registry is missing or wrong."""

    code = "registry"


class FetchError(GanHubError):
    """A file could not be brought here, or is not the file that its row names."""

    code = "fetch"


class PublishError(GanHubError):
    """A training could not be put on the Hub."""

    code = "publish"


class CheckpointError(GanHubError):
    """A checkpoint is damaged, of an unknown kind, or does not fit its family."""

    code = "checkpoint"


class UnsafeCheckpoint(CheckpointError):
    """A checkpoint asks for something that data never needs (code, foreign globals, bombs)."""

    code = "unsafe"


class BadInput(GanHubError):
    """A request cannot be answered as it stands."""

    code = "bad_input"


class EngineError(GanHubError):
    """The engine refused or lost a job (`queue_full`, `visitor_limit`, `deadline`, `cancelled`,
    `out_of_memory`, `bad_output`, `failed`, `in_use`, `closed`, `device_lost`)."""

    code = "engine"


class TrainingError(GanHubError):
    """A training cannot go on."""

    code = "training"
