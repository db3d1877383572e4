import pytest
import torch

from ganhub.models import _ops as ops

SYM6 = [0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
        0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
        0.0017677118642428036, -0.007800708325034148]  # fmt: skip
GRID = [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]
FILTERS = {"1331": [1, 3, 3, 1], "asym": [1, 2, 5, 7], "sym6": SYM6}


@pytest.fixture
def case(reference):
    return reference("stylegan2ada/ops")


@pytest.mark.parametrize(
    ("key", "taps", "options"),
    [
        ("1331", [1, 3, 3, 1], {}),
        ("1257", [1, 2, 5, 7], {}),
        ("3x4", GRID, {}),
        ("sym6_separable", SYM6, {}),
        ("1331_gain4", [1, 3, 3, 1], {"gain": 4}),
        ("1257_flip", [1, 2, 5, 7], {"flip": True}),
        ("none", None, {}),
    ],
)
def test_filters_equal_the_reference(case, key, taps, options):
    case.check(f"filter_{key}", ops.setup_filter(taps, **options))


@pytest.mark.parametrize(
    ("key", "f", "options"),
    [
        ("up2_pad2111_gain4_asym", "asym", {"up": 2, "padding": [2, 1, 1, 1], "gain": 4}),
        ("up2_pad2111_gain4_asym_flip", "asym", {"up": 2, "padding": [2, 1, 1, 1], "gain": 4, "flip": True}),
        ("down2_pad1_asym", "asym", {"down": 2, "padding": 1}),
        ("up3x2_down2x1_padneg", "3x4", {"up": [3, 2], "down": [2, 1], "padding": [-1, 2, 0, -2]}),
    ],
)
def test_upfirdn_equals_the_reference(case, key, f, options):
    taps = GRID if f == "3x4" else FILTERS[f]
    case.check(key, ops.upfirdn2d(case.tensor("x"), ops.setup_filter(taps), **options))


def test_up_and_downsampling_equal_the_reference(case):
    x = case.tensor("x")
    for name in ("1331", "asym", "sym6"):
        f = ops.setup_filter(FILTERS[name])
        case.check(f"upsample2d_{name}", ops.upsample2d(x, f))
        if name != "sym6":
            case.check(f"downsample2d_{name}", ops.downsample2d(x, f))
    asym, sym6 = ops.setup_filter(FILTERS["asym"]), ops.setup_filter(SYM6)
    case.check("filter2d_asym", ops.filter2d(x, asym))
    case.check("downsample2d_sym6_flip_pad-6", ops.downsample2d(ops.upsample2d(x, sym6), sym6, padding=-6, flip=True))


@pytest.mark.parametrize("act", ops.ACTIVATIONS)
def test_activations_equal_the_reference(case, act):
    case.check(f"bias_act_{act}", ops.bias_act(case.tensor("x"), case.tensor("b"), act=act))
    case.check(f"bias_act_{act}_defalpha_defgain", torch.tensor(ops.ACTIVATIONS[act][1:], dtype=torch.float64))


def test_activation_options_equal_the_reference(case):
    x, b = case.tensor("x"), case.tensor("b")
    case.check("bias_act_lrelu_gain2_clamp0.5", ops.bias_act(x, b, act="lrelu", gain=2, clamp=0.5))
    case.check("bias_act_lrelu_alpha0.1", ops.bias_act(x, b, act="lrelu", alpha=0.1))


@pytest.mark.parametrize(
    ("key", "weight", "options"),
    [
        ("k3_up2", "w3", {"up": 2, "padding": 1, "flip_weight": False}),
        ("k3_up2_flip", "w3", {"up": 2, "padding": 1, "flip_weight": True}),
        ("k3_down2", "w3", {"down": 2, "padding": 1}),
        ("k3", "w3", {"padding": 1}),
        ("k3_noflip", "w3", {"padding": 1, "flip_weight": False}),
        ("k1_up2", "w1", {"up": 2}),
        ("k1_down2", "w1", {"down": 2}),
        ("k1", "w1", {}),
    ],
)
def test_resampling_convolutions_equal_the_reference(case, key, weight, options):
    filters = [f for f in FILTERS if f"conv2d_resample_{key}_{f}" in case.outputs]
    assert filters
    for f in filters:
        got = ops.conv2d_resample(case.tensor("x"), case.tensor(weight), f=ops.setup_filter(FILTERS[f]), **options)
        case.check(f"conv2d_resample_{key}_{f}", got)


@pytest.mark.parametrize("up", [2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_path_equals_zero_insertion(up, groups):
    g = torch.Generator().manual_seed(0)
    x, w = torch.randn(2, 4, 5, 6, generator=g), torch.randn(6, 4 // groups, 3, 3, generator=g)
    f = ops.setup_filter([1, 2, 5, 7, 4])
    got = ops.conv2d_resample(x, w, f, up=up, padding=1, groups=groups)
    zeros = torch.zeros(2, 4, 5 * up, 6 * up)
    zeros[:, :, ::up, ::up] = x
    left, right = 1 + (5 + up - 1) // 2, 1 + (5 - up) // 2
    want = ops.upfirdn2d(zeros, f, padding=(left, right, left, right), gain=up**2)
    want = torch.nn.functional.conv2d(want, w, groups=groups)
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_gradients_of_gradients():
    x = torch.randn(1, 1, 3, 2, dtype=torch.float64, requires_grad=True)
    w = torch.randn(1, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    f = ops.setup_filter([1, 3, 3, 1])
    for options in ({"up": 2}, {"down": 2}):
        assert torch.autograd.gradgradcheck(
            lambda x, w, o=options: ops.conv2d_resample(x, w, f, padding=1, **o).tanh(), (x, w), atol=1e-4
        )
