"""Things that can be loaded and scored: weights, adapters, or a config without weights."""

from collections.abc import Mapping
from typing import Any, Protocol

from lgmnet.build import chosen_options
from lgmnet.config import Config, plain
from lgmnet.models import SensingModel


class Loadable(Protocol):
    """A model with its name, config and metadata."""

    name: str
    config: Config

    @property
    def metadata(self) -> Mapping[str, str]: ...

    def load(self, condition: str | None = None) -> SensingModel:
        """The model in float32, on the CPU, in evaluation mode.

        Args:
            condition: condition of the measurement, for a network with several conditions.
        """


def settings_of(weights: Loadable) -> dict[str, Any]:
    """The settings that decide whether scores can be compared.

    They are the network and, for trained weights, Φ and the data. ``options`` are the options that
    differ from the defaults.
    """
    config = weights.config
    found = {"network": config.model.name, "options": chosen_options(config)}
    if "step" not in weights.metadata:  # imported or not trained: the config has no such settings
        return found
    sampling = {name: plain(getattr(config.sampling, name)) for name in config.sampling.compared}
    return {
        **found,
        "sampling": sampling,
        "training_data": weights.metadata.get("training_data", ""),
    }
