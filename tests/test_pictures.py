"""Figures of one picture against another: equal to the reference, and to formulas written out."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import structural_similarity

from ganhub.errors import BadInput
from ganhub.metrics import pictures


def photo(height, width, seed=0):
    """A smooth picture with some detail, uint8 [H, W, 3]."""
    rng = np.random.RandomState(seed)
    coarse = Image.fromarray(rng.randint(0, 256, (height // 6 + 2, width // 6 + 2, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float64)
    return (smooth + rng.randn(height, width, 3) * 6).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["noisy", "blur"])
def test_figures_equal_the_reference(reference, kind):
    case = reference("metrics/psnr_ssim")
    true, other = case.inputs["gt"], case.inputs[kind]

    def check(name, got):
        return case.check(f"{kind}:{name}", np.asarray(got), case.tolerance[f"{kind}:{name}"])

    check("skimage_psnr_uint8", pictures.psnr(true, other))
    check("leftthomas_psnr", pictures.psnr(true, other))
    check("skimage_ssim_default_win7", pictures.ssim(true, other, "uniform"))
    check("skimage_ssim_gauss_wang", pictures.ssim(true, other, "wang"))
    check("leftthomas_pytorch_ssim", pictures.ssim(true, other, "pytorch_ssim"))
    for border in (0, 4):
        for y in (False, True):
            how = f"crop{border}_y{int(y)}"
            check(f"basicsr_psnr_{how}", pictures.psnr(true, other, border=border, y=y))
            check(f"basicsr_ssim_{how}", pictures.ssim(true, other, border=border, y=y))


def test_ssim_equals_scikit_image():
    a, b = photo(40, 57), photo(40, 57, seed=1)
    b = (a * 0.8 + b * 0.2).astype(np.uint8)
    wang = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    for variant, how in (("uniform", {}), ("wang", wang)):
        want = structural_similarity(a, b, channel_axis=2, data_range=255, **how)
        assert pictures.ssim(a, b, variant) == pytest.approx(want, abs=1e-12)
    assert pictures.ssim(a, a) == 1 and pictures.psnr(a, a) == math.inf


def test_luma_has_the_range_of_television():
    marks = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    assert pictures.y_channel(marks)[0, :, 0].round().tolist() == [16, 235, 81, 145, 41]
    grey = np.array([[[0], [128], [255]]], np.uint8)
    assert pictures.y_channel(grey) == pytest.approx(pictures.y_channel(grey.repeat(3, axis=2)))


def slow_bicubic(row, after):
    """One line, pixel by pixel, from the definition: Keys' kernel stretched over what one new pixel covers."""
    before = len(row)
    stretch = max(before / after, 1)
    result = []
    for i in range(after):
        centre = (i + 0.5) * before / after - 0.5
        total = weights = 0.0
        for j in range(-4 * before, 5 * before):
            x = abs(centre - j) / stretch
            if x <= 1:
                w = 1.5 * x**3 - 2.5 * x**2 + 1
            elif x < 2:
                w = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
            else:
                continue
            k = j % (2 * before)
            total += w * row[k if k < before else 2 * before - 1 - k]
            weights += w
        result.append(total / weights)
    return np.array(result)


@pytest.mark.parametrize(("before", "after"), [(24, 6), (24, 12), (21, 7), (7, 28), (5, 15), (3, 12), (16, 16), (1, 4)])
def test_imresize_follows_the_definition(before, after):
    line = np.random.RandomState(before).rand(before) * 255
    high = pictures.imresize(line[:, None, None], size=(after, 1))
    wide = pictures.imresize(line[None, :, None], size=(1, after))
    want = slow_bicubic(line, after)
    assert high[:, 0, 0] == pytest.approx(want, abs=1e-9) and wide[0, :, 0] == pytest.approx(want, abs=1e-9)


