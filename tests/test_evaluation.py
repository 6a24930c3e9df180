import gc
import json
import math
import weakref
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import yaml

from lgmnet import report
from lgmnet import results as files
from lgmnet.build import build_model, chosen_options
from lgmnet.config import EvaluationConfig, load_config
from lgmnet.data.datasets import FileImages, NamedImage, open_test_set
from lgmnet.data.images import ImageError, list_images, scan
from lgmnet.evaluation.rebuild import Rules, evaluate, validate
from lgmnet.evaluation.scoring import Scoring, score_set, score_sets, summary
from lgmnet.metrics import PROTOCOLS
from lgmnet.models import Reconstruction, SensingModel, UnfoldingNetwork
from lgmnet.operators import BlockSampling, FourierMask
from lgmnet.operators.matrices import orthonormal
from lgmnet.runtime import Runtime
from tests.conftest import PROJECT, smooth_image, tiny_config

CPU = Runtime(torch.device("cpu"))


class Transpose(UnfoldingNetwork):
    """Returns Φᵀy: exact when Φ is the identity."""

    def forward(self, measurement, operator):
        return Reconstruction(operator.adjoint(measurement))

    def stages(self):
        return []


@pytest.fixture
def identity():
    """A camera that measures every pixel of 8 x 8 blocks: rebuilt images must be exact."""
    return SensingModel(BlockSampling(torch.eye(64), 8), Transpose()).eval()


def run(model, pixels, **rules):
    return next(iter(evaluate(model, [NamedImage("name", pixels)], CPU, Rules(**rules))))


@pytest.mark.parametrize("size", [(8, 8), (250, 250), (33, 97), (7, 9), (1, 1)])
@pytest.mark.parametrize("padding", ["zeros", "replicate"])
def test_every_size_comes_back_whole_and_in_place(identity, size, padding):
    pixels = smooth_image(*size)
    result = run(identity, pixels, padding=padding)
    assert result.pixels.shape == size
    np.testing.assert_allclose(result.pixels, pixels, atol=1e-4)


def test_always_padding_adds_blocks_that_are_cropped_again(identity):
    seen = []
    identity.operator.register_forward_hook(lambda m, i, o: seen.append(i[0].shape[2:]))
    pixels = smooth_image(16, 24)
    run(identity, pixels)
    result = run(identity, pixels, protocol=PROTOCOLS["ista33"])
    assert [tuple(s) for s in seen] == [(16, 24), (24, 32)]
    np.testing.assert_allclose(result.pixels, pixels, atol=1e-4)


def test_colour_is_scored_as_luma_or_channel_by_channel(identity):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (24, 16, 3), dtype=np.uint8)
    grey = run(identity, pixels)
    np.testing.assert_allclose(
        grey.pixels, cv2.cvtColor(pixels, cv2.COLOR_BGR2YCrCb)[:, :, 0], atol=1e-4
    )
    colour = run(identity, pixels, color="rgb")
    assert colour.pixels.shape == pixels.shape
    np.testing.assert_allclose(colour.pixels, pixels, atol=1e-4)


def test_noise_depends_on_the_image_name_alone(identity):
    identity.noise_std = 0.05
    pixels = smooth_image(32, 32)
    first = run(identity, pixels).pixels
    torch.manual_seed(12345)
    np.testing.assert_array_equal(run(identity, pixels).pixels, first)
    assert np.std(first - pixels) == pytest.approx(0.05 * 255, rel=0.1)
    other = next(iter(evaluate(identity, [NamedImage("other", pixels)], CPU))).pixels
    assert not np.array_equal(other, first)


