"""What every loop of a run is."""
from abc import ABC, abstractmethod
from typing import Any


class BaseLoop(ABC):
    """Goes over the batches of one loader.

    Args:
        runner: The run.
        dataloader: Gives the batches.
    """

    def __init__(self, runner: Any, dataloader: Any) -> None:
        self._runner = runner
        self.dataloader = dataloader

    @property
    def runner(self) -> Any:
        """The run."""
        return self._runner

    @abstractmethod
    def run(self) -> Any:
        """Go over all of them."""
