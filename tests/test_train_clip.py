"""Training a small CLIP."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ganhub import checkpoint, models
from ganhub.cli import main
from ganhub.data.captions import CaptionedSet
from ganhub.data.dataset import write_set
from ganhub.errors import BadInput
from ganhub.training import clip, loop
from ganhub.training.workers import Workers

pytest.importorskip("open_clip", reason="needs the extra `clip`")

COLOURS = {"red": (210, 40, 30), "green": (40, 150, 30), "blue": (40, 60, 200)}
SHAPES = ("disc", "square")
SMALL = dict(
    dim=32, width=4, text_width=32, text_layers=1, length=12, batch=24, hold_out=4, ema=0.9, robust=0.1,
    precision="float32",
)  # fmt: skip


@pytest.fixture(scope="module")
def art(tmp_path_factory):
    """120 discs and squares of 32x32 in three colours, two sentences each."""
    rng = np.random.RandomState(0)
    y, x = np.mgrid[:32, :32]
    pictures, lines = [], ["file,caption"]
    for number in range(120):
        color, shape = list(COLOURS)[number % 3], SHAPES[number // 3 % 2]
        picture = np.full((32, 32, 3), (240, 230, 200), np.uint8)
        dx, dy = rng.uniform(12, 20, 2)
        inside = np.hypot(x - dx, y - dy) < 9 if shape == "disc" else np.maximum(abs(x - dx), abs(y - dy)) < 8
        picture[inside] = COLOURS[color]
        pictures.append(picture)
        lines += [f"art/{number}.png,a {color} {shape}", f"art/{number}.png,this {shape} is {color}"]
    folder = tmp_path_factory.mktemp("sets")
    write_set(folder / "art.zip", pictures, names=[f"art/{n}.png" for n in range(120)], license="CC0-1.0",
              labels=[n % 3 for n in range(120)], classes=list(COLOURS))  # fmt: skip
    (folder / "art.captions.csv").write_text("\n".join(lines))
    return folder / "art.zip"


def trainer(art, **settings):
    return clip.Trainer(clip.Settings(**{**SMALL, **settings}), CaptionedSet(art), Workers("cpu"))


def test_loss_against_its_definition():
    torch.manual_seed(0)
    seen, said = F.normalize(torch.randn(5, 8), dim=1), F.normalize(torch.randn(3, 8), dim=1)
    which = torch.tensor([0, 2, 1, 0, 0])
    loss, right = clip.contrastive_loss(seen, said, which, torch.tensor(7.0))
    scores = 7 * seen @ said.T
    pictures = -torch.stack([scores[i].log_softmax(0)[which[i]] for i in range(5)]).mean()
    sentences = -torch.stack([scores[:, m].log_softmax(0)[which == m].mean() for m in range(3)]).mean()
    assert loss.item() == pytest.approx(((pictures + sentences) / 2).item(), rel=1e-5)
    assert right.item() == pytest.approx((scores.argmax(1) == which).float().mean().item())


def test_parts_of_a_page_stay_together():
    names = [f"page-{n // 3}.jpg" for n in range(300)]
    trained, held = clip.split(names, 10)
    assert sorted(trained + held) == list(range(300)) and 10 < len(held) < 60
    assert not {names[i] for i in trained} & {names[i] for i in held}
    with pytest.raises(BadInput, match="--hold-out is 1"):
        clip.split(names, 1)


def test_pictures_vary_but_keep_their_hue(art):
    made = trainer(art)
    x = torch.tensor([0.8, -0.6, -0.7])[None, :, None, None].expand(8, 3, 32, 32)
    varied = made.varied(x)
    assert not torch.equal(varied, x) and (varied[:, 0] > varied[:, 1] + 1).all()
    assert (varied[:, 1] - varied[:, 2] > 0.05).all()


def test_pictures_are_changed_for_the_worse(art):
    made = trainer(art, robust=1.5)
    x = clip.as_input(made.shown[:12])
    texts = [made.captions[i][0] for i in range(12)]
    once = list(dict.fromkeys(texts))
    which = torch.tensor([once.index(text) for text in texts])
    said = made.G.encode_tokens(torch.stack([made.tokens[text] for text in once])).detach()

    def loss(pictures):
        return clip.contrastive_loss(made.G.encode_image(pictures), said, which, made.G.clip.logit_scale.exp())[
            0
        ].item()

    worse = made.worsened(x.clone(), said, which)
    length = ((worse - x) / 2).flatten(1).norm(dim=1)
    assert loss(worse) > loss(x) and (length <= 1.5 + 1e-4).all() and length.mean() > 0.2
    assert not worse.requires_grad and worse.abs().max() <= 1
    assert all(value.grad is None for value in made.G.parameters())


def test_it_learns_to_find(art, tmp_path):
    made = trainer(art, lr=3e-3)
    before = made.measure(made.averaged())
    out = tmp_path / "run"
    loop.train(made, out, images=24 * 150, snap=24 * 75, data=CaptionedSet(art), measure=made.measure)
    figures = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert figures["recall_1"] >= 0.9 > before["recall_1"] and figures["recall_10"] == figures["named_10"] == 1
    assert figures["pair_1"] <= figures["pair_10"] <= figures["recall_10"]
    assert (out / "grid.png").exists() and (out / "metrics.png").exists()
    # What is shipped reads sentences by itself, halves and all, and words that it never saw.
    shipped = models.read(checkpoint.read(out / "G.safetensors"))
    red, blue, odd = shipped.encode_text(["a red disc", "a blue disc", "zygomorphic 果物"])
    assert torch.isfinite(odd).all() and odd.norm().item() == pytest.approx(1, abs=1e-4)
    paper = torch.full((1, 3, 32, 32), 0.8)
    paper[:, :, 8:24, 8:24] = torch.tensor([0.65, -0.7, -0.75])[:, None, None]
    features = shipped.encode_image(paper)[0]
    assert features @ red > features @ blue + 0.2


def test_resumed_goes_on_bit_for_bit(art, tmp_path):
    def run(out, images, **how):
        made = trainer(art)
        loop.train(made, out, images=images, snap=24 * 2, data=CaptionedSet(art), **how)
        return made

    whole = run(tmp_path / "whole", 24 * 6)
    run(tmp_path / "parts", 24 * 3)
    again = run(tmp_path / "parts", 24 * 6, resume=True)
    for key, value in whole.G.state_dict().items():
        assert torch.equal(value, again.G.state_dict()[key]), key
    shipped = [checkpoint.read(tmp_path / part / "G.safetensors").networks["G"] for part in ("whole", "parts")]
    assert shipped[0].kwargs == shipped[1].kwargs
    assert all(torch.equal(tensor, shipped[1].tensors[key]) for key, tensor in shipped[0].tensors.items())
    from_file = trainer(art, seed=5)
    from_file.transfer(tmp_path / "whole/G.safetensors")
    assert torch.equal(from_file.G.clip.visual.conv1.weight.half(), whole.average.clip.visual.conv1.weight.half())


def test_command_and_its_refusals(art, tmp_path, capsys):
    small = [f"--{key.replace('_', '-')}={value}" for key, value in SMALL.items()]

    def command(*more):
        with pytest.raises(SystemExit) as end:
            main(
                ["train", "clip", "--data", str(art), "--out", str(tmp_path / "run"), "--kimg", "0.048", *small, *more]
            )
        return end.value.code, capsys.readouterr()

    code, told = command("--precision", "bfloat16")
    assert code == 0 and told.out.strip() == str(tmp_path / "run")
    for more, words in (
        (["--text-width", "40"], "choose a multiple of 32"),
        (["--precision", "half"], "choose bfloat16, float32 or auto"),
        (["--captions", "nowhere.csv"], "There is no nowhere.csv"),
        (["--batch", "1"], "a step needs two pairs"),
    ):
        code, told = command(*more)
        assert code == 2 and words in told.err and "Traceback" not in told.err