def test_consistency_compares_with_the_measurement():
    """Φ sees 20 of 64 numbers and the network halves Φᵀy, so the residual is one half."""

    class Half(Transpose):
        def forward(self, measurement, operator):
            return Reconstruction(0.5 * operator.adjoint(measurement))

    model = SensingModel(BlockSampling(orthonormal(20, 64), 8), Half()).eval()
    pixels = smooth_image(24, 32)
    result = run(model, pixels, consistency=True)
    assert result.consistency.residual == pytest.approx(0.5, abs=1e-5)
    whole = SensingModel(model.operator, Transpose()).eval()
    assert result.consistency.psnr == pytest.approx(run(whole, pixels).score.psnr, abs=1e-3)
    assert run(model, pixels).consistency is None


def test_scores_are_those_of_the_pixels():
    model = build_model(tiny_config()).eval()
    pixels = smooth_image(40, 50)
    result = run(model, pixels)
    error = np.clip(result.pixels, 0, 255) - pixels.astype(np.float64)
    assert result.score.psnr == pytest.approx(10 * math.log10(255**2 / np.mean(error**2)))
    assert result.seconds > 0


def test_a_missing_test_set_says_where_it_was_sought(tmp_path):
    with pytest.raises(ImageError, match=r"looked at Set99.*prepare_data\.py --list"):
        open_test_set("Set99", [tmp_path])
    with pytest.raises(ImageError, match=r"looked at data/coco2017\)"):  # not at data/data/coco2017
        open_test_set("data/coco2017", [Path("data")])


def test_a_test_set_is_found_by_name_path_and_file(tmp_path):
    (tmp_path / "Mine").mkdir()
    cv2.imwrite(str(tmp_path / "Mine" / "b.png"), smooth_image(8, 8))
    cv2.imwrite(str(tmp_path / "Mine" / "a.png"), smooth_image(8, 8))
    for name in ("Mine", str(tmp_path / "Mine")):
        found = open_test_set(name, [tmp_path])
        assert found.name == "Mine"
        assert [image.name for image in found] == ["a", "b"]
    assert len(open_test_set(str(tmp_path / "Mine" / "a.png"), [])) == 1


# Sets of images.


@pytest.fixture
def photos(tmp_path):
    """A test set of four images, of different sizes."""
    (tmp_path / "photos").mkdir()
    for k, size in enumerate([(16, 24), (8, 8), (33, 20), (16, 16)]):
        cv2.imwrite(str(tmp_path / "photos" / f"{k}.png"), smooth_image(*size, k))
    return tmp_path / "photos"


def scored(model, folder, *protocols, **options):
    """One result for each protocol, of a network that is ``model``."""
    weights = SimpleNamespace(name="w", config=tiny_config(), metadata={}, load=lambda ratio: model)
    settings = [EvaluationConfig(protocol=name) for name in protocols or ("paper",)]
    how = Scoring(rules=settings, **options)
    return score_sets(weights, [open_test_set(str(folder), [])], how, CPU)


class Fails(Transpose):
    """Has no memory for the image of 33 x 20 pixels."""

    error: Exception = MemoryError()

    def forward(self, measurement, operator):
        if measurement.shape[2] == 5:
            raise self.error
        return super().forward(measurement, operator)


def test_the_pixels_of_scored_images_are_not_kept(identity, photos):
    seen = []
    keep = lambda name, result: seen.append(weakref.ref(result.pixels))  # noqa: E731
    outcomes = list(score_set(identity, open_test_set(str(photos), []), CPU, [Rules()], keep))
    gc.collect()
    assert len(outcomes) == len(seen) == 4
    assert [pixels() for pixels in seen] == [None] * 4


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
        ValueError("1 MiB of memory are not enough"),
    ],
)
def test_images_that_cannot_be_scored_are_named_and_the_others_are_scored(photos, error):
    (photos / "0.png").write_bytes(b"no image")
    model = SensingModel(BlockSampling(torch.eye(64), 8), Fails()).eval()
    model.network.error = error
    [result] = scored(model, photos)
    data = result["datasets"]["photos"]
    assert list(data["images"]) == ["1", "3"]
    assert list(data["failed"]) == ["0", "2"]
    assert "cannot be read as an image" in data["failed"]["0"]
    memory = str(error) if isinstance(error, ValueError) else "--max-memory 2GiB"
    assert memory in data["failed"]["2"]
    assert (data["psnr_images"], data["ssim_images"]) == (2, 2)
    assert "| 2 of 4 |" in report.comparison(result)


