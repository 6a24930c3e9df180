"""What can be loaded and scored: weights, adapters, or a config that needs none."""

from collections.abc import Mapping
from typing import Any, Protocol

from lgmnet.build import chosen_options
from lgmnet.config import Config, plain
from lgmnet.models import SensingModel


class Loadable(Protocol):
    """A model by name, and what is known of it."""

    name: str
    config: Config

    @property
    def metadata(self) -> Mapping[str, str]: ...

    def load(self, condition: str | None = None) -> SensingModel:
        """The model in float32, on the CPU, in evaluation mode.

        Args:
            condition: that it measures at, for a network that serves several.
        """


def settings_of(weights: Loadable) -> dict[str, Any]:
    """What decides whether scores may be compared: network, and where it was trained Φ and data.

    ``options`` are those that are not the defaults.
    """
    config = weights.config
    found = {"network": config.model.name, "options": chosen_options(config)}
    if "step" not in weights.metadata:  # imported or not trained: the config does not say how
        return found
    sampling = {name: plain(getattr(config.sampling, name)) for name in config.sampling.compared}
    return {
        **found,
        "sampling": sampling,
        "training_data": weights.metadata.get("training_data", ""),
    }
