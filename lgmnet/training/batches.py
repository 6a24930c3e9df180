"""The source of the batches of a run."""

from collections.abc import Iterator

from torch import Tensor

from lgmnet.config import Config, ConfigError
from lgmnet.data import jpeg
from lgmnet.data.crops import CropRule, DeviceCrops, Plan, TrainingCrops, loaded_batches
from lgmnet.data.datasets import TrainingImages
from lgmnet.runtime import Runtime
from lgmnet.speed.memory import out_of_memory


def crop_rule(config: Config) -> CropRule:
    settings, data = config.training, config.data
    return CropRule(data.crop_size, settings.seed, data.augment, settings.batch_size)


def open_batches(
    config: Config,
    images: TrainingImages,
    here: Runtime,
    step: int,
) -> tuple[TrainingCrops | DeviceCrops, Iterator[Tensor]]:
    """The source of crops, and its batches for this process from ``step`` on, without end.

    Raises:
        ConfigError: the images do not fit into the memory of the device.
    """
    rule = crop_rule(config)
    settings = config.training
    repeat = settings.optimizer == "lbfgs"
    plan = Plan(step, settings.batch_size, here.rank, here.processes, repeat)
    if config.data.source == "device":
        resident = on_device(images, here)
        return resident, resident.batches(rule, plan)
    crops = TrainingCrops(images, rule)
    if config.data.decode == "gpu":
        reason = jpeg.unavailable(images, here.device)
        if not reason:
            return crops, jpeg.decoded_batches(crops, plan, config.data.workers, here.device)
        if here.is_main:
            print(f"data.decode=gpu is not possible here, decoding on the CPU: {reason}")
    return crops, loaded_batches(crops, plan, config.data.workers, here.device)


def on_device(images: TrainingImages, here: Runtime) -> DeviceCrops:
    """All images on the device. Raises ConfigError if they do not fit."""
    try:
        return DeviceCrops(images, here.device, show=here.is_main)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    numbers = sum(height * width for height, width in images.sizes) * images.channels
    size = numbers * images.dtype.itemsize / 2**30
    raise ConfigError(
        f"data.source=device: {len(images.names)} images of {size:.1f} GiB do not fit into the "
        f"memory of {here.device}; set data.source=files, best with a packed store in data.train "
        "(scripts/prepare_data.py --pack)"
    )