def test_another_error_is_a_fault_of_ours(photos):
    model = SensingModel(BlockSampling(torch.eye(64), 8), Fails()).eval()
    model.network.error = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        scored(model, photos)


def test_where_no_image_is_scored_the_first_reason_is_given(identity, photos):
    for path in photos.iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(ValueError, match="none of the 4 images was scored; the first, 0: .*0.png"):
        scored(identity, photos)


def test_images_stay_in_order_where_a_process_failed_to_read_one(identity, photos, monkeypatch):
    (photos / "1.png").write_bytes(b"no image")
    images = open_test_set(str(photos), [])
    processes = [Runtime(CPU.device, rank, 2) for rank in (0, 1)]
    shares = [list(score_set(identity, images, here, [Rules()])) for here in processes]
    monkeypatch.setattr(
        torch.distributed, "all_gather_object", lambda out, _: out.__setitem__(slice(None), shares)
    )
    outcomes = processes[0].gather(shares[0])
    names = [o[0].name if isinstance(o, list) else f"failed {o.name}" for o in outcomes]
    assert names == ["0", "failed 1", "2", "3"]


def test_several_protocols_rebuild_an_image_once_for_each_padding(identity, photos):
    seen = []
    identity.operator.register_forward_hook(lambda m, i, o: seen.append(i[0].shape))
    names = ["paper", "rounded", "gaussian", "ista33", "ampa"]
    together = scored(identity, photos, *names)
    assert len(seen) == 2 * 4
    for name, result in zip(names, together, strict=True):
        [alone] = scored(identity, photos, name)
        assert result["protocol"] == name
        for one, other in zip(
            *(r["datasets"]["photos"]["images"].values() for r in (alone, result)), strict=True
        ):
            assert one | {"seconds": 0} == pytest.approx(other | {"seconds": 0}, nan_ok=True)


def test_small_and_identical_images_are_left_out_of_the_means_which_say_so(photos):
    """A black image comes back exactly; one of 5 x 9 pixels is smaller than the window."""
    cv2.imwrite(str(photos / "black.png"), np.zeros((16, 16), np.uint8))
    cv2.imwrite(str(photos / "small.png"), smooth_image(5, 9))
    model = SensingModel(BlockSampling(orthonormal(20, 64), 8), Transpose()).eval()
    [result] = scored(model, photos)
    data = result["datasets"]["photos"]
    values = [v for name, v in data["images"].items() if name != "black"]
    assert data["images"]["black"]["psnr"] == math.inf
    assert data["psnr"] == pytest.approx(np.mean([v["psnr"] for v in values]))
    assert (data["psnr_images"], data["ssim_images"]) == (5, 5)
    table = report.comparison(result)
    assert "photos: the mean PSNR is over 5 of 6 images; the others have none" in table
    assert "photos: the mean SSIM is over 5 of 6 images" in table


