"""What a session needs to know, whatever it trains."""

from typing import Protocol

from siam.settings.pretraining import CheckpointSettings


class SessionSettings(Protocol):
    """The settings that a session needs, common to pretraining and transfer."""

    @property
    def device(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def threads(self) -> int: ...
    @property
    def checkpoint(self) -> CheckpointSettings: ...