def test_imresize_equals_pillow_inside():
    """Pillow has the same kernel and another edge, and rounds to single precision."""
    line = photo(64, 96)[..., 0].astype(np.float32)
    for size in ((16, 24), (128, 192)):
        got = pictures.imresize(line[..., None], size=size)[..., 0]
        want = np.asarray(Image.fromarray(line).resize(size[::-1], Image.Resampling.BICUBIC))
        edge = 8
        assert got[edge:-edge, edge:-edge] == pytest.approx(want[edge:-edge, edge:-edge], abs=1e-3)


def test_imresize_of_bytes_rounds_after_each_side_as_matlab_does():
    true = photo(32, 40)
    floats = true.astype(np.float64)
    rows = np.floor(pictures.imresize(floats, size=(8, 40)).clip(0, 255) + 0.5)
    want = np.floor(pictures.imresize(rows, size=(8, 10)).clip(0, 255) + 0.5)
    got = pictures.imresize(true, 1 / 4)
    assert got.dtype == np.uint8 and (got == want).all()
    steep = np.zeros((8, 8, 1), np.uint8)
    steep[:, 4:] = 255
    assert set(np.unique(pictures.imresize(steep, 4))) >= {0, 255}  # what swings over the ends does not wrap around
    assert pictures.imresize(true, 0.3).shape == (10, 12, 3) and pictures.imresize(true, 1 / 3).shape == (11, 14, 3)


def test_the_pair_is_cropped_to_the_scale():
    true, small = pictures.pair_of(photo(50, 63), 4)
    assert true.shape == (48, 60, 3) and small.shape == (12, 15, 3)
    with pytest.raises(BadInput, match="3x50 cannot be made 4 times smaller"):
        pictures.pair_of(photo(50, 3), 4)


def test_sharpness_tells_blur_from_detail():
    true = photo(96, 96)
    small = pictures.imresize(true, 1 / 4)
    assert pictures.sharpness(true, true) == 1
    assert 0 < pictures.sharpness(pictures.imresize(small, 4), true) < 0.5
    noise = np.random.RandomState(5).randint(-30, 30, true.shape)
    assert pictures.sharpness((true.astype(int) + noise).clip(0, 255).astype(np.uint8), true) > 1.5


class Nearest(torch.nn.Module):
    """Repeats pixels; its one weight tells the device."""

    def __init__(self):
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        assert not self.training and x.min() >= 0 and x.max() <= 1
        return torch.nn.functional.interpolate(x, scale_factor=4) * self.one


def test_validation_calls_the_network_and_compares_with_bicubic():
    network, true = Nearest().train(), [photo(50, 61), photo(64, 48, seed=3)]
    found = pictures.validate(network, true, 4)
    assert network.training
    for key in ("psnr_y", "ssim_y", "sharpness"):
        by_hand, bicubic = [], []
        for picture in true:
            high, low = pictures.pair_of(picture, 4)
            by_hand.append(pictures.compare(low.repeat(4, axis=0).repeat(4, axis=1), high, 4)[key])
            bicubic.append(pictures.compare(pictures.imresize(low, 4), high, 4)[key])
        assert found[key] == pytest.approx(np.mean(by_hand))
        assert found[f"bicubic_{key}"] == pytest.approx(np.mean(bicubic))
    assert found["psnr_y"] < found["bicubic_psnr_y"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda a: pictures.psnr(a, a[:-1]), "20x24x3 and 19x24x3 cannot be compared"),
        (lambda a: pictures.psnr(a, a, border=10), "Nothing is left of a picture of 24x20"),
        (lambda a: pictures.ssim(a, a, border=5), "at least 11 pixels"),
        (lambda a: pictures.ssim(a, a, "best"), "no SSIM 'best'"),
        (lambda a: pictures.sharpness(a, a * 0), "one flat colour"),
        (lambda a: pictures.validate(Nearest(), [], 4), "no picture to validate on"),
    ],
)
def test_what_cannot_be_compared_is_said(call, words):
    with pytest.raises(BadInput, match=words):
        call(photo(20, 24))