def test_nmse_is_reported_where_the_protocol_asks_for_it(tmp_path):
    """In both files and in the table; complex images out of one array file."""
    random = np.random.default_rng(0)
    stack = 0.6 * (random.random((3, 16, 72)) - 1j * random.random((3, 16, 72)))
    np.save(tmp_path / "scans.npy", stack)
    mask = torch.from_numpy(random.random((16, 72)) < 0.5)
    model = SensingModel(FourierMask(mask, channels=2), Transpose()).eval()
    rules = [Rules(PROTOCOLS["mri"], "bands")]
    images = open_test_set(str(tmp_path / "scans.npy"), [])
    data = summary(list(score_set(model, images, CPU, rules)), 0, rules[0])

    filled = np.fft.ifft2(np.fft.fft2(stack) * mask.numpy())
    norms = [np.linalg.norm(array, axis=(1, 2)) for array in (filled - stack, stack)]
    expected = norms[0] / norms[1]
    assert [v["nmse"] for v in data["images"].values()] == pytest.approx(
        expected.tolist(), rel=1e-4
    )
    assert data["nmse"] == pytest.approx(expected.mean(), rel=1e-4)
    scored = {**results(), "protocol": "mri", "datasets": {"scans": data}}
    assert f"| {expected.mean():.4f} |" in report.comparison(scored)
    assert "NMSE" in report.comparison(scored)
    files.write_results(tmp_path, scored)
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == "dataset,image,psnr,ssim,nmse,seconds"
    assert float(lines[1].split(",")[4]) == pytest.approx(expected[0], rel=1e-4)


def test_a_black_validation_image_does_not_decide(photos):
    cv2.imwrite(str(photos / "black.png"), np.zeros((16, 16), np.uint8))
    paths = list_images(photos)
    model = SensingModel(BlockSampling(orthonormal(20, 64), 8), Transpose()).eval()
    sizes = scan(paths, 1).sizes
    images, others = FileImages(paths, sizes), FileImages(paths[:4], sizes[:4])
    assert validate(model, images, CPU, 5).psnr == validate(model, others, CPU, 4).psnr < 60


# Tables and files.


def results(psnr=30.0):
    images = {"a": {"psnr": psnr, "ssim": 0.9, "seconds": 0.5}}
    return {"network": "lgm_net", "ratio": 0.1, "protocol": "paper",
            "datasets": {"Set11": {"psnr": psnr, "ssim": 0.9, "images": images},
                         "mine": {"psnr": psnr, "ssim": 0.9, "images": images}}}  # fmt: skip


def test_the_comparison_shows_published_values_only_where_they_apply():
    lines = report.comparison(results()).splitlines()
    assert "| 31.78 |" in " ".join(lines[2].split()).replace("| ", "| ")
    assert "-1.78" in lines[2]
    assert lines[3].split("|")[5].strip() == "-"
    assert "COCO2017" in lines[4]
    assert report.published("lgm_net", "Set11", 0.1, "rounded") is None
    assert report.published("lgm_net", "Set11", 0.2, "paper") is None


def test_the_comparison_names_every_setting_that_is_not_the_published_one():
    own = results() | {
        "network": "ista_net_plus", "options": {"stages": 5}, "training_data": "BSDS500, extra",
        "sampling": {"block_size": 32, "phi": "learned", "phi_init": "pca"},
    }  # fmt: skip
    line = report.comparison(own).splitlines()[-1]
    assert line == (
        "this network: stages = 5, block_size = 32 (published: 33), phi = learned (published: "
        "fixed), phi_init = pca (published: orthonormal), trained on BSDS500, extra (published: 91 "
        "images, printed as BSD500)"
    )
    own["sampling"] = {"block_size": 33, "phi": "fixed", "phi_init": "orthonormal"}
    line = report.comparison(own | {"options": {}}).splitlines()[-1]
    assert line.startswith("this network: trained on BSDS500, extra (published:")


def test_amp_net_is_compared_as_its_config_scores():
    """R, G and B by themselves; on the grey Set11 this is luma."""
    for dataset, color, psnr in (
        ("BSD68", "rgb", 26.92), ("BSD68", "luma", None),
        ("Set11", "rgb", 28.47), ("Set11", "luma", 28.47),
    ):  # fmt: skip
        own = results() | {"network": "amp_net", "protocol": "ampa", "color": color}
        known = report.comparable(own, dataset)
        assert (known and known.psnr) == psnr
    config = load_config(PROJECT / "configs" / "amp_net.yaml")
    assert (config.evaluation.protocol, config.evaluation.color) == ("ampa", "rgb")


