"""The face for Python: the manual's example runs, and its figures are those of the commands' code."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import megachar
from megachar.base.errors import ConfigError, DataError
from megachar.base.units import NATS_PER_BIT
from megachar.families.transformer.model import Transformer
from megachar.runs.folder import RunFolder
from tests.runs.checkpoints_by_hand import small, write_run
from tests.torch_fixtures import one_thread, seed

__all__ = ["one_thread", "seed"]
ROOT = Path(__file__).parents[1]


@pytest.fixture
def model(tmp_path: Path, seed: int) -> Transformer:
    """Saved in runs/small."""
    experiment = small()
    model = Transformer(experiment.model, experiment.auxiliary)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
    write_run(RunFolder(tmp_path / "runs" / "small"), dict(model.named_parameters()), experiment)
    return model.eval()


def test_bits_and_text(tmp_path: Path, model: Transformer) -> None:
    loaded = megachar.load(tmp_path / "runs" / "small", device="cpu")
    text = "The cat sat"
    bits = loaded.bits(text, stride=1)
    tokens = torch.tensor(list(text.encode()))
    assert bits[0] == pytest.approx(np.log2(256))
    for place in range(1, tokens.numel()):
        before = tokens[max(0, place - model.config.context) : place]
        expected = -model(before[None])[0, -1].log_softmax(-1)[tokens[place]].item()
        assert bits[place] == pytest.approx(expected / NATS_PER_BIT, rel=1e-4), place
    assert loaded.decode(loaded.encode(text)) == text.encode()
    assert loaded.generate(text, 9, seed=3) == loaded.generate(text, 9, seed=3)
    assert len(loaded.generate(text, 9, greedy=True)) == 9
    assert loaded.bits("").size == 0
    with pytest.raises(ConfigError, match="the prompt is empty"):
        loaded.generate("", 9)
    with pytest.raises(ConfigError, match="stride"):
        loaded.bits(text, stride=0)
    with pytest.raises(DataError):
        loaded.decode([256])


def test_a_damaged_newest_checkpoint_is_told(tmp_path: Path, model: Transformer) -> None:
    run = RunFolder(tmp_path / "runs" / "small")
    (run.checkpoints / "step-00000100" / "manifest.json").write_text("{")
    with pytest.warns(UserWarning, match=r"an older checkpoint is taken: .*step-00000100"):
        assert megachar.load(run.path, device="cpu").step == 20


def test_the_manuals_example(
    tmp_path: Path, model: Transformer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(tmp_path / "runs" / "small")
    run.metrics_file.write_text('{"kind": "validation", "step": 100, "bits_per_character": 2.5, "layers": [[2.5]]}\n')
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), flags=re.S)
    exec(example, {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{model.config.num_layers} layers after 100 steps"
    assert lines[-1].split()[1] == "2.5"


def test_importing_it_loads_no_torch() -> None:
    code = "import sys, megachar; assert 'torch' not in sys.modules; assert callable(megachar.load)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = megachar.lode
