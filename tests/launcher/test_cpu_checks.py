"""What a CPU cannot do, and what DeepSpeed refuses, is said before there are ranks."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from megachar.base.errors import ConfigError
from megachar.base.exit_codes import ExitCode
from megachar.config.loading import load_experiment, save_experiment
from megachar.launching.probe import check_cpu
from tests.config.conftest import BASE
from tests.launcher.commands import ROOT


def values(**settings: Any) -> dict[str, Any]:
    return load_experiment(BASE, [f"{key}={value}" for key, value in settings.items()]).model_dump(mode="json")


@pytest.mark.parametrize(("words", "refused"), [("flags: avx512f amx_bf16", True), ("flags: avx512_fp16 f16c", False)])
def test_fp16(words: str, refused: bool, tmp_path: Path) -> None:
    cpu = tmp_path / "cpuinfo"
    cpu.write_text(words)
    assert check_cpu(values(), cpu) == ""
    if not refused:
        assert check_cpu(values(deepspeed="fp16_zero1"), cpu) == ""
        return
    with pytest.raises(ConfigError, match=r"fp16 \(fp16_zero1\) on a CPU that cannot compute in it"):
        check_cpu(values(deepspeed="fp16_zero1"), cpu)


def test_what_needs_a_gpu(tmp_path: Path) -> None:
    engine = tmp_path / "engine.json"
    engine.write_text(json.dumps({"zero_optimization": {"stage": 3, "zero_quantized_weights": True}}))
    with pytest.raises(ConfigError, match=r"zero_optimization\.zero_quantized_weights \(.*\) works on GPUs only"):
        check_cpu(values(deepspeed=engine, **{"parallel.pipe": 1}))


PROGRAM = """
import sys
from megachar.launching import local
render = local.render_deepspeed_config
local.render_deepspeed_config = lambda *given: {**render(*given), "zero_optimization": {"stage": 9}}
sys.exit(local.main())
"""


def test_deepspeed_looks_at_its_settings_before_the_fork(tmp_path: Path) -> None:
    """What our own checks let through all the same is one message, and the script is not begun."""
    settings, script = tmp_path / "experiment.yaml", tmp_path / "script.py"
    save_experiment(load_experiment(BASE, ["parallel.pipe=1"]), settings)
    script.write_text("print('a rank')")
    command = [sys.executable, "-c", PROGRAM, "--ranks", "1", "--port", "1", "--device", "cpu",
               "--settings", str(settings), str(script)]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100, check=False)
    assert done.returncode == ExitCode.USER_ERROR
    assert "ConfigError: DeepSpeed refuses its settings: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "a rank" not in done.stdout