@pytest.mark.parametrize(
    ("config", "changes", "ratio", "method"),
    [
        ("unet", [], 0.1, "LoRun-9, U-Net"),
        ("unet", ["model.sharing=independent"], 0.1, "Block-9, U-Net"),
        ("transformer", ["model.gamma=20"], 0.5, "LoRun-9, Transformer, γ = 20"),
        ("transformer", ["model.sharing=independent"], 0.1, "Block-9, Transformer"),
        ("transformer", ["model.sharing=independent"], 0.5, None),
        ("transformer", ["model.sharing=shared"], 0.1, None),
        ("dpfb", [], 0.25, "LoRun-9, dual path"),
        ("dpfb", ["model.sharing=independent"], 0.25, "Block-9, dual path"),
        ("dpfb", ["model.stages=5"], 0.25, "LoRun-9, dual path"),
    ],
)
def test_lorun_is_compared_with_the_row_of_its_denoiser_and_sharing(config, changes, ratio, method):
    options = chosen_options(load_config(PROJECT / f"configs/lorun_{config}.yaml", changes))
    known = report.published("lorun", "Set11", ratio, "paper", options=options)
    assert (known and known.method) == method


def test_published_values_are_transcribed():
    values = {ratio: report.published("lgm_net", "Set11", ratio, "paper") for ratio in (0.01, 0.5)}
    assert (values[0.01].psnr, values[0.01].ssim) == (22.71, 0.6450)
    assert (values[0.5].psnr, values[0.5].ssim) == (41.62, 0.9841)
    assert report.published("lgm_net", "Urban100", 0.1, "paper").psnr == 29.76
    assert report.published("ampa_net", "Urban100", 0.04, "ampa", "rgb").psnr == 22.40
    assert report.published("amp_net", "BSDS100", 0.01, "ampa", "rgb").psnr == 19.48
    lorun = {"denoiser": "dpfb", "exclude": ["upsample"]}
    assert report.published("lorun", "Set14", 0.1, "paper", options=lorun)[1:3] == (29.53, 0.85)
    assert report.published("lorun", "General100", 0.25, "paper", options=lorun).psnr == 38.16


def test_every_published_table_is_there_with_all_its_rows():
    tables = yaml.safe_load((PROJECT / "lgmnet/published.yaml").read_text(encoding="utf-8"))
    found = [(t["dataset"], t["protocol"], len(t["rows"]), len(t["conditions"])) for t in tables]
    assert found == [
        ("Set11", "paper", 14, 5), ("General100", "paper", 15, 5), ("LIVE29", "paper", 15, 5),
        ("Urban100", "paper", 15, 5), ("Set11", "ista33", 7, 7), ("BSD68", "ista33", 4, 5),
        ("Set11", "ampa", 8, 6), ("BSD68", "ampa", 5, 6), ("BSDS100", "ampa", 5, 6),
        ("Urban100", "ampa", 5, 6), ("General100", "paper", 9, 4), ("Set11", "paper", 9, 4),
        ("Set14", "paper", 9, 4), ("Set11", "paper", 3, 7), ("Set11", "paper", 2, 7),
        ("Set11", "paper", 3, 7), ("not named", "paper", 8, 1),
        ("BrainImages_test", "mri", 3, 4),
    ]  # fmt: skip
    for table in tables:
        for row in table["rows"]:
            columns = [row["psnr"], row.get("ssim", row["psnr"])]
            assert [len(column) for column in columns] == 2 * [len(table["conditions"])]
            assert "network" not in row or {"training", "sampling"} <= row.keys()


def test_metrics_files_hold_every_image_and_no_infinity(tmp_path):
    files.write_results(tmp_path, results(math.inf))
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["datasets"]["Set11"]["psnr"] is None
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert rows[0] == "dataset,image,psnr,ssim,seconds"
    assert len(rows) == 3
    assert "-" in report.comparison(json.loads((tmp_path / "metrics.json").read_text()))


