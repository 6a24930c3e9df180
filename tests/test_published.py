"""The authors' files of weights for MRI."""

import json

import numpy as np
import pytest
import torch

from lgmnet.models import MODELS
from lgmnet.operators import FourierMask, masks
from lgmnet.weights.published import TRANSLATORS, load_published
from lgmnet.weights.saved import Weights
from tests.conftest import reference_data
from tests.test_scripts import run_main

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


@pytest.mark.shared
@pytest.mark.parametrize(
    ("network", "psnr"), [("admm_net", 35.61), ("admm_csnet", 36.84), ("ista_net_plus", 34.95)]
)
def test_the_commands_import_and_score(network, psnr, reference, tmp_path, monkeypatch, capsys):
    """One image each; the mask and the images as the authors have them."""
    mask, data = "mri/masks/mask_20.mat", "mri/BrainImages_test/brain_test_01.png"
    if network != "ista_net_plus":
        stem = {
            "admm_net": "admm_net/deep_admm_net_stage7_brain1",
            "admm_csnet": FILES[network][:-4],
        }
        stored = np.load(reference / f"{stem[network]}_io.npz")
        data = tmp_path / "image.npy"
        np.save(data, stored["image"])
    if network == "admm_csnet":
        mask = tmp_path / "mask.npy"
        np.save(mask, stored["mask"])
    arguments = [network, reference / FILES[network], "--mask", mask, "--output", tmp_path / "w"]
    assert run_main("scripts/import_weights.py", arguments, monkeypatch) == 0
    assert "stages = " in capsys.readouterr().out
    assert Weights(tmp_path / "w" / "model.safetensors").config.evaluation.protocol == "mri"
    arguments = [tmp_path / "w", "--data", data, "--output", tmp_path / "r"]
    assert run_main("test.py", arguments, monkeypatch) == 0
    [scores] = json.loads((tmp_path / "r/metrics.json").read_text())["datasets"].values()
    assert scores["psnr"] == pytest.approx(psnr, abs=0.006)
    assert 0 < scores["nmse"] < 0.2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["admm_net", "x.mat"], "admm_net is for MRI, and its file has no mask; give it with"),
        (["lgm_net", "x.pkl", "--mask", "m.mat"], "there are none of lgm_net"),
        (["ista_net", "x.pkl", "--mask", "m.mat", "--matrix", "p.mat"], "are for block sensing"),
        (["ista_net", "x.pkl", "--mask", "m.mat"], "there is no mask at m.mat"),
    ],
)
def test_masks_belong_to_weights_of_mri(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = [*arguments, "--output", tmp_path / "w"]
    assert run_main("scripts/import_weights.py", command, monkeypatch) == 1
    assert message in capsys.readouterr().err
