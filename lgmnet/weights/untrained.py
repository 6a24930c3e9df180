"""A config instead of weights, for algorithms without trained values."""

from collections.abc import Sequence
from pathlib import Path

from lgmnet import complexity
from lgmnet.build import Source, at_condition, build_model
from lgmnet.config import ConfigError, load_config
from lgmnet.models import SensingModel


class Untrained:
    """A model without trained values, with the interface of `Weights`. Its config also defines Φ.

    Args:
        path: a YAML file such as configs/fista.yaml.
        overrides: changes of the config, ``section.key=value``.

    Raises:
        ConfigError: a setting is wrong, or the model has trained values.
    """

    def __init__(self, path: Path, overrides: Sequence[str] = ()) -> None:
        self.config = load_config(path, overrides)
        sampling = self.config.sampling
        if getattr(sampling, "phi_init", "") == "pca":
            raise ConfigError(
                "sampling.phi_init is 'pca', which needs training images; without training choose "
                "orthonormal, gaussian, xavier or a file"
            )
        self.name = f"{path.stem}_{sampling.label}"
        # The seed of train.py, so networks trained with this config have the same initial Φ.
        self._model = build_model(self.config, Source(seed=self.config.training.seed)).eval()
        trained = complexity.parameters(self._model)
        if trained:
            raise ConfigError(
                f"{path} has {trained:,} trained values; train it (python train.py {path}) and "
                "give its run folder. For ISTA and FISTA set sampling.phi=fixed"
            )
        self.metadata = {"phi_sha256": self._model.operator.fingerprint()}

    def load(self, condition: str | None = None) -> SensingModel:
        """The model in float32, on the CPU, in evaluation mode; see `Weights.load`."""
        return at_condition(self._model, self.config.sampling, condition)