def of_set(name="one", images=("a",), **changes):
    content = {k: {"psnr": 30.0, "ssim": 0.9, "seconds": 0.5} for k in images}
    data = {"psnr": 30.0, "ssim": 0.9, "images": content}
    return {"network": "n", "options": {}, "ratio": 0.1, "weights_sha256": "w", "protocol": "paper",
            "phi_sha256": "p", "color": "luma", "padding": "zeros", "noise_std": 0.0,
            "precision": "fp32", "datasets": {name: data}, **changes}  # fmt: skip


def sets_in(path):
    return list(json.loads(path.read_text())["datasets"])


def test_results_of_the_same_rules_are_joined(tmp_path):
    for name in ("one", "two", "one"):
        path = files.add_results(tmp_path, of_set(name))
        assert path == tmp_path / "metrics.json"
    assert sets_in(path) == ["one", "two"]
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("word", "change"),
    [
        ("pooled", {"protocol": "pooled"}), ("rgb", {"color": "rgb"}),
        ("replicate", {"padding": "replicate"}), ("noise0.1", {"noise_std": 0.1}),
        ("bf16", {"precision": "bf16"}), ("phi-q", {"phi_sha256": "q"}),
        ("weights-v", {"weights_sha256": "v"}), ("2-images", {"images": ("a", "b")}),
        ("quantise2", {"detector": {"quantise": 2}}), ("ratio0.2", {"ratio": 0.2}),
        ("pooled.bf16", {"protocol": "pooled", "precision": "bf16"}),
    ],
)  # fmt: skip
def test_other_results_get_a_file_named_by_what_differs(word, change, tmp_path):
    files.add_results(tmp_path, of_set())
    first = (tmp_path / "metrics.json").read_bytes()
    name = f"metrics.{word}.json"
    assert files.add_results(tmp_path, of_set(**change)).name == name
    assert files.add_results(tmp_path, of_set(**change)).name == name
    other = of_set(
        "two", images=("x", "y", "z"), **{k: v for k, v in change.items() if k != "images"}
    )
    if "images" not in change:
        assert files.add_results(tmp_path, other).name == name
        other["datasets"]["one"] = of_set(images=("b",))["datasets"]["one"]
        assert files.add_results(tmp_path, other).name == name.replace(".json", ".2.json")
    assert (tmp_path / "metrics.json").read_bytes() == first


def test_an_image_that_is_readable_again_joins_its_set(tmp_path):
    broken = of_set(images=("a",))
    broken["datasets"]["one"]["failed"] = {"b": "cannot be read"}
    files.add_results(tmp_path, broken)
    path = files.add_results(tmp_path, of_set(images=("a", "b")))
    assert path == tmp_path / "metrics.json"
    assert "failed" not in json.loads(path.read_text())["datasets"]["one"]


def test_an_image_that_fails_now_does_not_take_its_earlier_score(tmp_path):
    files.add_results(tmp_path, of_set(images=("a", "b")))
    broken = of_set(images=("a",))
    broken["datasets"]["one"]["failed"] = {"b": "out of memory"}
    assert files.add_results(tmp_path, broken).name == "metrics.1-images.json"
    assert "b" in json.loads((tmp_path / "metrics.json").read_text())["datasets"]["one"]["images"]


@pytest.mark.parametrize("content", ["", "[]", '{"datasets": {}}'])
def test_a_file_that_is_no_result_is_left_alone(content, tmp_path):
    (tmp_path / "metrics.json").write_text(content)
    assert files.add_results(tmp_path, of_set()).name == "metrics.paper.json"
    assert (tmp_path / "metrics.json").read_text() == content


def test_results_are_added_to_a_file_with_an_older_name(tmp_path):
    files.write_results(tmp_path, of_set())
    files.write_results(tmp_path, of_set(precision="bf16"), "metrics.paper.2")
    assert (
        files.add_results(tmp_path, of_set("two", precision="bf16")).name == "metrics.paper.2.json"
    )
