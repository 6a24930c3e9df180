"""The authors' files of weights for MRI."""

import pytest
import torch

from lgmnet.models import MODELS
from lgmnet.operators import FourierMask, masks
from lgmnet.weights.published import TRANSLATORS, load_published
from tests.conftest import reference_data

FILES = {
    "admm_csnet": "admm_csnet/admm_csnet_0.3.pth",
    "admm_net": "admm_net/deep_admm_net_stage7.mat",
    "ista_net_plus": "istanet/model/MRI_CS_ISTA_Net_plus_layer_9_group_1_ratio_20/"
    "net_params_200.pkl",
}


@pytest.fixture
def mask():
    return masks.load_mask(reference_data() / "mri/masks/mask_20.mat")


@pytest.mark.shared
@pytest.mark.parametrize("network", FILES)
def test_each_file_rebuilds_an_image_better_than_zero_filling(network, reference, mask, brains):
    """The scores themselves are tested beside each network."""
    options, state, channels = load_published(network, reference / FILES[network], mask)
    model = MODELS.create(network, **options).eval()
    model.load_state_dict(state)
    operator = FourierMask(mask, channels)
    image = torch.cat([brains[:1], 0 * brains[:1]][:channels], dim=1).float()
    with torch.no_grad():
        result = model(operator(image), operator).image
    zero_filled = operator.adjoint(operator(image))
    assert (result - image).square().mean() < 0.6 * (zero_filled - image).square().mean()


@pytest.mark.shared
@pytest.mark.parametrize("network", TRANSLATORS)
def test_files_of_other_networks_are_refused(network, reference, mask):
    for other, file in FILES.items():
        if other != network:
            with pytest.raises(ValueError, match=r"not a weights file|belong to another network"):
                load_published(network, reference / file, mask)


@pytest.mark.shared
def test_what_is_no_mask_and_unknown_networks_are_refused(reference, mask):
    with pytest.raises(ValueError, match="expected one of admm_csnet, admm_net, ista_net"):
        load_published("lgm_net", reference / FILES["admm_net"], mask)
    with pytest.raises(ValueError, match=r"expected \(H, W\)"):
        load_published("admm_net", reference / FILES["admm_net"], mask[0])
    with pytest.raises(ValueError, match="there is no file"):
        load_published("admm_net", reference / "nothing.mat", mask)
